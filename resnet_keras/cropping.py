"""From the bytes of an image to a random crop of it, in a graph of tensorflow: decoded, resized, turned, augmented.

Only the crop of a JPEG is decoded. Where it is at least twice as large as needed in both directions, the decoder
shrinks it by a power of two while it decodes, which is faster and free of aliasing; what remains, a factor below two or
an enlargement, is bilinear, as in TensorFlow's own training of ImageNet. Antialiasing that too would cost more than the
decoding. Other formats are decoded whole, by Pillow, and shrunk by averaging.

The decoder's accurate integer transform gives the pixels that Pillow gives, bit for bit, and takes no longer.
"""

import io

import numpy as np
import tensorflow as tf

from resnet_keras import augment, folders

RATIOS = (3 / 4, 4 / 3)
BOX_ATTEMPTS = 100
SHRINKS = (1, 2, 4, 8)
# Where metadata that can turn an image begins; RE2 needs \C for bytes that are not UTF-8.
METADATA_BYTES = 1024
METADATA = rb"\C*(?:Exif\x00\x00|tiff:Orientation)\C*"
ORIENTATION_TAG = 0x0112
TRANSPOSED, MIRRORED, UPSIDE_DOWN = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
KEYS = 4


def apart(function):
    """A graph function that stays a call: a condition that does not take it passes over one node, not all of it."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


class Cropper:
    """A callable from `(bytes, position)`, string and `int32` scalars, to `uint8` `(size, size, 3)`.

    The crop covers `crop_scale_min` to 1 of the image, its sides in a ratio of 3/4 to 4/3 (arXiv:1409.4842, section 6),
    and is squeezed to a square. An image that no such box fits is taken whole.

    Args:
        recipe: a `recipes.Recipe`.
        keys: `KEYS` integers of 32 bits. They and the position decide every random value.
    """

    def __init__(self, recipe, keys):
        self.recipe = recipe
        self.size = recipe.size
        self.box_key, self.flip_key, self.augment_key, self.erase_key = map(int, keys)
        self.rand_augment = None
        if recipe.rand_augment_ops:
            from resnet_keras import mixing

            self.rand_augment = mixing.RandAugment(recipe.rand_augment_ops, recipe.rand_augment_strength)

    def __call__(self, contents, position):
        is_jpeg = tf.strings.substr(contents, 0, 3) == b"\xff\xd8\xff"
        other = apart(self._other)
        image = tf.cond(is_jpeg, lambda: self._jpeg(contents, position), lambda: other(contents, position))
        image.set_shape((self.size, self.size, 3))
        if self.recipe.flip:
            mirrored = tf.random.stateless_uniform((), (self.flip_key, position)) < 0.5
            image = tf.cond(mirrored, lambda: tf.reverse(image, (1,)), lambda: image)
        if self.rand_augment is not None:
            image = self._augmented(image, position)
        if self.recipe.erase_probability > 0 and self.recipe.erase_pixels:
            image = self._erased(image, position)
        return image

    def box(self, shape, position):
        """`(top, left, height, width)` of the crop of an image of this shape, `int32` `(4,)`."""
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            bounding_boxes=[[[0.0, 0.0, 1.0, 1.0]]],
            seed=(self.box_key, position),
            min_object_covered=0.0,
            aspect_ratio_range=RATIOS,
            area_range=(self.recipe.crop_scale_min, 1.0),
            max_attempts=BOX_ATTEMPTS,
        )
        return tf.concat([begin[:2], size[:2]], 0)

    def _shrink(self, box):
        """Index into `SHRINKS` of the largest that leaves enough pixels."""
        enough = tf.reduce_min(box[2:]) >= tf.constant(SHRINKS[1:]) * self.size
        return tf.math.count_nonzero(enough, dtype=tf.int32)

    def _jpeg(self, contents, position):
        box = self.box(tf.io.extract_jpeg_shape(contents), position)

        def decode(shrink):
            return lambda: tf.image.decode_and_crop_jpeg(
                contents, tf.maximum(box // shrink, [0, 0, 1, 1]), 3, ratio=shrink, dct_method="INTEGER_ACCURATE"
            )

        image = self._resized(tf.switch_case(self._shrink(box), [decode(shrink) for shrink in SHRINKS]))
        may_be_turned = tf.strings.regex_full_match(tf.strings.substr(contents, 0, METADATA_BYTES), METADATA)
        turned = apart(self._turned)
        return tf.cond(may_be_turned, lambda: turned(image, contents), lambda: image)

    def _turned(self, image, contents):
        """Upright. The crop is a random square by now, so that it may be turned instead of the image it came from."""
        orientation = tf.numpy_function(_orientation, [contents], tf.int64, stateful=False)
        for orientations, turn in (
            (TRANSPOSED, lambda x: tf.transpose(x, (1, 0, 2))),
            (MIRRORED, lambda x: tf.reverse(x, (1,))),
            (UPSIDE_DOWN, lambda x: tf.reverse(x, (0,))),
        ):
            applies = tf.reduce_any(orientation == tf.constant(orientations, tf.int64))
            image = tf.cond(applies, lambda x=image, turn=turn: turn(x), lambda x=image: x)
        return image

    def _other(self, contents, position):
        image = tf.numpy_function(_pillow, [contents], tf.uint8, stateful=False)
        image.set_shape((None, None, 3))
        box = self.box(tf.shape(image), position)
        image = image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        shrink = tf.constant(SHRINKS)[self._shrink(box)]
        small = lambda: tf.cast(tf.round(tf.image.resize(image, box[2:] // shrink, "area")), tf.uint8)  # noqa: E731
        return self._resized(tf.cond(shrink > 1, small, lambda: image))

    def _resized(self, image):
        resized = tf.raw_ops.ResizeBilinear(images=image[None], size=(self.size, self.size), half_pixel_centers=True)[0]
        return tf.cast(resized + 0.5, tf.uint8)

    def _augmented(self, image, position):
        augmented = self.rand_augment.in_graph(image[None], (self.augment_key, position))[0]
        return tf.cast(tf.clip_by_value(augmented, 0.0, 255.0) + 0.5, tf.uint8)

    def _erased(self, image, position):
        happens = tf.random.stateless_uniform((), (self.erase_key, position)) < self.recipe.erase_probability
        centre = tf.random.stateless_uniform((2,), (~self.erase_key, position), 0, self.size, tf.int32)
        first, last = centre - self.recipe.erase_pixels // 2, centre + (self.recipe.erase_pixels + 1) // 2
        places = tf.range(self.size)
        rows, columns = ((places >= first[axis]) & (places < last[axis]) for axis in (0, 1))
        inside = happens & rows[:, None, None] & columns[None, :, None]
        return tf.where(inside, tf.constant(augment.MID_GREY, tf.uint8), image)


def _orientation(contents):
    from PIL import Image

    with Image.open(io.BytesIO(contents)) as picture:
        return np.int64(picture.getexif().get(ORIENTATION_TAG, 1))


def _pillow(contents):
    image = folders.read_image(io.BytesIO(contents))
    if image is None:
        raise ValueError("An image cannot be decoded, though it could when the data set was loaded. Load it again.")
    return image
