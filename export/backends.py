"""The two runtimes behind `runtime.Runner`, alike from outside. Imports neither keras nor tensorflow.

A backend has a `name` and a `version()`; `library()` imports the runtime; `inputs` and `outputs` are as in `Runner`;
`put(array)`, `invoke()` and `get()` run the file on its own numbers; `delegate()` is as in `Runner`.
"""

import importlib
import pathlib

import numpy as np

OPEN = -1  # a side that the file leaves to whoever runs it
# ONNX Runtime's setting for x86-64 processors without VNNI, whose usual kernels for uint8 times int8 add pairs of
# products in 16 bits, which saturate. With VNNI the same kernels are exact, and those that this asks for half as fast.
EXACT_SUMS = "session.x64quantprecision"


def of(path):
    """The class that runs the file: ONNX files are known by the end of their name."""
    return OnnxRuntime if is_onnx(path) else LiteRT


def is_onnx(path):
    """Whether a path names an ONNX file."""
    return pathlib.Path(path).suffix.lower() == ".onnx"


class LiteRT:
    name = "LiteRT"

    def __init__(self, path, threads):
        with path.open("rb") as file:
            if file.read(8)[4:] != b"TFL3":
                raise ValueError(f"{path} is neither a .tflite file nor named as an .onnx file.")
        try:
            self._interpreter = self.library().Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is not a .tflite file that LiteRT can run: {_plain(error)}.") from error
        self._feeds, self._fetches = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs, self.outputs = [[described(d) for d in side] for side in (self._feeds, self._fetches)]

    @staticmethod
    def library():
        try:
            return importlib.import_module("ai_edge_litert.interpreter")
        except ImportError as error:
            raise ImportError("LiteRT is missing. Install it with: pip install 'resnet-keras[export]'.") from error

    @staticmethod
    def version():
        import ai_edge_litert

        return ai_edge_litert.__version__

    def put(self, values):
        self._interpreter.set_tensor(self._feeds[0]["index"], values)

    def invoke(self):
        self._interpreter.invoke()

    def get(self):
        return self._interpreter.get_tensor(self._fetches[0]["index"])

    def delegate(self):
        """LiteRT keeps the ops that a delegate took and adds one op for each group of them, named DELEGATE.

        What such a group computes is found by going from its outputs back to its inputs. The runtime tells no number.
        """
        if not hasattr(self._interpreter, "_get_ops_details"):  # there is no public way
            return "XNNPACK", None
        ops = self._interpreter._get_ops_details()
        own = [op for op in ops if op["op_name"] != "DELEGATE"]
        makers = {int(tensor): op for op in own for tensor in op["outputs"]}
        taken = set()
        for group in ops:
            if group["op_name"] == "DELEGATE":
                outside, wanted = set(group["inputs"].tolist()), group["outputs"].tolist()
                while wanted:
                    tensor = wanted.pop()
                    if tensor not in outside and (op := makers.get(tensor)) and op["index"] not in taken:
                        taken.add(op["index"])
                        wanted += op["inputs"].tolist()
        return "XNNPACK" if taken else None, 100.0 * len(taken) / max(len(own), 1)


class OnnxRuntime:
    name = "ONNX Runtime"

    def __init__(self, path, threads):
        self._session = self.session(path, str(path), intra_op_num_threads=threads or 0)
        edges = self._session.get_inputs(), self._session.get_outputs()
        self.inputs, self.outputs = [[_described_onnx(edge) for edge in side] for side in edges]
        self._feed, self._values = {}, None

    @classmethod
    def session(cls, path, model, **settings):
        """A session for a model, its path or its bytes, that came from the file `path`; settings of its options."""
        library = cls.library()
        options = library.SessionOptions()
        options.log_severity_level = 4  # what it refuses is raised as well
        if not _has_vnni():
            options.add_session_config_entry(EXACT_SUMS, "1")
        for name, value in settings.items():
            setattr(options, name, value)
        try:
            return library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no base of their own
            raise ValueError(f"{path} is not an .onnx file that ONNX Runtime can run: {_plain(error)}.") from error

    @staticmethod
    def library():
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("ONNX Runtime is missing. Install it with: pip install 'resnet-keras[onnx]'.") from error
        return onnxruntime

    @classmethod
    def version(cls):
        return cls.library().__version__

    def put(self, values):
        self._feed = {self.inputs[0]["name"]: values}

    def invoke(self):
        (self._values,) = self._session.run(None, self._feed)

    def get(self):
        return self._values

    def delegate(self):
        """Every op: a session in which one found no execution provider is not made."""
        return self._session.get_providers()[0], 100.0


def _has_vnni():
    """Whether the processor says so: where it is asked in vain, exact sums matter more than fast ones."""
    from resnet_keras import processor

    return bool(processor.features() & {"avx512_vnni", "avx_vnni"})


def _plain(error):
    """What a runtime complains of, without its codes, in front of them, and its full stop."""
    return str(error).rpartition(" : ")[2].rstrip(".")


def described(details):
    """One of LiteRT's input or output details as an entry of `Runner.inputs`."""
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), details["quantization"]
    scaled = dtype.kind in "iu" and scale != 0
    sides = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
    return {
        "name": details["name"],
        "dtype": dtype.name,
        "shape": [int(side) for side in sides],
        "scale": float(scale) if scaled else None,
        "zero_point": int(zero_point) if scaled else None,
    }


def _described_onnx(edge):
    kind = edge.type.removeprefix("tensor(").removesuffix(")")
    return {
        "name": edge.name,
        "dtype": {"float": "float32"}.get(kind, kind),
        "shape": [side if isinstance(side, int) else OPEN for side in edge.shape],
        "scale": None,
        "zero_point": None,
    }
