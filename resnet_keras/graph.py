"""Views of a model: its leaf layers, its flat form, its float32 form, its multiply-accumulates."""

import contextlib
import math
import sys

import keras

from resnet_keras.layers import Composite


def leaves(model):
    """The layers that do the arithmetic, in order: composites are replaced by their inner layers."""
    found = []
    for layer in model.layers:
        found += layer.sublayers if isinstance(layer, Composite) else [layer]
    return found


@contextlib.contextmanager
def room_for(layers):
    """Inside, Keras can make a model of that many layers in a row, and the limit of recursion is back afterwards.

    Keras finds the layers of a functional model by a walk from its output to its input that takes one Python frame a
    layer; a thousand are Python's limit. On Python 3.11 and later such frames take nothing of the C stack.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + layers)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def clone(model, clone_function, **arguments):
    """`keras.models.clone_model`, for networks of any depth."""
    with room_for(len(leaves(model))):
        return keras.models.clone_model(model, clone_function=clone_function, **arguments)


def flatten(model):
    """The same network as a functional model of stock layers, sharing the variables of `model`.

    Converters and optimisation tools see single layers, each under its own name (`stage2_block1_conv2`).
    """

    def call(layer, *args, **kwargs):
        # Run outside the layer's own scope, its inner layers are recorded as nodes of the new model.
        return layer.call(*args) if isinstance(layer, Composite) else layer(*args, **kwargs)

    return clone(model, lambda layer: layer, call_function=call)


def sources(flat):
    """`{layer: [names of the layers whose results it takes]}` of a flat model, in the order of computation."""
    image, found, made_by = flat.layers[0].name, {}, {}

    def call(layer, *args, **kwargs):
        result = layer(*args, **kwargs)
        found[layer.name] = [made_by.get(id(value), image) for value in keras.tree.flatten(args[0])]
        made_by[id(result)] = layer.name
        return result

    clone(flat, lambda layer: layer, call_function=call)
    return {image: [], **found}


def as_float32(model):
    """A copy of `model` that computes in float32, whatever policy it was built or trained under, with its weights."""

    def in_float32(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float32"})

    copy = clone(model, in_float32)
    copy.set_weights(model.get_weights())
    return copy


def count_macs(model):
    """Multiply-accumulates of all convolutions and dense layers for one image; the input size must be static."""
    macs = 0
    for layer in flatten(model).layers:
        if isinstance(layer, keras.layers.Conv2D):
            macs += math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, keras.layers.Dense):
            macs += math.prod(layer.kernel.shape)
    return macs


def count_parameters(model):
    """`(trainable, moving statistics)` as numbers of values."""
    return tuple(
        sum(math.prod(v.shape) for v in group) for group in (model.trainable_weights, model.non_trainable_weights)
    )
