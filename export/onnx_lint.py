"""What may not be in an `.onnx` file for a target, and what ONNX Runtime makes of the file."""

import collections
import pathlib

from export import onnx_file, onnx_targets, trial
from export.onnx_file import PAIR

EDGES = {"image": 4, "probabilities": 2}  # names, and how many sides


def lint(path, target_name, time_limit_s=trial.TIME_LIMIT_S):
    """As `lint.lint`, for an `.onnx` file.

    Raises:
        ValueError: the target is unknown, or the file is missing, damaged or no ONNX model.
        ImportError: onnx or ONNX Runtime is not installed.
    """
    from export.lint import Lint

    target = onnx_targets.get(target_name)
    data, model = onnx_file.read(path)
    facts, refusals = trial.run(data, target, (), time_limit_s)
    graph = onnx_file.Graph(model)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    counts = collections.Counter((node.op_type, node.domain) for node in model.graph.node)
    floats = graph.float_results()
    return Lint(
        file=pathlib.Path(path).name,
        target=target.name,
        size_bytes=len(data),
        ops=tuple(
            {"op": op, "version": versions.get(domain, 0), "count": count}
            for (op, domain), count in sorted(counts.items())
        ),
        edges=tuple(graph.edges()),
        float_tensors=tuple(floats) if graph.is_quantized else (),
        per_channel=tuple(graph.per_channel()),
        problems=(*problems(graph, target, facts), *refusals),
        facts=facts,
    )


def problems(graph, target, facts):
    """All findings on a `onnx_file.Graph` for an `onnx_targets.OnnxTarget`, the gravest first."""
    rules = (_edges, _shapes, _ops, _integers, _zero_points, _residual, _opset)
    return [*(sentence for rule in rules for sentence in rule(graph, target)), *_left_in_float(graph, target, facts)]


def _edges(graph, target):
    found = {"input": list(graph.model.graph.input), "output": list(graph.model.graph.output)}
    for (side, values), (name, sides) in zip(found.items(), EDGES.items(), strict=True):
        if len(values) != 1:
            yield f"A classifier has one {side}; the file has {len(values)}."
            continue
        (value,) = values
        if value.name != name:
            yield f"The {side} is called {value.name!r}; apps look for {name!r}."
        if len(graph.shape(value.name)) != sides:
            yield f"The {side} {value.name!r} has {len(graph.shape(value.name))} sides, not {sides}."
        if graph.dtype(value.name) not in ("float32", "uint8"):
            yield f"The {side} {value.name!r} is {graph.dtype(value.name)}; {target.name} takes float32."


def _shapes(graph, target):
    for value in graph.model.graph.input:
        shape = graph.shape(value.name)
        if -1 in shape[1:]:
            yield f"{value.name!r} leaves more than the batch open: {shape}."
        if shape and not target.open_batch and shape[0] != 1:
            yield f"{value.name!r} has the shape {shape}; {target.name} wants fixed shapes and a batch of 1."
    if not target.open_batch:
        lacking = [name for node in graph.nodes for name in node.output if -1 in graph.shape(name)]
        if lacking:
            yield f"{lacking[0]!r} and {len(lacking) - 1} more have open shapes; {target.name} wants fixed ones."


def _ops(graph, target):
    strange = sorted({f"{node.domain}.{node.op_type}" for node in graph.nodes if node.domain not in ("", "ai.onnx")})
    if strange:
        yield f"The file has ops that are not of the standard: {', '.join(strange)}."
    moved = [node.output[0] for node in graph.nodes if node.op_type == "Transpose"]
    allowed = 1 if target.layout == "NHWC" else 0
    if len(moved) > allowed:
        yield f"Transpose ({moved[0]!r}) moves all data; {target.name} takes {target.layout} with {allowed} of them."


def _integers(graph, target):
    """64-bit numbers between ops, and 16-bit ones where the target takes 8."""
    for node in graph.nodes:
        for name in node.output:
            dtype = graph.dtype(name)
            if dtype == "int64":
                yield f"{name!r} is an int64 activation, which NPUs and GPUs do not take."
            if dtype in ("int16", "uint16") and not target.int16x8:
                yield f"{name!r} is a {dtype} activation; {target.name} takes 8 bits."


def _zero_points(graph, target):
    if not graph.is_quantized:
        return
    for node in graph.nodes:
        if node.op_type not in PAIR:
            continue
        scale = graph.constants.get(node.input[1])
        zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
        if scale is None or not ((scale > 0).all() and (scale < float("inf")).all()):
            yield f"{node.output[0]!r} has a scale that is not a positive number in the file."
        if target.symmetric and zero is not None and zero.any():
            yield f"{node.output[0]!r} has the zero point {zero.ravel()[0]}; {target.name} takes 0 alone."
    inner = {"uint8": "int8", "int8": "uint8"}.get(target.activations)
    wrong = [n.output[0] for n in graph.nodes if n.op_type == "QuantizeLinear" and graph.dtype(n.output[0]) == inner]
    if wrong:
        yield (
            f"{wrong[0]!r} and {len(wrong) - 1} more are {inner} activations; {target.name} is right, or fast, with "
            f"{target.activations}."
        )


def _residual(graph, target):
    if not target.fuses_residual:
        return
    for node in graph.nodes:
        for name in node.input if node.op_type == "Add" else ():
            maker, rounded = graph.makers.get(name), False
            while maker is not None and maker.op_type in PAIR:
                maker, rounded = graph.makers.get(maker.input[0]), True
            if rounded and maker is not None and maker.op_type == "Conv":
                yield f"The sum {node.output[0]!r} reads a rounded convolution; {target.name} then cannot fuse the two."


def _opset(graph, target):
    for entry in graph.model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > onnx_targets.OPSET_16_BITS:
            yield f"The file is written in opset {entry.version}; {target.name} is held to 21 at most."


def _left_in_float(graph, target, facts):
    """Convolutions that ONNX Runtime computes in float although the file is quantized."""
    left = facts.get("float_convolutions", 0)
    if target.runs_here and graph.is_quantized and left:
        yield f"ONNX Runtime computes {left} of the convolutions in float."
