"""Golden images: what a file must answer to a few images, and how exactly, on any machine that runs it."""

import dataclasses
import io

import numpy as np

from export.photo import picture
from export.recipes import OUTPUT_STEP

COUNT = 10
CANDIDATES = 100
BATCH_SIZE = 20
SEED = 0
# Least tolerance of a probability. Float kernels sum in another order; half precision has 11 bits; what is rounded to
# int8, in `dynamic` before each layer and in the others after it, may come out one step away.
FLOORS = {"float32": 1e-5, "float16": 1e-3, "dynamic": OUTPUT_STEP, "int8": OUTPUT_STEP, "int16x8": OUTPUT_STEP}
SAFETY = 2  # times the largest difference between two sets of kernels


@dataclasses.dataclass(frozen=True)
class Golden:
    """Images, `uint8`, `(count, height, width, channels)`; their true classes, or None where they are not known.

    `expected` are the probabilities that each file gives, `float32`, `(count, classes)`, and `tolerances` the largest
    honest difference from them; both in the order of the files.
    """

    images: np.ndarray
    labels: np.ndarray | None
    expected: tuple[np.ndarray, ...]
    tolerances: tuple[float, ...]


def choose(source, evaluation, paths, recipe):
    """Images spread over the classes, to which the float model and every file give the right answer, clearly.

    Clearly: the first probability is ahead of the second by more than twice the tolerance, so that no honest machine
    gives another answer. Where too few images are clear, as with random weights, others fill up.

    Args:
        source: a `source.Source`.
        evaluation: a `calibration.ImageSet`.
        paths: exported files of that model.
        recipe: the name of the recipe that they were made by.

    Returns:
        A `Golden` of `COUNT` images, or of all where there are fewer.
    """
    from resnet_keras import data, evaluate

    everything = np.zeros(len(evaluation), int) if evaluation.labels is None else evaluation.labels
    candidates = evaluation.take(data.balanced(everything, CANDIDATES, SEED))
    reference = evaluate.predict_all(source.reference.predict_on_batch, candidates.images, BATCH_SIZE)
    truth = reference.argmax(axis=1) if candidates.labels is None else candidates.labels
    doubtful = reference.argmax(axis=1) != truth
    while True:
        order = _spread(truth, doubtful)[:COUNT]
        chosen = candidates.take(order)
        found = [answers(path, chosen.images, recipe) for path in paths]
        unclear = np.any([_is_unclear(*pair, truth[order]) for pair in found], axis=0)
        if not np.any(unclear & ~doubtful[order]):
            return Golden(chosen.images, chosen.labels, *zip(*found, strict=True))
        doubtful[order[unclear]] = True


def _spread(truth, doubtful):
    """All indices, those in doubt last, and before and behind that line one of each class in turn."""
    from resnet_keras import data

    parts = np.flatnonzero(~doubtful), np.flatnonzero(doubtful)
    return np.concatenate([part[data.balanced(truth[part], len(part), SEED)] for part in parts])


def _is_unclear(expected, tolerance, truth):
    beside_none = np.pad(expected, ((0, 0), (1, 0)))  # a single class has no second
    second, first = np.sort(beside_none, axis=1)[:, -2:].T
    return (expected.argmax(axis=1) != truth) | (first - second <= 2 * tolerance)


def answers(path, images, recipe):
    """`(probabilities, tolerance)` of a file, `(count, classes)` and a number; see `Golden`."""
    from export import plain_kernels, runtime
    from resnet_keras import cli

    with cli.held_stderr():  # LiteRT announces its delegate
        expected = runtime.Runner(path).predict(images)
        other = plain_kernels.PlainRunner(path).predict(images)
    return expected, max(FLOORS[recipe], SAFETY * float(np.abs(expected - other).max()))


def write(path, index, source, proof):
    """Writes the files that `index["golden"]` names, and the expected probabilities of each model.

    Args:
        path: the folder of the bundle.
        index: see `bundle_index.of`.
        source: a `source.Source`.
        proof: a `Golden`.
    """
    from resnet_keras import folders

    names = index["golden"]
    photo = picture(names["photo"]["height"], names["photo"]["width"])
    (path / names["photo"]["png"]).write_bytes(_png(photo))
    seen = folders.read_image(path / names["photo"]["png"], index["channels"])  # grey where the model is
    (path / names["images"]).write_bytes(proof.images.tobytes())
    (path / names["photo"]["raw"]).write_bytes(photo.tobytes())
    (path / names["photo"]["pixels"]).write_bytes(source.preprocess.pixels(seen).tobytes())
    for name, image in zip(names["pngs"], proof.images, strict=True):
        (path / name).write_bytes(_png(image))
    for model, expected in zip(index["models"], proof.expected, strict=True):
        (path / model["expected"]).write_bytes(expected.astype("<f4").tobytes())


def _png(image):
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(data, "PNG")
    return data.getvalue()
