"""From a `Source` to the bytes of a `.tflite` file: a float file first, and from it the quantized ones.

A tensor has the name of the Keras layer that gives it (`stage1_block1_relu1`) and weights that of theirs
(`stage1_block1_conv1/kernel`, `.../bias`), whatever the converter fuses and folds.
"""

import contextlib
import dataclasses
import logging
import re
import warnings

from export import folding, ranges, recipes, targets, tflite_file

INPUT_NAME, OUTPUT_NAME = "image", "probabilities"
WEIGHTS = {1: "kernel", 2: "bias"}  # by their place among the inputs of a convolution or a fully connected layer


@dataclasses.dataclass(frozen=True)
class Form:
    """What a recipe, a target and the edges fix together; `fold` is one of `folding.choose`."""

    recipe: recipes.Recipe
    target: targets.Target
    io: str
    fold: str


def form(source, recipe="int8", io=None, target=targets.DEFAULT):
    """The `Form` of a file.

    Args:
        source: a `source.Source`.
        recipe: a name in `recipes.RECIPES`.
        io: dtype of the edges; default: what the target likes best.
        target: a name in `targets.TARGETS`.

    Raises:
        ValueError: a name is unknown, or the target does not take such a file.
    """
    recipe, target = recipes.get(recipe), targets.get(target)
    io = target.edge(recipe, io)
    return Form(recipe, target, io, folding.choose(source.mean, recipe, io, target))


def convert(source, recipe="int8", io=None, calibration=None, target=targets.DEFAULT):
    """The bytes of a `.tflite` file: `float_file`, and for a recipe with integer activations `integer_file`.

    Args:
        source, recipe, io, target: see `form`.
        calibration: a `calibration.ImageSet`, for a recipe with integer activations; None for a source that was
            trained for them.

    Returns:
        A model with one input `image`, `(1, height, width, channels)`, and one output `probabilities`, `(1, classes)`.
        The same arguments give the same bytes.

    Raises:
        ValueError: see `form`; or the result is not what its name says.
    """
    chosen = form(source, recipe, io, target)
    data = float_file(source, chosen)
    if chosen.recipe.integer_only:
        data = integer_file(
            data, chosen, observed(data, source, calibration, chosen.recipe.method), learned=source.learned
        )
    return data


def float_file(source, form):
    """A file with float activations; for a recipe with integer ones, the float32 file that it is made from."""
    import tensorflow as tf

    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([_frozen(source, form.fold)])
        if form.recipe.weights != "float32" and not form.recipe.integer_only:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if form.recipe.weights == "float16":
            converter.target_spec.supported_types = [tf.float16]
        data = converter.convert()
    return _named(data, source.network)


def observed(data, source, calibration, method):
    """`{tensor: (low, high)}` for all activations of a float file: those it was trained with, or those that show.

    Args:
        data: a `float_file`.
        source: what it was made from.
        calibration: a `calibration.ImageSet`; not looked at where ranges were learned.
        method: one of `ranges.METHODS`.
    """
    from resnet_keras import cli

    if source.learned is not None:
        return ranges.completed(data, {**source.learned.ranges, **folding.pixel_ranges(source.mean)})
    # LiteRT announces its delegate on stderr.
    with cli.bar("calibrating", len(calibration), "images") as advance, cli.held_stderr():
        found = ranges.observe(data, calibration.images, method, advance)
    return {**found, **folding.pixel_ranges(source.mean)}


def integer_file(data, form, limits, kept=(), learned=None):
    """A file with integer activations.

    Args:
        data: a `float_file`.
        form: the `Form` that it was made with.
        limits: `{tensor: (low, high)}`; see `observed`.
        kept: names of activations whose ops stay in float.
        learned: the `learned.Learned` on whose steps the weights lie, or None.

    Raises:
        ValueError: the converter left anything else in float.
    """
    prepared = _prepared(data, form, limits)
    with quiet():
        made = _in_16_bits(prepared, form) if form.recipe.activations == "int16" else _in_8_bits(prepared, form, kept)
    if learned is not None:
        # Where the mean is a channel of the input, the first kernel has weights for it that no training saw.
        made = learned.applied(made, data, leave_first=form.fold == "channel")
    return _checked(made, kept)


def _in_8_bits(data, form, kept):
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    edge = tf.dtypes.as_dtype(form.io)
    return mlir_quantize(
        data,
        disable_per_channel=form.target.per_channel == "nowhere",
        disable_per_channel_for_dense_layers=form.target.per_channel == "convolutions",
        input_data_type=edge,
        output_data_type=edge,
        denylisted_nodes=set(kept),
    )


