"""Runs a file in the compiler or runtime of its target, in a process of its own, which may crash or hang.

python -m export.trial JOB FILE ...   is that process; it prints one line of JSON.
"""

import csv
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import runpy
import sys
import tempfile

from export import child

TIME_LIMIT_S = 600
ARENA_BYTES = 64 * 2**20  # more than microcontrollers have
SHOWN_VALUES = 10
BATCH_TOLERANCE = 1e-5  # of a probability in float32, summed in another order
# What has to be installed for a job: the module that is looked for, its package, and its name in a sentence.
NEEDS = {
    "vela": ("ethosu", "ethos-u-vela", "Vela"),
    "tflite-micro": ("tflite_micro", "tflite-micro", "TFLite Micro"),
    "litert": ("ai_edge_litert", "ai-edge-litert", "LiteRT"),
    "onnxruntime": ("onnxruntime", "onnxruntime", "ONNX Runtime"),
}


def run(data, target, vela_options=(), time_limit_s=TIME_LIMIT_S):
    """Compiles the file, or runs it once on a ramp of pixel values.

    Args:
        data: the bytes of a `.tflite` or `.onnx` file.
        target: a `targets.Target` or an `onnx_targets.OnnxTarget`; its `compiler` says what is run, LiteRT if it is
            None.
        vela_options: further arguments for Vela, such as `("--memory-mode", "Sram_Only")`.
        time_limit_s: after that many seconds the process is ended.

    Returns:
        `(facts, problems)`: what was measured, and why the file is refused, one sentence each.

    Raises:
        ImportError: the compiler or runtime is not installed.
        ValueError: Vela does not know one of its options.
    """
    job = target.compiler or "litert"
    version = _version(job)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "model.onnx" if job == "onnxruntime" else "model.tflite")
        path.write_bytes(data)
        if job == "vela":
            options = "--accelerator-config", target.name, "--show-cpu-operations", "--output-dir", directory
            done = _child(job, path, [*options, *vela_options], time_limit_s)
            facts, problems = _read_vela(done, pathlib.Path(directory))
        else:
            done = _child(job, path, [target.activations] if job == "onnxruntime" else [], time_limit_s)
            facts, problems = _read_json(done)
    return {"ran": version, **facts}, [child.printable(f"{NEEDS[job][2]} {p}") for p in problems]


def require(target):
    """Says at once, before any work is done, that what `run` needs for a target is not installed.

    Raises:
        ImportError: the compiler or runtime is missing.
    """
    _version(target.compiler or "litert")


def _version(job):
    module, package, name = NEEDS[job]
    if importlib.util.find_spec(module) is None:
        where = " (on Linux and x86-64, for which alone there is one)" if job == "tflite-micro" else ""
        extra = "onnx" if job == "onnxruntime" else "lint"
        raise ImportError(f"{name} is missing. Install it with: pip install 'resnet-keras[{extra}]'{where}.")
    return f"{package} {importlib.metadata.version(package)}"


def _child(job, path, options, time_limit_s):
    """The finished process, or a few words on why it came to no good end."""
    done = child.run("export.trial", [job, str(path), *options], time_limit_s)
    if not isinstance(done, str) and (
        broken := re.search(r"^(?:ModuleNotFound|Import)Error: (.*)", done.stderr, re.MULTILINE)
    ):
        raise ImportError(f"{NEEDS[job][2]} cannot be loaded: {broken[1]}.")
    return done


def _reason(done):
    """What C++ said before Python's traceback, which tells more; else the last line of all."""
    native, _, traceback = (done.stderr or done.stdout).partition("Traceback")
    told = [line for line in native.splitlines() if line.strip() and not re.match(r"INFO|Warning|[IW]\d{4} ", line)]
    last = (traceback or native).strip().splitlines()[-1:] or [f"it ended with status {done.returncode}"]
    return " ".join(" ".join(told[-3:] or last).split())[:300]


def _read_json(done):
    if isinstance(done, str):
        return {}, [done]
    try:
        facts = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {}, [f"refuses the file: {_reason(done)}"]
    return facts, []


def _read_vela(done, directory):
    if isinstance(done, str):
        return {}, [done]
    if option := re.search(r"(CliOptionError|ConfigOptionError): '?(Error: )?(.*?)'?$", done.stderr, re.MULTILINE):
        raise ValueError(f"Vela does not take that configuration: {option[3]}.")
    counts = dict(re.findall(r"^(CPU|NPU) operators = (\d+)", done.stdout, re.MULTILINE))
    tables = list(directory.glob("*_summary_*.csv"))
    if done.returncode or len(counts) != 2 or not tables:
        return {}, [f"refuses the file: {_reason(done)}"]
    with tables[0].open(newline="") as file:
        row = next(csv.DictReader(file))
    return _facts(row, int(counts["CPU"]), int(counts["NPU"])), _left_to_cpu(done.stdout, int(counts["CPU"]))


