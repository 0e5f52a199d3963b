"""Random changes to a batch of images in memory: shifted, mirrored, erased, then Keras's RandAugment, MixUp or CutMix.

Keras's own `RandomCrop` cuts one window for a whole batch, and its layers keep a running random state; here each batch
has a generator of its own, so that any batch of a run can be made again without the ones before it.
"""

import numpy as np

MID_GREY = 128


def augmented(images, labels, recipe, rng):
    """Applies the recipe's random changes, each image on its own but for the mixing.

    Args:
        images: `uint8`, `(count, height, width, channels)`.
        labels: `float32`, `(count, classes)`.
        recipe: a `recipes.Recipe`.
        rng: a `numpy.random.Generator`.

    Returns:
        `(images, labels)`, new arrays of the same shapes; the images are `float32` where Keras's layers had a part.
    """
    images = _shifted(images, recipe.crop_padding, rng)
    if recipe.flip:
        mirrored = rng.random(len(images)) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
    erased = np.flatnonzero(rng.random(len(images)) < recipe.erase_probability)
    _erase(images, erased, recipe.erase_pixels, rng)
    if recipe.rand_augment_ops or recipe.mixup_alpha or recipe.cutmix_alpha:
        from resnet_keras.mixing import mixed

        return mixed(images, labels, recipe, rng)
    return images, labels


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
