"""Training recipes as rows: a default, and for each recipe what differs from it.

python -m resnet_keras.recipes    # lists them
"""

import argparse
import dataclasses
import difflib

from resnet_keras import cli

IMAGENET_IMAGES = 1_281_167
OPTIMIZERS = ("sgd", "lamb", "adamw")
SCHEDULES = ("cosine", "step")
LOSSES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a training run, apart from the seed and the precision.

    `batch_size` is the number of images in one step, over all devices and hosts together. `weight_decay` is decoupled,
    as Keras applies it (the variable shrinks by `learning_rate * weight_decay` a step), and acts on the kernels of
    convolutions and dense layers alone; with momentum 0.9 that is ten times the value of a recipe whose decay passes
    through the momentum. The learning rate rises linearly over `warmup_steps` to `peak_learning_rate`; then it follows
    half a cosine to zero, or falls to a tenth after each third of the run (`"step"`).

    Images from files are cropped at random, `crop_scale_min` to 1 of their area (arXiv:1409.4842), to `size` pixels and
    evaluated at `eval_size`, the centre `eval_crop_fraction` of them; a size of 0 is that of the weights that a run
    starts from, and so is their crop. Arrays keep their size and are shifted by up to `crop_padding` pixels.
    `erase_pixels` is the side of a square that is painted mid-grey with probability `erase_probability`
    (arXiv:1708.04896, arXiv:1708.04552). `rand_augment_ops` of strength up to `rand_augment_strength`
    (arXiv:1909.13719) come before MixUp (arXiv:1710.09412) or CutMix (arXiv:1905.04899), one of the two a batch.
    `repeats` puts each image into an epoch's order so many times in a row, augmented differently (arXiv:1902.05509).
    `stochastic_depth` is the share of images for which the last block's branch is left out, falling linearly to none
    for the first (arXiv:1603.09382).
    `ema_decay` keeps a moving average of the weights, which is what is evaluated and saved. The `"sigmoid"` loss is the
    binary cross-entropy of each class on its own (arXiv:2110.00476).

    `weights` is what a run starts from (a published tag or a file), `freeze_stages` how many stages of it, counted with
    the stem as the first, stay as they are.
    """

    model: str = "resnet50"
    width_multiplier: int = 1
    data: str | None = None
    weights: str | None = None
    freeze_stages: int = 0
    epochs: int = 90
    batch_size: int = 256
    optimizer: str = "sgd"
    peak_learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_steps: int = 500
    loss: str = "softmax"
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    stochastic_depth: float = 0.0
    size: int = 224
    eval_size: int = 224
    eval_crop_fraction: float = 0.875
    crop_scale_min: float = 0.08
    crop_padding: int = 0
    flip: bool = True
    rand_augment_ops: int = 0
    rand_augment_strength: float = 0.5
    erase_pixels: int = 0
    erase_probability: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    repeats: int = 1
    zero_init_residual: bool = False

    def __post_init__(self):
        for name in ("width_multiplier", "epochs", "batch_size", "repeats"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in (
            *("freeze_stages", "peak_learning_rate", "weight_decay", "warmup_steps", "size", "eval_size"),
            *("crop_padding", "rand_augment_ops", "erase_pixels", "mixup_alpha", "cutmix_alpha"),
        ):
            self._check(name, 0 <= getattr(self, name) < float("inf"), "a number from 0 up")
        for name in ("momentum", "label_smoothing", "erase_probability", "rand_augment_strength", "eval_crop_fraction"):
            self._check(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        for name in ("ema_decay", "stochastic_depth"):
            self._check(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        for name in ("crop_scale_min", "eval_crop_fraction"):
            self._check(name, 0 < getattr(self, name) <= 1, "above 0 and at most 1")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("loss", LOSSES)):
            self._check(name, getattr(self, name) in known, f"one of {', '.join(known)}")

    def _check(self, name, holds, expected):
        if not holds:
            raise ValueError(f"{name} must be {expected}. Received: {getattr(self, name)}.")

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

    def at_batch_size(self, batch_size):
        """The same recipe with another batch size: learning rate and warm-up are scaled with it.

        The learning rate in proportion for SGD (arXiv:1706.02677, section 2.1), with the square root for LAMB and AdamW
        (arXiv:1904.00962, section 4); the warm-up so that it sees the same number of images.
        """
        changed = self.with_changes(batch_size=batch_size)
        factor = changed.batch_size / self.batch_size
        rate_factor = factor if self.optimizer == "sgd" else factor**0.5
        return dataclasses.replace(
            changed,
            peak_learning_rate=self.peak_learning_rate * rate_factor,
            warmup_steps=round(self.warmup_steps / factor),
        )


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


@dataclasses.dataclass(frozen=True)
class Row:
    """A recipe with what is known of it.

    `expected` is the accuracy that its source states, `cost` what a run takes, `measured` what was measured with this
    package, or that nothing was.
    """

    recipe: Recipe
    source: str
    expected: str
    cost: str
    measured: str = "not measured here"


def _imagenet_epochs(epochs, batch_size):
    return round(epochs * IMAGENET_IMAGES / batch_size)


_STRIKES_BACK = Recipe(
    batch_size=2048,
    optimizer="lamb",
    loss="sigmoid",
    warmup_steps=_imagenet_epochs(5, 2048),
    eval_crop_fraction=0.95,
    rand_augment_ops=2,
    cutmix_alpha=1.0,
)
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
_STRIKES_BACK_SOURCE = "Wightman, Touvron, Jegou, ResNet strikes back (arXiv:2110.00476), Table 2"

ROWS = {
    "default": Row(Recipe(), "none: the starting point of the others", "none", "depends on the data"),
    "a1": Row(
        dataclasses.replace(
            _STRIKES_BACK,
            epochs=600,
            peak_learning_rate=5e-3,
            weight_decay=0.01,
            label_smoothing=0.1,
            mixup_alpha=0.2,
            rand_augment_strength=0.7,
            repeats=3,
            stochastic_depth=0.05,
        ),
        _STRIKES_BACK_SOURCE,
        "ResNet-50 80.4 % of ImageNet at 224 px",
        "110 hours on four V100 (the paper)",
    ),
    "a2": Row(
        dataclasses.replace(
            _STRIKES_BACK,
            epochs=300,
            peak_learning_rate=5e-3,
            weight_decay=0.02,
            mixup_alpha=0.1,
            rand_augment_strength=0.7,
            repeats=3,
            stochastic_depth=0.05,
        ),
        _STRIKES_BACK_SOURCE,
        "ResNet-50 79.8 % of ImageNet at 224 px",
        "55 hours on four V100 (the paper)",
    ),
    "a3": Row(
        dataclasses.replace(
            _STRIKES_BACK,
            epochs=100,
            peak_learning_rate=8e-3,
            weight_decay=0.02,
            mixup_alpha=0.1,
            rand_augment_strength=0.6,
            size=160,
        ),
        _STRIKES_BACK_SOURCE,
        "ResNet-50 78.1 % of ImageNet, trained at 160 px, tested at 224 px",
        "15 hours on four V100 (the paper)",
    ),
    "torchvision-v1": Row(
        Recipe(
            epochs=90,
            batch_size=256,
            peak_learning_rate=0.1,
            schedule="step",
            warmup_steps=0,
            weight_decay=1e-3,
        ),
        "torchvision's references/classification, weights IMAGENET1K_V1; its coupled decay of 1e-4",
        "ResNet-50 76.1 %, ResNet-18 69.8 % of ImageNet at 224 px",
        "90 passes over ImageNet",
    ),
    "torchvision-v2": Row(
        Recipe(
            epochs=600,
            batch_size=1024,
            peak_learning_rate=0.5,
            warmup_steps=_imagenet_epochs(5, 1024),
            weight_decay=2e-4,
            label_smoothing=0.1,
            ema_decay=0.99998,
            size=176,
            eval_crop_fraction=224 / 232,
            rand_augment_ops=1,
            rand_augment_strength=1.0,
            mixup_alpha=0.2,
            cutmix_alpha=1.0,
            erase_pixels=64,
            erase_probability=0.1,
            repeats=4,
        ),
        "torchvision's references/classification, weights IMAGENET1K_V2, with one random operation of any strength for "
        "its TrivialAugment; its coupled decay is 2e-5",
        "ResNet-50 80.9 % of ImageNet, trained at 176 px, tested at 224 px",
        "600 passes over ImageNet",
    ),
    "small": Row(
        Recipe(
            model="resnet20",
            epochs=164,
            batch_size=128,
            peak_learning_rate=0.1,
            schedule="step",
            warmup_steps=0,
            weight_decay=1e-3,
            crop_padding=4,
        ),
        "He et al. (arXiv:1512.03385), section 4.2: 64,000 steps on CIFAR-10; its coupled decay is 1e-4, its rate "
        "falls after one half and three quarters of the run, here after each third",
        "CIFAR-10: ResNet-20 91.25 %, ResNet-56 93.03 %",
        "164 passes over 50,000 images of 32 px; two hours on two cores",
    ),
    # The recipe of the bundled model: Fashion-MNIST at 32 px.
    "fashion": Row(
        _FASHION,
        "this package",
        "ResNet-20 94.8 % of the test images",
        "half an hour to an hour on two cores with bfloat16",
        "ResNet-20, seeds 0, 1 and 2: 94.89, 94.72 and 94.85 % of 10,000 test images",
    ),
    # The best that two cores reach in an hour: fewer passes, nine times the weights.
    "fashion-hour": Row(
        dataclasses.replace(_FASHION, width_multiplier=3, epochs=20),
        "this package; the width is that of wide residual networks (Zagoruyko and Komodakis, arXiv:1605.07146)",
        "ResNet-20 of three times the width, 95.3 % of the test images",
        "an hour on two cores with bfloat16",
        "seed 0: 95.33 % of 10,000 test images",
    ),
    "finetune": Row(
        Recipe(
            model="resnet50",
            weights="imagenet",
            epochs=20,
            batch_size=32,
            peak_learning_rate=0.005,
            weight_decay=1e-3,
            warmup_steps=50,
            label_smoothing=0.1,
            crop_scale_min=0.35,
            size=0,
            eval_size=0,
        ),
        "this package, after Kornblith et al. (arXiv:1805.08974), section 3",
        "depends on the data",
        "20 passes over your images",
    ),
    # A small network on the bundled images, for a machine without network.
    "demo": Row(
        dataclasses.replace(
            _FASHION, model="resnet8", data="fashion_mnist_sample", epochs=28, warmup_steps=50, erase_probability=0.0
        ),
        "this package",
        "ResNet-8 about 86 % of the bundled test images",
        "a minute on two cores",
    ),
}
RECIPES = {name: row.recipe for name, row in ROWS.items()}


def get(name):
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    return cli.looked_up(RECIPES, name, "recipe")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m resnet_keras.recipes", description="List the training recipes and what is known of them."
    )
    parser.add_argument(
        "--json", action="store_true", help="print everything as JSON, every value of a recipe included"
    )
    args = parser.parse_args(arguments)
    if args.json:
        cli.print_result([], {name: dataclasses.asdict(row) for name, row in ROWS.items()}, as_json=True)
        return cli.GOOD
    for name, row in ROWS.items():
        print(f"{name}: python -m resnet_keras.train --recipe {name}{'' if row.recipe.data else ' --data DIR'}")
        for what in ("source", "expected", "cost", "measured"):
            print(f"    {what}: {getattr(row, what)}")
    return cli.GOOD


if __name__ == "__main__":
    cli.run(main)
