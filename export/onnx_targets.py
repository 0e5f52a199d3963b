"""What each consumer of `.onnx` files accepts: one frozen row per target. Imports nothing heavy."""

import dataclasses
import typing

RECIPES = ("float32", "float16", "int8", "int16x8")
OPSET = 17  # the newest in which tf2onnx leaves no transposition in a network of channels first
OPSET_16_BITS = 21  # the first that quantizes to 16 bits


@dataclasses.dataclass(frozen=True)
class OnnxTarget:
    """One consumer of `.onnx` files.

    `activations` is the dtype of quantized activations in an int8 file; weights are int8 everywhere. `symmetric` makes
    every zero point 0. `layout` is the order of the input's sides, `"NCHW"` or `"NHWC"`. `open_batch` lets a file take
    any number of images. `quantizes_edges` begins and ends with quantized numbers, so that nothing at all is computed
    in float. `fuses_residual` puts no quantization between a convolution and the sum behind it, which the consumer
    computes as one. `quantizes_bias` stores biases as int32. `per_channel` says which weights have a scale for each
    output channel, as in `targets.Target`. `int16x8` allows activations of 16 bits. `runs_here` says
    that the consumer is what `lint` runs, so that what it makes of the graph counts.
    """

    name: str
    description: str
    activations: str = "uint8"
    symmetric: bool = False
    layout: str = "NCHW"
    open_batch: bool = True
    quantizes_edges: bool = False
    fuses_residual: bool = False
    quantizes_bias: bool = True
    per_channel: str = "everywhere"
    int16x8: bool = False
    compiler: typing.ClassVar[str] = "onnxruntime"  # what `lint` runs, whoever consumes the file
    runs_here: bool = False

    def check(self, recipe):
        """Refuses a recipe that has no meaning here.

        Raises:
            ValueError: the target does not take such a file.
        """
        if recipe.name not in RECIPES:
            raise ValueError(f"There is no {recipe.name} ONNX file. Received: --{recipe.name}. Use --int8.")
        if recipe.activations == "int16" and not self.int16x8:
            raise ValueError(f"{self.name} does not take 16-bit activations. Received: --{recipe.name}. Use --int8.")

    def opset(self, recipe):
        """Version of the operators that a file of that recipe is written in."""
        return OPSET_16_BITS if recipe.activations == "int16" else OPSET

    def stored(self, recipe):
        """The dtype of quantized activations in a file of that recipe."""
        return "uint16" if recipe.activations == "int16" else self.activations


TARGETS = {
    row.name: row
    for row in (
        # int8 activations run several times slower there; what uint8 needs without VNNI is in `backends.EXACT_SUMS`.
        OnnxTarget("ort-x86", "ONNX Runtime on x86-64 processors, best with VNNI", runs_here=True),
        OnnxTarget("ort-arm", "ONNX Runtime on Arm processors", activations="int8", layout="NHWC", runs_here=True),
        OnnxTarget(
            "tensorrt",
            "NVIDIA TensorRT",
            activations="int8",
            symmetric=True,
            fuses_residual=True,
            quantizes_bias=False,  # it takes no int32 there
        ),
        OnnxTarget(
            "qnn",
            "Qualcomm NPUs, through ONNX Runtime's QNN provider",
            layout="NHWC",
            open_batch=False,
            quantizes_edges=True,
            per_channel="convolutions",
            int16x8=True,
        ),
        OnnxTarget("openvino", "OpenVINO, on processors, GPUs and NPUs of Intel"),
    )
}
DEFAULT = "ort-x86"


def get(name):
    """The target of that name.

    Raises:
        ValueError: there is none.
    """
    from resnet_keras import cli

    return cli.looked_up(TARGETS, name, "target")
