"""What each number format means."""

import dataclasses

OUTPUT_STEP = 1 / 256  # of a probability in 8 bits, as TensorFlow Lite fixes it


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way to store and compute a network.

    `weights` is the dtype of the stored kernels, `activations` that of what passes between the layers. Integer ones
    need calibration images, from which `method` makes ranges (see `ranges.observe`) unless the user names another.
    """

    name: str
    weights: str
    activations: str
    description: str
    method: str | None = None

    @property
    def integer_only(self):
        return self.activations != "float32"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("float32", "float32", "float32", "nothing quantized"),
        Recipe("float16", "float16", "float32", "weights in half precision, half the size"),
        Recipe("dynamic", "int8", "float32", "int8 weights, float activations, no calibration"),
        # On training images of two models `mse` has the smallest mean error of a probability of the three methods.
        Recipe("int8", "int8", "int8", "int8 weights and activations, calibrated", "mse"),
        # 16 bits have steps to spare: nothing has to be cut off.
        Recipe(
            "int16x8", "int8", "int16", "int8 weights, int16 activations: more exact, slower, on few devices", "minmax"
        ),
    )
}


def get(name):
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    from resnet_keras import cli

    return cli.looked_up(RECIPES, name, "recipe")
