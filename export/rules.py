"""What may not be in a file for a target: each rule is a function of both that gives one sentence a finding."""

import collections
import functools
import math

from export import targets

EDGE_OPS = {"QUANTIZE", "DEQUANTIZE"}  # the two that may touch a float tensor in an integer file
INTEGER_ACTIVATIONS = {"INT8", "UINT8", "INT16"}
# The axis of an op's weights along which its output channels lie; weights are its second input, the bias its third.
CHANNEL_AXES = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0}
WEIGHTS, BIAS = 1, 2
CONVOLUTIONS = CHANNEL_AXES.keys() - {"FULLY_CONNECTED"}
METADATA = "TFLITE_METADATA"


def problems(model, target, kept=()):
    """All findings on a `tflite_file.Model` for a `targets.Target`, the gravest first.

    `kept` names the layers that stay in float on purpose.
    """
    floats = functools.partial(_floats, kept=kept)
    rules = (_graph, _ops, _frozen, floats, _types, _bits, _shapes, _edges, _quantization, _per_channel, _metadata)
    return [sentence for rule in rules for sentence in rule(model, target)]


def is_float(tensor):
    return "FLOAT" in tensor.dtype or "COMPLEX" in tensor.dtype


def floats_inside(model):
    """Float tensors that are neither input nor output."""
    edges = {tensor.index for tensor in model.inputs + model.outputs}
    return [tensor for tensor in model.tensors if is_float(tensor) and tensor.index not in edges]


def per_channel(model):
    """`[(op, tensor)]`: the weights that have a scale for each channel, and the op that they belong to."""
    pairs = [(op, op.inputs[WEIGHTS]) for op in model.ops if op.name in CHANNEL_AXES and len(op.inputs) > WEIGHTS]
    return [(op, tensor) for op, tensor in pairs if tensor is not None and len(tensor.scales) > 1]


def _grouped(pairs, sentence):
    """One sentence a label: `sentence` has `{label}` and `{where}`, the first tensor and how many more there are."""
    found = collections.defaultdict(list)
    for label, tensor in pairs:
        found[label].append(tensor.name if tensor is not None else "no tensor")
    for label, names in found.items():
        more = f" and {len(names) - 1} more" if names[1:] else ""
        yield sentence.format(label=label, where=f"{names[0]!r}{more}")


def _result(op):
    return op.outputs[0] if op.outputs else None


def _graph(model, target):
    counts = {"subgraph": model.subgraphs, "input": len(model.inputs), "output": len(model.outputs)}
    for what, count in counts.items():
        if count != 1:
            yield f"A classifier has one {what}; the file has {count}."
    if not model.ops:
        yield "There is no op in the file."


def _ops(model, target):
    custom = [op for op in model.ops if op.custom is not None]
    flex = [(op.custom, _result(op)) for op in custom if op.custom.startswith("Flex")]
    other = [(op.custom, _result(op)) for op in custom if not op.custom.startswith("Flex")]
    yield from _grouped(flex, "Flex op {label} ({where}) needs all of TensorFlow on the device.")
    yield from _grouped(other, "Custom op {label} ({where}) is known to no runtime but the one that it was made for.")
    unknown = [(op.name, _result(op)) for op in model.ops if op.name.startswith("op ") or op.name == "DELEGATE"]
    yield from _grouped(unknown, "The file has an {label} ({where}) that LiteRT does not know.")
    moved = [("TRANSPOSE", _result(op)) for op in model.ops if op.name == "TRANSPOSE"]
    yield from _grouped(moved, "{label} ({where}) moves all data and is never needed in NHWC.")


def _frozen(model, target):
    if not target.frozen_ops:
        return
    known = targets.FROZEN_OPS
    strange = [(op.name, _result(op)) for op in model.ops if op.custom is None and op.name not in known]
    yield from _grouped(strange, "{label} ({where}) is not among the ops that " + f"{target.name} is held to.")
    newer = [
        (f"{op.name} is version {op.version}; {target.name} is held to {known[op.name]}", _result(op))
        for op in model.ops
        if op.version > known.get(op.name, op.version)
    ]
    yield from _grouped(newer, "{label} ({where}).")


