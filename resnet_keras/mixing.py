"""MixUp, CutMix and RandAugment by Keras's layers, with random values that come from a given seed, on any backend.

The layers draw from a running state of their own; here each call is given a `Seeds`, from which the layers' draws
follow, so that a batch can be made again without the ones before it.
"""

import functools

import keras
import numpy as np

DRAWS = 1000  # more than one operation makes


class Seeds(keras.random.SeedGenerator):
    """The seeds of the draws of one call: stateless, and made from one pair of integers, which may be a tensor.

    Args:
        first: integer of 32 bits; each draw takes the next.
        second: integer of 32 bits, or None for a seed of the current backend with 0 in its place.
        stack: callable that makes a seed of two integers.
    """

    def __init__(self, first, second, stack):
        # The base class would make a variable of the backend, which a graph of tensorflow on jax cannot hold.
        self.first, self.second, self.stack = first, second, stack
        self.draws = 0

    def next(self, ordered=True):
        self.draws += 1
        return self.stack([self.first + self.draws, self.second])


def graph_seeds(pair):
    """`Seeds` from a pair of `int32` tensors or numbers, for a graph of tensorflow."""
    import tensorflow as tf

    return Seeds(tf.cast(pair[0], tf.int32), tf.cast(pair[1], tf.int32), tf.stack)


def array_seeds(rng):
    """`Seeds` from a numpy generator, for arrays on the current backend."""
    first, second = (int(number) for number in rng.integers(0, 2**31 - DRAWS, 2))
    dtype = keras.backend.standardize_dtype("uint32" if keras.backend.backend() == "jax" else "int32")
    return Seeds(first, second, lambda pair: keras.ops.convert_to_tensor(np.array(pair), dtype=dtype))


class Equalization(keras.layers.Equalization):
    """Equalizes each channel of each image by its own histogram; Keras's takes one histogram for a whole batch.

    Keras's also counts in 256 steps wherever jax is the backend, even in a graph of tensorflow.
    """

    def transform_images(self, images, transformation, training=True):
        numpy = self.backend.numpy
        count, _, _, channels = images.shape
        first = numpy.reshape(numpy.arange(count * channels, dtype="int32") * 256, (count, 1, 1, channels))
        places = self.backend.cast(numpy.clip(images, 0, 255), "int32") + first
        histogram = numpy.bincount(numpy.reshape(places, (-1,)), minlength=count * channels * 256)
        below = numpy.cumsum(numpy.reshape(histogram, (count * channels, 256)), axis=1)
        lowest = numpy.min(numpy.where(below > 0, below, numpy.ones_like(below) * 2**30), axis=1, keepdims=True)
        span = self.backend.cast(below[:, -1:] - lowest, "float32")
        table = numpy.round(self.backend.cast(below - lowest, "float32") * 255 / numpy.maximum(span, 1))
        table = numpy.where(span > 0, table, numpy.reshape(numpy.arange(256, dtype="float32"), (1, 256)))
        return numpy.take(numpy.reshape(table, (-1,)), places)


class RandAugment(keras.layers.RandAugment):
    """Keras's RandAugment (arXiv:1909.13719) that runs only the operations it draws: Keras computes all, keeps one.

    Shear, translation and rotation go to both sides, up to `strength` times the largest of arXiv:1805.09501, Table 6:
    0.3, 0.45 of the side, 30 degrees. Keras's rotate to one side, by up to 180 degrees at half strength.

    Use `in_graph` for a graph of tensorflow, and `on_arrays` for arrays.

    Args:
        operations: how many are applied, one after another.
        strength: 0 to 1, the largest that is drawn.
    """

    def __init__(self, operations, strength):
        super().__init__(value_range=(0, 255), num_ops=operations, factor=strength, dtype="float32")
        shear, shift, turn = 0.3 * strength, 0.45 * strength, 30 / 360 * strength
        self.random_shear = keras.layers.RandomShear(shear, shear, dtype="float32")
        self.random_translation = keras.layers.RandomTranslation((-shift, shift), (-shift, shift), dtype="float32")
        self.random_rotation = keras.layers.RandomRotation((-turn, turn), dtype="float32")
        self.random_brightness = keras.layers.RandomBrightness((-strength, strength), dtype="float32")
        self.equalization = Equalization(dtype="float32")

    def operation(self, index, images, seeds):
        """Applies operation `index` of the list to `(count, height, width, 3)` images, each with its own strength."""
        layer = getattr(self, self._AUGMENT_LAYERS[index])
        return layer.transform_images(images, layer.get_random_transformation(images, training=True, seed=seeds))

    def in_graph(self, images, pair):
        """Augments a batch in a graph of tensorflow, whatever the backend; `pair` is two `int32` tensors or numbers."""
        import tensorflow as tf

        for layer in self._flatten_layers():
            layer.backend.set_backend("tensorflow")
        images = tf.cast(images, tf.float32)
        shape = images.shape
        first, second = (tf.cast(number, tf.int32) for number in pair)

        def branch(index):
            def run(images, first, second):
                return tf.ensure_shape(self.operation(index, images, Seeds(first, second, tf.stack)), shape)

            # A call of its own: what is not drawn is then one node to pass over, instead of a hundred.
            return tf.function(run, autograph=False, experimental_attributes={"_noinline": True})

        branches = [branch(index) for index in range(len(self._AUGMENT_LAYERS))]
        for draw in range(self.num_ops):
            start = first + DRAWS * draw
            index = tf.random.stateless_uniform((), tf.stack([start, second]), 0, len(branches), tf.int32)
            calls = [functools.partial(call, images, start, second) for call in branches]
            images = tf.switch_case(index, calls)
        return images

    def on_arrays(self, images, rng):
        """Augments a batch of arrays on the current backend; all images have the same operations."""
        for index in rng.integers(0, len(self._AUGMENT_LAYERS), self.num_ops):
            images = self.operation(int(index), images, array_seeds(rng))
        return images


