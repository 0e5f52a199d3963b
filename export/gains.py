"""What a compressed network gains over plain int8: files of both beside the float model, on the same images."""

import dataclasses
import pathlib
import tempfile
import zlib

import numpy as np

from export import comparison, conversion, execution, targets, trial

NPU = "ethos-u65-256"
HEADER = ("file", "accuracy", "drop from float", "agrees", "size", "zipped", "weights")
HEADER += ("NPU weights", "NPU traffic", "NPU time")
KIB = 1024


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One file and what it answers.

    `scores` are its probabilities. Sizes are in bytes, `zipped_bytes` after deflate, which zip files and app packages
    use; metadata, which adds the same to each file, is left out. `zero_percent` is the share of zeros among its
    weights, `distinct` the largest number of different ones in a layer. `npu` is what Vela estimates for an
    Ethos-U65-256, empty for a float file and where Vela is not installed.
    """

    name: str
    scores: np.ndarray
    figures: comparison.Figures
    size_bytes: int
    zipped_bytes: int
    zero_percent: float
    distinct: int
    npu: dict

    def to_dict(self):
        """All of it but the scores, fit for JSON."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "scores"}


def measure(source, result, calibrated, evaluation, name):
    """Makes and runs the float file, the plain int8 file and that of the compressed network.

    Args:
        source: the `source.Source` of the float model, without learned ranges.
        result: that of the compressed one.
        calibrated: the `calibration.ImageSet` for whatever has no ranges of its own.
        evaluation: the `calibration.ImageSet` on which they are compared, which had no part in making any of them.
        name: of the compressed one.

    Returns:
        Three `Candidate`s.
    """
    data = conversion.convert(source, "float32")
    reference = _scores(data, evaluation, "float32")
    made = [_candidate("float32", data, {}, reference, reference, evaluation)]
    for label, network in (("int8", source), (f"{name} int8", result)):
        data = conversion.convert(network, calibration=calibrated)
        npu = _npu(conversion.convert(network, io="int8", calibration=calibrated, target=NPU))
        made.append(_candidate(label, data, npu, _scores(data, evaluation, label), reference, evaluation))
    return made


def _scores(data, evaluation, name):
    """Probabilities of a file, `(count, classes)`, from the runtime in a process of its own."""
    from resnet_keras import cli

    with tempfile.TemporaryDirectory() as directory, cli.bar(f"running {name}", len(evaluation), "images") as advance:
        path = pathlib.Path(directory, "x.tflite")
        path.write_bytes(data)
        return execution.predict(path, evaluation.images, advance)


def _candidate(name, data, npu, scores, reference, evaluation):
    kernels = [values for values in _kernels(data) if values.size]
    return Candidate(
        name=name,
        scores=scores,
        figures=comparison.compare(reference, scores, evaluation.labels),
        size_bytes=len(data),
        zipped_bytes=len(zlib.compress(data, 9)),
        zero_percent=100.0 * sum(int(np.sum(k == 0)) for k in kernels) / sum(k.size for k in kernels),
        distinct=max(len(np.unique(k)) for k in kernels),
        npu=npu,
    )


def _kernels(data):
    """The weights of a file as it stores them."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    (graph,) = model.subgraphs
    dtypes = {schema.TensorType.INT8: np.int8, schema.TensorType.FLOAT32: np.float32}
    for tensor in graph.tensors:
        if tensor.name.endswith(b"/kernel"):
            yield np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtypes[tensor.type])


def _npu(data):
    """What Vela estimates, empty where it is not installed."""
    from resnet_keras import cli

    try:
        facts, problems = trial.run(data, targets.get(NPU))
    except ImportError as error:
        cli.say(f"no estimate for {NPU}: {error}")
        return {}
    if problems:
        raise ValueError(f"{problems[0]}")
    kept = ("weights_bytes", "compressed_weights_bytes", "traffic_bytes", "inference_ms")
    return {key: facts[key] for key in kept}


def over_plain(candidates, labels):
    """How many points of accuracy the last candidate gains over the one before it, with a 95 % interval.

    Returns:
        `{"gain_points", "interval_points"}`, see `comparison.paired_interval_points`; None without labels.
    """
    if labels is None:
        return None
    plain, compressed = (candidate.scores.argmax(axis=1) == labels for candidate in candidates[-2:])
    won, lost = int(np.sum(compressed & ~plain)), int(np.sum(plain & ~compressed))
    interval = comparison.paired_interval_points(won, lost, len(labels))
    return {"gain_points": 100.0 * (won - lost) / len(labels), "interval_points": interval}


def cells(entry):
    """A candidate, as `to_dict` gives it, as cells under `HEADER`."""
    figures, npu = entry["figures"], entry["npu"]
    accuracy = drop = "not known"
    if figures["top1_percent"] is not None:
        low, high = figures["drop_interval_points"]
        accuracy = f"{figures['top1_percent']:.2f} %"
        drop = f"{figures['drop_points']:+.2f} ({low:+.2f} to {high:+.2f})"
    return [
        entry["name"],
        accuracy,
        drop,
        f"{figures['agreement_percent']:.2f} %",
        f"{entry['size_bytes'] / KIB:,.1f} KiB",
        f"{entry['zipped_bytes'] / KIB:,.1f} KiB",
        f"{entry['zero_percent']:.0f} % zeros, {entry['distinct']} values",
        f"{npu['compressed_weights_bytes'] / KIB:,.1f} KiB" if npu else "-",
        f"{npu['traffic_bytes'] / KIB:,.1f} KiB" if npu else "-",
        f"{npu['inference_ms']:.3f} ms" if npu else "-",
    ]


def sentences(found):
    """What follows from the table: the gain over plain int8, and whether the file is what was trained.

    Args:
        found: the `compression` of a card.
    """
    over = found["over_plain"]
    if over is not None:
        low, high = over["interval_points"]
        verdict = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
        gain = f"{over['gain_points']:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"
        yield f"against plain int8: {gain}: {verdict}"
    if found["same_as_trained_percent"] is not None:
        yield f"outputs of the file within one step of the trained network's: {found['same_as_trained_percent']:.2f} %"
