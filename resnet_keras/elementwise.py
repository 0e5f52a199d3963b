"""The elementwise ops of a residual block's training step, compiled by XLA for the processor.

In bfloat16 tensorflow's own kernels for a processor round in software, and make a pass over memory for each op.
Compiled ones use the processor's own rounding. They are exact: they compute what the plain ops compute, gradients
included.
"""

import functools

import keras

from resnet_keras.batch_norm import register

DTYPES = ("bfloat16",)  # in float32 the plain ops are as fast


def pays(inputs, training):
    """Whether kernels other than tensorflow's usual ones are faster: training in bfloat16 on nothing but processors.

    In inference it is never true, so that exporters see plain ops.
    """
    if keras.backend.backend() != "tensorflow" or not training:
        return False
    import tensorflow as tf

    if keras.backend.standardize_dtype(inputs.dtype) not in DTYPES:
        return False
    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())


@register
class Activation(keras.layers.Activation):
    """`keras.layers.Activation` whose gradient of `"relu"` is compiled, in training on a processor.

    Weights, config, arguments and results are those of the Keras layer.

    Input shape: any.
    Output shape: that of the input.
    """

    def call(self, inputs, training=None):
        if self.activation is keras.activations.relu and pays(inputs, training):
            return relu(inputs)
        return super().call(inputs)


def relu(x):
    """`max(x, 0)`."""
    import tensorflow as tf

    @tf.custom_gradient
    def function(x):
        y = tf.nn.relu(x)  # plain, because tensorflow fuses it into a batch norm before it
        return y, lambda upstream: _compiled(_masked, upstream, y)

    return function(x)


def add_relu(x, y):
    """`max(x + y, 0)`, of tensors of the same shape."""
    import tensorflow as tf

    @tf.custom_gradient
    def function(x, y):
        out = _compiled(_sum_relu, x, y)

        def gradient(upstream):
            shared = _compiled(_masked, upstream, out)
            return shared, shared

        return out, gradient

    return function(x, y)


def fork(x):
    """`(x, x)`, for two uses whose gradients add up."""
    import tensorflow as tf

    @tf.custom_gradient
    def function(x):
        return (tf.identity(x), tf.identity(x)), functools.partial(_compiled, _sum)

    return function(x)


def _sum(x, y):
    return x + y


def _sum_relu(x, y):
    import tensorflow as tf

    return tf.nn.relu(x + y)


def _masked(upstream, y):
    import tensorflow as tf

    return tf.where(y > 0, upstream, tf.zeros_like(upstream))


def _compiled(function, *tensors):
    return _compiler(function, tensors[0].dtype, tuple(tensors[0].shape))(*tensors)


@functools.cache
def _compiler(function, dtype, shape):
    """One for each shape: a single one would warn that it is traced again and again."""
    import tensorflow as tf

    return tf.function(function, jit_compile=True)
