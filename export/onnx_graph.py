"""From a `Source` to a float ONNX graph, through tf2onnx.

A tensor has the name of the Keras layer that gives it and weights that of theirs (`stem_conv/kernel`), as in the
`.tflite` files of `conversion`; so ranges that were observed there are found here. Batch norm is folded into the
convolutions and padding is part of them.
"""

import importlib.util

from export import conversion, folding

INPUT_NAME, OUTPUT_NAME = conversion.INPUT_NAME, conversion.OUTPUT_NAME
BATCH = "batch"
IR_VERSION = 8  # the one of opset 17; older runtimes refuse what is newer
PRODUCER = "resnet_keras"
WEIGHTED = {"Conv", "Gemm"}


def require():
    """Says at once, before any work is done, what is not installed.

    Raises:
        ImportError: a package is missing.
    """
    missing = [name for name in ("onnx", "tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{' and '.join(missing)} missing. Install with: pip install 'resnet-keras[onnx]'.")


def build(source, target, opset):
    """The float network.

    Args:
        source: a `source.Source`.
        target: an `onnx_targets.OnnxTarget`, for the order of the input's sides and the batch.
        opset: version of the operators.

    Returns:
        A `ModelProto` from raw pixels (`image`, float32) to `probabilities`. The same arguments give the same bytes.

    Raises:
        ValueError: tf2onnx refuses the network, or leaves a tensor that belongs to no layer.
    """
    import onnx
    from onnx import version_converter

    from export import onnx_targets

    model = _converted(source)
    _simplify(model.graph)
    _rename(model.graph, [layer.name for layer in source.network.layers])
    if target.layout == "NHWC":
        _channels_last(model.graph)
    for edge in (*model.graph.input, *model.graph.output):
        batch = edge.type.tensor_type.shape.dim[0]
        batch.Clear()
        if target.open_batch:
            batch.dim_param = BATCH
        else:
            batch.dim_value = 1
    del model.graph.value_info[:]
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    model = onnx.helper.make_model(
        model.graph, opset_imports=kept, ir_version=IR_VERSION, producer_name=PRODUCER, producer_version=""
    )
    model.graph.name, model.graph.doc_string = source.name, ""  # tf2onnx counts its functions there
    return model if opset == onnx_targets.OPSET else version_converter.convert_version(model, opset)


def _converted(source):
    import tensorflow as tf
    import tf2onnx

    from export.onnx_targets import OPSET

    network = folding.function(source, "op")
    signature = tf.TensorSpec((None, *source.input_shape), tf.float32, name=INPUT_NAME)
    with conversion.quiet():
        function = tf.function(lambda image: {OUTPUT_NAME: network(image)}, autograph=False)
        model, _ = tf2onnx.convert.from_function(
            function, input_signature=[signature], opset=OPSET, inputs_as_nchw=[INPUT_NAME]
        )
    return model


def _rename(graph, layers):
    """Tensors and nodes are called after layers: those of tf2onnx have counters that differ from run to run."""
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    names, owned = {edge.name: edge.name for edge in (*graph.input, *graph.output)}, []
    for node in graph.node:
        (result,) = node.output
        layer = conversion.layer_of(result.removesuffix(":0"), layers)
        names.setdefault(result, f"{layer}/flat" if node.op_type == "Flatten" else layer)
    for node in graph.node:
        owner = conversion.layer_of(node.name, layers) if node.op_type in WEIGHTED else names[node.output[0]]
        for place, name in enumerate(node.input):
            if name in constants:  # tf2onnx shares equal ones, which are quantized each in its own way
                what = conversion.WEIGHTS[place] if node.op_type in WEIGHTED else f"constant{place}"
                tensor = onnx.TensorProto()
                tensor.CopyFrom(constants[name])
                tensor.name = f"{owner}/{what}"
                owned.append(tensor)
        own = iter(owned[len(owned) - sum(name in constants for name in node.input) :])
        node.input[:] = [next(own).name if name in constants else names[name] for name in node.input]
        node.output[:] = [names[node.output[0]]]
        node.name = node.output[0]
    del graph.initializer[:]
    graph.initializer.extend(owned)
    made = [*(name for node in graph.node for name in node.output), *(tensor.name for tensor in owned)]
    if clash := [name for name in made if made.count(name) > 1]:
        raise ValueError(f"tf2onnx left several tensors that belong to {clash[0]}.")


def _simplify(graph):
    """A pooled vector by Flatten, which needs no int64 axes, and the classifier as one Gemm with rows for classes."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in graph.initializer}
    users = {name: node for node in graph.node for name in node.input}
    for node in list(graph.node):
        if node.op_type == "Squeeze":
            node.CopyFrom(onnx.helper.make_node("Flatten", [node.input[0]], node.output, name=node.name, axis=1))
        if node.op_type == "MatMul":
            kernel = values[node.input[1]]
            kernel.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(kernel).T), kernel.name))
            inputs, last, add = [node.input[0], kernel.name], node, users[node.output[0]]
            if add.op_type == "Add":  # a bias of zeros is left out by tf2onnx
                inputs += [name for name in add.input if name != node.output[0]]
                last = add
            last.CopyFrom(onnx.helper.make_node("Gemm", inputs, last.output, name=last.name, transB=1))
            if last is add:
                graph.node.remove(node)


def _channels_last(graph):
    """One transposition of the pixels in front of the network."""
    import onnx

    (image,) = graph.input
    sides = image.type.tensor_type.shape.dim
    channels, height, width = (side.dim_value for side in sides[1:])
    for side, value in zip(sides[1:], (height, width, channels), strict=True):
        side.dim_value = value
    for node in graph.node:
        node.input[:] = [f"{INPUT_NAME}/planes" if name == INPUT_NAME else name for name in node.input]
    moved = onnx.helper.make_node(
        "Transpose", [INPUT_NAME], [f"{INPUT_NAME}/planes"], name=f"{INPUT_NAME}/planes", perm=[0, 3, 1, 2]
    )
    graph.node.insert(0, moved)


def halve(model):
    """Stores kernels and biases in half precision, each with a Cast behind it that a runtime does once, on loading."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    for tensor in graph.initializer:
        if not tensor.name.endswith(("/kernel", "/bias")):
            continue
        name = tensor.name
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise ValueError(f"{name} has values beyond those of half precision. Use --float32.")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/half"))
        cast = onnx.helper.make_node("Cast", [tensor.name], [name], name=name, to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)
    return model
