"""What a model is fed: the batches of one epoch of training, and an evaluation that counts every image once.

One interface for images in memory and images on disk. Any batch of a run can be made without the ones before it, so
that a resumed run goes on with the very batch that comes next.
"""

import keras
import numpy as np

from resnet_keras.augment import augmented


def steps_per_epoch(split, recipe):
    """Batches in an epoch; what does not fill a last batch is left out of that epoch.

    Raises:
        ValueError: there are fewer images than one batch needs.
    """
    if len(split) < recipe.batch_size:
        raise ValueError(
            f"{len(split)} training images do not fill one batch of {recipe.batch_size}. Use a smaller batch_size."
        )
    return len(split) // recipe.batch_size


def training(split, recipe, classes, seed, epoch, first_step=0, shard=(0, 1)):
    """The batches of one epoch, for `keras.Model.fit`.

    Args:
        split: a `data.Split` or an `encoded.EncodedSplit`, with labels.
        recipe: a `recipes.Recipe`.
        classes: number of classes.
        seed: decides the order and every random value.
        epoch: which epoch, from 0; each has another order.
        first_step: number of batches to leave out, because they were trained on already.
        shard: `(i, n)`: this process makes the i-th of n equal parts of each batch.

    Returns:
        A `keras.utils.PyDataset` or a `tf.data.Dataset` of `(images, labels)`: `(batch, height, width, 3)`, `uint8` or
        `float32`, raw pixels, and `(batch, classes)`, `float32`.
    """
    if hasattr(split, "images"):
        return Batches(split, recipe, classes, seed, epoch, first_step, shard)
    from resnet_keras import pipeline

    return pipeline.training_batches(split, recipe, classes, seed, epoch, first_step, shard)


def evaluation(split, preprocess, classes, batch_size, shard=(0, 1)):
    """Batches of a constant size in which every image counts once, for `keras.Model.evaluate`.

    Args:
        split: a `data.Split` or an `encoded.EncodedSplit`, with labels.
        preprocess: the `preprocessing.Preprocess` for images on disk.
        classes: number of classes.
        batch_size: images in a batch, over all processes.
        shard: `(i, n)`: this process makes the i-th of n equal parts of each batch.

    Returns:
        Like `training`, of `(images, labels, weights)`; weight 0 marks what fills up the last batch.
    """
    if hasattr(split, "images"):
        return EvaluationBatches(split, classes, batch_size, shard)
    from resnet_keras import pipeline

    batches = pipeline.evaluation_batches(split, preprocess, batch_size, shard)
    return batches.map(lambda images, labels, weights: (images, pipeline.one_hot(labels, classes), weights))


def iterate(batches):
    """An iterator over what `training` or `evaluation` returned, from its first batch to its last."""
    if isinstance(batches, keras.utils.PyDataset):
        return (batches[i] for i in range(len(batches)))
    return iter(batches)


def shuffled(split, recipe, seed, epoch):
    """Indices of an epoch's images in their order: each drawn image `recipe.repeats` times in a row."""
    order = np.random.default_rng([seed, epoch]).permutation(len(split))
    return np.repeat(order, recipe.repeats)[: len(split)]


class Batches(keras.utils.PyDataset):
    """`training` for images in memory, on any backend; the arguments are the same.

    Each process makes the whole batch and keeps its part: the images are small, and MixUp and CutMix then pair the same
    images however many processes there are.
    """

    def __init__(self, split, recipe, classes, seed, epoch=0, first_step=0, shard=(0, 1), **kwargs):
        super().__init__(**kwargs)
        self.split, self.recipe, self.classes, self.seed = split, recipe, classes, seed
        self.epoch, self.first_step = epoch, first_step
        self.steps = steps_per_epoch(split, recipe)
        self.order = shuffled(split, recipe, seed, epoch)
        self.rows = rows(recipe.batch_size, shard)

    def __len__(self):
        return self.steps - self.first_step

    def __getitem__(self, index):
        step, size = self.first_step + index, self.recipe.batch_size
        batch = self.split.take(self.order[step * size : (step + 1) * size])
        rng = np.random.default_rng([self.seed, self.epoch, step])
        images, labels = augmented(batch.images, _one_hot(batch.labels, self.classes), self.recipe, rng)
        return images[self.rows], labels[self.rows]


class EvaluationBatches(keras.utils.PyDataset):
    """`evaluation` for images in memory, on any backend."""

    def __init__(self, split, classes, batch_size, shard=(0, 1), **kwargs):
        super().__init__(**kwargs)
        self.split, self.classes, self.batch_size = split, classes, batch_size
        self.rows = rows(batch_size, shard)

    def __len__(self):
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, index):
        indices = np.arange(index * self.batch_size, (index + 1) * self.batch_size)[self.rows]
        batch = self.split.take(np.minimum(indices, len(self.split) - 1))
        return batch.images, _one_hot(batch.labels, self.classes), (indices < len(self.split)).astype("float32")


def _one_hot(labels, classes):
    return np.eye(classes, dtype="float32")[labels]


def rows(batch_size, shard):
    """The rows of each batch that process `i` of `n` makes, as a slice; `shard` is `(i, n)`.

    Raises:
        ValueError: the batch cannot be divided equally.
    """
    process, processes = shard
    if batch_size % processes:
        raise ValueError(f"A batch of {batch_size} cannot be divided among {processes} processes. Use a multiple.")
    count = batch_size // processes
    return slice(process * count, (process + 1) * count)
