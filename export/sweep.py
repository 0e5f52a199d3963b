"""How many calibration images are enough: ranges and answers with 1, 2, 4 ... of them.

It is measured on calibration images that set no range, never on those that judge a file.
"""

import dataclasses

import numpy as np

from export import conversion
from export.runtime import probabilities

HELD_OUT_SHARE = 5  # one calibration image in so many
HEADER = ("images", "width of ranges", "same answer as float", "mean difference")


@dataclasses.dataclass(frozen=True)
class Step:
    """An int8 file from that many images.

    `range_percent` is the width of its ranges compared with those from all images, the mean over all activations;
    `agreement_percent` the share of the held-out images to which it gives the float file's answer; `mean_difference`
    the mean absolute difference of a probability.
    """

    images: int
    range_percent: float
    agreement_percent: float
    mean_difference: float

    def cells(self):
        """The figures as text, under `HEADER`."""
        return (
            f"{self.images}",
            f"{self.range_percent:.1f} %",
            f"{self.agreement_percent:.2f} %",
            f"{self.mean_difference:.6f}",
        )


def sweep(source, form, calibration, method):
    """`[Step]`, from one image to all that set ranges.

    Args:
        source, form: see `conversion.form`.
        calibration: a `calibration.ImageSet`; the last fifth of it judges.
        method: one of `ranges.METHODS`.

    Raises:
        ValueError: the images are too few for that.
    """
    held_out = len(calibration) // HELD_OUT_SHARE
    if not held_out:
        raise ValueError(f"A sweep needs at least {HELD_OUT_SHARE} calibration images. Received: {len(calibration)}.")
    judging, setting = calibration.take(slice(-held_out, None)), calibration.take(slice(-held_out))
    base = conversion.float_file(source, form)
    counts = [2**n for n in range(len(setting).bit_length()) if 2**n < len(setting)] + [len(setting)]
    limits = {n: conversion.observed(base, source, setting.take(slice(n)), method) for n in counts}
    expected = probabilities(base, judging.images)
    steps = []
    for n in counts:
        scores = probabilities(conversion.integer_file(base, form, limits[n]), judging.images)
        steps.append(
            Step(
                images=n,
                range_percent=100 * float(np.mean(_widths(limits[n]) / _widths(limits[counts[-1]]))),
                agreement_percent=100 * float(np.mean(scores.argmax(axis=1) == expected.argmax(axis=1))),
                mean_difference=float(np.mean(np.abs(scores - expected))),
            )
        )
    return steps


def _widths(limits):
    return np.array([high - low for low, high in limits.values()])
