"""Images that set the ranges of an int8 file, and images that judge it: where from, how many, which hash."""

import dataclasses
import hashlib
import pathlib

import numpy as np

from resnet_keras import data, folders

SEED = 0
COUNT = 200  # more images move the ranges of these networks hardly at all, and each costs a float inference
MIN_DEVIATION = 2.0  # pixel values; below it an image is one colour
MIN_CORRELATION = 0.3  # between neighbours; 0 for noise, 0.6 and more for photographs at any scale
RANDOM_COUNT = 32
EVALUATION = 2000
HELD_OUT_SHARE = 5  # one image in so many judges the file where no other images were named


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Raw pixels at the model's size; `labels` is None where they are unknown.

    `origin` says where the images are from, in words that do not depend on the machine.
    """

    images: np.ndarray
    labels: np.ndarray | None
    origin: str

    def __len__(self):
        return len(self.images)

    def take(self, indices):
        return ImageSet(self.images[indices], None if self.labels is None else self.labels[indices], self.origin)

    def without_labels(self):
        return ImageSet(self.images, None, self.origin)

    def record(self):
        """Origin, count and hash, for the sidecar."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest()
        return {"origin": self.origin, "images": len(self), "sha256": digest}


def gather(source, calibration_data=None, eval_data=None, needs_calibration=True, say=lambda text: None, count=None):
    """The images for calibration and those for verification, with nothing in common.

    Calibration: what the user names; else training images of the data set that the model was trained on. Verification:
    what the user names; else the data set's test images; else images held out from those for calibration. A model with
    random weights, whose answers mean nothing, borrows the bundled images without their labels.

    Args:
        source: a `source.Source`.
        calibration_data: a folder of images, or an `.npz` file with `images` and optionally `labels`.
        eval_data: likewise; in a folder, sub-folders named after the classes give labels.
        needs_calibration: False for a recipe without integer activations.
        say: called with a line about anything that a user would want to know.
        count: how many images calibrate at most; default: 200, and 32 for random weights.

    Returns:
        `(calibration, evaluation)`, two `ImageSet`s; the first is None where it is not needed.

    Raises:
        ValueError: there are no images, they cannot be read, they are noise or of one colour, or the two sets overlap.
    """
    if count is not None and count < 1:
        raise ValueError(f"At least one image must calibrate. Received: --calibration-images {count}.")
    count = count or (RANDOM_COUNT if source.weights == "random" else COUNT)
    spare = count // (HELD_OUT_SHARE - 1)  # for verification, should there be no other images
    named = calibration_data is not None and (needs_calibration or eval_data is None)
    borrows = eval_data is None or (needs_calibration and not named)
    pool, evaluation = (_own_data(source, count + spare) if borrows else None) or (None, None)
    if named:
        pool = read(calibration_data, source, count + spare, say, must_be_natural=True)
    if eval_data is not None:
        evaluation = read(eval_data, source, EVALUATION, say, labelled=True)
    if pool is None and (needs_calibration or evaluation is None):
        purpose = "calibrate" if needs_calibration else "verify"
        option = "--calibration-data" if needs_calibration else "--eval-data"
        raise ValueError(f"There are no images to {purpose} with. Name a folder of typical images with {option}.")
    if evaluation is None:
        pool, evaluation = _hold_out(pool, say)
    if not needs_calibration:
        return None, evaluation
    calibration = pool.take(np.arange(min(len(pool), count)))
    if named or eval_data is not None:
        _refuse_overlap(calibration, evaluation)
    return calibration, evaluation


def read(where, source, limit, say=lambda text: None, labelled=False, must_be_natural=False):
    """Reads a folder or an `.npz` file into an `ImageSet` of at most `limit` images, at the model's size.

    The choice is balanced over the folders or labels and depends on nothing but the seed and the names.

    Raises:
        ValueError: see `gather`.
    """
    path = pathlib.Path(where)
    reader = _npz_images if path.suffix == ".npz" else _folder_images
    raw, labels, total = reader(path, source, limit, labelled, say)
    if must_be_natural:
        refuse_unnatural(raw, path.name)
    if total > len(raw):
        say(f"using {len(raw)} of the {total} images in {path.name}")
    images = np.stack([source.preprocess.pixels(image) for image in raw])
    return ImageSet(images, labels, path.name)


