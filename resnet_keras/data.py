"""Named data sets and arrays, split once into training, validation and test images.

Where there is no validation part it is taken from the training part by a fixed seed, balanced over the classes; nothing
is ever taken from the test part. Images are raw RGB pixels, `uint8`, `(count, height, width, 3)`, or stay on disk,
encoded (`encoded.py`); labels are `int64`, `(count,)`.
"""

import dataclasses
import gzip
import pathlib
import sys

import numpy as np

from resnet_keras import encoded

ASSETS = pathlib.Path(__file__).parent / "assets"
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
VALIDATION_FRACTION = 1 / 30  # of named sets and arrays
FOLDER_VALIDATION_FRACTION, MAX_FOLDER_VALIDATION = 1 / 10, 10_000  # folders are often small
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with their labels; `labels` is None where they are unknown."""

    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self):
        return len(self.images)

    def image(self, index):
        """One image, `(height, width, channels)`."""
        return self.images[index]

    def take(self, indices):
        return Split(self.images[indices], None if self.labels is None else self.labels[indices])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set with its three parts; `test` is None where none was given."""

    name: str
    class_names: tuple[str, ...]
    train: Split | encoded.EncodedSplit
    validation: Split | encoded.EncodedSplit
    test: Split | encoded.EncodedSplit | None


def names():
    """Names that `load` knows."""
    return list(_NAMED)


def load(source, known_unreadable=None):
    """Loads a data set.

    Args:
        source: a name in `names()`; the path of an `.npz` file with the arrays `train_images`, `train_labels` and,
            optionally, `validation_images`, `validation_labels`, `test_images`, `test_labels`, `class_names`; or a
            folder of images or TFRecord shards (`encoded.load`), which stay on disk.
        known_unreadable: for a folder, what an earlier load left out: `EncodedSplit.unreadable` of all parts, or only
            the names. With it nothing is decoded to find out again.

    Returns:
        A `Dataset`. Its parts are `encoded.EncodedSplit` for a folder, and `Split` otherwise.

    Raises:
        ValueError: the name is unknown, or the arrays are not images with labels.
        FileNotFoundError: there is no such file.
        ConnectionError: the data set is not on this machine and cannot be downloaded.
        ImportError: reading a folder needs a package that is not installed.
    """
    if source in _NAMED:
        return _NAMED[source]()
    path = pathlib.Path(source)
    if path.is_dir():
        return _from_directory(path, known_unreadable)
    if path.suffix != ".npz":
        raise ValueError(
            f"Unknown data set. Received: {str(source)!r}. Expected one of {names()}, an .npz file, or a folder."
        )
    return _from_npz(path)


