"""`Preprocess`: from an image of any size to the pixels that a model takes, and from pixels to what its stem sees.

One frozen value says both. It travels with the weights (in the card and in the sidecar of an exported file), and
training, evaluation, calibration and the apps all use it, so that they cannot disagree.
"""

import dataclasses

import numpy as np

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an RGB image becomes the input of a network.

    Outside the model: the image is resized with `interpolation`, keeping its proportions, until it just covers
    `height / crop_fraction` by `width / crop_fraction` pixels, and the centre `height` x `width` is cut out. Inside the
    model: `(pixel - mean) / std`, with one number for all channels or one per channel. The default of 128 and 128 makes
    an int8 pixel exactly `pixel - 128` and zero padding mid-grey.
    """

    height: int = 224
    width: int = 224
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    mean: float | tuple[float, ...] = 128.0
    std: float | tuple[float, ...] = 128.0

    def __post_init__(self):
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"Unknown interpolation. Received: {self.interpolation!r}. Expected: {INTERPOLATIONS}.")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be above 0 and at most 1. Received: {self.crop_fraction}.")
        for name in ("mean", "std"):  # lists, as JSON gives them, would make the value unhashable
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, (list, tuple)) else float(value))

    def pixels(self, image):
        """Resizes and crops one image.

        Args:
            image: `uint8` array of shape `(any height, any width, channels)`, 1 or 3 channels.

        Returns:
            `uint8` array of shape `(height, width, channels)`, raw pixels: the normalisation is the model's.
        """
        from PIL import Image

        if image.shape[:2] == (self.height, self.width) and self.crop_fraction == 1:
            return image
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        target = round(self.width / self.crop_fraction), round(self.height / self.crop_fraction)
        scale = max(target[0] / picture.width, target[1] / picture.height)
        covering = max(target[0], round(picture.width * scale)), max(target[1], round(picture.height * scale))
        picture = picture.resize(covering, Image.Resampling[self.interpolation.upper()])
        left, top = (covering[0] - self.width) // 2, (covering[1] - self.height) // 2
        cropped = np.asarray(picture.crop((left, top, left + self.width, top + self.height)))
        return cropped.reshape(self.height, self.width, image.shape[-1])

    def to_dict(self):
        """A JSON-ready dictionary; `Preprocess(**value.to_dict())` gives the value back."""
        return dataclasses.asdict(self)


def preprocess_input(x, data_format=None):
    """Returns `x` as it is: the models of this package take raw pixels and normalise them inside.

    It is here for code written for `keras.applications`, whose models need theirs.
    """
    return x
