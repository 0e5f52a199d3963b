"""What each number format means."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way to store and compute a network.

    `weights` is the dtype of the stored kernels, `activations` that of what passes between the layers. Integer ones
    need calibration images.
    """

    name: str
    weights: str
    activations: str
    description: str

    @property
    def integer_only(self):
        return self.activations != "float32"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("float32", "float32", "float32", "nothing quantized"),
        Recipe("float16", "float16", "float32", "weights in half precision, half the size"),
        Recipe("dynamic", "int8", "float32", "int8 weights, float activations, no calibration"),
        Recipe("int8", "int8", "int8", "int8 weights and activations, calibrated"),
        Recipe("int16x8", "int8", "int16", "int8 weights, int16 activations: nearer to float, slower, on few devices"),
    )
}


def get(name):
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"Unknown recipe. Received: {name!r}. Expected one of: {', '.join(RECIPES)}.")
    return RECIPES[name]
