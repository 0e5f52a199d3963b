"""Folders of images: `DIR/train/CLASS/*.jpg` or `DIR/CLASS/*.jpg` with labels, a flat `DIR/*.jpg` without."""

import os
import pathlib
from typing import NamedTuple

import numpy as np

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# What may be opened, whatever a file is called: Pillow knows formats that start other programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
PARTS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
NAMES_SHOWN = 5
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
    """One image as its viewer shows it.

    Turned as its EXIF tag says, its first frame, transparency over white, and of 16 bits the upper 8. The file's suffix
    does not matter.

    Args:
        path: a path, or a binary file object.
        channels: 3 for RGB, 1 for grey.

    Returns:
        `uint8` array of shape `(height, width, channels)`, or None where the file cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as picture:
            pixels = np.asarray(_flattened(ImageOps.exif_transpose(picture)).convert(MODES[channels]))
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
    ):  # what Pillow raises on bad files
        return None
    return pixels.reshape(*pixels.shape[:2], channels)


def _flattened(picture):
    """Without what `Image.convert` would drop or clip: transparency and the upper bits of 16-bit grey."""
    from PIL import Image

    if picture.mode.startswith("I"):
        return Image.fromarray(np.minimum(np.asarray(picture) >> 8, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    shown = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)


def class_indices(paths, folder, class_names):
    """The label of each path from its first folder below `folder`, or None for a flat folder.

    Raises:
        ValueError: a folder's name is not among `class_names`.
    """
    parts = [path.relative_to(folder).parts for path in paths]
    if all(len(part) == 1 for part in parts):
        return None
    index = {folder_name(name): i for i, name in enumerate(class_names)}
    unknown = sorted({part[0] for part in parts} - set(index))
    if unknown:
        raise ValueError(
            f"{folder} has folders that are not classes of the model: {', '.join(unknown[:5])}. "
            f"Expected some of: {', '.join(list(index)[:10])}."
        )
    return np.array([index[part[0]] for part in parts])


def folder_name(class_name):
    return class_name.replace("/", "-")  # "T-shirt/top" cannot be the name of a folder


class Listing(NamedTuple):
    """The images of one part: names below the data set's folder, labels, and `(name, reason)` of what is no file."""

    names: list[str]
    labels: list[int]
    unreadable: list[tuple[str, str]]


def find_parts(directory):
    """The labelled images of a data set.

    Args:
        directory: holds `train/CLASS/*.jpg` and, optionally, `validation` (or `val`) and `test` beside `train`, or just
            `CLASS/*.jpg`. Images in folders below `CLASS` are of that class; names that begin with a dot are skipped.

    Returns:
        The class names, which are the sorted folder names of the training part, and `{part: Listing or None}` for each
        of `PARTS`.

    Raises:
        ValueError: there are no class folders, an empty one, or one that the training part does not have.
    """
    directory = pathlib.Path(directory)
    part_folders = _part_folders(directory)
    class_names = _class_names(part_folders["train"])
    return class_names, {
        part: None if folder is None else _list(directory, folder, class_names, part)
        for part, folder in part_folders.items()
    }


def _part_folders(directory):
    """`{part: folder or None}`; a folder called `train` that holds no folders is a class of that name."""
    names = [name for name in _visible(directory) if (directory / name).is_dir()]
    holding = [
        name for name in names if any((directory / name / below).is_dir() for below in _visible(directory / name))
    ]
    found = {part: [name for name in spellings if name in holding] for part, spellings in PARTS.items()}
    if len(found["validation"]) == 2:
        raise ValueError(f"{directory} holds both 'validation' and 'val'. Expected one of them: merge or rename them.")
    if found["train"]:
        return {part: directory / names[0] if names else None for part, names in found.items()}
    all_spellings = {name for spellings in PARTS.values() for name in spellings}
    if names and (found["validation"] or found["test"] or set(names) <= all_spellings):
        raise ValueError(
            f"{directory} holds {listed(names)}, but no train/CLASS folders. "
            "Expected one folder of training images a class, such as train/cat and train/dog."
        )
    return {"train": directory, "validation": None, "test": None}


def _visible(folder):
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise ValueError(f"The folder {folder} cannot be read: {error.strerror}.") from error


def _is_class(path):
    return path.is_dir() and path.suffix.lower() not in SUFFIXES


def _class_names(folder):
    class_names = [name for name in _visible(folder) if _is_class(folder / name)]
    if len(class_names) < 2:
        images = sum(pathlib.Path(name).suffix.lower() in SUFFIXES for name in _visible(folder))
        raise ValueError(
            f"{folder} holds {len(class_names)} class folders and {images} loose images. "
            "Expected two or more folders of images, one a class: sort the images into them."
        )
    return class_names


def _list(directory, folder, class_names, part):
    """All images below the class folders of one part."""
    own = [name for name in _visible(folder) if _is_class(folder / name)]
    unknown = sorted(set(own) - set(class_names))
    if unknown:
        raise ValueError(
            f"{folder} holds folders that are no classes of the training images: {listed(unknown)}. "
            f"Expected some of: {', '.join(class_names[:10])}."
        )
    loose = [name for name in _visible(folder) if _is_image_name(name) and not (folder / name).is_dir()]
    if loose:
        raise ValueError(
            f"{len(loose)} images in {folder} lie outside of the class folders: {listed(loose)}. "
            "Sort them into the class folders, or delete them."
        )
    listing = Listing([], [], [])
    for label, class_name in enumerate(class_names):
        if class_name in own:
            relative = "/".join((folder / class_name).relative_to(directory).parts)
            names = list(_images_below(str(folder / class_name), relative, set(), listing.unreadable))
            if not names and part == "train":
                raise ValueError(
                    f"The class folder {folder / class_name} holds no images ({', '.join(sorted(SUFFIXES))}). "
                    "Add some, or delete the folder."
                )
            listing.names.extend(names)
            listing.labels.extend([label] * len(names))
    if not listing.names:
        raise ValueError(f"The class folders in {folder} hold no images ({', '.join(sorted(SUFFIXES))}).")
    return listing


def _is_image_name(name):
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _images_below(folder, relative, seen, unreadable):
    """Names of image files, sorted; links to folders are followed, each folder once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        entries = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        name = f"{relative}/{entry.name}"
        if entry.is_dir():
            if _is_image_name(name):
                unreadable.append((printable(name), "a folder, not a file"))
            else:
                yield from _images_below(entry.path, name, seen, unreadable)
        elif _is_image_name(name):
            if entry.is_file():
                yield name
            else:
                unreadable.append((printable(name), "a dangling link" if entry.is_symlink() else "not a file"))


def listed(names):
    """The first few of some names, as a sentence shows them."""
    names = list(names)
    return ", ".join(names[:NAMES_SHOWN] + ["..."] * (len(names) > NAMES_SHOWN))


def printable(name):
    """A file name without the half characters that bytes outside of UTF-8 become."""
    return name.encode(errors="surrogateescape").decode(errors="replace")
