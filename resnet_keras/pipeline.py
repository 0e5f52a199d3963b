"""Batches from encoded images by `tf.data`, on any backend: exact, resumable, the same on any number of threads.

Every random value is a function of the seed, the epoch and the position in the epoch, through stateless ops. So any
batch can be made without those before it, and each of several processes makes its rows of the one global batch.
"""

import os

import numpy as np

from resnet_keras import scan

try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError(scan.NO_TENSORFLOW) from error

from resnet_keras import cropping, feed

WINDOW_SHARDS = 16
READ_CHUNK = 32
MIX_ROWS, MIN_MIX_ROWS = 32, 8


def order(split, seed, epoch, repeats=1):
    """The examples of one epoch in training order, a function of the arguments alone.

    Files of one image are shuffled as a whole. TFRecord shards are shuffled, and the examples within windows of
    `WINDOW_SHARDS` of them, so that a disk reads nearly in sequence.

    Args:
        split: an `encoded.EncodedSplit`.
        repeats: how many times in a row each drawn image comes; the epoch keeps its length, so `1 / repeats` of the
            images are in it (arXiv:1902.05509).

    Returns:
        `int64`, `(len(split),)`.
    """
    rng = np.random.default_rng([seed, epoch])
    if split.offsets is None:
        ids = rng.permutation(len(split))
    else:
        window = rng.permutation(len(split.files)) // WINDOW_SHARDS
        shuffled = rng.permutation(len(split))
        ids = shuffled[np.argsort(window[split.file_index[shuffled]], kind="stable")]
    return np.repeat(ids[: -(-len(ids) // repeats)], repeats)[: len(ids)].astype(np.int64)


def training_batches(split, recipe, classes, seed, epoch, first_step=0, shard=(0, 1)):
    """One epoch of augmented batches, or what is left of it.

    Args:
        split: an `encoded.EncodedSplit`.
        recipe: a `recipes.Recipe`; its batch size, repeats, size and augmentation values are used.
        classes: number of classes.
        seed, epoch: decide the order and every random value.
        first_step: batches of the epoch to pass over, without making them.
        shard: `(i, n)`: of each batch, the rows that process `i` of `n` trains on.

    Returns:
        A `tf.data.Dataset` of known cardinality with `(images, one-hot labels)`: `(batch_size / n, size, size, 3)`,
        `uint8` or, where MixUp or CutMix blends them, `float32`; and `float32` `(batch_size / n, classes)`.

    Raises:
        ValueError: the images do not fill a batch, the batch cannot be divided by `n`, or the recipe has no size.
    """
    steps = feed.steps_per_epoch(split, recipe)
    batch, mine = recipe.batch_size, feed.rows(recipe.batch_size, shard)
    if not recipe.size:
        raise ValueError("Images from files need a size to be cropped to. Received: size=0. Set size=224, for example.")
    mixes = recipe.mixup_alpha > 0 or recipe.cutmix_alpha > 0
    unit = _mix_rows(batch) if mixes else 1
    # Whole units of mixing are made, and the rows of this process cut out of them.
    first, last = mine.start // unit * unit, -(-mine.stop // unit) * unit
    positions = (np.arange(first_step, steps)[:, None] * batch + np.arange(first, last)).ravel()
    ids = order(split, seed, epoch, recipe.repeats)[positions]
    mix_key, *keys = np.random.SeedSequence([seed, epoch]).generate_state(1 + cropping.KEYS).view(np.int32)

    crop = cropping.Cropper(recipe, keys)
    dataset = tf.data.Dataset.from_tensor_slices(
        (np.arange(len(ids)), split.file_index[ids], positions.astype(np.int32), split.labels[ids])
    )
    if split.offsets is None:
        read = _file_reader(split)
    else:
        dataset, read = dataset.batch(READ_CHUNK).map(_record_reader(split, ids), tf.data.AUTOTUNE).unbatch(), None

    def example(source, file_index, position, label):
        return crop(source if read is None else read(file_index), position), label

    dataset = dataset.map(_plain(example), num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(unit if mixes else last - first, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.map(lambda images, labels: (images, one_hot(labels, classes)))
    if mixes:
        units = (last - first) // unit
        dataset = _mixed_units(dataset, recipe, mix_key, units, positions[::unit], batch)
        dataset = dataset.batch(units, drop_remainder=True)
        cut = slice(mine.start - first, mine.stop - first)
        dataset = dataset.map(lambda *parts: tuple(tf.reshape(p, [-1, *p.shape[2:]])[cut] for p in parts))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(max(0, steps - first_step)))
    return _tuned(dataset)


def evaluation_batches(split, preprocess, batch_size, shard=(0, 1)):
    """Every image once, with the pixels that `preprocess` makes of it.

    Args:
        split: an `encoded.EncodedSplit`.
        preprocess: a `preprocessing.Preprocess`.
        batch_size: images in a batch, over all processes.
        shard: `(i, n)`: of each batch, the rows that process `i` of `n` evaluates.

    Returns:
        A `tf.data.Dataset` of known cardinality with `(images, labels, weights)`: `uint8` `(rows, height, width, 3)`,
        `int64` `(rows,)` and `float32` `(rows,)`, where `rows = batch_size / n`. The last batch is filled up with
        images of weight 0.

    Raises:
        ValueError: the batch cannot be divided by `n`.
    """
    mine = feed.rows(batch_size, shard)
    starts = np.arange(0, len(split), batch_size)
    ids = (starts[:, None] + np.arange(mine.start, mine.stop)).ravel()
    weights = tf.constant((ids < len(split)).astype(np.float32))
    ids = np.minimum(ids, len(split) - 1)
    labels = tf.constant(split.labels[ids])

    def pixels(index):
        return preprocess.pixels(split.image(ids[index]))

    def example(index):
        image = tf.numpy_function(pixels, [index], tf.uint8, stateful=False)
        image.set_shape((preprocess.height, preprocess.width, 3))
        return image, labels[index], weights[index]

    dataset = tf.data.Dataset.range(len(ids)).map(example, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(mine.stop - mine.start, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
    return _tuned(dataset)


# Rewriting Keras's Python as a graph takes seconds, and changes nothing in what has no Python branches.
_plain = tf.autograph.experimental.do_not_convert


def one_hot(labels, classes):
    """`float32` rows of zeros with a one at the label."""
    return tf.one_hot(labels, classes)


def _tuned(dataset):
    options = tf.data.Options()
    options.deterministic = True
    options.threading.max_intra_op_parallelism = 1  # images are made beside each other, each by one thread
    options.threading.private_threadpool_size = os.cpu_count()
    return dataset.prefetch(2).with_options(options)


def _mix_rows(batch):
    """Rows that are mixed with each other: a part of the batch, whatever number of processes share it."""
    divisor = max(rows for rows in range(1, min(batch, MIX_ROWS) + 1) if batch % rows == 0)
    return divisor if divisor >= MIN_MIX_ROWS else batch


def _mixed_units(dataset, recipe, key, units, positions, batch):
    """Mixes `units` units for each batch; the batch decides by which of the two, the unit's position how."""
    from resnet_keras import mixing

    mix = mixing.Mixer(recipe)
    positions = tf.constant(positions)

    def apply(index, parts):
        place = positions[index]
        step = tf.cast(place // batch, tf.int32)
        return mix(*parts, choice=tf.stack([key, step]), seed=tf.stack([~key, tf.cast(place, tf.int32)]))

    return dataset.enumerate().map(_plain(apply), num_parallel_calls=tf.data.AUTOTUNE)


def _file_reader(split):
    """A callable from an index into `split.files` to the bytes of that file."""
    root, files = os.fsencode(split.root), tf.constant(split.files)
    return lambda index: tf.io.read_file(tf.strings.join([root, tf.gather(files, index)], "/"))


def _record_reader(split, ids):
    """Puts the bytes of some examples in the place of their indices into `ids`; one call of Python reads many."""

    def read(indices):
        return np.array([split.encoded(ids[index]) for index in indices], object)

    def chunk(indices, *others):
        contents = tf.numpy_function(read, [indices], tf.string, stateful=False)
        contents.set_shape(indices.shape)
        return contents, *others

    return chunk
