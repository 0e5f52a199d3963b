"""TFRecord shards: where each image lies in them, and a command that writes them from a folder of images.

python -m resnet_keras.tfrecord FOLDER OUT

A record is a protocol buffer, `Example`. Only its field headers are read to find the label and the place of the encoded
image, so that indexing costs no decoding and training reads the image's bytes directly. Records of two conventions are
understood: `image/encoded` with `image/class/label`, and `image` with `label`. Checksums are not verified: damaged
images are found by decoding them.
"""

import argparse
import mmap
import os
import pathlib
import re
import shutil
import struct

import numpy as np

from resnet_keras import cli, encoded, folders

LABELS_FILE = "labels.txt"
IMAGE_KEYS = (b"image/encoded", b"image")
LABEL_KEYS = (b"image/class/label", b"label")
SHARD_NAME = re.compile(r"\.tfrecords?([.-]|$)|-\d{5}-of-\d{5}$")
PART_NAME = re.compile(r"(?:^|[-_.])(train|validation|val|test)(?=[-_.]|$)")
HEADER_BYTES, FOOTER_BYTES = 12, 4  # length and its checksum before a record, the record's checksum after it
SHARD_SEED = 0
SHARD_BYTES = 128e6


def shards(directory):
    """`{part: sorted shard names}` of the TFRecord files directly in `directory`."""
    found = {}
    for name in sorted(os.listdir(directory)):
        match = PART_NAME.search(name)
        if match and SHARD_NAME.search(name) and (directory / name).is_file():
            part = next(part for part, spellings in folders.PARTS.items() if match[1] in spellings)
            found.setdefault(part, []).append(name)
    return found


def find(directory):
    """The class names and, for each of `folders.PARTS`, an `encoded.EncodedSplit` or None.

    Names come from `labels.txt`, one a line (or `0:name`). Labels that are never 0 and have no such file are taken to
    count from 1, as those of TF-slim's ImageNet do.

    Raises:
        ValueError: there are no training shards, a file is no TFRecord of images with labels, or a label has no name.
    """
    names = shards(directory)
    if "train" not in names:
        raise ValueError(
            f"{directory} holds TFRecord shards, but none for training. Expected names such as train-00000-of-00008."
        )
    parts = {part: _index(directory, names[part]) if part in names else None for part in folders.PARTS}
    class_names = _label_names(directory / LABELS_FILE)
    first = int(class_names is None and parts["train"].labels.min() == 1)
    if class_names is None:
        class_names = [f"class {i}" for i in range(parts["train"].labels.max() + 1 - first)]
    for part, split in parts.items():
        if split is None:
            continue
        split.labels[:] -= first
        if split.labels.min() < 0 or split.labels.max() >= len(class_names):
            raise ValueError(
                f"{part} shards in {directory}: expected labels from {first} to {len(class_names) - 1 + first}. "
                f"Received: from {split.labels.min() + first} to {split.labels.max() + first}."
            )
    if len(class_names) < 2:
        raise ValueError(f"{directory} holds images of one class only. Expected two or more.")
    return class_names, parts


def _label_names(path):
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    if all(line.startswith(f"{i}:") for i, line in enumerate(lines)):
        lines = [line.split(":", 1)[1] for line in lines]
    if not lines or not all(line.strip() for line in lines):
        raise ValueError(f"{path} holds {len(lines)} lines, some of them empty. Expected the name of one class a line.")
    return [line.strip() for line in lines]


def _index(directory, names):
    rows = [
        (shard, record, *place)
        for shard, name in enumerate(names)
        for record, place in enumerate(_places(directory / name))
    ]
    if not rows:
        raise ValueError(f"{names[0]} in {directory} and the other shards of its part hold no records.")
    shard, record, offset, length, labels = np.array(rows, np.int64).T.copy()
    files = np.array([os.fsencode(name) for name in names])
    return encoded.EncodedSplit(directory, files, shard, labels, offset, length, record)


def _places(path):
    """Yields `(offset, length, label)` of the image of every record."""
    size = path.stat().st_size
    if not size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = 0
        while start < size:
            if start + HEADER_BYTES > size:
                raise ValueError(_refusal(path, start))
            (length,) = struct.unpack_from("<Q", data, start)
            start += HEADER_BYTES
            if start + length + FOOTER_BYTES > size:
                raise ValueError(_refusal(path, start - HEADER_BYTES))
            try:
                place = _image_and_label(data, start, start + length)
            except (IndexError, ValueError) as error:
                raise ValueError(_refusal(path, start - HEADER_BYTES)) from error
            if place is None:
                raise ValueError(
                    f"A record at byte {start - HEADER_BYTES} of {path} lacks an image or a label. Expected the "
                    "features 'image/encoded' and 'image/class/label', or 'image' and 'label'."
                )
            yield place
            start += length + FOOTER_BYTES


