"""Weights and pixels that any machine makes again from names alone: the inputs of `golden_logits.npz`.

Only the logits are stored. They come from timm and transformers, which the tests do not need.
"""

import math
import zlib

import numpy as np

SIZE, CLASSES = 96, 10
KINDS = {"weight": (0.4, 0.8), "bias": (-0.1, 0.1), "running_mean": (-0.1, 0.1), "running_var": (0.5, 1.5)}


def tensor(name, shape):
    """Uniform values that depend on the name; kernels keep the variance of what passes through them."""
    if name.endswith("num_batches_tracked"):
        return np.int64(0)
    low, high = KINDS[name.rpartition(".")[2]]
    if len(shape) > 1:
        high = math.sqrt(6 / math.prod(shape[1:]))
        low = -high
    values = np.random.default_rng(zlib.crc32(name.encode())).random(shape, dtype="float32")
    return np.float32(low) + values * np.float32(high - low)


def state_dict(shapes):
    """`shapes` is `{name: shape}` in PyTorch's axis order."""
    return {name: tensor(name, tuple(shape)) for name, shape in shapes.items()}
