"""Exact accuracy over any predict callable: every example counts once, whatever the batch size."""

import numpy as np


def predict_all(predict, images, batch_size=64):
    """Applies `predict` to all images in batches of one constant size.

    The last batch is filled up with copies of its last image, whose results are dropped, so that a callable with a
    fixed batch size (a compiled function, a device) sees no other shape.

    Args:
        predict: callable from `(batch_size, height, width, channels)` to `(batch_size, classes)`.
        images: `(count, height, width, channels)`, count at least 1.
        batch_size: images a call.

    Returns:
        Array of shape `(count, classes)`.
    """
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        filler = np.repeat(batch[-1:], batch_size - len(batch), axis=0)
        outputs.append(np.asarray(predict(np.concatenate([batch, filler])))[: len(batch)])
    return np.concatenate(outputs)


def top_k_percent(scores, labels, k=1):
    """Share of examples whose label is among the `k` highest scores, in percent; of equal scores the lower index wins.

    Args:
        scores: `(count, classes)`, logits or probabilities.
        labels: `(count,)`, integers.
        k: how many guesses count.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100.0 * float(np.mean(np.any(best == labels[:, None], axis=1)))
