"""What each number format means."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way to store and compute a network.

    `weights` is the dtype of the stored kernels. `integer_only` says that activations are int8 too, which needs
    calibration images; otherwise activations are float32.
    """

    name: str
    weights: str
    integer_only: bool
    description: str


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("float32", "float32", False, "nothing quantized"),
        Recipe("float16", "float16", False, "weights in half precision, half the size"),
        Recipe("dynamic", "int8", False, "int8 weights, float activations, no calibration"),
        Recipe("int8", "int8", True, "int8 weights and activations, calibrated"),
    )
}
IO_TYPES = ("float32", "int8", "uint8")


def check(recipe, io):
    """Refuses a combination that no file can have.

    Raises:
        ValueError: `recipe` or `io` is unknown, or integer edges are asked of a float network.
    """
    if recipe not in RECIPES:
        raise ValueError(f"Unknown recipe. Received: {recipe!r}. Expected one of: {', '.join(RECIPES)}.")
    if io not in IO_TYPES:
        raise ValueError(f"Unknown edge type. Received: --io {io}. Expected one of: {', '.join(IO_TYPES)}.")
    if io != "float32" and not RECIPES[recipe].integer_only:
        raise ValueError(f"--io {io} needs --int8; the edges of a {recipe} file are float32.")