def _in_16_bits(data, form):
    """By the quantizer that TensorFlow Lite has for 16 bits, which knows ranges where a file has them already."""
    import numpy as np
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    quantizer = Calibrator(data)._calibrator
    edge = np.dtype(form.io).num
    return quantizer.QuantizeModel(
        edge,
        edge,
        False,  # no op may stay in float
        np.dtype("int16").num,
        np.dtype("int64").num,  # biases
        form.target.per_channel == "nowhere",
        form.target.per_channel == "convolutions",
    )


def _prepared(data, form, limits):
    """The float file as the quantizer takes it: with the range of each activation."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    (graph,) = model.subgraphs
    for index in ranges.variable_tensors(model):
        low, high = limits[graph.tensors[index].name.decode()]
        quantization = schema.QuantizationParametersT()
        quantization.min, quantization.max = [low], [high]
        graph.tensors[index].quantization = quantization
    if form.fold == "input":
        folding.without_subtraction(graph)
    model.signatureDefs = []
    return tflite_file.packed(model)


def _frozen(source, fold):
    """A concrete function of static shape with constants for weights, from raw pixels to probabilities."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec((1, *source.input_shape), tf.float32, name=INPUT_NAME)
    concrete = tf.function(folding.function(source, fold), autograph=False).get_concrete_function(signature)
    return convert_variables_to_constants_v2(concrete)


def _named(data, network):
    """A float file with the names of a flat network's layers for its tensors, and a signature."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    layers = [layer.name for layer in network.layers]
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    (graph,) = model.subgraphs
    (first,), (last,) = graph.inputs, graph.outputs
    names = {first: INPUT_NAME, last: OUTPUT_NAME}
    for index in ranges.variable_tensors(model):
        names.setdefault(index, layer_of(graph.tensors[index].name.decode(), layers))
    # A convolution that a batch norm without effect follows would bear its own name, and another one after training.
    followers = {old: new for old, new in _normalized(network).items() if new not in names.values()}
    names = {index: followers.get(name, name) for index, name in names.items()}
    weighted = schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED
    for op in graph.operators:
        if model.operatorCodes[op.opcodeIndex].builtinCode in weighted:
            layer = layer_of(graph.tensors[op.inputs[1]].name.decode(), layers)
            # The converter leaves out a bias of zeros: its place then holds -1.
            names |= {op.inputs[place]: f"{layer}/{what}" for place, what in WEIGHTS.items() if op.inputs[place] >= 0}
    for index, name in names.items():
        graph.tensors[index].name = name.encode()
    model.signatureDefs = [_signature(schema, first, last)]
    return tflite_file.packed(model)


def _normalized(network):
    """`{layer: the batch norm that its result goes into}`."""
    import keras

    from resnet_keras import graph as views

    norms = [layer.name for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    sources = views.sources(network)
    return {sources[norm][0]: norm for norm in norms}


def layer_of(name, layers):
    """The layer that a tensor belongs to, from TensorFlow's `MODEL/LAYER_1/OP;...`; the last one of those fused."""
    for part in name.split(";")[0].split("/"):
        if (layer := re.sub(r"_\d+$", "", part)) in layers:
            return layer
    return name


def _signature(schema, first, last):
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    for name, index in ((INPUT_NAME, first), (OUTPUT_NAME, last)):
        edge = schema.TensorMapT()
        edge.name, edge.tensorIndex = name, index
        setattr(signature, "inputs" if name == INPUT_NAME else "outputs", [edge])
    return signature


def _checked(data, kept):
    """An integer file with the names of its two edges, refused if it is not what it is called."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    (graph,) = model.subgraphs
    (first,), (last,) = graph.inputs, graph.outputs
    inner = [tensor for index, tensor in enumerate(graph.tensors) if index not in (first, last)]
    floats = [tensor.name.decode() for tensor in inner if tensor.type == schema.TensorType.FLOAT32]
    if floats and not kept:
        raise ValueError(f"The converter left {len(floats)} tensors in float, among them {floats[0]}.")
    if any(code.customCode for code in model.operatorCodes):
        raise ValueError("The converter left ops that are not built in.")
    graph.tensors[first].name, graph.tensors[last].name = INPUT_NAME, OUTPUT_NAME
    model.signatureDefs = [_signature(schema, first, last)]
    return tflite_file.packed(model)


@contextlib.contextmanager
def quiet():
    """Holds back what the converter prints, from Python and from C++, and shows its end if the conversion fails."""
    from resnet_keras import cli

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with cli.held_stderr() as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or printed()[-300:]
            raise ValueError(f"The converter refused the network: {reason}") from error
        finally:
            logger.setLevel(level)
