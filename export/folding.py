"""Where the mean of the pixels is subtracted: by an op, by what the input means, or by a fourth channel of the input.

The division by the standard deviation is part of the first kernel in all of them (see `source.Source.network`).
"""

import numpy as np

PIXEL_MAX = 255.0


def choose(mean, recipe, io, target):
    """How a file takes raw pixels.

    Args:
        mean: what is subtracted from a pixel, one number, or one for each channel.
        recipe: a `recipes.Recipe`.
        io: dtype of the edges.
        target: a `targets.Target`.

    Returns:
        `"input"`: nothing is computed. The input tensor means `pixel - mean`, in steps of one pixel value; so the byte
        that a caller puts there is the pixel itself, less 128 if it is signed. Possible for integer edges of 8 bits
        and a mean that is a whole number and the same for all channels.

        `"op"`: a subtraction in front of the network.

        `"channel"`: `with_plane`.
    """
    if not recipe.integer_only:
        return "op"
    if recipe.activations == "int16":
        return "channel"  # 16 bits have no zero point that could stand for the mean
    if io != "float32" and _is_whole(mean):
        return "input"
    return target.folding


def _is_whole(mean):
    values = np.unique(mean)
    return values.size == 1 and values[0] == round(values[0]) and 0 <= values[0] <= PIXEL_MAX


def pixel_ranges(mean):
    """`{tensor: (low, high)}` of the tensors that come before the first convolution, in pixel values.

    They are what a pixel can be, whatever the calibration images hold, so that one step of an int8 input is one pixel
    value.
    """
    raw = 0.0, PIXEL_MAX
    centred = -float(np.max(mean)), PIXEL_MAX - float(np.min(mean))
    return {"image": raw, "centred": centred, "plane": raw, "pixels": raw}


def stated_mean(mean, folding):
    """What the metadata say that a consumer is to subtract from a pixel before the input tensor: a number."""
    return float(np.unique(mean)[0]) if folding == "input" else 0.0


def function(source, folding):
    """A function of `image`, `(1, height, width, channels)`, raw pixels in float32, that gives the probabilities."""
    import tensorflow as tf

    if folding == "channel":
        network = with_plane(source.network, source.mean)
        plane = tf.constant(PIXEL_MAX, shape=(1, *source.input_shape[:2], 1), name="plane")
        return lambda image: network(tf.concat([image, plane], axis=-1, name="pixels"), training=False)
    mean = np.asarray(source.mean, "float32")
    return lambda image: source.network(tf.subtract(image, mean, name="centred"), training=False)


def without_subtraction(graph):
    """Makes what was subtracted from a pixel part of what the input tensor means.

    Args:
        graph: a `SubGraphT` whose input goes into a subtraction and nowhere else; or, for a mean of 0, nowhere.
    """
    (first,) = graph.inputs
    for op in graph.operators:
        if graph.tensors[op.outputs[0]].name == b"centred":
            graph.tensors[op.outputs[0]].name, graph.tensors[first].name = graph.tensors[first].name, b"pixel"
            graph.inputs = [op.outputs[0]]
            graph.operators.remove(op)
            return


def with_plane(network, mean):
    """A network of raw pixels and a plane of 255 as another channel, equal to `network` of `pixel - mean`.

    A convolution is linear: `W * (x - mean)` is `W * x + V * 255` with `V = -sum_c W_c mean_c / 255`. Put into a bias,
    the mean would also be subtracted where the border is padded with zeros; the plane is padded with zeros itself.

    Args:
        network: a flat `keras.Model` of `(batch, height, width, channels)`.
        mean: one number, or one for each channel.

    Returns:
        A `keras.Model` of `(batch, height, width, channels + 1)` that shares all layers but the first convolution.
    """
    import keras

    from resnet_keras import graph

    height, width, channels = network.input_shape[1:]
    stem = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    kernel = keras.ops.convert_to_numpy(stem.kernel).astype("float64")
    offset = -(kernel * np.broadcast_to(mean, (channels,))[:, None]).sum(axis=2, keepdims=True) / PIXEL_MAX
    wider = stem.__class__.from_config(stem.get_config())
    wider.build((None, height, width, channels + 1))
    wider.kernel.assign(np.concatenate([kernel, offset], axis=2))

    def call(layer, *args, **kwargs):
        return wider(*args) if layer is stem else layer(*args, **kwargs)

    pixels = keras.Input((height, width, channels + 1), name="pixels")
    inputs = keras.tree.map_structure(lambda _: pixels, network.input)
    return graph.clone(network, lambda layer: layer, input_tensors=inputs, call_function=call)