def refuse_unnatural(images, name):
    """Refuses images that would give an int8 file ranges that no photograph has.

    Raises:
        ValueError: most images are of one colour, or most are noise: neighbouring pixels do not resemble each other at
            every scale down to 8 pixels, as they do in pictures of things.
    """
    if np.median([image.std() for image in images]) < MIN_DEVIATION:
        raise ValueError(
            f"The images in {name} are each of one colour. Calibration needs pictures like those of the app."
        )
    if np.median([_correlation(image) for image in images]) < MIN_CORRELATION:
        raise ValueError(f"The images in {name} are noise. Calibration needs pictures like those of the app.")


def _own_data(source, count):
    """`(training, test)` images of the data set that the model was trained on, or None where that is not known."""
    if source.weights == "random":
        own = data.load("fashion_mnist_sample")
        parts = (own.train, "training", count), (own.test, "test", RANDOM_COUNT)
        return tuple(from_split(part, own.name, kind, source, n).without_labels() for part, kind, n in parts)
    name = "fashion_mnist_sample" if source.weights == "bundled" else source.data_name
    if name is None or (name not in data.names() and not pathlib.Path(name).exists()):
        return None
    own = data.load(name, known_unreadable=source.unreadable)
    judge, part = (own.test, "test") if own.test else (own.validation, "validation")
    limit = EVALUATION if pathlib.Path(name).is_dir() else len(judge)
    return (
        from_split(own.train, own.name, "training", source, count),
        from_split(judge, own.name, part, source, limit),
    )


def from_split(split, name, part, source, count):
    chosen = data.balanced(split.labels, count, SEED)
    images = np.stack([source.preprocess.pixels(split.image(index)) for index in chosen])
    return ImageSet(images, split.labels[chosen], f"{pathlib.Path(name).name} {part}")


def _correlation(image):
    """The lowest correlation between horizontal neighbours over the scales 1, 1/2, 1/4 ... of one image."""
    grey = image.mean(axis=-1)
    lowest = 1.0
    while min(grey.shape) >= 8:
        left, right = grey[:, :-1] - grey[:, :-1].mean(), grey[:, 1:] - grey[:, 1:].mean()
        norm = np.sqrt((left**2).sum() * (right**2).sum())
        lowest = min(lowest, (left * right).sum() / norm if norm else 1.0)
        height, width = (side // 2 * 2 for side in grey.shape)
        grey = grey[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    return lowest


def _npz_images(path, source, limit, labelled, say):
    with data.open_npz(path) as arrays:
        if "images" not in arrays:
            raise ValueError(f"{path} lacks an array 'images'. Received arrays: {sorted(arrays)}.")
        images, labels = arrays["images"], arrays.get("labels")
    data.check_pixels(images, f"images in {path}", channels=source.input_shape[-1])
    if labels is not None:
        data.check_labels(labels, f"labels in {path}", len(images), len(source.labels))
        labels = labels.astype(np.int64)
    groups = labels if labels is not None else np.zeros(len(images), np.int64)
    chosen = data.balanced(groups, limit, SEED)
    return images[chosen], labels[chosen] if labels is not None else None, len(images)


def _folder_images(path, source, limit, labelled, say):
    paths = folders.list_images(path)
    groups = np.unique([str(p.parent) for p in paths], return_inverse=True)[1]
    paths = [paths[i] for i in data.balanced(groups, len(paths), SEED)]
    images, read_paths, unreadable = [], [], []
    for candidate in paths:
        if len(images) == limit:
            break
        image = folders.read_image(candidate, source.input_shape[-1])
        if image is None:
            unreadable.append(candidate.name)
        else:
            images.append(image)
            read_paths.append(candidate)
    if not images:
        raise ValueError(f"None of the {len(unreadable)} images in {path} can be read.")
    if unreadable:
        say(f"skipped {len(unreadable)} unreadable images in {path.name}: {', '.join(unreadable[:5])}")
    labels = folders.class_indices(read_paths, path, source.labels) if labelled else None
    return images, labels, len(paths) - len(unreadable)


def _hold_out(pool, say):
    count = len(pool) // HELD_OUT_SHARE
    if not count:
        raise ValueError(
            f"{len(pool)} images are too few both to calibrate and to verify with. "
            "Add images, or name others with --eval-data."
        )
    count = min(count, EVALUATION)
    say(f"holding out {count} of {len(pool)} images for verification; name others with --eval-data")
    return pool.take(np.arange(count, len(pool))), pool.take(np.arange(count))


def _refuse_overlap(calibration, evaluation):
    hashes = {image.tobytes() for image in calibration.images}
    common = sum(image.tobytes() in hashes for image in evaluation.images)
    if common:
        raise ValueError(
            f"{common} images are in both the calibration and the evaluation set. They must have none in common."
        )
