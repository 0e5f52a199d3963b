"""The bridge to tensorflow-model-optimization: a flat network of this package as a `tf_keras` model, and back.

The library knows Keras 2 (`tf_keras`) alone, and importing it makes `tf.keras` mean that for the whole process. So one
process writes a network down with `describe` and `values`, and another one, which never meets the first's models,
builds the twin. Layers keep their names, variables are called `LAYER/VARIABLE`.
"""

import functools

import numpy as np

PLAIN = ("valid", "same")
VARIABLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


def describe(network):
    """The layers of a flat network, each as what a twin needs to know of it, in an order in which they can be built.

    Args:
        network: a `keras.Model` such as `Source.network`, with one input and one output.

    Returns:
        `[{"name", "kind", "inputs": [names], ...}]`, fit for JSON.

    Raises:
        ValueError: a layer has no counterpart, which is named.
    """
    from resnet_keras import graph

    (image, _), *computed = graph.sources(network).items()
    found = [{"name": image, "inputs": [], "kind": "input", "shape": list(network.input_shape[1:])}]
    stands_for = {}
    for name, inputs in computed:
        layer, inputs = network.get_layer(name), [stands_for.get(source, source) for source in inputs]
        if _passes_on(layer):
            stands_for[name] = inputs[0]
        else:
            found.append({"name": name, "inputs": inputs, **_settings(layer)})
    return found


def _passes_on(layer):
    """Whether a layer is of no effect but in training."""
    import keras

    return type(layer) is keras.layers.Dropout


def _settings(layer):
    """`kind` and settings of one layer.

    Classes are compared, not asked for their bases: a subclass may compute something else.
    """
    import keras

    from resnet_keras import batch_norm, convolution, elementwise
    from resnet_keras.layers import ChannelPadding

    kind, activation = type(layer), getattr(layer, "activation", None)
    linear, softmax = keras.activations.linear, keras.activations.softmax
    convolutions = keras.layers.Conv2D, convolution.Conv2D
    if kind in convolutions and layer.groups == 1 and layer.padding in PLAIN and activation is linear:
        return {
            "kind": "convolution",
            "filters": layer.filters,
            "size": list(layer.kernel_size),
            "strides": list(layer.strides),
            "dilation": list(layer.dilation_rate),
            "padding": layer.padding,
            "bias": layer.use_bias,
        }
    norms = keras.layers.BatchNormalization, batch_norm.BatchNormalization
    if kind in norms and layer.axis in (-1, 3) and layer.center and layer.scale:
        return {"kind": "batch norm", "epsilon": layer.epsilon}
    if kind in (keras.layers.Activation, elementwise.Activation) and activation in (keras.activations.relu, softmax):
        return {"kind": activation.__name__}
    if kind is keras.layers.Dense and activation is linear:
        return {"kind": "dense", "units": layer.units, "bias": layer.use_bias}
    if kind is keras.layers.MaxPooling2D and layer.padding == "valid":
        return {"kind": "max pooling", "size": list(layer.pool_size), "strides": list(layer.strides)}
    if kind is keras.layers.ZeroPadding2D:
        return {"kind": "zero padding", "padding": [list(side) for side in layer.padding]}
    if kind is ChannelPadding:
        return {"kind": "channel padding", "channels": layer.filters}
    if kind is keras.layers.Add:
        return {"kind": "sum"}
    if kind is keras.layers.GlobalAveragePooling2D and not layer.keepdims:
        return {"kind": "average"}
    raise ValueError(
        f"The layer {layer.name} ({kind.__name__}) has no counterpart in tensorflow-model-optimization, which knows "
        "convolutions, batch norm, ReLU, pooling, padding, sums and dense layers."
    )


def values(network):
    """`{"LAYER/VARIABLE": array}` of a flat network or its twin, float32."""
    return {
        f"{layer.name}/{variable}": np.asarray(getattr(layer, variable), np.float32)
        for layer in network.layers
        for variable in VARIABLES
        if getattr(layer, variable, None) is not None
    }


def assign(network, arrays):
    """Puts what `values` gave, or the twin's, into a flat network or a twin.

    Raises:
        ValueError: the two do not have the same variables.
    """
    own = {f"{layer.name}/{variable}": (layer, variable) for layer in network.layers for variable in VARIABLES}
    own = {name: place for name, place in own.items() if getattr(*place, None) is not None}
    if set(own) != set(arrays):
        raise ValueError(f"Expected the variables of the same network. Differing: {sorted(set(own) ^ set(arrays))}.")
    for name, place in own.items():
        getattr(*place).assign(arrays[name])


def build(description, arrays):
    """The twin, a `tf_keras.Model` up to the logits; call it in a process of its own.

    Args:
        description: of `describe`; a softmax at its end is left out, as losses and int8 files want the logits.
        arrays: of `values`.
    """
    from tf_keras import Model, layers

    made = {
        "input": lambda at: layers.Input(at["shape"], name=at["name"]),
        "convolution": lambda at: layers.Conv2D(
            at["filters"],
            at["size"],
            at["strides"],
            at["padding"],
            dilation_rate=at["dilation"],
            use_bias=at["bias"],
            name=at["name"],
        ),
        "batch norm": lambda at: layers.BatchNormalization(epsilon=at["epsilon"], name=at["name"]),
        "relu": lambda at: layers.Activation("relu", name=at["name"]),
        "dense": lambda at: layers.Dense(at["units"], use_bias=at["bias"], name=at["name"]),
        "max pooling": lambda at: layers.MaxPooling2D(at["size"], at["strides"], name=at["name"]),
        "zero padding": lambda at: layers.ZeroPadding2D(at["padding"], name=at["name"]),
        "channel padding": lambda at: channel_padding()(at["channels"], name=at["name"]),
        "sum": lambda at: layers.Add(name=at["name"]),
        "average": lambda at: layers.GlobalAveragePooling2D(name=at["name"]),
    }
    results = {}
    for at in description:
        if at["kind"] == "softmax":
            results[at["name"]] = results[at["inputs"][0]]
            continue
        layer = made[at["kind"]](at)
        sources = [results[name] for name in at["inputs"]]
        results[at["name"]] = layer(sources if len(sources) > 1 else sources[0]) if sources else layer
    twin = Model(results[description[0]["name"]], results[description[-1]["name"]])
    assign(twin, arrays)
    return twin


@functools.cache
def channel_padding():
    """The class of the twin's layer that appends channels of zeros, for which `tf_keras` has none."""
    import tensorflow as tf
    from tf_keras import layers

    class ChannelPadding(layers.Layer):
        def __init__(self, channels, **kwargs):
            super().__init__(**kwargs)
            self.channels = channels

        def call(self, inputs):
            return tf.pad(inputs, [[0, 0]] * 3 + [[0, self.channels - inputs.shape[-1]]])

        def get_config(self):
            return {**super().get_config(), "channels": self.channels}

    return ChannelPadding
