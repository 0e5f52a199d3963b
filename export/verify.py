"""Opens an exported file in a real runtime and compares it with the Keras model on held-out images.

python -m export.verify model.tflite --model runs/mine --data photos/
"""

import argparse
import dataclasses

import numpy as np

from resnet_keras import cli
from resnet_keras.evaluate import predict_all, top_k_percent

# A drop in accuracy needs labels. Without them the share of changed answers bounds it from above, generously.
MAX_DROP_POINTS = 1.0
MAX_CHANGED_POINTS = 10.0


@dataclasses.dataclass(frozen=True)
class Report:
    """What a file does beside the model that it was made from.

    Accuracies are top-1 in percent, None without labels; `drop_points` is the float accuracy minus the file's;
    `agreement_percent` is the share of images to which both give the same answer; `largest_difference` is the largest
    absolute difference of a probability (NaN where the file gives none).
    """

    images: int
    float_top1_percent: float | None
    top1_percent: float | None
    drop_points: float | None
    agreement_percent: float
    largest_difference: float

    def failure(self, max_drop_points=None):
        """One sentence on why the file must not be shipped, or None.

        Args:
            max_drop_points: the largest drop in accuracy that is accepted, in points; without labels, the largest
                share of changed answers. Default: 1, and 10 without labels.
        """
        if not np.isfinite(self.largest_difference):
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


def verify(path, source, evaluation):
    """Runs the file and the float model on the same pixels.

    Args:
        path: an exported file.
        source: the `source.Source` that it was made from.
        evaluation: a `calibration.ImageSet` that had no part in making the file.

    Returns:
        A `Report`.

    Raises:
        ValueError: the file cannot be run, or takes other images or gives other classes than the model.
        ImportError: the runtime is not installed.
    """
    from export.runtime import Runner

    with cli.held_stderr():  # LiteRT announces its delegate
        runner = Runner(path)
    classes = runner.outputs[0]["shape"][-1]
    if classes != len(source.labels):
        raise ValueError(f"{path} gives {classes} classes; the model has {len(source.labels)}.")
    with cli.bar("verifying", 2 * len(evaluation), "images") as advance:

        def counted(predict):
            def call(images):
                advance(len(images))
                return predict(images)

            return call

        scores = predict_all(counted(runner.predict), evaluation.images, batch_size=1)
        reference = predict_all(counted(source.reference.predict_on_batch), evaluation.images, batch_size=32)
    return compare(reference, scores, evaluation.labels)


def compare(reference, scores, labels=None):
    """The `Report` on two sets of probabilities, `(count, classes)`, of the same images."""
    accuracies = [None, None] if labels is None else [top_k_percent(values, labels) for values in (reference, scores)]
    return Report(
        images=len(scores),
        float_top1_percent=accuracies[0],
        top1_percent=accuracies[1],
        drop_points=None if labels is None else accuracies[0] - accuracies[1],
        agreement_percent=100.0 * float(np.mean(reference.argmax(axis=1) == scores.argmax(axis=1))),
        largest_difference=float(np.max(np.abs(reference - scores))),
    )


def rows(report, name):
    """The report as `(what, figure)` pairs for a table; `name` is the recipe of the file."""
    lines = [("verified on", f"{report.images} images")]
    if report.drop_points is not None:
        lines += [
            ("float accuracy", f"{report.float_top1_percent:.2f} %"),
            (f"{name} accuracy", f"{report.top1_percent:.2f} %"),
            ("drop", f"{report.drop_points:+.2f} points"),
        ]
    return [
        *lines,
        ("same answer as float", f"{report.agreement_percent:.2f} %"),
        ("largest difference", f"{report.largest_difference:.4f}"),
    ]


def parser():
    p = argparse.ArgumentParser(prog="python -m export.verify", description=__doc__.split("\n")[0])
    p.add_argument("file", help="an exported .tflite file")
    p.add_argument("--model", help="run directory or .keras file (default: the bundled model)")
    p.add_argument("--data", help="folder of images or .npz file (default: the model's own test images)")
    p.add_argument("--max-drop", type=float, help="largest accepted drop in accuracy, in points (default: 1)")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    from export import calibration, source

    model = source.load(args.model)
    _, evaluation = calibration.gather(model, eval_data=args.data, needs_calibration=False, say=cli.say)
    report = verify(args.file, model, evaluation)
    cli.print_result(rows(report, "file"), dataclasses.asdict(report), as_json=args.json)
    return cli.gate(report.failure(args.max_drop))


if __name__ == "__main__":
    cli.run(main)