_eager_rand_augment = functools.lru_cache(RandAugment)


class Mixer:
    """MixUp (arXiv:1710.09412) or CutMix (arXiv:1905.04899) in a graph of tensorflow, whatever the backend.

    Called with images `(count, height, width, 3)`, labels `float32` `(count, classes)`, and two pairs of `int32`:
    `choice` decides which of the two where a recipe has both, `seed` how. Returns `float32` images, and labels.
    """

    def __init__(self, recipe):
        self.layers = _mix_layers(recipe)
        for layer in self.layers:
            layer.backend.set_backend("tensorflow")

    def __call__(self, images, labels, choice, seed):
        import tensorflow as tf

        def apply(layer):
            return _mix(layer, tf.cast(images, tf.float32), labels, graph_seeds(seed))

        if len(self.layers) == 1:
            return apply(self.layers[0])
        first = tf.random.stateless_uniform((), choice) < 0.5
        return tf.cond(first, lambda: apply(self.layers[0]), lambda: apply(self.layers[1]))


def mixed(images, labels, recipe, rng):
    """RandAugment, then MixUp or CutMix, of a batch in memory, on the current backend.

    Args:
        images: `uint8` or `float32` `(count, height, width, channels)`, raw pixels.
        labels: `float32` `(count, classes)`.
        recipe: a `recipes.Recipe`.
        rng: a `numpy.random.Generator`; decides everything.

    Returns:
        Arrays: `images` (of the same dtype, or `float32` where they were mixed) and `float32` labels.
    """
    if recipe.rand_augment_ops:
        layer = _eager_rand_augment(recipe.rand_augment_ops, recipe.rand_augment_strength)
        augmented = keras.ops.convert_to_numpy(layer.on_arrays(keras.ops.convert_to_tensor(images, "float32"), rng))
        integer = np.issubdtype(images.dtype, np.integer)
        images = np.clip(np.rint(augmented) if integer else augmented, 0, 255).astype(images.dtype)
    layers = _eager_mix_layers(recipe.mixup_alpha, recipe.cutmix_alpha)
    if layers:
        layer = layers[rng.integers(len(layers))]
        tensors = keras.ops.convert_to_tensor(images, "float32"), keras.ops.convert_to_tensor(labels, "float32")
        images, labels = (keras.ops.convert_to_numpy(part) for part in _mix(layer, *tensors, array_seeds(rng)))
    return images, labels


@functools.lru_cache
def _eager_mix_layers(mixup_alpha, cutmix_alpha):
    from resnet_keras import recipes

    return _mix_layers(recipes.Recipe(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha))


def _mix_layers(recipe):
    layers = []
    if recipe.mixup_alpha > 0:
        layers.append(keras.layers.MixUp(alpha=recipe.mixup_alpha, dtype="float32"))
    if recipe.cutmix_alpha > 0:
        layers.append(keras.layers.CutMix(factor=(recipe.cutmix_alpha, recipe.cutmix_alpha), dtype="float32"))
    return layers


def _mix(layer, images, labels, seeds):
    how = layer.get_random_transformation(images, training=True, seed=seeds)
    return layer.transform_images(images, how, training=True), layer.transform_labels(labels, how, training=True)
