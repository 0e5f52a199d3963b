"""2-D convolution with faster gradients for training on a processor."""

import math

import keras
from keras import ops

from resnet_keras import elementwise
from resnet_keras.batch_norm import register

# With more output pixels, laying out the patches of a 3x3 window costs more than the matrix product saves.
PATCH_PIXELS = 49


@register
class Conv2D(keras.layers.Conv2D):  # of Keras's name, because saved weights are found under it
    """`keras.layers.Conv2D` with faster gradients for training in bfloat16 on a processor.

    Weights, config, arguments and results are those of the Keras layer, the gradients to within rounding. On
    tensorflow without an accelerator oneDNN's weight gradient takes two to three times as long as the matrix product
    that it equals for a 1x1 window, or for a larger one whose patches are laid out first; and its input gradient of a
    strided 1x1 window twice as long as an unstrided one whose result is spread. Those two are used in their place in
    training, in bfloat16, without bias, activation, dilation or groups. Everywhere else, and always in inference, this
    is Keras's own code, so that exporters see a plain convolution.

    Input shape: `(batch, height, width, channels)`, or as `data_format` says.
    Output shape: that of `keras.layers.Conv2D`.
    """

    def call(self, inputs, training=None):
        if not (elementwise.pays(inputs, training) and self._has_faster_gradient(inputs)):
            return super().call(inputs)
        kernel = ops.cast(self.kernel, self.compute_dtype)
        return _convolution(inputs, kernel, self.strides, self.padding.upper())

    def _has_faster_gradient(self, inputs):
        return (
            len(inputs.shape) == 4
            and self.data_format == "channels_last"
            and self.dilation_rate == (1, 1)
            and self.groups == 1
            and not self.use_bias
            and self.activation is keras.activations.linear
            and (self.kernel_size == (1, 1) or _pixels(self.compute_output_shape(inputs.shape)) <= PATCH_PIXELS)
        )


def _pixels(shape):
    return math.inf if None in shape[1:3] else shape[1] * shape[2]


def _convolution(inputs, kernel, strides, padding):
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(inputs, kernel):
        gradients = _pointwise_gradients if kernel.shape[:2] == (1, 1) else _window_gradients

        def gradient(upstream):
            return gradients(inputs, kernel, upstream, strides, padding)

        return tf.nn.conv2d(inputs, kernel, strides, padding), gradient

    return convolve(inputs, kernel)


def _pointwise_gradients(inputs, kernel, upstream, strides, padding):
    """Those of a 1x1 window: both see only the pixels on which the window comes to lie."""
    import tensorflow as tf

    full_shape, strided = tf.shape(inputs), max(strides) > 1
    if strided:
        # The average of one pixel is that pixel, NaN or not, and unlike a strided slice it runs on all cores.
        inputs = tf.nn.avg_pool2d(inputs, 1, strides, "VALID")
    input_gradient = _input_gradient(tf.shape(inputs), kernel, upstream, (1, 1), "VALID")
    if strided:
        input_gradient = _spread(input_gradient, strides, full_shape)
    return input_gradient, _kernel_gradient(inputs, upstream, kernel)


def _window_gradients(inputs, kernel, upstream, strides, padding):
    """Those of a larger window: what each of its places sees becomes a row of a matrix."""
    import tensorflow as tf

    input_gradient = _input_gradient(tf.shape(inputs), kernel, upstream, strides, padding)
    patches = _patches(inputs, kernel.shape[:2], strides, padding, upstream.shape[1:3])
    return input_gradient, _kernel_gradient(patches, upstream, kernel)


def _patches(inputs, window, strides, padding, size):
    import tensorflow as tf

    if max(strides) > 1:
        return tf.image.extract_patches(inputs, [1, *window, 1], [1, *strides, 1], [1, 1, 1, 1], padding)
    # Three times as fast as the op above, but for the strides.
    if padding == "SAME":
        margins = [((places - 1) // 2, places // 2) for places in window]
        inputs = tf.pad(inputs, [(0, 0), *margins, (0, 0)])
    height, width = size
    places = [(down, right) for down in range(window[0]) for right in range(window[1])]
    return tf.concat([inputs[:, down : down + height, right : right + width] for down, right in places], -1)


def _input_gradient(shape, kernel, upstream, strides, padding):
    import tensorflow as tf

    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=shape, filter=kernel, out_backprop=upstream, strides=[1, *strides, 1], padding=padding
    )


def _kernel_gradient(rows, upstream, kernel):
    import tensorflow as tf

    rows, upstream = (tf.reshape(x, (-1, x.shape[-1])) for x in (rows, upstream))
    return tf.reshape(tf.matmul(rows, upstream, transpose_a=True), kernel.shape)


def _spread(pixels, strides, shape):
    """`pixels` at every `strides`-th place of an image of `shape`, with zeros between them."""
    import tensorflow as tf

    _, height, width, channels = tf.unstack(tf.shape(pixels))
    (down, right), rank6 = strides, pixels[:, :, None, :, None]
    spread = tf.pad(rank6, [[0, 0], [0, 0], [0, down - 1], [0, 0], [0, right - 1], [0, 0]])
    spread = tf.reshape(spread, (-1, height * down, width * right, channels))
    return spread[:, : shape[1], : shape[2]]  # one row or column too many where the size is no multiple of the stride
