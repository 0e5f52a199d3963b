"""Exports a ResNet to an `.onnx` file and proves it in ONNX Runtime before it takes its name.

python -m export.onnx --int8 --target ort-x86
"""

import sys

if __name__ == "__main__" and not __package__:  # run by its path, this file would be what `import onnx` finds
    print("error: export/onnx.py cannot be run by its path. Run: python -m export.onnx", file=sys.stderr)
    sys.exit(2)

import json

from export import artifact, backends, bundle, command, gate, onnx_targets, ranges, recipes

FORMATS = {name: recipes.RECIPES[name] for name in onnx_targets.RECIPES}


def export(
    model=None,
    weights=None,
    *,
    recipe="int8",
    target=onnx_targets.DEFAULT,
    calibration_data=None,
    calibration_images=None,
    calibration_method=None,
    eval_data=None,
    labels=None,
    max_drop=None,
    out=None,
    force=False,
):
    """Converts a model, runs the file beside the float model, and writes it with its record.

    Args:
        model: a run directory, a `.keras` file, a model's name, a `source.Source`, or None for the bundled model.
        weights: for a name, a published tag, a file of weights, or `"random"`.
        recipe: `"float32"`, `"float16"`, `"int8"` or, for 16-bit activations, `"int16x8"`.
        target: a name in `onnx_targets.TARGETS`: what will run the file.
        calibration_data, calibration_images, calibration_method, eval_data, labels, max_drop, force: see
            `tflite.export`. The ranges are those of the `.tflite` file, tensor by tensor.
        out: path of the file; default: `MODEL_RECIPE.onnx` in the current directory, with the target's name before the
            suffix unless it is the default.

    Returns:
        `(record, report, failure)`, see `tflite.export`.

    Raises:
        ValueError, OSError: something about the input or the output path; nothing is written.
        ImportError: a package is missing.
    """
    from export import calibration, onnx_graph
    from resnet_keras import cli

    chosen, consumer = recipes.get(recipe), onnx_targets.get(target)
    consumer.check(chosen)
    method = calibration_method or chosen.method
    ranges.check(calibration_method)
    onnx_graph.require()
    if out is not None:
        _claim(out, force)
    source = command.loaded(model, weights, labels)
    if out is None:
        out = command.file_name(source.name, recipe, target, onnx_targets, "onnx")
        _claim(out, force)
    command.refuse_calibration(source, calibration_data, calibration_images, calibration_method)
    calibrates = chosen.integer_only and source.learned is None
    calibrated, evaluation = calibration.gather(
        source, calibration_data, eval_data, calibrates, cli.say, calibration_images
    )
    base = onnx_graph.build(source, consumer, consumer.opset(chosen))
    base_data = _packed(base)  # the network is quantized in place
    network, made = _quantized(base, source, chosen, consumer, calibrated, method)
    return gate.publish(
        out,
        _packed(network),
        base_data if chosen.integer_only else None,
        source,
        evaluation,
        lambda draft: {**command.record(draft, source, chosen, consumer), **made},
        lambda record, _: _with_metadata(network, source, record),
        max_drop=max_drop,
        force=force,
    )


def _claim(out, force):
    if not backends.is_onnx(out):
        raise ValueError(f"--out must end in .onnx, by which the file is known. Received: {out}.")
    artifact.claim(out, force)


def _quantized(network, source, recipe, target, calibrated, method):
    """The network of the recipe, and what the record says of how it came about."""
    from export import conversion, onnx_graph, qdq

    if recipe.name == "float16":
        network = onnx_graph.halve(network)
    if not recipe.integer_only:
        return network, {"calibration": None, "kept": []}
    form = conversion.form(source, recipe.name)
    limits = conversion.observed(conversion.float_file(source, form), source, calibrated, method)
    made = {"calibration": command.calibration_record(source, calibrated, method, limits), "kept": []}
    return qdq.quantize(network, limits, target, recipe, source.learned), made


def _packed(network):
    return network.SerializeToString(deterministic=True)


def _with_metadata(network, source, record):
    """The file with labels, preprocessing and what was measured in `metadata_props`."""
    import onnx

    from export import description

    texts = description.of(record, source.data_name)
    measured, calibration = record["measured"], record["calibration"]
    network.doc_string = texts["description"]
    entries = {
        **{key: texts[key] for key in ("name", "description", "version", "author", "licence")},
        "labels": json.dumps(texts["labels"], ensure_ascii=False),
        "preprocess": json.dumps(record["preprocess"]),
        "recipe": record["recipe"],
        "target": record["target"],
        "accuracy": json.dumps(
            {key: measured[key] for key in ("images", "origin", "top1_percent", "float_top1_percent")}
        ),
        "calibration_sha256": calibration and calibration.get("sha256"),
    }
    onnx.helper.set_model_props(network, {key: value for key, value in entries.items() if value is not None})
    return _packed(network)


def parser():
    """The command line; importing nothing heavy keeps `--help` instant."""
    return command.parser("onnx", __doc__, FORMATS, onnx_targets)


def main(arguments=None):
    args = parser().parse_args(arguments)
    from resnet_keras import cli

    command.check_target(args)
    command.say_default(args)
    if args.bundle is not None:
        return bundle.main(args, "onnx")
    as_json, _ = vars(args).pop("json"), vars(args).pop("bundle")
    record, report, failure = export(**vars(args))
    if failure and not args.force:
        cli.say("nothing was written; --force keeps the file all the same")
    cli.print_result(command.rows(record, report), record, as_json)
    return cli.gate(failure)


if __name__ == "__main__":
    from resnet_keras import cli

    cli.run(main)