def _facts(row, cpu, npu):
    def number(column, scale=1.0):
        return round(float(row[column]) * scale, 6)

    return {
        "system_config": row["system_config"],
        "memory_mode": row["memory_mode"],
        "cpu_operators": cpu,
        "npu_operators": npu,
        "npu_percent": 100.0 * npu / max(cpu + npu, 1),
        "inference_ms": number("inference_time", 1000),
        "cycles": int(number("cycles_total")),
        "sram_kib": number("sram_memory_used"),
        "dram_kib": number("dram_memory_used"),
        "flash_kib": number("on_chip_flash_memory_used") + number("off_chip_flash_memory_used"),
        "traffic_bytes": int(number("dram_total_bytes") + number("off_chip_flash_total_bytes")),
        "weights_bytes": int(number("total_original_weights")),
        "compressed_weights_bytes": int(number("total_npu_encoded_weights")),
    }


def _left_to_cpu(printed, count):
    """One sentence for each kind of op and reason that Vela gives."""
    if not count:
        return []
    found = {}
    for kind, name, reason in re.findall(
        r"^Warning \(.*?\) operator: (\w+), ofm: '(.*?)'\s*\n\s*Reason: (.*)$", printed, re.MULTILINE
    ):
        # A reason goes on with the name of a tensor, which differs from op to op.
        found.setdefault((kind, reason.split(" (")[0]), []).append(name)
    sentences = [
        f"leaves {kind} {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} to the CPU: {reason.strip()}"
        for (kind, reason), names in found.items()
    ]
    return sentences or [f"leaves {count} operators to the CPU"]


# What follows runs in the child.


def _micro(path):
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=ARENA_BYTES)
    interpreter.set_input(_ramp(interpreter.get_input_details(0)), 0)
    interpreter.invoke()
    output = _shown(interpreter.get_output(0))
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        # The allocator prints its account and has no other way to tell it.
        os.dup2(held.fileno(), 2)
        interpreter.print_allocations()
        held.seek(0)
        printed = held.read().decode(errors="replace")
    return {"arena_bytes": int(re.search(r"Arena allocation total (\d+)", printed)[1]), "output": output}


def _litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    (first,), (last,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(first["index"], _ramp(first))
    interpreter.invoke()
    return {"output": _shown(interpreter.get_tensor(last["index"]))}


def _onnxruntime(path, activations):
    """Runs the file for one image, for three if it takes them, and looks at what the runtime has made of its graph."""
    import collections

    import numpy as np
    import onnx
    import onnxruntime

    optimised = f"{path}.optimised"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.optimized_model_filepath = optimised
    # Where int8 activations are right, on Arm, they are allowed by default; on x86-64 they are not.
    options.add_session_config_entry("session.qdqisint8allowed", str(int(activations == "int8")))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (first,) = session.get_inputs()
    sides, dtype = first.shape[1:], np.uint8 if first.type == "tensor(uint8)" else np.float32
    results = []
    for count in (1, 3) if not isinstance(first.shape[0], int) else (1,):
        images = [np.resize(np.roll(np.arange(256), 80 * shift), sides).astype(dtype) for shift in range(count)]
        (output,) = session.run(None, {first.name: np.stack(images[::-1])})
        results.append(output[-1])
    if not np.allclose(results[0], results[-1], atol=BATCH_TOLERANCE):
        raise ValueError("an image in a batch of three is answered otherwise than alone")
    ops = collections.Counter(node.op_type for node in onnx.load(optimised).graph.node)
    return {
        "output": _shown(results[0]),
        "batches": [1, 3][: len(results)],
        "optimised_ops": dict(sorted(ops.items())),
        "float_convolutions": ops["Conv"] + ops["FusedConv"],
    }


def _ramp(details):
    import numpy as np

    values = np.arange(256) - (128 if np.dtype(details["dtype"]) == np.int8 else 0)
    return np.resize(values, details["shape"]).astype(details["dtype"])


def _shown(values):
    return values.ravel()[:SHOWN_VALUES].tolist()


def main(job, path, *options):
    child.limit_memory()
    if job == "vela":
        sys.argv = ["vela", path, *options]
        runpy.run_module("ethosu.vela", run_name="__main__")
    print(json.dumps({"litert": _litert, "tflite-micro": _micro, "onnxruntime": _onnxruntime}[job](path, *options)))


if __name__ == "__main__":
    main(*sys.argv[1:])
