"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order that all published weights share."""

import functools

import numpy as np

from resnet_keras.data import ASSETS


@functools.cache
def _rows():
    lines = (ASSETS / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split("\t")) for line in lines)


def class_names():
    """The names of the classes, in order."""
    return tuple(name for _, name in _rows())


def decode_predictions(preds, top=5):
    """Names the best classes of each prediction, as `keras.applications` does, without a download.

    Args:
        preds: probabilities or logits, `(batch, 1000)`.
        top: how many classes a prediction.

    Returns:
        For each prediction a list of `(WordNet id, class name, score)`, best first.

    Raises:
        ValueError: `preds` are not scores of the 1,000 ImageNet classes.
    """
    preds = np.asarray(preds)
    if preds.ndim != 2 or preds.shape[1] != len(_rows()):
        raise ValueError(
            f"decode_predictions names the {len(_rows())} classes of ImageNet: expected an array of shape (batch, "
            f"{len(_rows())}). Received: shape {preds.shape}."
        )
    order = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [[(*_rows()[i], float(row[i])) for i in best] for row, best in zip(preds, order, strict=True)]
