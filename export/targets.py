"""What each consumer of a file accepts: one frozen row per target. Imports nothing heavy.

A target fixes what a recipe leaves open: the types of the edges, how the weights of the classifier are quantized, how
the normalisation of the pixels is folded, and what `lint` looks for.
"""

import dataclasses

# The ops of a plain int8 ResNet in the newest versions that compilers frozen in time know.
FROZEN_OPS = {
    "ADD": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEQUANTIZE": 2,
    "FULLY_CONNECTED": 4,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MUL": 2,
    "PAD": 2,
    "QUANTIZE": 2,
    "RESHAPE": 1,
    "SOFTMAX": 2,
    "SUB": 3,
}


@dataclasses.dataclass(frozen=True)
class Target:
    """One consumer of `.tflite` files.

    `edges` are the dtypes of input and output that it takes, its preferred one first. `per_channel` says which weights
    have a scale for each output channel: `"everywhere"`, `"convolutions"` or `"nowhere"`. `folding` says what becomes
    of a mean that the input tensor cannot express: an `"op"` in front of the network, or another `"channel"` of its
    input (see `folding`). `frozen_ops` restricts a file to `FROZEN_OPS`. `integer_only` allows no float tensor at all,
    `int16x8` activations of 16 bits. `compiler` is what `lint` runs: `"vela"`, `"tflite-micro"`, or None. `metadata`
    says that the consumer reads labels and normalisation from the file itself.
    """

    name: str
    description: str
    edges: tuple[str, ...] = ("float32",)
    per_channel: str = "everywhere"
    folding: str = "op"
    frozen_ops: bool = False
    integer_only: bool = False
    int16x8: bool = False
    compiler: str | None = None
    metadata: bool = False

    def edge(self, recipe, io=None):
        """The dtype of input and output for a recipe.

        Args:
            recipe: a `recipes.Recipe`.
            io: what the user asks for, or None.

        Raises:
            ValueError: the target does not take such a file.
        """
        takes = self._edges(recipe)
        if not takes:
            why = "does not take 16-bit activations" if recipe.integer_only else "computes in integers"
            raise ValueError(f"{self.name} {why}. Received: --{recipe.name}. Use --int8, or another --target.")
        if io is not None and io not in takes:
            raise ValueError(
                f"{self.name} takes {' or '.join(takes)} at the edges of a {recipe.name} file. Received: --io {io}."
            )
        return io or takes[0]

    def _edges(self, recipe):
        """The dtypes that a file of that recipe can have here, the preferred one first."""
        if recipe.activations == "int8":
            return self.edges
        floats = tuple(edge for edge in self.edges if edge == "float32")
        if recipe.activations == "float32":
            return floats
        # Apps and browsers have no numbers of 16 bits to put there.
        return (floats or ("int16",)) if self.int16x8 else ()


def _ethos_u(series, macs):
    # On u85 an elementwise op on the input is cheaper than a fourth channel; on the smaller ones three times as dear.
    return Target(
        f"ethos-u{series}-{macs}",
        f"Arm Ethos-U{series} NPU with {macs} MAC units, through Vela",
        edges=("int8",),
        folding="op" if series == 85 else "channel",
        integer_only=True,
        int16x8=True,
        compiler="vela",
    )


ETHOS_U = {55: (32, 64, 128, 256), 65: (256, 512), 85: (128, 256, 512, 1024, 2048)}

TARGETS = {
    row.name: row
    for row in (
        Target("app", "Android, iOS and desktops, through LiteRT", edges=("float32", "int8"), int16x8=True),
        # LiteRT.js knows neither int8 edges nor dynamic shapes.
        Target("web", "browsers, through LiteRT.js", edges=("float32", "uint8"), int16x8=True),
        # int8 edges are refused, and float32 ones without normalisation metadata.
        Target("mediapipe", "MediaPipe Tasks' ImageClassifier", edges=("float32", "uint8"), metadata=True),
        *(_ethos_u(series, macs) for series, sizes in ETHOS_U.items() for macs in sizes),
        Target(
            "edgetpu",
            "Coral Edge TPU, whose compiler stopped in 2022",
            edges=("uint8", "int8"),
            per_channel="convolutions",
            folding="channel",
            frozen_ops=True,
            integer_only=True,
        ),
        Target(
            "micro",
            "microcontrollers, through TensorFlow Lite Micro",
            edges=("int8",),
            per_channel="convolutions",
            folding="channel",
            frozen_ops=True,
            integer_only=True,
            int16x8=True,
            compiler="tflite-micro",
        ),
        Target(
            "vivante",
            "VeriSilicon Vivante NPUs, such as NXP's i.MX 8M Plus",
            edges=("uint8", "int8"),
            per_channel="nowhere",
            folding="channel",
            integer_only=True,
        ),
    )
}
DEFAULT = "app"


def get(name):
    """The target of that name.

    Raises:
        ValueError: there is none.
    """
    from resnet_keras import cli

    return cli.looked_up(TARGETS, name, "target")
