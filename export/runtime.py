"""`Runner`: pixels in, probabilities out, for an exported file. Imports neither keras nor tensorflow."""

import pathlib
import tempfile

import numpy as np

from export import backends
from export.backends import OPEN


class Runner:
    """Runs a `.tflite` file in LiteRT or an `.onnx` file in ONNX Runtime, one image at a time.

    Integer edges are handled here with the file's own scales, and channels are moved to where the file wants them, so
    that every file takes raw pixels, `(height, width, channels)`, and gives float probabilities.

    `inputs` and `outputs` are what the file declares: `[{"name", "dtype", "shape", "scale", "zero_point"}]`. A side
    that is left open is -1; scale and zero point are None where there are none.

    Args:
        path: a `.tflite` file, or an ONNX file if its name ends in `.onnx`.
        threads: processor threads; None leaves the choice to the runtime.

    Raises:
        ImportError: the runtime is not installed.
        ValueError: the file is missing or is not a model with one image input and one output.
    """

    def __init__(self, path, threads=None):
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        self._backend = backends.of(path)(path, threads)
        self.inputs, self.outputs = self._backend.inputs, self._backend.outputs
        _check(path, self.inputs, self.outputs)
        self._input, self._output = self.inputs[0], self.outputs[0]
        sides = self._input["shape"][1:]
        # ONNX has both orders; the channels are the shorter side.
        self._channels_first = isinstance(self._backend, backends.OnnxRuntime) and sides[0] < sides[2]
        self._image_shape = (*sides[1:], sides[0]) if self._channels_first else tuple(sides)

    @property
    def image_shape(self):
        """`(height, width, channels)` of the images that `predict` and `load` take, whatever order the file has."""
        return self._image_shape

    @property
    def runtime(self):
        """Name and version of what runs the file, such as `"LiteRT 2.3.0"`."""
        return f"{self._backend.name} {self._backend.version()}"

    @property
    def delegate(self):
        """`(name, percent)`: what the runtime hands ops to, and how many of the file's ops that takes.

        The name is None where there is no delegate, the percentage where the runtime does not tell.
        """
        return self._backend.delegate()

    def predict(self, pixels):
        """Probabilities of a batch.

        Args:
            pixels: raw pixels, 0 to 255, `(count, height, width, channels)`.

        Returns:
            `float32`, `(count, classes)`.

        Raises:
            ValueError: the images do not have the size that the file takes.
        """
        if pixels.shape[1:] != self._image_shape:
            raise ValueError(f"The file takes images of shape {self._image_shape}. Received: {pixels.shape[1:]}.")
        return np.concatenate([self._predict_one(image) for image in pixels])

    def load(self, image):
        """Puts one image, `(height, width, channels)`, into the input tensor."""
        self._backend.put(self.arranged(image))

    def arranged(self, image):
        """One image, `(height, width, channels)`, as the input tensor takes it."""
        if self._channels_first:
            image = np.ascontiguousarray(np.moveaxis(image, -1, 0))
        return quantized(image[None], self._input)

    def invoke(self):
        """Runs the network on what `load` put in: the part that a benchmark times."""
        self._backend.invoke()

    def _predict_one(self, image):
        self.load(image)
        self.invoke()
        return _dequantized(self._backend.get(), self._output)


def _check(path, inputs, outputs):
    if [len(edge["shape"]) for edge in inputs] != [4] or [len(edge["shape"]) for edge in outputs] != [2]:
        raise ValueError(f"{path} is not an image classifier with one input and one output.")
    (image,), (probabilities,) = inputs, outputs
    if OPEN in image["shape"][1:] or OPEN in probabilities["shape"][1:]:
        shapes = f"{image['shape']} to {probabilities['shape']}"
        raise ValueError(f"{path} leaves its image or class count open ({shapes}). Export it with a fixed image size.")
    if image["shape"][0] not in (1, OPEN):
        raise ValueError(f"{path} takes {image['shape'][0]} images at a time. Export it for one.")
    for edge, plain in ((image, ("float32", "float16", "uint8")), (probabilities, ("float32", "float16"))):
        if edge["dtype"] not in plain and (edge["scale"] is None or edge["dtype"] not in ("int8", "uint8", "int16")):
            raise ValueError(f"{path} has an edge {edge['name']} of {edge['dtype']} values whose scale is not known.")


def quantized(values, edge):
    """Pixels as the input of a file takes them.

    Args:
        values: pixels, 0 to 255.
        edge: an entry of `Runner.inputs`.
    """
    dtype, scale, zero_point = np.dtype(edge["dtype"]), edge["scale"], edge["zero_point"]
    if dtype.kind == "f":
        return values.astype(dtype)
    # One step a pixel: the byte is the pixel, whatever the zero point says, which some files use to declare that they
    # take the pixel minus a mean.
    if dtype.itemsize == 1 and scale in (1.0, None):
        scale, zero_point = 1.0, np.iinfo(dtype).min
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / scale + zero_point), limits.min, limits.max).astype(dtype)


def _dequantized(values, edge):
    if edge["scale"] is None:
        return values.astype(np.float32)
    return (values.astype(np.float32) - edge["zero_point"]) * np.float32(edge["scale"])


def probabilities(data, images):
    """What a file that has no place on disk yet gives for raw pixels: `(count, classes)`, float32.

    Args:
        data: the bytes of a `.tflite` file.
        images: `(count, height, width, channels)`.
    """
    from resnet_keras import cli

    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "x.tflite")
        path.write_bytes(data)
        with cli.held_stderr():  # LiteRT announces its delegate
            return Runner(path).predict(images)
