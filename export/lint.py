"""Says what is in a `.tflite` or `.onnx` file, whoever made it, and what in it a target does not take.

python -m export.lint model.tflite --target ethos-u55-128
"""

import argparse
import collections
import dataclasses
import math
import pathlib

from export import artifact, backends, onnx_lint, onnx_targets, rules, targets, tflite_file, trial


@dataclasses.dataclass(frozen=True)
class Lint:
    """What was found in a file.

    `ops` are `{"op", "version", "count"}`; `edges` are `{"side", "name", "dtype", "shape", "scale", "zero_point"}`;
    `float_tensors` names the float tensors that are neither input nor output; `per_channel` are `{"op", "tensor",
    "axis", "scales"}`; `problems` are sentences, each with the op or tensor and the reason; `facts` are what the
    target's compiler or runtime said (see `trial.run`).
    """

    file: str
    target: str
    size_bytes: int
    ops: tuple[dict, ...]
    edges: tuple[dict, ...]
    float_tensors: tuple[str, ...]
    per_channel: tuple[dict, ...]
    problems: tuple[str, ...]
    facts: dict

    def failure(self):
        """One sentence on why the file must not be shipped to the target, or None."""
        if not self.problems:
            return None
        more = f" ({len(self.problems) - 1} more in the table)" if self.problems[1:] else ""
        return f"{self.file} is not fit for {self.target}: {self.problems[0]}{more}"

    def to_dict(self):
        """All of it, for JSON."""
        return dataclasses.asdict(self)

    def rows(self):
        """All of it as `(what, figure)` pairs for a table."""
        channels = collections.Counter((entry["op"], entry["axis"]) for entry in self.per_channel)
        return [
            ("target", self.target),
            ("size", f"{self.size_bytes / 1024:,.0f} KiB"),
            *((edge["side"], _edge_text(edge)) for edge in self.edges),
            *(("op", f"{entry['op']} v{entry['version']}  x{entry['count']}") for entry in self.ops),
            ("float tensors inside", f"{len(self.float_tensors)}"),
            *(("per-channel weights", f"{op} x{count}, axis {axis}") for (op, axis), count in channels.items()),
            *_fact_rows(self.facts),
            *(("problem", problem) for problem in self.problems or ["none"]),
        ]


def lint(path, target_name=targets.DEFAULT, vela_options=(), time_limit_s=trial.TIME_LIMIT_S, kept=None):
    """Reads a file, holds it against a target, and runs it in the target's compiler or runtime.

    Args:
        path: a `.tflite` file of any origin, or an `.onnx` file.
        target_name: a name in `targets.TARGETS`, for an `.onnx` file one in `onnx_targets.TARGETS`.
        vela_options: further arguments for Vela, such as `("--memory-mode", "Sram_Only")`.
        time_limit_s: how long the compiler or runtime may take, in seconds.
        kept: names of the layers that are in float on purpose; default: those in the file's record.

    Returns:
        A `Lint`.

    Raises:
        ValueError: the target is unknown, or the file is missing, damaged or no `.tflite` file.
        ImportError: LiteRT or the target's compiler is not installed.
    """
    if backends.is_onnx(path):
        if vela_options:
            raise ValueError(f"A system configuration and a memory mode are Vela's, which reads no ONNX: {path}.")
        return onnx_lint.lint(path, target_name, time_limit_s)
    target = targets.get(target_name)
    if vela_options and target.compiler != "vela":
        raise ValueError(f"A system configuration and a memory mode are Vela's; {target.name} is not compiled with it.")
    data, model = tflite_file.read(path)
    if kept is None:
        kept = (artifact.read_sidecar(path) or {}).get("kept", ())
    facts, refusals = trial.run(data, target, vela_options, time_limit_s)
    counts = collections.Counter((op.label, op.version) for op in model.ops)
    return Lint(
        file=pathlib.Path(path).name,
        target=target.name,
        size_bytes=len(data),
        ops=tuple(
            {"op": name, "version": version, "count": count} for (name, version), count in sorted(counts.items())
        ),
        edges=(*(_edge("input", t) for t in model.inputs), *(_edge("output", t) for t in model.outputs)),
        float_tensors=tuple(tensor.name for tensor in rules.floats_inside(model)),
        per_channel=tuple(
            {"op": op.name, "tensor": tensor.name, "axis": tensor.axis, "scales": len(tensor.scales)}
            for op, tensor in rules.per_channel(model)
        ),
        problems=(*rules.problems(model, target, kept), *refusals),
        facts=facts,
    )


