"""Latency of exported files beside Keras's own export of the same model and beside their float form, in one run.

python benchmarks/inference_latency.py --json benchmarks/results/inference_latency.json
"""

import argparse
import dataclasses
import pathlib
import tempfile

from reporting import finish

from resnet_keras import cli

MODELS = {"ResNet-50, 224 px": ("resnet50", "random"), "bundled ResNet-20, 32 px": (None, None)}
CALIBRATION_IMAGES = 16
OURS, KERAS, FLOAT = "int8, this package", "int8, Keras", "float32, this package"
ONNX, ONNX_FLOAT = "int8, this package, ONNX Runtime", "float32, this package, ONNX Runtime"


def files(model, weights, directory):
    """`{name: path}`: int8 with float32 edges, Keras's own (`model.export(format="litert")`), float32; then as ONNX."""
    import tensorflow as tf

    from export import calibration, conversion, onnx_graph, onnx_targets, qdq, recipes, source

    loaded = source.load(model, weights)
    images = calibration.gather(loaded, count=CALIBRATION_IMAGES)[0]
    paths = {name: directory / f"{number}.tflite" for number, name in enumerate((OURS, KERAS, FLOAT))}
    paths[OURS].write_bytes(conversion.convert(loaded, "int8", "float32", images))
    paths[FLOAT].write_bytes(conversion.convert(loaded, "float32"))
    target, form = onnx_targets.get(onnx_targets.DEFAULT), conversion.form(loaded)
    limits = conversion.observed(conversion.float_file(loaded, form), loaded, images, form.recipe.method)
    network = onnx_graph.build(loaded, target, onnx_targets.OPSET)
    for name in (ONNX_FLOAT, ONNX):
        paths[name] = directory / f"{len(paths)}.onnx"
        paths[name].write_bytes(network.SerializeToString())
        if name == ONNX_FLOAT:
            qdq.quantize(network, limits, target, recipes.get("int8"))
    with cli.held_stderr():
        loaded.reference.export(
            str(paths[KERAS]),
            format="litert",
            verbose=False,
            input_signature=[tf.TensorSpec((1, *loaded.input_shape), tf.float32)],  # static, as ours
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ([image[None].astype("float32")] for image in images.images),
            target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        )
    return paths


def compared(title, paths, seconds):
    """The record of one model."""
    from export import bench

    found = dict(zip(paths, bench.measure(paths.values(), seconds), strict=True))
    return {
        "model": title,
        "latency_over_keras": round(found[OURS].p50_ms / found[KERAS].p50_ms, 3),
        "int8_times_as_fast_as_float32": round(found[FLOAT].p50_ms / found[OURS].p50_ms, 2),
        "onnx_int8_times_as_fast_as_float32": round(found[ONNX_FLOAT].p50_ms / found[ONNX].p50_ms, 2),
        "files": {name: {**dataclasses.asdict(b), "file": name} for name, b in found.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="for each model (default: 60)")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here")
    args = parser.parse_args()
    cli.import_keras()
    results = []
    for title, (model, weights) in MODELS.items():
        with tempfile.TemporaryDirectory() as directory:
            results.append(compared(title, files(model, weights, pathlib.Path(directory)), args.seconds))
    rows = [
        (
            r["model"],
            f"{r['latency_over_keras']:.3f} of Keras's, {r['int8_times_as_fast_as_float32']:.2f}x float32; "
            f"ONNX {r['onnx_int8_times_as_fast_as_float32']:.2f}x float32",
        )
        for r in results
    ]
    return finish(rows, results, args.json)


if __name__ == "__main__":
    cli.run(main)
