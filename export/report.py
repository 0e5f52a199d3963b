"""What verify found out about a file, as figures, as findings, and as rows of a table."""

import dataclasses

import numpy as np

from export import comparison, diagnosis, layers, parts


@dataclasses.dataclass(frozen=True)
class Report(comparison.Figures):
    """What a file does beside the model that it was made from: the figures, and where they come from.

    `observation` compares layer by layer, None where the file cannot be looked into, for the reason `unseen`. `split`
    says where the difference arises, empty without a float32 file of the same network. `findings` are what is known to
    be wrong, the most certain first.
    """

    observation: layers.Observation | None = None
    unseen: str | None = None
    split: tuple[parts.Part, ...] = ()
    findings: tuple[diagnosis.Finding, ...] = ()

    @property
    def seen(self):
        """What the file's first layer makes of the pixels, a `perception.Perception`, None where it is not known."""
        return None if self.observation is None else self.observation.seen

    def failure(self, max_drop_points=None):
        """Why the file must not be shipped, and what is to blame, or None; see `Figures.failure`.

        Some findings fail a file whatever its accuracy: on the images at hand their cost may not show.
        """
        failed = super().failure(max_drop_points)
        blamed = [finding for finding in self.findings if failed or finding.fatal]
        return " ".join(filter(None, [failed, blamed[0].sentence if blamed else None])) or None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The arrays behind a `Report`: pixels, probabilities of the float model and of the file, labels or None."""

    images: np.ndarray
    reference: np.ndarray
    scores: np.ndarray
    labels: np.ndarray | None


def rows(report, name):
    """The report as `(what, figure)` pairs for a table; `name` is the recipe of the file."""
    lines = [("verified on", f"{report.images:,} images")]
    if report.drop_points is not None:
        low, high = report.drop_interval_points
        lines += [
            ("float accuracy", f"{report.float_top1_percent:.2f} %"),
            (f"{name} accuracy", f"{report.top1_percent:.2f} %"),
            ("drop", f"{report.drop_points:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"),
            ("right to wrong", f"{report.right_to_wrong:,} images"),
            ("wrong to right", f"{report.wrong_to_right:,} images"),
            ("wrong to another wrong", f"{report.wrong_to_wrong:,} images"),
        ]
    lines.append(("same answer as float", f"{report.agreement_percent:.2f} %"))
    if report.largest_difference is not None:
        lines += [
            ("KL divergence from float", f"{report.kl:.5f} nats"),
            ("largest difference", f"{report.largest_difference:.4f}"),
        ]
    return [*lines, *_part_rows(report.split), *_layer_rows(report)]


def _part_rows(found):
    return [
        (f"{part.name} alone", f"{part.agreement_percent:.2f} % agree, mean difference {part.mean_difference:.1e}")
        for part in found
    ]


def _layer_rows(report):
    observation = report.observation
    if observation is None or observation.worst is None:
        return [("layers", report.unseen or "none can be matched by name")]
    worst, lines = observation.worst, []
    lines.append(("worst layer", f"{worst.name}, {worst.snr_db:.1f} dB, of {len(observation.layers)} layers"))
    if observation.left_out:
        lines.append(("layers left out", f"{observation.left_out} bear no name of the model's"))
    if (full := observation.fullest) is not None:
        lines.append(("most saturated layer", f"{full.name}, {full.saturated_percent:.2f} % of its values"))
    return lines
