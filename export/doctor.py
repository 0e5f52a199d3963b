"""Tries the usual preprocessing mistakes on labelled images and names the one that explains a file's accuracy.

python -m export.doctor model.tflite photos/
"""

import argparse
import contextlib
import dataclasses
import pathlib

import numpy as np

from export import artifact, footprint
from export.comparison import exceeds_chance
from export.runtime import Runner

IMAGES = 200
SEED = 0
TORCH_MEAN, TORCH_STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])  # of blue, green and red
# Of a file with the wrong mean inside: 128 twice or not at all, torch's in place of 128, and what lies between.
SHIFTS = (32, 64, 96, 128)

CONTRACT = "raw RGB pixels, 0 to 255"
# Of several that are equally good the first is named: on grey images, RGB.
VALUES = {
    CONTRACT: lambda x: x,
    "RGB pixels divided by 255": lambda x: x / 255,
    "RGB pixels scaled to -1..1": lambda x: x / 127.5 - 1,
    "RGB pixels less torch's mean, by its standard deviation": lambda x: (x - TORCH_MEAN) / TORCH_STD,
    "RGB pixels less torch's mean": lambda x: x - TORCH_MEAN,
    "RGB pixels plus torch's mean": lambda x: x + TORCH_MEAN,
    "raw BGR pixels, 0 to 255": lambda x: x[..., ::-1],
    "BGR pixels divided by 255": lambda x: x[..., ::-1] / 255,
    "BGR pixels scaled to -1..1": lambda x: x[..., ::-1] / 127.5 - 1,
    "BGR pixels less caffe's mean": lambda x: x[..., ::-1] - CAFFE_MEAN,
    "raw RGB pixels, all of one channel before the next (NCHW)": lambda x: _planar(x),
    **{f"RGB pixels less {shift}": lambda x, shift=shift: x - shift for shift in SHIFTS},
    **{f"RGB pixels plus {shift}": lambda x, shift=shift: x + shift for shift in SHIFTS},
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One way to make the input, and the accuracy it gives; `answers` are whether each image was right."""

    name: str
    top1_percent: float
    answers: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All trials, the first of which is the contract: raw pixels, resized as the file's record says."""

    images: int
    trials: tuple[Trial, ...]

    @property
    def best(self):
        return max(self.trials, key=lambda trial: trial.top1_percent)

    def failure(self):
        """One sentence that names the mistake, or None where the contract is as good as anything else."""
        contract, best = self.trials[0], self.best
        if not exceeds_chance(np.array(contract.answers), np.array(best.answers)):
            return None
        return (
            f"The file wants {best.name}: {best.top1_percent:.1f} % of {self.images} images, against "
            f"{contract.top1_percent:.1f} % with {contract.name}. Convert the model with its own normalisation inside."
        )

    def rows(self):
        """`(what, figure)` rows, best first."""
        ranked = sorted(self.trials, key=lambda trial: -trial.top1_percent)
        return [(trial.name, f"{trial.top1_percent:.1f} %") for trial in ranked]

    def to_dict(self):
        return {
            "images": self.images,
            "top1_percent": {trial.name: trial.top1_percent for trial in self.trials},
            "mistake": self.failure(),
        }


def diagnose(path, source, labels=None):
    """Runs a file on labelled images, prepared in every usual way.

    Args:
        path: an exported file, of this project or not.
        source: a folder with a folder of images for each class, or an `.npz` file.
        labels: class names of the file's outputs, in order; default: those in the file's record, else the sorted names
            of the folders.

    Returns:
        A `Diagnosis`.

    Raises:
        ValueError: the file cannot be run, or the images are not of its classes.
    """
    from resnet_keras import cli
    from resnet_keras.evaluate import predict_all, top_k_percent
    from resnet_keras.preprocessing import Preprocess

    footprint.peak_bytes(path, threads=1)  # a file that crashes its runtime does so in a process of its own
    with cli.held_stderr():
        runner = Runner(path)
    record = artifact.read_sidecar(path) or {}
    height, width, channels = runner.image_shape
    preprocess = Preprocess(**{"crop_fraction": 1.0, **record.get("preprocess", {}), "height": height, "width": width})
    images, truth = _labelled(source, labels or record.get("labels"), runner.outputs[0]["shape"][-1])
    trials = []
    with cli.bar("trying", len(images) * (len(VALUES) + 3), "images") as advance:

        def tried(name, prepared, values):
            def predict(batch):
                advance(len(batch))
                return runner.predict(values(batch.astype("float32")))

            scores = predict_all(predict, prepared, batch_size=1)
            right = tuple((scores.argmax(axis=1) == truth).tolist())
            trials.append(Trial(name, top_k_percent(scores, truth), right))

        prepared = np.stack([preprocess.pixels(image) for image in images])
        for name, values in VALUES.items():
            if channels == 3 or name == CONTRACT:
                tried(name, prepared, values)
        best = max(trials, key=lambda trial: trial.top1_percent).name
        for how, resize in _geometries(preprocess).items():
            other = np.stack([resize(image) for image in images])
            if (other != prepared).any():
                tried(f"{best}, {how}", other, VALUES[best])
    return Diagnosis(len(images), tuple(trials))


def _planar(x):
    """What the file sees when it is handed planes of one channel each in place of interleaved pixels."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape)


def _geometries(preprocess):
    size = {"height": preprocess.height, "width": preprocess.width}
    cropped = 0.875 if preprocess.crop_fraction == 1 else 1.0
    return {
        "squeezed to the size without keeping the proportions": lambda image: _squeezed(image, preprocess),
        f"the centre {100 * cropped:g} % cut out": dataclasses.replace(
            preprocess, crop_fraction=cropped, **size
        ).pixels,
        "resized to the nearest pixel": dataclasses.replace(preprocess, interpolation="nearest", **size).pixels,
    }


def _squeezed(image, preprocess):
    from PIL import Image

    resample = Image.Resampling[preprocess.interpolation.upper()]
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    pixels = np.asarray(picture.resize((preprocess.width, preprocess.height), resample))
    return pixels.reshape(preprocess.height, preprocess.width, image.shape[-1])


def _labelled(source, labels, classes):
    """`(images of any size, their class indices)`, balanced over the classes."""
    from resnet_keras import data, encoded

    if pathlib.Path(source).is_dir():
        names, parts = encoded.load(source, known_unreadable=())
        split = next(parts[part] for part in ("test", "validation", "train") if parts[part] is not None)
    else:
        loaded = data.load(source)
        names, split = loaded.class_names, loaded.test or loaded.validation
    order = [label.replace("/", "-") for label in labels or names]  # as a folder must be called
    names = [name.replace("/", "-") for name in names]
    unknown = [name for name in names if name not in order]
    if unknown or len(order) != classes:
        raise ValueError(
            f"{source} has images of {', '.join(map(repr, unknown[:5])) or f'{len(order)} classes'}, and the file "
            f"knows {classes} classes. Name them in order with --labels, one a line, as the folders are called."
        )
    images, truth = [], []
    for i in data.balanced(split.labels, len(split), SEED):
        with contextlib.suppress(ValueError):  # an unreadable image is no reason to see no doctor
            images.append(split.image(i))
            truth.append(order.index(names[split.labels[i]]))
        if len(images) == IMAGES:
            break
    if not images:
        raise ValueError(f"No image in {source} can be read.")
    return images, np.array(truth)


def main(arguments=None):
    p = argparse.ArgumentParser(prog="python -m export.doctor", description=__doc__.split("\n")[0])
    p.add_argument("file", help="an exported .tflite or .onnx file")
    p.add_argument("data", metavar="DIR|NPZ", help="labelled images: a folder for each class, or an .npz file")
    p.add_argument("--labels", metavar="FILE", help="text file with one class name a line")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = p.parse_args(arguments)
    from resnet_keras import cli

    labels = pathlib.Path(args.labels).read_text(encoding="utf-8").splitlines() if args.labels else None
    diagnosis = diagnose(args.file, args.data, labels)
    cli.print_result(diagnosis.rows(), diagnosis.to_dict(), args.json)
    return cli.gate(diagnosis.failure())


if __name__ == "__main__":
    from resnet_keras import cli

    cli.run(main)
