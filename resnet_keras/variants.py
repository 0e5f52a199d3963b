"""The table of variants: one frozen row per model.

A row holds what the builder needs and what the built model must then count. The counts are the published ones for the
five big depths (version 1.5, 224 px, 1,000 classes) and follow from section 4.2 of the paper for the small family
(32 px, 10 classes, identity shortcuts). A test rebuilds every row and compares.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), Table 1 and section 4.2;
ResNet-8 is the image-classification network of MLPerf Tiny (arXiv:2106.07597), ResNet-1001 the bottleneck network of He
et al., "Identity Mappings in Deep Residual Networks" (arXiv:1603.05027), in the original order of layers that they
compare with.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    """One member of the family.

    `trainable_parameters`, `moving_statistics` (batch-norm means and variances) and `macs` (multiply-accumulates of
    convolutions and the classifier, one image) are the expected counts at `size` pixels and `classes` classes.
    """

    name: str
    block: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: str
    shortcut: str
    size: int
    classes: int
    trainable_parameters: int
    moving_statistics: int
    macs: int


def _imagenet(name, block, depths, trainable_parameters, moving_statistics, macs):
    counts = trainable_parameters, moving_statistics, macs
    return Variant(name, block, depths, (64, 128, 256, 512), "imagenet", "projection", 224, 1000, *counts)


def _small(name, depth, trainable_parameters, moving_statistics, macs, block="basic", shortcut="identity"):
    counts = trainable_parameters, moving_statistics, macs
    return Variant(name, block, (depth,) * 3, (16, 32, 64), "small", shortcut, 32, 10, *counts)


VARIANTS = {
    row.name: row
    for row in (
        _imagenet("resnet18", "basic", (2, 2, 2, 2), 11_689_512, 9_600, 1_814_073_344),
        _imagenet("resnet34", "basic", (3, 4, 6, 3), 21_797_672, 17_024, 3_663_761_408),
        _imagenet("resnet50", "bottleneck", (3, 4, 6, 3), 25_557_032, 53_120, 4_089_184_256),
        _imagenet("resnet101", "bottleneck", (3, 4, 23, 3), 44_549_160, 105_344, 7_801_405_440),
        _imagenet("resnet152", "bottleneck", (3, 8, 36, 3), 60_192_808, 151_424, 11_513_626_624),
        _small("resnet8", 1, 78_042, 672, 12_501_632, shortcut="projection"),
        _small("resnet20", 3, 269_722, 1_376, 40_551_040),
        _small("resnet32", 5, 464_154, 2_272, 68_862_592),
        _small("resnet44", 7, 658_586, 3_168, 97_174_144),
        _small("resnet56", 9, 853_018, 4_064, 125_485_696),
        _small("resnet110", 18, 1_727_962, 8_096, 252_887_680),
        _small("resnet1001", 111, 10_285_722, 149_216, 1_485_752_832, block="bottleneck"),
        _small("resnet1202", 200, 19_421_274, 89_632, 2_829_238_912),
    )
}
