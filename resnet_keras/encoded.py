"""Data sets that stay on disk, encoded: folders of image files and TFRecord shards. Imports no framework.

An example is a range of bytes in a file, with a label. What cannot be read is found once, before training, by decoding
everything (`scan.py`), and left out by name; past `MAX_UNREADABLE_SHARE` of a part the data set is refused.
"""

import dataclasses
import io
import os
import pathlib

import numpy as np

from resnet_keras import folders

MAX_UNREADABLE_SHARE = 0.05


@dataclasses.dataclass(frozen=True)
class EncodedSplit:
    """Encoded images with their labels, the counterpart of `data.Split` on disk.

    `files` are paths below `root` as bytes, `file_index` says for each example in which of them it is. `offsets` and
    `lengths` give its place in the file, in bytes; they are None where a file is one image. `record_index` counts the
    examples of a shard. `unreadable` lists what was left out, as `(name, reason)`.
    """

    root: pathlib.Path
    files: np.ndarray
    file_index: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray | None = None
    lengths: np.ndarray | None = None
    record_index: np.ndarray | None = None
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self):
        return len(self.labels)

    def take(self, indices):
        """The examples at `indices`, as `data.Split.take`; the list of what was left out stays whole."""
        per_example = ("file_index", "labels", "offsets", "lengths", "record_index")
        values = {name: getattr(self, name) for name in per_example}
        return dataclasses.replace(
            self, **{name: value[indices] for name, value in values.items() if value is not None}
        )

    def path(self, index):
        """The path of the file that holds example `index`."""
        return self.root / os.fsdecode(bytes(self.files[self.file_index[index]]))

    def name(self, index):
        """What a person is told of example `index`: its path below `root`, and for a shard the record's number."""
        name = folders.printable(os.fsdecode(bytes(self.files[self.file_index[index]])))
        return name if self.record_index is None else f"{name}#{self.record_index[index]}"

    def encoded(self, index):
        """The bytes of one image.

        Raises:
            OSError: the file cannot be read.
        """
        with open(self.path(index), "rb") as file:
            if self.offsets is None:
                return file.read()
            file.seek(self.offsets[index])
            return file.read(self.lengths[index])

    def image(self, index, channels=3):
        """One decoded image, as `folders.read_image` gives it.

        Raises:
            ValueError: it can no longer be read.
        """
        pixels = folders.read_image(io.BytesIO(self.encoded(index)), channels)
        if pixels is None:
            raise ValueError(
                f"{self.name(index)} in {self.root} cannot be decoded, though it could when the data set was loaded. "
                "Did the file change? Load the data set again."
            )
        return pixels


def load(directory, known_unreadable=None):
    """Finds the parts of a data set on disk and leaves out what cannot be read.

    Args:
        directory: holds `train/CLASS/*.jpg` and, optionally, `validation` (or `val`) and `test` beside `train`; or just
            `CLASS/*.jpg`, all of it for training; or TFRecord shards (`tfrecord.py`).
        known_unreadable: what an earlier scan of the same files left out, as names or as `(name, reason)` pairs.
            Nothing is decoded then.

    Returns:
        The class names, and an `EncodedSplit` or None for each of `folders.PARTS`.

    Raises:
        ValueError: the layout is none of these, classes are missing or unknown, or too much cannot be read.
        ImportError: an image needs a decoder that is not installed.
    """
    from resnet_keras import scan, tfrecord

    directory = pathlib.Path(directory)
    if tfrecord.shards(directory):
        class_names, parts, unreadable = *tfrecord.find(directory), {}
    else:
        class_names, listings = folders.find_parts(directory)
        parts = {part: _of_files(directory, listing) for part, listing in listings.items()}
        unreadable = {part: listing.unreadable for part, listing in listings.items() if listing is not None}
    for part, split in parts.items():
        if split is not None:
            reasons = scan.known(split, known_unreadable) if known_unreadable is not None else scan.decode_all(split)
            parts[part] = _without(split, reasons, unreadable.get(part, []), directory, part)
    _check_classes(parts["train"], class_names, directory)
    return class_names, parts


def _of_files(directory, listing):
    if listing is None:
        return None
    files = np.array([os.fsencode(name) for name in listing.names])
    return EncodedSplit(directory, files, np.arange(len(files)), np.array(listing.labels, np.int64))


def _without(split, reasons, more, directory, part):
    """Leaves out the examples in `reasons`, `{index: reason}`, and refuses the part where they are too many."""
    found = [(split.name(index), reason) for index, reason in sorted(reasons.items())]
    unreadable = tuple(sorted([*more, *found]))
    total = len(split) + len(more)
    if len(unreadable) == total or len(unreadable) > MAX_UNREADABLE_SHARE * total:
        raise ValueError(
            f"{len(unreadable):,} of {total:,} {part} images in {directory} cannot be read: "
            f"{folders.listed(f'{name} ({reason})' for name, reason in unreadable)}. "
            f"Up to {MAX_UNREADABLE_SHARE:.0%} would be left out. Replace or delete them."
        )
    good = np.setdiff1d(np.arange(len(split)), np.fromiter(reasons, np.int64, len(reasons)))
    return dataclasses.replace(split.take(good), unreadable=unreadable)


def _check_classes(train, class_names, directory):
    """Every class needs an image to learn from."""
    empty = [class_names[i] for i in np.flatnonzero(np.bincount(train.labels, minlength=len(class_names)) == 0)]
    if empty:
        raise ValueError(
            f"{len(empty)} of the classes in {directory} have no training image that can be read: "
            f"{folders.listed(empty)}. Expected at least one a class: add images, or delete the class."
        )
