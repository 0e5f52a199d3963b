"""Training batches from arrays: shuffled, shifted, mirrored, erased; the same for a given seed, epoch and position.

Keras's own `RandomCrop` cuts one window for a whole batch, and its layers keep a running random state; here each batch
has a generator of its own, so that any batch of a run can be made again without the ones before it.
"""

import keras
import numpy as np

MID_GREY = 128


class Batches(keras.utils.PyDataset):
    """`(images, one-hot labels)` batches for `keras.Model.fit`, on any backend.

    Args:
        split: a `data.Split` with labels.
        recipe: a `recipes.Recipe`; its batch size and augmentation values are used.
        classes: number of classes.
        seed: decides the order and every random value.

    Each batch is `uint8` `(batch_size, height, width, 3)` and `float32` `(batch_size, classes)`. Every epoch has
    another order; what does not fill a last batch is left out of that epoch.

    Raises:
        ValueError: there are fewer images than one batch needs.
    """

    def __init__(self, split, recipe, classes, seed, **kwargs):
        super().__init__(**kwargs)
        if len(split) < recipe.batch_size:
            raise ValueError(
                f"{len(split)} training images do not fill one batch of {recipe.batch_size}. Use a smaller batch_size."
            )
        self.split = split
        self.recipe = recipe
        self.classes = classes
        self.seed = seed
        self.epoch = 0
        self._shuffle()

    def _shuffle(self):
        self.order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.split))

    def __len__(self):
        return len(self.split) // self.recipe.batch_size

    def on_epoch_end(self):
        self.epoch += 1
        self._shuffle()

    def __getitem__(self, index):
        size = self.recipe.batch_size
        batch = self.split.take(self.order[index * size : (index + 1) * size])
        images = augmented(batch.images, self.recipe, np.random.default_rng([self.seed, self.epoch, index]))
        return images, np.eye(self.classes, dtype="float32")[batch.labels]


def augmented(images, recipe, rng):
    """Applies the recipe's random shift, mirror and erasing, each image on its own.

    Args:
        images: `(count, height, width, channels)`.
        recipe: a `recipes.Recipe`.
        rng: a `numpy.random.Generator`.

    Returns:
        A new array of the same shape and dtype.
    """
    images = _shifted(images, recipe.crop_padding, rng)
    if recipe.flip:
        mirrored = rng.random(len(images)) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
    erased = np.flatnonzero(rng.random(len(images)) < recipe.erase_probability)
    _erase(images, erased, recipe.erase_pixels, rng)
    return images


def _shifted(images, padding, rng):
    """Random crops of the original size from images that are padded with their border pixels."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    top, left = rng.integers(0, 2 * padding + 1, (2, count))
    return np.ascontiguousarray(windows[np.arange(count), top, left].transpose(0, 2, 3, 1))


def _erase(images, which, side, rng):
    height, width = images.shape[1:3]
    centres = zip(rng.integers(0, height, len(which)), rng.integers(0, width, len(which)), strict=True)
    for index, (row, column) in zip(which, centres, strict=True):
        top, left = max(0, row - side // 2), max(0, column - side // 2)
        images[index, top : row + (side + 1) // 2, left : column + (side + 1) // 2] = MID_GREY
