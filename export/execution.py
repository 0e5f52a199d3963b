"""Runs a foreign file in a process of its own: its answers, and what its layers hold on the way to them.

python -m export.execution JOB FILE DIRECTORY   is that process: it reads its arrays from the directory, leaves its
results there, prints `+count` as it goes on, and one line of JSON at the end. Imports neither keras nor tensorflow.
"""

import dataclasses
import json
import pathlib
import sys
import tempfile
import time

import numpy as np

from export import backends, child, onnx_file, runtime

STALL_LIMIT_S = 60.0  # without one image done: a ResNet-152 takes seconds on the slowest board
REPORT_EVERY_S = 0.2
IMAGES, WANTED, SCORES = "images.npy", "wanted.json", "scores.npy"
KINDS = ("activations", "constants")
PLAIN = {"INT8", "UINT8", "INT16", "UINT16", "INT32", "FLOAT16", "FLOAT32"}


@dataclasses.dataclass(frozen=True)
class Held:
    """What one tensor of the file holds: `values` as stored, `(count, ...)` for an activation, with its quantization.

    `scales` is empty for float; one number, or one for each slice along `axis`.
    """

    values: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int

    @property
    def real(self):
        """The values as float32 numbers: `(stored - zero point) * scale`."""
        if not self.scales.size or self.values.dtype.kind not in "iu":
            return np.asarray(self.values, np.float32)
        sides = [1] * self.values.ndim
        if self.scales.size > 1:
            sides[self.axis] = -1
        return (self.values - self.zero_points.reshape(sides)).astype(np.float32) * self.scales.reshape(sides)

    def part(self, images):
        """The same of some of the images only, a slice."""
        return dataclasses.replace(self, values=self.values[images])

    @property
    def limits(self):
        """The ends of the range of integers, or None for float."""
        if not self.scales.size or self.values.dtype.kind not in "iu":
            return None
        return np.iinfo(self.values.dtype).min, np.iinfo(self.values.dtype).max


def predict(path, images, advance=lambda count: None, stall_limit_s=STALL_LIMIT_S):
    """Probabilities for raw pixels.

    Args:
        path: an exported file.
        images: `(count, height, width, channels)`.
        advance: called with the number of images done since the last call.
        stall_limit_s: after that many seconds without progress the process is ended.

    Returns:
        `(count, classes)`, float32.

    Raises:
        ValueError: the file cannot be run, crashes or hangs its runtime, or does not take such images.
        ImportError: the runtime is not installed.
    """
    with tempfile.TemporaryDirectory() as directory:
        _work("predict", path, directory, images, {}, advance, stall_limit_s)
        scores = np.load(pathlib.Path(directory, SCORES), allow_pickle=False)
    if scores.ndim != 2 or len(scores) != len(images):
        raise ValueError(f"{path} gives {scores.shape} for {len(images)} images; expected one row of scores for each.")
    return scores


def tensors(path, images, wanted, stall_limit_s=STALL_LIMIT_S):
    """What tensors of a file hold, each image after the other through the reference graph.

    Args:
        path: a `.tflite` or `.onnx` file.
        images: `(count, height, width, channels)`, raw pixels.
        wanted: `tflite_file.Tensor`s of the file.
        stall_limit_s: see `predict`.

    Returns:
        `{name: Held}`; constants have no axis for the images. Types that numpy does not have are passed over.

    Raises:
        ValueError, ImportError: see `predict`.
    """
    wanted = [tensor for tensor in wanted if tensor.dtype in PLAIN]
    with tempfile.TemporaryDirectory() as directory:
        job = {kind: [t.index for t in wanted if t.constant == (kind == "constants")] for kind in KINDS}
        _work("tensors", path, directory, images, job, lambda count: None, stall_limit_s)
        return {
            tensor.name: Held(
                np.load(pathlib.Path(directory, f"{tensor.index}.npy"), allow_pickle=False),
                np.asarray(tensor.scales, np.float32),
                np.asarray(tensor.zero_points, np.int64),
                tensor.axis,
            )
            for tensor in wanted
        }


