"""SGD on tensorflow's fused kernel."""

import keras

from resnet_keras.batch_norm import register


@register
class SGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` that updates a variable and its momentum in one pass over memory.

    Arguments, config, variables and results are those of the Keras optimizer (Sutskever et al., "On the importance of
    initialization and momentum in deep learning", ICML 2013, with the learning rate inside the velocity). Keras takes
    six elementwise ops a variable; on the tensorflow backend one kernel does the same for float32 and float64
    variables. Everywhere else, and without momentum, Keras's own code runs.
    """

    def update_step(self, gradient, variable, learning_rate):
        if not self._can_fuse(variable):
            return super().update_step(gradient, variable, learning_rate)
        import tensorflow as tf

        if isinstance(variable, keras.Variable):
            variable = variable.value
        velocity = self.momentums[self._get_variable_index(variable)]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.value.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
        )

    def _can_fuse(self, variable):
        return (
            keras.backend.backend() == "tensorflow"
            and self.momentum > 0
            and keras.backend.standardize_dtype(variable.dtype) in ("float32", "float64")
        )