def balanced(labels, count, seed):
    """Indices of `count` examples, drawn without replacement and spread over the classes as evenly as they allow.

    Drawing deals one example of each class in turn, so that any prefix of the result is balanced too.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn[order], kind="stable")][:count]


def rgb32(grey):
    """Presents 28x28 grey images as 32x32 RGB: two zero pixels on each side, the channel three times.

    Args:
        grey: `uint8`, `(count, 28, 28)`.

    Returns:
        `uint8`, `(count, 32, 32, 3)`.
    """
    padded = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, axis=-1)


def _dataset(name, class_names, train, test, validation=None):
    if validation is None:
        held_out = balanced(train.labels, round(len(train) * VALIDATION_FRACTION), SPLIT_SEED)
        train, validation = _hold_out(train, held_out)
    return Dataset(name, tuple(class_names), train, validation, test)


def _hold_out(train, indices):
    rest = np.setdiff1d(np.arange(len(train)), indices)
    return train.take(rest), train.take(indices)


def _from_directory(directory, known_unreadable):
    class_names, parts = encoded.load(directory, known_unreadable)
    train, validation = parts["train"], parts["validation"]
    if validation is None:
        # Small sets: an image of every class is held out where the class has a second one, and one always stays.
        kept = np.unique(train.labels, return_index=True)[1]
        spare = np.setdiff1d(np.arange(len(train)), kept)
        if not len(spare):
            raise ValueError(
                f"{directory} holds one training image a class, and no validation images. Expected two or more a class."
            )
        count = min(round(len(train) * FOLDER_VALIDATION_FRACTION), MAX_FOLDER_VALIDATION)
        count = max(count, len(np.unique(train.labels[spare])))
        train, validation = _hold_out(train, spare[balanced(train.labels[spare], count, SPLIT_SEED)])
        validation = dataclasses.replace(validation, unreadable=())  # it is told of once, with the training images
    return Dataset(str(directory), tuple(class_names), train, validation, parts["test"])


def _fashion_mnist():
    train, test = (_read_fashion_mnist(part) for part in ("train", "t10k"))
    return _dataset("fashion_mnist", FASHION_CLASSES, train, test)


def _fashion_sample():
    with np.load(ASSETS / "fashion_mnist_sample.npz") as arrays:
        train, test = (
            Split(rgb32(arrays[f"{part}_images"]), arrays[f"{part}_labels"].astype(np.int64))
            for part in ("train", "test")
        )
    return _dataset("fashion_mnist_sample", FASHION_CLASSES, train, test)


_NAMED = {"fashion_mnist": _fashion_mnist, "fashion_mnist_sample": _fashion_sample}


def _read_fashion_mnist(part):
    """Reads the files of Debian's package `dataset-fashion-mnist`, or lets Keras download and cache the same files."""
    folder = pathlib.Path(sys.base_prefix) / "share/datasets/fashion-mnist"
    candidates = [folder, pathlib.Path("/usr/share/datasets/fashion-mnist")]
    for folder in candidates:
        if (folder / f"{part}-images-idx3-ubyte.gz").exists():
            images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", offset=16).reshape(-1, 28, 28)
            return Split(rgb32(images), _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", offset=8).astype(np.int64))
    import keras

    try:
        parts = dict(zip(("train", "t10k"), keras.datasets.fashion_mnist.load_data(), strict=True))
    except Exception as error:  # Keras raises a bare Exception for any failed download
        raise ConnectionError(
            "Fashion-MNIST is not on this machine and cannot be downloaded. Install Debian's package "
            f"'dataset-fashion-mnist', or connect to the network and try again. ({error})"
        ) from error
    images, labels = parts[part]
    return Split(rgb32(images), labels.astype(np.int64))


def _read_idx(path, offset):
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


def _from_npz(path):
    with open_npz(path) as arrays:
        missing = [key for key in ("train_images", "train_labels") if key not in arrays]
        if missing:
            raise ValueError(f"{path} lacks {missing}. Received arrays: {sorted(arrays)}.")
        if "class_names" in arrays:
            class_names = [str(name) for name in arrays["class_names"]]
        else:
            class_names = [f"class {i}" for i in range(int(arrays["train_labels"].max()) + 1)]
        parts = {part: _npz_split(arrays, part, len(class_names), path) for part in ("train", "validation", "test")}
    return _dataset(str(path), class_names, parts["train"], parts["test"], parts["validation"])


def open_npz(path):
    """`numpy.load` of an `.npz` file, with an error of one sentence for what is not one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no `.npz` archive of plain arrays.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not an .npz file of plain arrays: {error}.") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(
            f"{path} holds a single array. Expected an .npz file with named arrays, as numpy.savez writes it."
        )
    return archive


def _npz_split(arrays, part, classes, path):
    if f"{part}_images" not in arrays or f"{part}_labels" not in arrays:
        return None
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    check_pixels(images, f"{part}_images in {path}")
    check_labels(labels, f"{part}_labels in {path}", len(images), classes)
    return Split(images, labels.astype(np.int64))


def check_labels(labels, what, count, classes):
    """Refuses what is not one class index an image.

    Raises:
        ValueError: `labels` is not of shape `(count,)` with values from 0 to `classes - 1`.
    """
    if labels.shape != (count,) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{what}: expected {count} class indices from 0 to {classes - 1}. "
            f"Received: shape {labels.shape}, values from {labels.min()} to {labels.max()}."
        )


def check_pixels(images, what, channels=3):
    """Refuses what is not raw pixels.

    Raises:
        ValueError: `images` is not `uint8` of shape `(count, height, width, channels)`.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != channels or not len(images):
        raise ValueError(
            f"{what}: expected raw pixels, uint8 of shape (count, height, width, {channels}). "
            f"Received: {images.dtype} of shape {images.shape}."
        )
