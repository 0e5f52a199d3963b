"""Batch norm on tensorflow's fused kernel."""

import keras
from keras import ops

register = keras.saving.register_keras_serializable(package="resnet_keras")


@register
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` on tensorflow's fused kernel.

    Weights, config, arguments and results are those of the Keras layer (Ioffe and Szegedy, arXiv:1502.03167). Keras
    computes the moments with separate ops; this layer calls `FusedBatchNormV3` where that computes the same thing: on
    the tensorflow backend, for 4-D inputs of dtype float32, bfloat16 or float16 normalised over the last axis, without
    a mask, renormalisation or synchronisation across devices. Everywhere else Keras's own code runs.

    Input shape: any; fused for `(batch, height, width, channels)`.
    Output shape: that of the input.
    """

    def call(self, inputs, training=None, mask=None):
        if not self._can_fuse(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        outputs = self._fused(inputs, is_training=bool(training) and self.trainable)
        return ops.cast(outputs, self.compute_dtype)

    def _can_fuse(self, inputs, mask):
        return (
            keras.backend.backend() == "tensorflow"
            and mask is None
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "bfloat16", "float16")
            and not self.synchronized
            and not getattr(self, "renorm", False)
        )

    def _fused(self, inputs, is_training):
        import tensorflow as tf

        channels = (inputs.shape[-1],)
        gamma = ops.cast(self.gamma, "float32") if self.scale else tf.ones(channels)
        beta = ops.cast(self.beta, "float32") if self.center else tf.zeros(channels)
        moving_mean = ops.cast(self.moving_mean, "float32")
        moving_variance = ops.cast(self.moving_variance, "float32")
        unused = tf.zeros((0,))  # in training mode the kernel takes empty statistics and returns those of the batch
        result = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma,
            offset=beta,
            mean=unused if is_training else moving_mean,
            variance=unused if is_training else moving_variance,
            epsilon=self.epsilon,
            is_training=is_training,
        )
        if is_training:
            # The kernel normalises with the biased variance but reports the unbiased one; Keras tracks the biased one.
            count = tf.cast(tf.size(inputs) // channels[0], "float32")
            variance = result.batch_variance * ((count - 1.0) / count)
            keep = self.momentum
            self.moving_mean.assign(moving_mean * keep + result.batch_mean * (1.0 - keep))
            self.moving_variance.assign(moving_variance * keep + variance * (1.0 - keep))
        return result.y
