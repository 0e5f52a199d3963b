"""Training recipes as rows: a default, and for each recipe what differs from it."""

import dataclasses
import difflib


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a training run, apart from the seed and the precision.

    `weight_decay` is decoupled, as Keras applies it (the variable shrinks by `learning_rate * weight_decay` a step),
    and acts on the kernels of convolutions and dense layers alone. The learning rate rises linearly over `warmup_steps`
    to `peak_learning_rate` and follows half a cosine to zero. `erase_pixels` is the side of a square that is painted
    mid-grey with probability `erase_probability` (arXiv:1708.04896, arXiv:1708.04552).
    """

    model: str = "resnet50"
    data: str | None = None
    epochs: int = 90
    batch_size: int = 256
    peak_learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_steps: int = 500
    label_smoothing: float = 0.0
    crop_padding: int = 0
    flip: bool = True
    erase_pixels: int = 0
    erase_probability: float = 0.0
    zero_init_residual: bool = False

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Received: {getattr(self, name)}.")
        for name in ("peak_learning_rate", "momentum", "weight_decay", "warmup_steps", "crop_padding", "erase_pixels"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number from 0 up. Received: {getattr(self, name)}.")
        for name in ("momentum", "label_smoothing", "erase_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1. Received: {getattr(self, name)}.")

    def with_changes(self, **changes):
        """A copy with some values replaced; strings, as a command line gives them, are converted to the value's type.

        Raises:
            ValueError: there is no such key, or the value is not of its type.
        """
        fields = {field.name: field for field in dataclasses.fields(self)}
        for key, value in changes.items():
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"A recipe has no key {key!r}.{hint} Keys: {', '.join(fields)}.")
            if isinstance(value, str):
                changes[key] = _parse(key, value, fields[key].type)
        return dataclasses.replace(self, **changes)


def _parse(key, text, expected):
    if expected is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{key} must be true or false. Received: {text!r}.")
        return text.lower() == "true"
    if expected not in (int, float):
        return text
    try:
        return expected(text)
    except ValueError as error:
        raise ValueError(f"{key} must be of type {expected.__name__}. Received: {text!r}.") from error


# Fashion-MNIST at 32 px. The recipe of the bundled model.
_FASHION = Recipe(
    model="resnet20",
    data="fashion_mnist",
    epochs=36,
    batch_size=128,
    peak_learning_rate=0.2,
    weight_decay=4e-3,
    crop_padding=2,
    label_smoothing=0.1,
    erase_pixels=10,
    erase_probability=0.5,
)

RECIPES = {
    "default": Recipe(),
    "fashion": _FASHION,
    # A small network on the bundled images, for a machine without network: about a minute on two cores.
    "demo": dataclasses.replace(
        _FASHION, model="resnet8", data="fashion_mnist_sample", epochs=28, warmup_steps=50, erase_probability=0.0
    ),
}


def get(name):
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"Unknown recipe. Received: {name!r}. Expected one of: {', '.join(RECIPES)}.")
    return RECIPES[name]
