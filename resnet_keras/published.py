"""Published ImageNet weights as rows: who trained them, for which models, with which preprocessing, how well."""

import dataclasses

from resnet_keras import layouts
from resnet_keras.preprocessing import Preprocess


@dataclasses.dataclass(frozen=True)
class Published:
    """One set of weights.

    `top1_percent` is the published accuracy on the 50,000 validation images of ImageNet with `preprocess`, by model;
    `source` says who published it.
    """

    tag: str
    top1_percent: dict[str, float]
    preprocess: Preprocess
    licence: str
    source: str
    version: str = "v1.5"


def _five(*top1_percent):
    return dict(zip(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), top1_percent, strict=True))


_BICUBIC = dataclasses.replace(layouts.IMAGENET, crop_fraction=0.95, interpolation="bicubic")
_RSB = "ResNet strikes back, arXiv:2110.00476"
PUBLISHED = {
    row.tag: row
    for row in (
        Published("a1_in1k", _five(71.5, 76.4, 80.4, 81.5, 82.0), _BICUBIC, "Apache-2.0", _RSB),
        Published("a2_in1k", _five(70.6, 75.5, 79.8, 81.3, 81.8), _BICUBIC, "Apache-2.0", _RSB),
        Published("a3_in1k", _five(68.2, 73.0, 78.1, 79.8, 80.6), _BICUBIC, "Apache-2.0", _RSB),
        Published(
            "tv_in1k",
            _five(69.76, 73.31, 76.13, 77.37, 78.31),
            layouts.IMAGENET,
            "BSD-3-Clause",
            "torchvision, IMAGENET1K_V1",
        ),
        Published(
            "tv2_in1k",
            {"resnet50": 80.86, "resnet101": 81.89, "resnet152": 82.28},
            dataclasses.replace(layouts.IMAGENET, crop_fraction=0.965),
            "BSD-3-Clause",
            "torchvision, IMAGENET1K_V2",
        ),
        Published(
            "keras",
            {"resnet50": 74.9, "resnet101": 76.4, "resnet152": 76.6},
            layouts.CAFFE,
            "MIT",
            "keras.applications",
            version="v1",
        ),
    )
}
# The A1 weights at every depth. torchvision's second set is up to 0.5 points better in float, and loses that again in
# int8: 0.58 points on ResNet-50, where the first set loses 0.21.
DEFAULT, DEFAULT_ALIAS = "a1_in1k", "imagenet"


def names():
    """What `weights=` takes besides a path."""
    return [DEFAULT_ALIAS, *PUBLISHED]


def find(tag, model):
    """The row of `tag`.

    Raises:
        ValueError: there is no such tag, or none for this model.
    """
    row = PUBLISHED.get(DEFAULT if tag == DEFAULT_ALIAS else tag)
    if row is None:
        raise ValueError(f"Unknown weights. Received: {tag!r}. Expected a file or one of: {', '.join(names())}.")
    if model not in row.top1_percent:
        others = [name for name, other in PUBLISHED.items() if model in other.top1_percent]
        raise ValueError(
            f"There are no {tag!r} weights for {model}, only for {', '.join(row.top1_percent)}. "
            + (f"For {model} there are: {', '.join(others)}." if others else f"{model} has no published weights here.")
        )
    return row
