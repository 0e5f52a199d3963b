"""Reads an `.onnx` file: whether it is one, what is in its graph, and that in the terms of `tflite_file.Model`.

Imports neither keras nor tensorflow.
"""

import collections
import json
import pathlib

from export.backends import OPEN
from export.tflite_file import Model, Op, Tensor

PAIR = {"QuantizeLinear", "DequantizeLinear"}
WEIGHTED = {"Conv", "Gemm", "MatMul"}
LITERT_NAMES = {"Conv": "CONV_2D", "Gemm": "FULLY_CONNECTED", "DequantizeLinear": "DEQUANTIZE"}
INTEGER = "/integer"  # behind the name of what a constant stands for


def read(path):
    """`(bytes, ModelProto)` of a file.

    Raises:
        ValueError: it is missing, damaged, or no ONNX model.
        ImportError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("onnx is missing. Install it with: pip install 'resnet-keras[onnx]'.") from error
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf, the checker and shape inference have errors of their own
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ValueError(f"{path} is not a valid .onnx file: {reason}") from error
    return data, model


class Graph:
    """An ONNX model with its shapes and dtypes filled in."""

    def __init__(self, model):
        import onnx
        from onnx import numpy_helper

        self.model = onnx.shape_inference.infer_shapes(model)
        self.nodes = list(self.model.graph.node)
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}
        values = (*self.model.graph.input, *self.model.graph.output, *self.model.graph.value_info)
        self.types = {v.name: v.type.tensor_type for v in values}
        self.inputs = {value.name for value in self.model.graph.input}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.users = collections.defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.users[name].append(node)

    @property
    def is_quantized(self):
        return any(node.op_type == "QuantizeLinear" for node in self.nodes)

    def dtype(self, name):
        """Of an activation or a constant, as numpy calls it; None where it is not known."""
        import onnx

        if name in self.constants:
            return self.constants[name].dtype.name
        kind = self.types[name].elem_type if name in self.types else 0
        return onnx.helper.tensor_dtype_to_np_dtype(kind).name if kind else None

    def shape(self, name):
        """Sides of an activation; -1 for an open one."""
        sides = self.types[name].shape.dim if name in self.types else ()
        return [side.dim_value if side.HasField("dim_value") else OPEN for side in sides]

    def edges(self):
        for side, values in (("input", self.model.graph.input), ("output", self.model.graph.output)):
            for value in values:
                yield {
                    "side": side,
                    "name": value.name,
                    "dtype": self.dtype(value.name),
                    "shape": self.shape(value.name),
                    "scale": None,
                    "zero_point": None,
                }

    def float_results(self):
        """Tensors that are computed in float and not rounded before they are used, but for the two edges."""
        edges = {v.name for v in (*self.model.graph.input, *self.model.graph.output)}
        for node in self.nodes:
            for name in node.output:
                users = {user.op_type for user in self.users[name]}
                moved = node.op_type == "Transpose" and node.input[0] in edges
                if node.op_type not in PAIR and not moved and name not in edges and users - {"QuantizeLinear", "Relu"}:
                    yield name

    def per_channel(self):
        for node in self.nodes:
            if node.op_type in WEIGHTED:
                maker = self.makers.get(node.input[1])
                scales = self.constants.get(maker.input[1]) if maker and maker.op_type in PAIR else None
                if scales is not None and scales.size > 1:
                    axis = next((a.i for a in maker.attribute if a.name == "axis"), 1)
                    yield {"op": node.op_type, "tensor": maker.input[0], "axis": axis, "scales": scales.size}

    def tensor(self, name, index):
        """`(flatbuffer.Tensor, name of the tensor of the file that holds its values)`; see `described`."""
        rounded = [node for node in self.users[name] if node.op_type == "QuantizeLinear"]
        maker, pair, stored = self.makers.get(name), None, name
        if name in self.constants:
            pair = next((node for node in self.users[name] if node.op_type == "DequantizeLinear"), None)
        elif rounded:
            pair, stored = rounded[0], rounded[0].output[0]
        elif maker is not None and maker.op_type == "QuantizeLinear":
            pair = maker
        elif maker is not None and maker.op_type == "Cast" and maker.input[0] in self.constants:
            stored = maker.input[0]
        constant = self.constants.get(stored)
        shape = self.shape(name) if constant is None else constant.shape
        if len(shape) == 4 and not (name in self.inputs and shape[3] < shape[1]):
            shape = shape[0], *shape[2:], shape[1]
        if constant is None and shape:
            shape = 1 if shape[0] == OPEN else shape[0], *shape[1:]
        scales, zero_points, axis = self._rounding(pair) if pair is not None else ((), (), 0)
        dtype = (self.dtype(stored) or "unknown").upper()
        own = name.removesuffix(INTEGER) if constant is not None else name
        return (
            Tensor(index, own, dtype, tuple(shape), (), scales, zero_points, axis, constant is not None),
            stored,
        )

    def _rounding(self, pair):
        """`(scales, zero points, axis)` of a QuantizeLinear or DequantizeLinear, all empty where they are computed."""
        scales = self.constants.get(pair.input[1])
        if scales is None:
            return (), (), 0
        zeros = self.constants.get(pair.input[2]) if len(pair.input) > 2 else None
        zeros = [0] * scales.size if zeros is None else zeros.ravel().tolist()
        axis = next((a.i for a in pair.attribute if a.name == "axis"), 1)
        return tuple(scales.ravel().tolist()), tuple(zeros), axis


def described(model):
    """An ONNX model as the `tflite_file.Model` of a `.tflite` file, for whoever looks into those.

    A tensor that is rounded as soon as it is made counts as its integers, and a layer's weights bear one name, however
    they are stored. Shapes are those of one image with the channels last. Of the metadata nothing is told.

    Args:
        model: a `ModelProto` that `read` has let pass.

    Returns:
        `(Model, names)`; `names` are those of the file's own tensors that stand behind the model's, in their order.
    """
    graph, names, tensors = Graph(model), [], {}

    def tensor(name):
        if name and name not in tensors:
            tensors[name], stored = graph.tensor(name, len(names))
            names.append(stored)
        return tensors.get(name)

    inputs, outputs = (tuple(tensor(v.name) for v in edge) for edge in (model.graph.input, model.graph.output))
    ops = tuple(
        Op(LITERT_NAMES.get(n.op_type, n.op_type), None, 1, tuple(map(tensor, n.input)), tuple(map(tensor, n.output)))
        for n in graph.nodes
    )
    return Model(1, tuple(tensors.values()), inputs, outputs, ops, {}), tuple(names)


def labels(data):
    """The class names in the metadata of a file that `read` has let pass, empty where it has none.

    Args:
        data: its bytes.
    """
    import onnx

    for entry in onnx.load_model_from_string(data).metadata_props:
        if entry.key == "labels":
            try:
                found = json.loads(entry.value)
            except ValueError:
                return ()
            return tuple(map(str, found)) if isinstance(found, list) else ()
    return ()