def _work(job, path, directory, images, wanted, advance, stall_limit_s):
    """Has the child leave its results in the directory."""
    np.save(pathlib.Path(directory, IMAGES), images)
    pathlib.Path(directory, WANTED).write_text(json.dumps(wanted))

    def heard(line):
        if line[:1] == "+" and line[1:].strip().isdigit():
            advance(int(line))

    done = child.run("export.execution", [job, str(path), directory], stall_limit_s, heard)
    reason = done
    if not isinstance(done, str):
        try:
            answer = json.loads(done.stdout.splitlines()[-1])
            refusal, missing = answer.get("refusal"), answer.get("missing")
        except (ValueError, IndexError, AttributeError):
            reason = f"ended with status {done.returncode}: {_last(done.stderr)}"
        else:
            if missing:
                raise ImportError(missing)
            if refusal is None:
                return
            raise ValueError(child.printable(" ".join(refusal.split())))
    raise ValueError(child.printable(f"{path} cannot be run: the runtime {reason}."))


def _last(printed):
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


# What follows runs in the child.


def _predict(path, directory):
    runner, images = runtime.Runner(path), np.load(directory / IMAGES, mmap_mode="r", allow_pickle=False)
    scores, counted = [], _Counter()
    for image in images:
        scores.append(runner.predict(image[None]))
        counted.add()
    counted.print()
    np.save(directory / SCORES, np.concatenate(scores))


def _tensors(path, directory):
    activations, constants = (json.loads((directory / WANTED).read_text())[kind] for kind in KINDS)
    images = np.load(directory / IMAGES, mmap_mode="r", allow_pickle=False)
    look = _onnx_tensors if backends.is_onnx(path) else _tflite_tensors
    for index, values in look(path, images, activations, constants):
        np.save(directory / f"{index}.npy", values)


def _tflite_tensors(path, images, activations, constants):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Without delegates, and keeping what they would overwrite: each op's own result can be looked at.
    interpreter = Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    place, runner = interpreter.get_input_details()[0]["index"], runtime.Runner(path)
    values, counted = {index: [] for index in activations}, _Counter()
    for image in images:
        interpreter.set_tensor(place, runner.arranged(image))
        interpreter.invoke()
        for index in activations:
            values[index].append(interpreter.get_tensor(index))
        counted.add()
    yield from ((index, np.concatenate(values.pop(index))) for index in activations)
    yield from ((index, interpreter.get_tensor(index)) for index in constants)


def _onnx_tensors(path, images, activations, constants):
    import onnx

    _, model = onnx_file.read(path)
    _, names = onnx_file.described(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    yield from ((index, _channels_last(onnx.numpy_helper.to_array(stored[names[index]]))) for index in constants)
    shown = {names[index]: index for index in activations}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown)
    level = backends.OnnxRuntime.library().GraphOptimizationLevel.ORT_DISABLE_ALL
    session = backends.OnnxRuntime.session(path, model.SerializeToString(), graph_optimization_level=level)
    runner, values, counted = runtime.Runner(path), {index: [] for index in activations}, _Counter()
    for image in images if shown else ():
        results = session.run(list(shown), {runner.inputs[0]["name"]: runner.arranged(image)})
        for index, result in zip(shown.values(), results, strict=True):
            values[index].append(_channels_last(result))
        counted.add()
    yield from ((index, np.concatenate(values.pop(index))) for index in activations)


def _channels_last(values):
    return np.moveaxis(values, 1, -1) if values.ndim == 4 else values


class _Counter:
    """Prints `+count` now and then: a sign of life, and the parent's progress."""

    def __init__(self):
        self._count, self._printed_s = 0, time.monotonic()

    def add(self):
        self._count += 1
        if time.monotonic() - self._printed_s > REPORT_EVERY_S:
            self.print()

    def print(self):
        print(f"+{self._count}", flush=True)
        self._count, self._printed_s = 0, time.monotonic()


def main(job, path, directory):
    child.limit_memory()
    try:
        {"predict": _predict, "tensors": _tensors}[job](path, pathlib.Path(directory))
        answer = {}
    except ImportError as error:
        answer = {"missing": str(error)}
    except (ValueError, RuntimeError, MemoryError) as error:
        answer = {"refusal": f"{path} cannot be run: {error or 'it wants too much memory'}"[:500]}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
