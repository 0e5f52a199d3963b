"""The import certificate: imported weights must give the logits that their own framework gives."""

import dataclasses
import hashlib
import pathlib

import numpy as np

from resnet_keras import cli, layouts, models, tensors
from resnet_keras import weights as weight_files
from resnet_keras.variants import VARIANTS

# Largest accepted difference, relative to the largest logit. float32 rounds at 6e-8; over the hundred layers of the
# deepest network, in another order of summation, that stays below 1e-5.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What a comparison found; logits are those of two fixed images."""

    weights: str
    model: str
    layout: str
    tensors: int
    reference: str
    largest_logit: float
    largest_difference: float

    @property
    def relative(self):
        return self.largest_difference / self.largest_logit

    def failure(self):
        """Why the import is not exact, or None."""
        if self.relative <= TOLERANCE:
            return None
        return f"the logits differ by {self.relative:.1e} of the largest, more than {TOLERANCE:g}"

    def rows(self):
        return [
            ("weights", self.weights),
            ("model", self.model),
            ("layout", f"{self.layout}, {self.tensors} tensors, each used once"),
            ("reference", self.reference),
            ("largest logit", f"{self.largest_logit:.4f}"),
            ("largest difference", f"{self.largest_difference:.1e}, {self.relative:.1e} of the largest logit"),
        ]

    def to_dict(self):
        return {**dataclasses.asdict(self), "relative": self.relative, "tolerance": TOLERANCE}


def check(what, model=None, *, reference=None, record=None):
    """Imports weights and compares the logits of two fixed images with the source's.

    The source is PyTorch for the layouts of torchvision, timm and transformers, and `keras.applications` for its own
    files. Where PyTorch is missing, stored logits take its place.

    Args:
        what: a tag, or the path of a file.
        model: name of the model; a file tells it by itself.
        reference: `.npz` file with stored logits, by the weights' SHA-256.
        record: `.npz` file in which to store the source's logits.

    Returns:
        A `Certificate`.

    Raises:
        ValueError: the weights fit no model, or are this package's own, which need no import.
        ImportError: neither the source nor stored logits are there.
    """
    if model is None and weight_files.is_tag(what):
        raise ValueError(f"--check {what} needs --model: one of {', '.join(VARIANTS)}.")
    found = weight_files.find(what, model)
    model = model or layouts.identify(found.tensors, found.layout)
    if model is None:
        raise ValueError(f"{what} fits no model of this package. Name the nearest with --model to see what differs.")
    if found.layout is layouts.OWN:
        raise ValueError(f"{what} was written by this package: nothing is imported, so there is nothing to certify.")
    row = VARIANTS[model]
    ours = models.build(
        model,
        weights=found,
        classes=found.classes,
        classifier_activation=None,
        input_channels=found.channels,
        version=found.version,
    )
    pixels = fixed_pixels(row.size, found.channels)
    digest = hashlib.sha256(found.path.read_bytes()).hexdigest()
    expected, source = _expected(found, row, pixels, digest, reference)
    if record is not None:
        _record(record, digest, expected)
    difference = np.abs(ours.predict_on_batch(pixels) - expected).max()
    return Certificate(
        weights=found.origin,
        model=model,
        layout=found.layout.name,
        tensors=len(found.tensors),
        reference=source,
        largest_logit=float(np.abs(expected).max()),
        largest_difference=float(difference),
    )


def fixed_pixels(size, channels=3):
    """Two images, float32 `(2, size, size, channels)`, of whole numbers from 0 to 255: noise, and smooth waves."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, channels))
    row, column, channel = np.meshgrid(np.arange(size), np.arange(size), np.arange(channels), indexing="ij")
    waves = np.rint(127.5 + 127.5 * np.sin((row * (channel + 1) + 2 * column) / 16))
    return np.stack([noise, waves]).astype("float32")


def _expected(found, row, pixels, digest, reference):
    if reference is not None:
        return _stored(reference, digest), f"stored logits, {reference}"
    if found.layout is layouts.KERAS:
        return _keras_logits(found, row, pixels), "keras.applications"
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "PyTorch, the source of these weights, is not installed. Install it (pip install torch), or compare with "
            "stored logits (--reference FILE.npz, made by --record where PyTorch is)."
        ) from error
    from resnet_keras import torch_reference

    return torch_reference.logits(found, row, pixels), f"PyTorch {torch.__version__}"


def _stored(path, digest):
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with np.load(path, allow_pickle=False) as stored:
        if digest not in stored:
            raise ValueError(f"{path} holds no logits for these weights (SHA-256 {digest}).")
        return stored[digest]


def _record(path, digest, logits):
    path, stored = pathlib.Path(path), {}
    if path.is_file():
        with np.load(path, allow_pickle=False) as old:
            stored = dict(old)
    np.savez_compressed(path, **{**stored, digest: logits})
    cli.say(f"stored the logits of SHA-256 {digest} in {path}")


def _keras_logits(found, row, pixels):
    import keras

    constructor = getattr(keras.applications, row.name.replace("resnet", "ResNet"))
    theirs = constructor(
        weights=None,
        classes=found.classes,
        classifier_activation=None,
        input_shape=(row.size, row.size, found.channels),
    )
    raw = tensors.read(found.path)  # as it is in the file: with biases
    for layer in theirs.layers:
        for variable in layer.variables:
            variable.assign(raw[f"{layer.name}/{variable.name}"])
    return theirs.predict_on_batch(keras.applications.resnet.preprocess_input(pixels.copy()))
