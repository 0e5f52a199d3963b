"""The range of each activation over the calibration images, from which an integer file takes its scales.

The float file is run with every activation as an output, in the runtime that will run the integer file. So a range
belongs to a tensor by name, and whatever writes integer files can use the same.
"""

import os

import numpy as np

METHODS = ("minmax", "percentile", "mse")
BINS = 2048
PERCENTILE = 99.99  # of the values on each side of zero; what TensorRT's percentile calibrator takes by default
SHRINKING = np.linspace(1.0, 0.3, 71)  # shares of a range that are tried as its clipped form
COUNTED = 2**14  # values of one activation and image that go into a histogram
LEVELS = 255  # steps of an 8-bit integer


def observe(data, images, method, advance=lambda count: None):
    """Ranges of all activations.

    Args:
        data: a float `.tflite` file of one image, `(1, height, width, channels)`.
        images: raw pixels as the file takes them, `(count, height, width, channels)`.
        method: `"minmax"`, all values; `"percentile"`, all but the outermost hundredth of a percent on each side of
            zero; `"mse"`, the clipped range that an 8-bit integer renders with the smallest mean squared error. The
            scores of the classes keep all values whatever the method: the answer is the outermost.
        advance: called with 1 after each image.

    Returns:
        `{tensor name: (low, high)}`, zero always within.
    """
    network = _Observed(data)
    seen = {name: _Values() if method == "minmax" or flat else _Histogram() for name, flat in network.activations}
    network.run(images, lambda name, values: seen[name].add(values), advance)
    # What is always 0 has no range, and any will do.
    return {
        name: getattr(values, method)() if values.low < values.high else (0.0, 1.0) for name, values in seen.items()
    }


def check(method):
    """Refuses an unknown method; None stands for the recipe's.

    Raises:
        ValueError: it is none of `METHODS`.
    """
    if method not in (None, *METHODS):
        raise ValueError(f"Unknown calibration method. Received: {method!r}. Expected one of: {', '.join(METHODS)}.")


def completed(data, limits):
    """The ranges of all activations of a file: what padding and pooling give has the range of what they take.

    Args:
        data: a float file.
        limits: `{tensor: (low, high)}` of all others.
    """
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    kinds = schema.BuiltinOperator.PAD, schema.BuiltinOperator.PADV2, schema.BuiltinOperator.MAX_POOL_2D
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    (graph,) = model.subgraphs
    names, found = [tensor.name.decode() for tensor in graph.tensors], dict(limits)
    for op in graph.operators:
        if model.operatorCodes[op.opcodeIndex].builtinCode in kinds:
            found[names[op.outputs[0]]] = found[names[op.inputs[0]]]
    return found


class _Observed:
    """A float file, run with each activation as an output.

    `activations` are `(name, flat)`; a flat one has no height and width.
    """

    def __init__(self, data):
        from tensorflow.lite.tools import flatbuffer_utils

        from export import backends, tflite_file

        model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
        (graph,) = model.subgraphs
        inner = [i for i in variable_tensors(model) if i not in graph.inputs]
        self._indices = {graph.tensors[i].name.decode(): i for i in inner}
        self.activations = [(graph.tensors[i].name.decode(), len(graph.tensors[i].shape) < 4) for i in inner]
        graph.outputs, model.signatureDefs = inner, []
        packed = tflite_file.packed(model)
        self._interpreter = backends.LiteRT.library().Interpreter(model_content=packed, num_threads=os.cpu_count())
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]

    def run(self, images, look, advance):
        """Calls `look(name, values)` for each image and activation; the values are gone afterwards."""
        for image in images:
            self._interpreter.set_tensor(self._input, image[None].astype("float32"))
            self._interpreter.invoke()
            for name, index in self._indices.items():
                look(name, self._interpreter.tensor(index)())
            advance(1)


def variable_tensors(model):
    """Indices of the tensors of a `ModelT` that the file holds no values of."""
    (graph,) = model.subgraphs
    return [i for i, tensor in enumerate(graph.tensors) if not _size(model.buffers[tensor.buffer].data)]


def _size(data):
    return 0 if data is None else len(data)


class _Values:
    """The extremes of an activation."""

    def __init__(self):
        self.low, self.high = 0.0, 0.0

    def add(self, values):
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def minmax(self):
        return self.low, self.high

    percentile = mse = minmax


class _Histogram(_Values):
    """Counts of values besides, in bins that are as wide on both sides of zero and double when one falls outside.

    Zeros are left out: every scale renders them. Of a large activation every so many values are counted.
    """

    def __init__(self):
        super().__init__()
        self._reach, self._counts = 0.0, np.zeros((2, BINS), np.int64)  # below zero and above it

    def add(self, values):
        super().add(values)
        largest = max(-self.low, self.high)
        self._reach = self._reach or largest
        while self._reach < largest:
            halves = self._counts.reshape(2, BINS // 2, 2).sum(axis=2)
            self._counts, self._reach = np.pad(halves, ((0, 0), (0, BINS // 2))), 2 * self._reach
        flat = values.ravel()
        sample = flat[:: -(-flat.size // COUNTED)]
        for side, part in enumerate((-sample[sample < 0], sample[sample > 0])):
            bins = (part * np.float32(BINS / self._reach)).astype(np.int32) if part.size else part.astype(np.int32)
            self._counts[side] += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    def percentile(self):
        low, high = (self._end(side, end) for side, end in enumerate((-self.low, self.high)))
        return -low, high

    def _end(self, side, largest):
        """How far from zero the values on one side reach, but for the outermost ones."""
        total = self._counts[side].sum()
        place = np.searchsorted(np.cumsum(self._counts[side]), total * PERCENTILE / 100)
        return min(float((place + 1) * self._reach / BINS), largest) if total else largest

    def mse(self):
        """Both ends in turn, twice: the error has one valley along each."""
        low, high = self.low, self.high
        for _ in range(2):
            low = min((share * self.low for share in SHRINKING), key=lambda end, high=high: self._error(end, high))
            high = min((share * self.high for share in SHRINKING), key=lambda end, low=low: self._error(low, end))
        return low, high

    def _error(self, low, high):
        step = (high - low) / LEVELS
        if not step:
            return 0.0
        middles = (np.arange(BINS) + 0.5) * self._reach / BINS
        middles = np.stack([-middles, middles])
        rendered = np.clip(np.rint(middles / step), np.rint(low / step), np.rint(high / step)) * step
        return float(np.sum(self._counts * (rendered - middles) ** 2))
