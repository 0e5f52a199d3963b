"""Latency of exported files on this machine, measured side by side.

python -m export.bench float32.tflite int8.tflite
"""

import argparse
import dataclasses
import os
import pathlib
import platform
import time

import numpy as np

from export.runtime import Runner

WARMUP_RUNS = 10


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one image through the network, in milliseconds: median, 90th percentile; and the file's size."""

    file: str
    p50_ms: float
    p90_ms: float
    size_bytes: int


def measure(paths, seconds=5.0, threads=None):
    """Times the files in turn, one inference each, round after round, so that a drift of the machine hits all alike.

    Args:
        paths: exported files.
        seconds: how long to go on; at least ten rounds are made.
        threads: processor threads; default: all cores.

    Returns:
        One `Latency` a file.

    Raises:
        ValueError: a file cannot be run.
        ImportError: the runtime is not installed.
    """
    threads = threads or os.cpu_count()
    runners = [Runner(path, threads) for path in paths]
    rng = np.random.default_rng(0)
    for runner in runners:
        runner.load(rng.integers(0, 256, runner.inputs[0]["shape"][1:]))
        for _ in range(WARMUP_RUNS):
            runner.invoke()
    times_ms, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times_ms) < 10:
        times_ms.append([_timed_ms(runner) for runner in runners])
    p50, p90 = np.percentile(times_ms, [50, 90], axis=0)
    sizes = [pathlib.Path(path).stat().st_size for path in paths]
    return [
        Latency(pathlib.Path(path).name, float(a), float(b), size)
        for path, a, b, size in zip(paths, p50, p90, sizes, strict=True)
    ]


def _timed_ms(runner):
    start = time.perf_counter()
    runner.invoke()
    return 1000 * (time.perf_counter() - start)


def main(arguments=None):
    p = argparse.ArgumentParser(prog="python -m export.bench", description=__doc__.split("\n")[0])
    p.add_argument(
        "files", nargs="+", metavar="FILE", help="exported files; the first is what the others are compared to"
    )
    p.add_argument("--seconds", type=float, default=5.0, help="how long to measure (default: 5)")
    p.add_argument("--threads", type=int, help="processor threads (default: all cores)")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = p.parse_args(arguments)
    from resnet_keras import cli

    with cli.held_stderr():
        results = measure(args.files, args.seconds, args.threads)
    rows = [
        (
            r.file,
            f"p50 {r.p50_ms:.2f} ms, p90 {r.p90_ms:.2f} ms, {results[0].p50_ms / r.p50_ms:.2f}x, {r.size_bytes:,} B",
        )
        for r in results
    ]
    machine = f"{platform.processor() or platform.machine()}, {args.threads or os.cpu_count()} threads"
    cli.print_result(rows, [dataclasses.asdict(r) for r in results], args.json)
    cli.say(f"measured on this machine ({machine}); it does not predict a phone")
    return cli.GOOD


if __name__ == "__main__":
    from resnet_keras import cli

    cli.run(main)
