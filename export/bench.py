"""Time and memory of exported files on this machine, measured side by side.

python -m export.bench float32.tflite int8.tflite model.onnx
"""

import argparse
import dataclasses
import math
import os
import pathlib
import time

import numpy as np

from export import footprint
from export.runtime import Runner

WARMUP_RUNS = 10
LEAST_ROUNDS = 10
# The threads of a runtime look for more work for a while before they sleep, at the cost of the file that comes next.
# Apps pause as well, from one camera frame to the next.
PAUSE_S = 0.002


@dataclasses.dataclass(frozen=True)
class Bench:
    """One file on one machine: time of one image through the network, and what it takes.

    `p50_ms` and `p90_ms` are the median and the 90th percentile over `rounds`; `times_as_fast` is the median of the
    first file over that of this one. `delegated_percent` of the file's ops run in `delegate`, see `Runner.delegate`;
    `peak_memory_bytes` is that of `footprint.peak_bytes`.
    """

    file: str
    p50_ms: float
    p90_ms: float
    times_as_fast: float
    delegate: str | None
    delegated_percent: float | None
    peak_memory_bytes: int | None
    size_bytes: int
    runtime: str
    threads: int
    rounds: int
    machine: str


def measure(paths, seconds=5.0, threads=None):
    """Times the files in turn, one inference each, round after round, so that a drift of the machine hits all alike.

    Each file is run in a process of its own before, so that one that crashes its runtime is refused.

    Args:
        paths: exported files; the first is what the others are compared to.
        seconds: about how long to go on; at least ten rounds are made.
        threads: processor threads; default: all cores.

    Returns:
        One `Bench` a file.

    Raises:
        ValueError: a file cannot be run, or no time or no threads are given.
        ImportError: a runtime is not installed.
    """
    from resnet_keras import cli, processor

    cores = os.cpu_count()
    threads = cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise ValueError(f"--threads must be from 1 to {cores}, the cores of this machine. Received: {threads}.")
    if not 0 < seconds < math.inf:
        raise ValueError(f"--seconds must be a number above 0. Received: {seconds:g}.")
    with cli.bar("trying", len(paths), "files") as advance:
        peaks = []
        for path in paths:
            peaks.append(footprint.peak_bytes(path, threads))
            advance(1)
    with cli.held_stderr():  # LiteRT announces its delegate
        runners = [Runner(path, threads) for path in paths]
    times_ms = _times_ms(runners, seconds)
    p50_ms, p90_ms = np.percentile(times_ms, [50, 90], axis=0).tolist()
    return [
        Bench(
            file=str(path),
            p50_ms=p50_ms[k],
            p90_ms=p90_ms[k],
            times_as_fast=p50_ms[0] / p50_ms[k],
            delegate=runner.delegate[0],
            delegated_percent=runner.delegate[1],
            peak_memory_bytes=peaks[k],
            size_bytes=pathlib.Path(path).stat().st_size,
            runtime=runner.runtime,
            threads=threads,
            rounds=len(times_ms),
            machine=processor.name(),
        )
        for k, (path, runner) in enumerate(zip(paths, runners, strict=True))
    ]


def _times_ms(runners, seconds):
    """Milliseconds, `(rounds, files)`. The order is another in each round, so that no file always follows the same."""
    from resnet_keras import cli

    rng = np.random.default_rng(0)
    for runner in runners:
        runner.load(rng.integers(0, 256, runner.image_shape))
    warm = [[_timed_ms(runner) for runner in runners] for _ in range(WARMUP_RUNS)]
    round_s = np.median(warm, axis=0).sum() / 1000 + PAUSE_S * len(runners)
    rounds = max(LEAST_ROUNDS, math.ceil(seconds / round_s))
    times_ms = []
    with cli.bar("timing", rounds, "rounds") as advance:
        for _ in range(rounds):
            order = rng.permutation(len(runners)).tolist()
            times = {k: _timed_ms(runners[k]) for k in order}
            times_ms.append([times[k] for k in range(len(runners))])
            advance(1)
    return times_ms


def _timed_ms(runner):
    time.sleep(PAUSE_S)
    start = time.perf_counter()
    runner.invoke()
    return 1000 * (time.perf_counter() - start)


def table(benches):
    """Header and lines for `cli.print_table`."""
    header = "file", "p50", "p90", "times as fast", "delegate", "peak memory", "size"
    return header, [
        (
            b.file,
            f"{b.p50_ms:.2f} ms",
            f"{b.p90_ms:.2f} ms",
            f"{b.times_as_fast:.2f}",
            _delegate_text(b),
            "unknown" if b.peak_memory_bytes is None else f"{b.peak_memory_bytes / 2**20:.1f} MiB",
            f"{b.size_bytes / 2**20:.2f} MiB",
        )
        for b in benches
    ]


def _delegate_text(bench):
    if bench.delegate is None:
        return "none"
    share = "unknown share" if bench.delegated_percent is None else f"{bench.delegated_percent:.1f} %"
    return f"{bench.delegate}, {share} of ops"


def parser():
    """The command line; importing nothing heavy keeps `--help` instant."""
    p = argparse.ArgumentParser(prog="python -m export.bench", description=__doc__.split("\n")[0])
    p.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="exported files, .tflite or .onnx; the first is what the others are compared to",
    )
    p.add_argument("--seconds", type=float, default=5.0, help="about how long to measure (default: 5)")
    p.add_argument("--threads", type=int, help="processor threads (default: all cores)")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    from resnet_keras import cli

    benches = measure(args.files, args.seconds, args.threads)
    if args.json:
        cli.print_result([], [dataclasses.asdict(b) for b in benches], as_json=True)
    else:
        cli.print_table(*table(benches))
    runtimes = ", ".join(sorted({b.runtime for b in benches}))
    threads = f"{benches[0].threads} thread{'s' if benches[0].threads > 1 else ''}"
    cli.say(f"{benches[0].machine}, {threads}, {benches[0].rounds:,} rounds, {runtimes}")
    cli.say(
        "It does not predict a phone, which has other kernels (those of its own processor) and other delegates "
        "(GPU, NPU): time the files there, too."
    )
    return cli.GOOD


if __name__ == "__main__":
    from resnet_keras import cli

    cli.run(main)
