"""What a recipe minimises and how: its loss, its learning-rate schedule, its optimizer."""

import keras

from resnet_keras import graph
from resnet_keras.optimizers import SGD


def loss(recipe):
    """The recipe's loss, from float32 logits and labels of shape `(batch, classes)`.

    `"softmax"` is the cross-entropy; `"sigmoid"` the mean binary cross-entropy over the classes (arXiv:2110.00476,
    section 3).
    """
    kind = keras.losses.BinaryCrossentropy if recipe.loss == "sigmoid" else keras.losses.CategoricalCrossentropy
    return kind(from_logits=True, label_smoothing=recipe.label_smoothing)


def metrics(classes):
    """Accuracy, top-5 accuracy where there are more than ten classes, and the plain cross-entropy.

    As weighted metrics they leave out the images of weight 0 that fill up a last batch.
    """
    found = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if classes > 10:
        found.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
    return [*found, keras.metrics.CategoricalCrossentropy(name="cross_entropy", from_logits=True)]


def schedule(recipe, steps):
    """The learning rate as a function of the step, for a run of `steps` steps."""
    schedules = keras.optimizers.schedules
    warmup_steps = min(recipe.warmup_steps, steps // 2)
    if recipe.schedule == "cosine":
        return schedules.CosineDecay(
            0.0, max(1, steps - warmup_steps), warmup_target=recipe.peak_learning_rate, warmup_steps=warmup_steps
        )
    rates = [recipe.peak_learning_rate * 0.1**power for power in range(3)]
    constant = schedules.PiecewiseConstantDecay([steps // 3, 2 * steps // 3], rates)
    return Warmup(constant, warmup_steps) if warmup_steps else constant


@keras.saving.register_keras_serializable(package="resnet_keras")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from zero to another schedule's rate during the first steps (arXiv:1706.02677, section 2.2).

    Args:
        after: the schedule that is risen to.
        warmup_steps: how long that takes.
    """

    def __init__(self, after, warmup_steps):
        self.after = after
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        progress = keras.ops.cast(step, "float32") / self.warmup_steps
        return self.after(step) * keras.ops.minimum(progress, 1.0)

    def get_config(self):
        return {
            "after": keras.optimizers.schedules.serialize(self.after),
            "warmup_steps": self.warmup_steps,
        }

    @classmethod
    def from_config(cls, config):
        return cls(keras.optimizers.schedules.deserialize(config["after"]), config["warmup_steps"])


def optimizer(recipe, model, steps, scales_loss=False):
    """The recipe's optimizer for a run of `steps` steps, with weight decay on the kernels of `model` alone.

    Args:
        recipe: a `recipes.Recipe`.
        model: the `keras.Model` that is trained.
        steps: number of steps of the whole run.
        scales_loss: whether to scale the loss dynamically, as float16's small range of exponents needs
            (arXiv:1710.03740, section 3.2).
    """
    shared = {
        "learning_rate": schedule(recipe, steps),
        "weight_decay": recipe.weight_decay or None,
        "use_ema": recipe.ema_decay > 0,
        "ema_momentum": recipe.ema_decay,
    }
    if recipe.optimizer == "sgd":
        made = SGD(momentum=recipe.momentum, nesterov=True, **shared)
    else:
        made = {"lamb": keras.optimizers.Lamb, "adamw": keras.optimizers.AdamW}[recipe.optimizer](**shared)
    weighted = [layer for layer in graph.leaves(model) if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))]
    decayed = {id(layer.kernel) for layer in weighted}
    made.exclude_from_weight_decay([v for v in model.trainable_variables if id(v) not in decayed])
    # At the end of every `fit` Keras overwrites the weights with their average. Here each epoch is a `fit` of its own,
    # and the average is taken where it is wanted.
    made.finalize_variable_values = lambda variables: None
    return keras.optimizers.LossScaleOptimizer(made) if scales_loss else made


def averages(made):
    """`[(variable, its moving average)]` of an optimizer with one, else an empty list."""
    inner = getattr(made, "inner_optimizer", made)
    if not inner.use_ema:
        return []
    return list(zip(inner._trainable_variables, inner._model_variables_moving_average, strict=True))


def learning_rate(made):
    """The learning rate of the step that comes next."""
    return float(keras.ops.convert_to_numpy(getattr(made, "inner_optimizer", made).learning_rate))


def jit_compile():
    """XLA everywhere but on tensorflow's CPU, where it is slower than the kernels it replaces."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow as tf

    return "auto" if tf.config.list_physical_devices("GPU") else False
