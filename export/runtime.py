"""`Runner`: pixels in, probabilities out, for an exported file. Imports neither keras nor tensorflow."""

import pathlib

import numpy as np


class Runner:
    """Runs a `.tflite` file in LiteRT, one image at a time.

    Integer edges are handled here with the file's own scales, so that every file takes raw pixels and gives float
    probabilities.

    Args:
        path: a `.tflite` file.
        threads: processor threads; None leaves the choice to the runtime.

    Raises:
        ImportError: LiteRT is not installed.
        ValueError: the file is missing or is not a model with one image input and one output.
    """

    def __init__(self, path, threads=None):
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        self._interpreter = _interpreter(path, threads)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]["shape"]) != 4 or len(outputs[0]["shape"]) != 2:
            raise ValueError(f"{path} is not an image classifier with one input and one output.")
        self._input, self._output = inputs[0], outputs[0]

    @property
    def inputs(self):
        """`[{"name", "dtype", "shape", "scale", "zero_point"}]`; scale and zero point are None for float."""
        return [_described(self._input)]

    @property
    def outputs(self):
        """As `inputs`."""
        return [_described(self._output)]

    def predict(self, pixels):
        """Probabilities of a batch.

        Args:
            pixels: raw pixels, 0 to 255, `(count, height, width, channels)`.

        Returns:
            `float32`, `(count, classes)`.

        Raises:
            ValueError: the images do not have the size that the file takes.
        """
        expected = tuple(self._input["shape"][1:])
        if pixels.shape[1:] != expected:
            raise ValueError(f"The file takes images of shape {expected}. Received: {pixels.shape[1:]}.")
        return np.concatenate([self._predict_one(image) for image in pixels])

    def load(self, image):
        """Puts one image, `(height, width, channels)`, into the input tensor."""
        self._interpreter.set_tensor(self._input["index"], _quantized(image[None], self._input))

    def invoke(self):
        """Runs the network on what `load` put in: the part that a benchmark times."""
        self._interpreter.invoke()

    def _predict_one(self, image):
        self.load(image)
        self.invoke()
        return _dequantized(self._interpreter.get_tensor(self._output["index"]), self._output)


def _interpreter(path, threads):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError("LiteRT is missing. Install it with: pip install 'resnet-keras[export]'.") from error
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a .tflite file that LiteRT can run: {error}.") from error
    return interpreter


def _described(details):
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), details["quantization"]
    integer = dtype.kind in "iu"
    return {
        "name": details["name"],
        "dtype": dtype.name,
        "shape": [int(side) for side in details["shape"]],
        "scale": float(scale) if integer else None,
        "zero_point": int(zero_point) if integer else None,
    }


def _quantized(values, details):
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), details["quantization"]
    if dtype.kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / scale + zero_point), limits.min, limits.max).astype(dtype)


def _dequantized(values, details):
    scale, zero_point = details["quantization"]
    if values.dtype.kind not in "iu":
        return values.astype(np.float32)
    return (values.astype(np.float32) - zero_point) * np.float32(scale)
