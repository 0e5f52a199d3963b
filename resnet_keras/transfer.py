"""Puts weights into a model: every tensor of the file is used once and every variable filled once, or nothing is."""

import dataclasses

import numpy as np

from resnet_keras import cli, layouts
from resnet_keras.weights import some


def check_version(weights, row, version):
    """Refuses weights of the other version of a bottleneck: their shapes agree, their results do not.

    Raises:
        ValueError: the versions differ.
    """
    if row.block == "bottleneck" and weights.version not in (None, version):
        raise ValueError(
            f"{weights.origin} holds {weights.version} weights, the model is {version}: the shapes agree, the results "
            f"would not. Build it with version={weights.version!r}."
        )


def normalisation(weights, channels):
    """The `Preprocess` of the weights for another number of input channels: averaged for one, repeated for more."""

    def adapted(values):
        if not isinstance(values, tuple) or len(values) == channels:
            return values
        return float(np.mean(values)) if channels == 1 else tuple(values[i % len(values)] for i in range(channels))

    value = weights.preprocess
    return dataclasses.replace(value, mean=adapted(value.mean), std=adapted(value.std))


def fill(model, weights):
    """Assigns every variable of `model` from `weights`; nothing is assigned unless everything fits.

    Two things may differ, and are said on stderr: a classifier of another number of classes keeps its initial values,
    and a stem of another number of input channels gets the file's kernel summed (for one channel) or repeated and
    scaled. A model without classifier leaves the file's aside.

    Args:
        model: a model of this package.
        weights: a `Weights` value.

    Raises:
        ValueError: a tensor of the file is not used, a variable of the model is not filled, or a shape differs.
    """
    from resnet_keras import graph

    variables = {
        f"{layer.name}/{variable.name}": variable for layer in graph.leaves(model) for variable in layer.variables
    }
    dropped = _dropped_head(variables, weights)
    wanted = {name: weights.layout.key(name) for name in variables if name not in dropped}
    left_over = set(weights.tensors) - set(wanted.values()) - {weights.layout.key(name) for name in dropped}
    _check_names(model, weights, [key for key in wanted.values() if key not in weights.tensors], left_over)
    values = {name: weights.tensors[key] for name, key in wanted.items()}
    values["stem_conv/kernel"] = _stem(model, weights, values["stem_conv/kernel"])
    for name, value in values.items():
        if tuple(variables[name].shape) != value.shape:
            raise ValueError(
                f"{weights.origin} does not fit {model.name}: {wanted[name]} has shape {value.shape} in Keras's axis "
                f"order, the model needs {tuple(variables[name].shape)}."
            )
    for name, value in values.items():
        variables[name].assign(value)


def _dropped_head(variables, weights):
    """Names of the classifier's variables that stay as they are."""
    head = ("logits/kernel", "logits/bias")
    if head[0] not in variables:
        return head
    ours = variables[head[0]].shape[-1]
    if weights.classes in (None, ours):
        return ()
    cli.say(
        f"{weights.origin} has {weights.classes} classes, the model {ours}: the classifier keeps its random start and "
        "has to be trained."
    )
    return head


def _check_names(model, weights, missing, left_over):
    if not missing and not left_over:
        return
    looks_like = layouts.identify(weights.tensors, weights.layout)
    hint = f" The file looks like {looks_like}." if looks_like and looks_like != model.name else ""
    if weights.classes is None:
        hint += " The file has no classifier: build the model with include_top=False."
    raise ValueError(
        f"{weights.origin} does not fit {model.name}. Missing in the file: {some(missing)}. "
        f"Not used by the model: {some(left_over)}.{hint}"
    )


def _stem(model, weights, kernel):
    """The stem's kernel for the model's input: red first, and for its number of channels."""
    from resnet_keras.pixels import PixelNormalization

    if weights.layout.bgr and any(isinstance(layer, PixelNormalization) for layer in model.layers):
        # A model that normalises for itself takes RGB. Without that it takes what keras.applications' own
        # preprocess_input makes, which is BGR already.
        kernel = kernel[:, :, ::-1]
    channels, theirs = model.input_shape[-1], kernel.shape[2]
    if channels == theirs:
        return kernel
    cli.say(f"{weights.origin} takes {theirs} channels, the model {channels}: the stem's kernel is adapted.")
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % theirs] * np.float32(theirs / channels)