def _refusal(path, at):
    return f"{path} is damaged at byte {at:,}, or no TFRecord file of Examples. Copy or convert it again."


def _image_and_label(data, start, end):
    """The image's place and the label of one `Example`: features (1) > entries (1) > key (1), value (2)."""
    values = {}
    for features in _fields(data, start, end, 1):
        for entry in _fields(data, *features, 1):
            for key in _fields(data, *entry, 1):
                if data[key[0] : key[1]] in IMAGE_KEYS + LABEL_KEYS:
                    values[data[key[0] : key[1]]] = entry
    image = next((values[key] for key in IMAGE_KEYS if key in values), None)
    label = next((values[key] for key in LABEL_KEYS if key in values), None)
    if image is None or label is None:
        return None
    images = _descend(data, image, (2, 1, 1))  # feature > bytes list (1) > value (1)
    labels = _descend(data, label, (2, 3, 1))  # feature > int64 list (3) > value (1), packed or one number
    if not images or not labels:
        return None
    (first, last), number = images[0], labels[0]
    if isinstance(number, tuple):
        number = _varint(data, number[0])[0]
    return first, last - first, number - (number >> 63 << 64)  # two's complement


def _descend(data, span, path):
    spans = [span]
    for number in path:
        spans = [below for span in spans for below in _fields(data, *span, number)]
    return spans


def _fields(data, start, end, number):
    """Fields of a message with this number: `(start, end)` where they are bytes, the value where they are integers."""
    while start < end:
        tag, start = _varint(data, start)
        wire = tag & 7
        if wire == 0:
            value, start = _varint(data, start)
        elif wire == 2:
            length, start = _varint(data, start)
            value = start, start + length
            start += length
        elif wire in (1, 5):
            value, start = None, start + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if start > end:
            raise ValueError("a field ends behind its message")
        if tag >> 3 == number:
            yield value


def _varint(data, start):
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def convert(source, out, count=None):
    """Writes the images of a folder as TFRecord shards, their bytes as they are, in an order shuffled by a fixed seed.

    Args:
        source: a folder of images, as `encoded.load` takes it.
        out: a new or empty folder. It is written beside and appears when all of it is there.
        count: shards of the training part; default: about 128 MB each. The other parts have shards of the same size.

    Returns:
        `{part: EncodedSplit}` of what was written.

    Raises:
        ValueError: `out` holds files, `count` is below 1, or `source` is no data set.
        ImportError: tensorflow is missing.
    """
    out = pathlib.Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder. Choose another one, or delete it.")
    if count is not None and count < 1:
        raise ValueError(f"--shards must be at least 1. Received: {count}.")
    class_names, parts = encoded.load(source)
    parts = {part: split for part, split in parts.items() if split is not None}
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted run
    partial.mkdir(parents=True)
    try:
        _write(partial, parts, count or _default_count(parts["train"]))
        (partial / LABELS_FILE).write_text("\n".join(class_names) + "\n", encoding="utf-8")
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return parts


def _default_count(train):
    sample = [len(train.encoded(i)) for i in range(0, len(train), -(-len(train) // 100))]
    return max(1, round(float(np.mean(sample)) * len(train) / SHARD_BYTES))


def _write(folder, parts, count):
    per_shard = -(-len(parts["train"]) // count)
    with cli.bar("writing", sum(map(len, parts.values())), "images") as advance:
        for part, split in parts.items():
            order = np.random.default_rng(SHARD_SEED).permutation(len(split))
            pieces = np.array_split(order, count if part == "train" else -(-len(split) // per_shard))
            for number, piece in enumerate(pieces):
                _write_shard(folder / f"{part}-{number:05}-of-{len(pieces):05}", split.take(piece), advance)


def _write_shard(path, split, advance):
    import tensorflow as tf

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(len(split)):
            values = {
                "image/encoded": split.encoded(i),
                "image/class/label": int(split.labels[i]),
                "image/filename": split.name(i).encode(),
            }
            features = tf.train.Features(feature={key: feature(value) for key, value in values.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())
            advance(1)


def main():
    parser = argparse.ArgumentParser(
        prog="resnet_keras.tfrecord", description="Writes a folder of images as TFRecords."
    )
    parser.add_argument("folder", type=pathlib.Path, help="images as train/CLASS/*.jpg or CLASS/*.jpg")
    parser.add_argument("out", type=pathlib.Path, help="a new folder")
    parser.add_argument("--shards", type=int, help="files of training images (default: one for each 128 MB)")
    args = parser.parse_args()
    if not args.folder.is_dir():
        raise ValueError(f"{args.folder} is not a folder of images.")
    parts = convert(args.folder, args.out, args.shards)
    rows = []
    for part, split in parts.items():
        rows.append((part, f"{len(split):,} images"))
        rows += [(f"  left out: {name}", reason) for name, reason in split.unreadable]
    cli.print_result(rows, None)
    return cli.GOOD


if __name__ == "__main__":
    cli.run(main)
