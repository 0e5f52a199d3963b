"""Exports a ResNet to a `.tflite` file and proves it in LiteRT before it takes its name.

python -m export.tflite --int8 --target app
"""

import dataclasses
import json

from export import artifact, bundle, command, gate, ranges, recipes, targets


def export(
    model=None,
    weights=None,
    *,
    recipe="int8",
    target=targets.DEFAULT,
    io=None,
    calibration_data=None,
    calibration_images=None,
    calibration_method=None,
    eval_data=None,
    labels=None,
    budget=None,
    max_drop=None,
    out=None,
    force=False,
):
    """Converts a model, runs the file beside the float model, and writes it with its record.

    Args:
        model: a run directory, a `.keras` file, a model's name, a `source.Source`, or None for the bundled model.
        weights: for a name, a published tag, a file of weights, or `"random"`.
        recipe: a name in `recipes.RECIPES`.
        target: a name in `targets.TARGETS`: what will run the file.
        io: dtype of the input and output tensor; default: what the target likes best.
        calibration_data: folder or `.npz` file; default: training images of the model's data set.
        calibration_images: how many images calibrate at most; default: 200.
        calibration_method: one of `ranges.METHODS`; default: the recipe's.
        eval_data: folder or `.npz` file; default: test images of the model's data set.
        labels: text file with one class name a line.
        budget: for an int8 file, the largest share of answers that may change on the calibration images, in points;
            the fewest layers are kept in float that hold it. Also the default of `max_drop`.
        max_drop: largest accepted drop in accuracy, in points; see `verify.Report.failure`.
        out: path of the file; default: `MODEL_RECIPE.tflite` in the current directory, with the target's name before
            the suffix unless it is the default.
        force: replace a foreign file, and write the file even if it fails the gate.

    Returns:
        `(record, report, failure)`: the sidecar's content, a `verify.Report`, and why the file failed, or None. A file
        that failed is not written unless `force` is set.

    Raises:
        ValueError, OSError: something about the input or the output path; nothing is written.
        ImportError: a package is missing.
    """
    from export import budgeting, calibration, conversion, trial
    from resnet_keras import cli

    io = targets.get(target).edge(recipes.get(recipe), io)
    method = calibration_method or recipes.get(recipe).method
    ranges.check(calibration_method)
    budgeting.check(budget, recipe, target)
    trial.require(targets.get(target))
    if out is not None:
        artifact.claim(out, force)
    source = command.loaded(model, weights, labels)
    if out is None:
        out = command.file_name(source.name, recipe, target, targets, "tflite")
        artifact.claim(out, force)
    form = conversion.form(source, recipe, io, target)
    command.refuse_calibration(source, calibration_data, calibration_images, calibration_method)
    calibrates = form.recipe.integer_only and (source.learned is None or budget is not None)
    calibrated, evaluation = calibration.gather(
        source, calibration_data, eval_data, calibrates, cli.say, calibration_images
    )
    base = conversion.float_file(source, form)
    data, made = _quantized(base, source, form, calibrated, method, budget)
    return gate.publish(
        out,
        data,
        base if form.recipe.integer_only else None,
        source,
        evaluation,
        lambda draft: {**command.record(draft, source, form.recipe, form.target, io=form.io), **made},
        lambda record, data: _with_metadata(data, source, form, record),
        max_drop=budget if max_drop is None else max_drop,
        force=force,
        kept=made["kept"],
    )


def _quantized(base, source, form, calibrated, method, budget):
    """The bytes, and what the record says of how they came about."""
    from export import budgeting, conversion

    if not form.recipe.integer_only:
        return base, {"calibration": None, "kept": []}
    limits = conversion.observed(base, source, calibrated, method)
    kept = () if budget is None else budgeting.spend(budget, base, form, limits, calibrated.images, source.learned)
    made = {"calibration": command.calibration_record(source, calibrated, method, limits), "kept": list(kept)}
    return conversion.integer_file(base, form, limits, kept, source.learned), made


def _with_metadata(data, source, form, record):
    from export import description, folding, metadata

    texts = description.of(record, source.data_name)
    return metadata.write(data, mean=folding.stated_mean(source.mean, form.fold), **texts)


def parser():
    """The command line; importing nothing heavy keeps `--help` instant."""
    p = command.parser("tflite", __doc__, recipes.RECIPES, targets)
    p.add_argument("--io", metavar="DTYPE", help="of input and output: float32, int8, uint8 (default: the target's)")
    p.add_argument("--calibration-sweep", action="store_true", help="show how many images are enough; write nothing")
    p.add_argument(
        "--budget", type=float, metavar="POINTS", help="keep the fewest layers in float that hold the drop below this"
    )
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    from resnet_keras import cli

    command.check_target(args)
    command.say_default(args)
    sweeping = vars(args).pop("calibration_sweep")
    if sweeping and args.bundle is not None:
        raise ValueError("--calibration-sweep writes nothing: leave --bundle out.")
    if args.bundle is not None:
        return bundle.main(args, "tflite")
    as_json, _ = vars(args).pop("json"), vars(args).pop("bundle")
    if sweeping:
        return _sweep(args, as_json)
    record, report, failure = export(**vars(args))
    if failure and not args.force:
        cli.say("nothing was written; --force keeps the file all the same")
    cli.print_result(command.rows(record, report), record, as_json)
    return cli.gate(failure)


def _sweep(args, as_json):
    from export import calibration, conversion, sweep
    from export import source as sources
    from resnet_keras import cli

    ranges.check(args.calibration_method)
    source = sources.load(args.model, args.weights, args.labels)
    if source.learned is not None:
        raise ValueError(f"{args.model} was trained for int8: there is nothing to calibrate.")
    form = conversion.form(source, args.recipe, args.io, args.target)
    if not form.recipe.integer_only:
        raise ValueError(f"--calibration-sweep goes with --int8 or --int16x8. Received: --{args.recipe}.")
    images, _ = calibration.gather(
        source, args.calibration_data, args.eval_data, say=cli.say, count=args.calibration_images
    )
    steps = sweep.sweep(source, form, images, args.calibration_method or form.recipe.method)
    if as_json:
        print(json.dumps([dataclasses.asdict(step) for step in steps], indent=2))
    else:
        cli.print_table(sweep.HEADER, [step.cells() for step in steps])
    return cli.GOOD


if __name__ == "__main__":
    from resnet_keras import cli

    cli.run(main)
