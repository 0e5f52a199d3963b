"""Where the difference between the float model and a file comes from: preprocessing, conversion, quantization."""

import dataclasses

import numpy as np

from export import comparison, execution

MOST_IMAGES = 500


@dataclasses.dataclass(frozen=True)
class Part:
    """What one step on the way from the model to the file changes.

    `agreement_percent` is the share of images to which the answers before and after it are the same,
    `mean_difference` the mean absolute difference of a probability, `kl` the mean KL(before || after) in nats.
    """

    name: str
    agreement_percent: float
    mean_difference: float
    kl: float


def split(twin, images, reference, scores, predict, seen=None, step=0.0, advance=lambda count: None):
    """Walks from the float model to the file in three steps and measures each.

    1. preprocessing: the float model on the pixels as its card prepares them, then on those that the file's own record
       or its first layer make of the same images.
    2. conversion: the float model, then its float32 file in the runtime, on the same pixels.
    3. quantization: the float32 file, then the file.

    Args:
        twin: path of the float32 file of the same network.
        images: raw pixels, `(count, height, width, channels)`.
        reference, scores: what the float model and the file give for them, `(count, classes)`.
        predict: the float model, a callable from pixels to probabilities.
        seen: the pixels as the file sees them, or None where they are the same.
        step: of the file's output, see `comparison.compare`.
        advance: called with the number of images done since the last call.

    Returns:
        Three `Part`s.

    Raises:
        ValueError, ImportError: see `execution.predict`.
    """
    on_seen, pixels = reference, images
    if seen is not None:
        on_seen, pixels = predict(seen), seen
    converted = execution.predict(twin, pixels, advance)
    ways = (
        ("preprocessing", reference, on_seen),
        ("conversion", on_seen, converted),
        ("quantization", converted, scores),
    )
    return tuple(_part(name, before, after, step if after is scores else 0.0) for name, before, after in ways)


def chosen(count):
    """The indices of at most 500 of `count` images, spread evenly."""
    return np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(int)


def _part(name, before, after, step):
    agreement = 100.0 * float(np.mean(before.argmax(axis=1) == after.argmax(axis=1)))
    difference = float(np.mean(np.abs(before - after)))
    return Part(name, agreement, difference, comparison.mean_kl(before, after, step))