def _floats(model, target, kept):
    """No float at all where the target computes in integers; at the two edges only in an int8 file for the others."""
    activations = {tensor.dtype for op in model.ops for tensor in op.outputs}
    if not (target.integer_only or activations & INTEGER_ACTIVATIONS):
        return
    why = f"{target.name} computes in integers" if target.integer_only else "the rest of the file is int8"
    allowed, excused, ops = set() if target.integer_only else EDGE_OPS, set(), []
    for op in model.ops:
        touched = [tensor for tensor in op.inputs + op.outputs if tensor is not None and is_float(tensor)]
        if not target.integer_only and any(tensor.name in kept for tensor in op.outputs):
            excused.update(tensor.index for tensor in touched)
        elif touched and op.label not in allowed:
            ops.append((op.label, _result(op)))
    yield from _grouped(ops, "{label} ({where}) touches float numbers; " + why + ".")
    inside = [(tensor.dtype.lower(), tensor) for tensor in floats_inside(model) if tensor.index not in excused]
    yield from _grouped(inside, "There are {label} tensors inside, {where}; " + why + ".")


def _types(model, target):
    wide = {"INT64", "UINT64", "STRING", "RESOURCE", "VARIANT", "FLOAT64", "COMPLEX64", "COMPLEX128"}
    # The bias of an int16 activation is int64 by definition.
    biases = {
        op.inputs[BIAS].index
        for op in model.ops
        if len(op.inputs) > BIAS and op.inputs[BIAS] and op.inputs[0] and op.inputs[0].dtype == "INT16"
    }
    strange = [
        (tensor.dtype, tensor)
        for tensor in model.tensors
        if (tensor.dtype in wide or tensor.dtype.startswith("type ")) and tensor.index not in biases
    ]
    yield from _grouped(strange, "There are {label} tensors, {where}, which small runtimes and NPUs do not take.")


def _bits(model, target):
    if not target.int16x8:
        wide = [("INT16", tensor) for op in model.ops for tensor in op.outputs if tensor.dtype == "INT16"]
        yield from _grouped(wide, "There are {label} activations, {where}; " + f"{target.name} takes 8 bits.")


def _shapes(model, target):
    for tensor in model.tensors:
        if -1 in tensor.signature or any(side < 1 for side in tensor.shape):
            shape = list(tensor.signature if -1 in tensor.signature else tensor.shape)
            yield f"{tensor.name!r} has the open or empty shape {shape}; delegates and browsers need static ones."
    for tensor in model.inputs + model.outputs:
        if tensor.shape[:1] not in ((1,), (-1,), (0,)):
            yield f"{tensor.name!r} has the shape {list(tensor.shape)}; the batch of a deployed file is 1."


def _edges(model, target):
    takes = (*target.edges, "int16") if target.int16x8 and target.integer_only else target.edges
    for side, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            if tensor.dtype.lower() not in takes:
                yield f"The {side} {tensor.name!r} is {tensor.dtype.lower()}; {target.name} takes {' or '.join(takes)}."
            if tensor.dtype in INTEGER_ACTIVATIONS and len(tensor.scales) != 1:
                yield f"The {side} {tensor.name!r} is {tensor.dtype.lower()} without a scale; its numbers mean nothing."


def _quantization(model, target):
    """Scales that are numbers, as many as there are channels, along the axis on which the op looks for them."""
    for tensor in model.tensors:
        if any(not (math.isfinite(scale) and scale > 0) for scale in tensor.scales):
            yield f"{tensor.name!r} has a scale that is not a positive number."
        if len(tensor.zero_points) != len(tensor.scales):
            yield f"{tensor.name!r} has {len(tensor.scales)} scales and {len(tensor.zero_points)} zero points."
        channelwise = len(tensor.scales) > 1
        if channelwise and not tensor.constant:
            yield f"{tensor.name!r} has a scale for each channel, which only weights may have."
        elif channelwise and tensor.shape[tensor.axis : tensor.axis + 1] != (len(tensor.scales),):
            yield (
                f"{tensor.name!r} has {len(tensor.scales)} scales along axis {tensor.axis} "
                f"of its shape {list(tensor.shape)}."
            )
    for op, tensor in per_channel(model):
        if tensor.axis != CHANNEL_AXES[op.name]:
            wanted = CHANNEL_AXES[op.name]
            yield f"{op.name} {tensor.name!r} is quantized per channel on axis {tensor.axis}; its axis is {wanted}."
        if any(tensor.zero_points):
            yield f"{op.name} {tensor.name!r} is quantized per channel with zero points other than 0."


def _per_channel(model, target):
    allowed = {"everywhere": CHANNEL_AXES.keys(), "convolutions": CONVOLUTIONS, "nowhere": ()}[target.per_channel]
    found = [(op.name, tensor) for op, tensor in per_channel(model) if op.name not in allowed]
    yield from _grouped(
        found, "{label} ({where}) has a scale for each channel; " + f"{target.name} wants one for the whole tensor."
    )


def _metadata(model, target):
    if target.metadata and not model.metadata.get(METADATA):
        yield f"There is no {METADATA} in the file, from which {target.name} takes labels and normalisation."
