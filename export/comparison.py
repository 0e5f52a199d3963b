"""The figures of two sets of probabilities for the same images: what is right, what agrees, how far they are apart."""

import dataclasses
import math

import numpy as np

Z = 1.959963984540054  # the normal quantile of a two-sided interval of 95 %
# McNemar's statistic, above which two results on the same images differ by chance in one case of a thousand.
SIGNIFICANT = 10.83
# What float32 cannot tell from 1 beside 1: probabilities below it are rounding, in a float file too.
SMALLEST_STEP = 2.0**-24
# A drop in accuracy needs labels. Without them the share of changed answers bounds it from above, generously.
MAX_DROP_POINTS = 1.0
MAX_CHANGED_POINTS = 10.0

# The fields that labels are needed for.
LABELLED = ("float_top1_percent", "top1_percent", "drop_points", "drop_interval_points")
LABELLED += ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a file answers beside the model that it was made from.

    Accuracies are top-1 in percent, None without labels, as are all that depend on them. `drop_points` is the float
    accuracy minus the file's, `drop_interval_points` a 95 % interval of it for images like these (see
    `paired_interval_points`). `agreement_percent` is the share of images to which both give the same answer;
    `right_to_wrong`, `wrong_to_right` and `wrong_to_wrong` count the others. `kl` is the mean of KL(float || file) in
    nats, and `largest_difference` the largest absolute difference of a probability; both are None where the file gives
    what is not a number.
    """

    images: int
    float_top1_percent: float | None
    top1_percent: float | None
    drop_points: float | None
    drop_interval_points: tuple[float, float] | None
    agreement_percent: float
    right_to_wrong: int | None
    wrong_to_right: int | None
    wrong_to_wrong: int | None
    kl: float | None
    largest_difference: float | None

    def failure(self, max_drop_points=None):
        """One sentence on why the file must not be shipped, or None.

        Args:
            max_drop_points: the largest drop in accuracy that is accepted, in points; without labels, the largest
                share of changed answers. Default: 1, and 10 without labels.
        """
        if self.largest_difference is None:
            return "The file gives values that are not numbers."
        labelled = self.drop_points is not None
        loss = self.drop_points if labelled else 100.0 - self.agreement_percent
        limit = max_drop_points
        if limit is None:
            limit = MAX_DROP_POINTS if labelled else MAX_CHANGED_POINTS
        if loss <= limit:
            return None
        what = f"The accuracy drops by {loss:.2f} points" if labelled else f"{loss:.2f} % of the answers change"
        return f"{what}; at most {limit:g} are accepted (--max-drop)."


def compare(reference, scores, labels=None, step=0.0):
    """The `Figures` of two sets of probabilities.

    Args:
        reference: what the float model gives, `(count, classes)`.
        scores: what the file gives, `(count, classes)`.
        labels: the right answers, `(count,)`, or None.
        step: the distance between two neighbouring values of the file's output, 0 for float.
    """
    numbers = bool(np.isfinite(scores).all())
    expected, answers = reference.argmax(axis=1), scores.argmax(axis=1)
    changed = expected != answers
    figures = dict.fromkeys(LABELLED)
    if labels is not None:
        was_right, is_right = expected == labels, answers == labels
        lost, won = int(np.sum(was_right & ~is_right)), int(np.sum(is_right & ~was_right))
        figures = {
            "float_top1_percent": 100.0 * float(np.mean(was_right)),
            "top1_percent": 100.0 * float(np.mean(is_right)),
            "drop_points": 100.0 * (lost - won) / len(labels),
            "drop_interval_points": paired_interval_points(lost, won, len(labels)),
            "right_to_wrong": lost,
            "wrong_to_right": won,
            "wrong_to_wrong": int(np.sum(changed & ~was_right & ~is_right)),
        }
    return Figures(
        images=len(scores),
        agreement_percent=100.0 * float(np.mean(~changed)),
        kl=mean_kl(reference, scores, step) if numbers else None,
        largest_difference=float(np.max(np.abs(reference - scores))) if numbers else None,
        **figures,
    )


def paired_interval_points(lost, won, count):
    """A 95 % interval of the drop in accuracy over all images like these, in points.

    Both answers are to the same images, so what varies is only the images that one gets right and the other wrong, and
    the interval is far narrower than for two accuracies of two sets. The interval is Wald's for the difference of
    matched proportions after half an observation is added to each of the four cells (Agresti and Min, Statistics in
    Medicine 24:729, 2005), which keeps its promise where hardly anything changes.

    Args:
        lost: images that only the float model gets right.
        won: images that only the file gets right.
        count: all images.
    """
    lost, won, count = lost + 0.5, won + 0.5, count + 2.0
    drop = (lost - won) / count
    deviation = math.sqrt((lost + won) / count - drop**2) / math.sqrt(count)
    return 100.0 * (drop - Z * deviation), 100.0 * (drop + Z * deviation)


def mean_kl(reference, scores, step=0.0):
    """The mean of KL(reference || scores), in nats; never negative.

    A probability that the file rounds to 0 would make it infinite, so the file's probabilities are raised to half of
    their `step`, the largest value that rounds to 0, and brought back to a sum of 1.
    """
    floor = max(step / 2, SMALLEST_STEP)
    given = np.maximum(np.asarray(scores, np.float64), floor)
    given /= given.sum(axis=1, keepdims=True)
    expected = np.asarray(reference, np.float64)
    expected = expected / expected.sum(axis=1, keepdims=True)
    logarithms = np.log(np.where(expected > 0, expected, 1.0)) - np.log(given)
    return max(0.0, float(np.mean(np.sum(expected * logarithms, axis=1))))


def exceeds_chance(before, after):
    """Whether `after` is right on more images than `before`, beyond chance (McNemar 1947).

    Args:
        before, after: for each image, whether it is right, `(count,)`.
    """
    gained, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    return gained > lost and (gained - lost) ** 2 / (gained + lost) >= SIGNIFICANT
