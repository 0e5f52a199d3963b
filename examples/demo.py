"""From pixels to a proven int8 file in about a minute, offline: train, quantize, verify, benchmark.

    python examples/demo.py

Trains a ResNet-8 on the bundled sample of Fashion-MNIST, exports it as float32 and as int8, compares both files with
the Keras model on images that neither training nor calibration saw, and times them side by side. Everything lands in
runs/demo.
"""

import pathlib
import shutil
import time

from resnet_keras import cli

OUT = pathlib.Path("runs/demo")


def main():
    cli.import_keras()
    from export import bench, tflite
    from resnet_keras import recipes
    from resnet_keras.train import train

    shutil.rmtree(OUT, ignore_errors=True)
    started = time.perf_counter()
    cli.say("1/4  training a ResNet-8 on the bundled images")
    card = train(recipes.get("demo"), OUT)
    results, failures = {}, []
    for step, recipe in ((2, "float32"), (3, "int8")):
        cli.say(f"{step}/4  exporting {recipe} and running the file beside the Keras model")
        path = OUT / f"{recipe}.tflite"
        _, results[recipe], failure = tflite.export(OUT, recipe=recipe, out=path, force=True)
        failures += [failure] if failure else []
    cli.say("4/4  timing both files")
    with cli.held_stderr():
        latencies = bench.measure([OUT / f"{recipe}.tflite" for recipe in results])
    _print_table(card, results, latencies, time.perf_counter() - started)
    return cli.gate(" ".join(failures) or None)


def _print_table(card, results, latencies, seconds):
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{card['model']} after {card['training_seconds']} s of training, {seconds:.0f} s in all")
    table.add_column("")
    for recipe in results:
        table.add_column(recipe, justify="right")
    reports, (float_latency, _) = list(results.values()), latencies
    table.add_row(f"accuracy on {reports[0].images} test images", *(f"{r.top1_percent:.2f} %" for r in reports))
    table.add_row("same answer as the Keras model", *(f"{r.agreement_percent:.2f} %" for r in reports))
    table.add_row("file size", *(f"{latency.size_bytes / 1024:.0f} KiB" for latency in latencies))
    table.add_row("one image on this machine", *(f"{latency.p50_ms:.2f} ms" for latency in latencies))
    table.add_row("speed", *(f"{float_latency.p50_ms / latency.p50_ms:.1f}x" for latency in latencies))
    Console().print(table)
    print(f"The files and their records are in {OUT}/.")


if __name__ == "__main__":
    cli.run(main)
