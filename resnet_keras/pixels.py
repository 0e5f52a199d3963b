"""The layer at the front of every model: raw pixels to what the stem sees."""

import json

import keras
import numpy as np

from resnet_keras.batch_norm import register
from resnet_keras.preprocessing import Preprocess


@register
class PixelNormalization(keras.layers.Rescaling):
    """`(pixel - mean) / std`, and the whole `Preprocess` value, which so travels in every saved model.

    Always float32: pixel values and their mean need more digits than bfloat16 has. The normalisation is written into
    weight files too, though it is not trained: such a file read into a model of another normalisation would give wrong
    answers without a sign, and is refused.

    Args:
        preprocess: a `Preprocess`, or its dictionary.

    Input shape: `(batch, height, width, channels)`, any numeric dtype.
    Output shape: the same, float32.
    """

    def __init__(self, preprocess, **kwargs):
        self.preprocess = preprocess if isinstance(preprocess, Preprocess) else Preprocess(**preprocess)
        mean, std = (np.asarray(v, "float64") for v in (self.preprocess.mean, self.preprocess.std))
        scale, offset = 1 / std, -mean / std
        if scale.ndim or offset.ndim:
            # Rank 3 keeps them on the last axis under any global image data format.
            scale, offset = (np.broadcast_to(v, (1, 1, max(scale.size, offset.size))).tolist() for v in (scale, offset))
        else:
            scale, offset = float(scale), float(offset)
        super().__init__(scale, offset, **{**kwargs, "dtype": "float32"})

    def get_config(self):
        config = super().get_config()
        del config["scale"], config["offset"]
        return {**config, "preprocess": self.preprocess.to_dict()}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def save_own_variables(self, store):
        text = json.dumps(self.preprocess.to_dict())
        store["preprocess"] = np.frombuffer(text.encode(), "uint8")

    def load_own_variables(self, store):
        if "preprocess" not in store:  # written before the value was
            return
        theirs = decoded(store["preprocess"])
        if (theirs.mean, theirs.std) != (self.preprocess.mean, self.preprocess.std):
            raise ValueError(
                f"The weights expect pixels normalised with mean {theirs.mean} and std {theirs.std}, the model has "
                f"{self.preprocess.mean} and {self.preprocess.std}. Give the file to the constructor (weights=FILE), "
                "which builds the model around it."
            )


def decoded(array):
    """The `Preprocess` in a weight file's `uint8` array."""
    return Preprocess(**json.loads(np.asarray(array).tobytes().decode()))