def _edge(side, tensor):
    quantized = len(tensor.scales) == 1 == len(tensor.zero_points) and math.isfinite(tensor.scales[0])
    return {
        "side": side,
        "name": tensor.name,
        "dtype": tensor.dtype.lower(),
        "shape": list(tensor.signature if -1 in tensor.signature else tensor.shape),
        "scale": tensor.scales[0] if quantized else None,
        "zero_point": tensor.zero_points[0] if quantized else None,
    }


def _edge_text(edge):
    text = f"{edge['name']} {edge['dtype']} {edge['shape']}"
    return text if edge["scale"] is None else f"{text}, scale {edge['scale']:.6g}, zero point {edge['zero_point']}"


def _fact_rows(facts):
    rows = [("ran", facts["ran"])]
    if "npu_percent" in facts:
        rows += [
            ("configuration", f"{facts['system_config']}, {facts['memory_mode']}"),
            ("operators on the NPU", f"{facts['npu_percent']:.1f} % ({facts['cpu_operators']} on the CPU)"),
            ("inference, estimated", f"{facts['inference_ms']:.3f} ms, {facts['cycles']:,} cycles"),
            ("SRAM", f"{facts['sram_kib']:,.0f} KiB"),
            ("DRAM", f"{facts['dram_kib']:,.0f} KiB"),
            ("flash", f"{facts['flash_kib']:,.0f} KiB"),
            ("weights", f"{facts['weights_bytes']:,} B, {facts['compressed_weights_bytes']:,} B on the NPU"),
        ]
    if "arena_bytes" in facts:
        rows.append(("arena, 64-bit", f"{facts['arena_bytes']:,} B"))
    if "optimised_ops" in facts:
        ops = (f"{op} x{count}" for op, count in facts["optimised_ops"].items())
        rows += [("after optimisation", ", ".join(ops)), ("run with batches of", f"{facts['batches']}")]
    if "output" in facts:
        rows.append(("output for a ramp", ", ".join(f"{value:.4g}" for value in facts["output"])))
    return rows


def parser():
    """The command line; importing nothing heavy keeps `--help` instant."""
    p = argparse.ArgumentParser(prog="python -m export.lint", description=__doc__.split("\n")[0])
    p.add_argument("file", help="a .tflite or .onnx file")
    p.add_argument(
        "--target",
        help=f"{', '.join(targets.TARGETS)} (default: app); for .onnx {', '.join(onnx_targets.TARGETS)} "
        f"(default: {onnx_targets.DEFAULT})",
    )
    p.add_argument("--system-config", metavar="NAME", help="for Ethos-U: a system of Vela's configuration file")
    p.add_argument("--memory-mode", metavar="NAME", help="for Ethos-U: a memory mode of Vela's configuration file")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    from resnet_keras import cli

    chosen = (("--system-config", args.system_config), ("--memory-mode", args.memory_mode))
    options = [part for option, value in chosen if value is not None for part in (option, value)]
    known = onnx_targets if backends.is_onnx(args.file) else targets
    found = lint(args.file, args.target or known.DEFAULT, options)
    cli.print_result(found.rows(), found.to_dict(), args.json)
    return cli.gate(found.failure())


if __name__ == "__main__":
    from resnet_keras import cli

    cli.run(main)
