"""Time and memory of the export commands, each in a process of its own.

python benchmarks/export_cost.py --json benchmarks/results/export_cost.json
"""

import argparse
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

from reporting import finish

from resnet_keras import cli

COMMANDS = {
    "--help": ["--help"],
    "bundled model, int8": ["--int8"],
    "ResNet-50, 224 px, int8, 128 calibration images": [
        *("--int8", "--model", "resnet50", "--weights", "random", "--calibration-images", "128")
    ],
}


def cost(arguments, directory):
    """`(seconds, peak memory of any process so far in GB)` of one command; its failure is this program's."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "export.tflite", *arguments], cwd=directory, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=pathlib.Path, help="write the result here")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for name, arguments in COMMANDS.items():  # from the lightest on: the peak is that of the heaviest so far
            seconds, peak_gb = cost(arguments, directory)
            results.append({"command": name, "seconds": round(seconds, 2), "peak_memory_gb": round(peak_gb, 2)})
    rows = [(r["command"], f"{r['seconds']} s, {r['peak_memory_gb']} GB") for r in results]
    machine = {"device": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    return finish(rows, {"results": results, **machine}, args.json)


if __name__ == "__main__":
    cli.run(main)
