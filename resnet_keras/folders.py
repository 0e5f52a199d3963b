"""Folders of images: `DIR/CLASS/*.jpg` with labels, or a flat `DIR/*.jpg` without."""

import pathlib

import numpy as np

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
MODES = {1: "L", 3: "RGB"}


def list_images(folder):
    """Paths of the images below `folder`, sorted.

    Raises:
        ValueError: it is not a folder, or there is no image below it.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of images.")
    try:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise ValueError(f"The folder {folder} cannot be read: {error}.") from error
    if not paths:
        raise ValueError(f"The folder {folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    return paths


def read_image(path, channels=3):
    """One image as a `uint8` array of shape `(height, width, channels)`, or None where the file cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert(MODES[channels]))
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
    ):  # what Pillow raises on bad files
        return None
    return pixels.reshape(*pixels.shape[:2], channels)


def class_indices(paths, folder, class_names):
    """The label of each path from its first folder below `folder`, or None for a flat folder.

    Raises:
        ValueError: a folder's name is not among `class_names`.
    """
    parts = [path.relative_to(folder).parts for path in paths]
    if all(len(part) == 1 for part in parts):
        return None
    index = {_folder_name(name): i for i, name in enumerate(class_names)}
    unknown = sorted({part[0] for part in parts} - set(index))
    if unknown:
        raise ValueError(
            f"{folder} has folders that are not classes of the model: {', '.join(unknown[:5])}. "
            f"Expected some of: {', '.join(list(index)[:10])}."
        )
    return np.array([index[part[0]] for part in parts])


def _folder_name(class_name):
    return class_name.replace("/", "-")  # "T-shirt/top" cannot be the name of a folder
