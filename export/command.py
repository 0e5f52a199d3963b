"""What the export commands have in common: arguments, the record of a file, the table at the end."""

import argparse

from export import ranges


def parser(name, doc, formats, targets):
    """A parser with the arguments of all export commands.

    Args:
        name: of the command, such as `"tflite"`.
        doc: its module's docstring.
        formats: `{name: recipes.Recipe}` of what it can write.
        targets: a module with `TARGETS` and `DEFAULT`.
    """
    p = argparse.ArgumentParser(prog=f"python -m export.{name}", description=doc.split("\n")[0])
    p.add_argument("--model", help="run directory, .keras file or model name (default: the bundled ResNet-20)")
    p.add_argument("--weights", help="for a model name: imagenet or another published tag, a file, or random")
    kind = p.add_mutually_exclusive_group()
    for recipe in formats.values():
        kind.add_argument(
            f"--{recipe.name}", dest="recipe", action="store_const", const=recipe.name, help=recipe.description
        )
    p.set_defaults(recipe="int8")
    known = ", ".join(targets.TARGETS)
    p.add_argument("--target", default=targets.DEFAULT, metavar="NAME", help=f"{known} (default: {targets.DEFAULT})")
    p.add_argument("--calibration-data", metavar="DIR|NPZ", help="typical images that set the int8 ranges")
    p.add_argument("--calibration-images", type=int, metavar="N", help="how many of them at most (default: 200)")
    p.add_argument("--calibration-method", metavar="NAME", help=f"{', '.join(ranges.METHODS)} (default: mse)")
    p.add_argument("--eval-data", metavar="DIR|NPZ", help="other images, to verify the file with")
    p.add_argument("--max-drop", type=float, metavar="POINTS", help="largest accepted drop in accuracy (default: 1)")
    p.add_argument("--labels", metavar="FILE", help="text file with one class name a line")
    place = p.add_mutually_exclusive_group()
    place.add_argument("--out", metavar="FILE", help="file to write (default: MODEL_RECIPE_TARGET and the suffix)")
    place.add_argument(
        "--bundle",
        metavar="DIR",
        help="write a folder for the app instead: model, labels, code, golden images; --target may name several, A,B",
    )
    p.add_argument("--force", action="store_true", help="replace a foreign file; keep a file that fails --max-drop")
    p.add_argument("--json", action="store_true", help="print the record as JSON instead of a table")
    return p


def file_name(name, recipe, target, registry, suffix):
    """What a file is called by default.

    Args:
        name: of the model.
        recipe: name of the recipe.
        target: name of the target, which is left out where it is the default.
        registry: a module with `DEFAULT`.
        suffix: without the dot.
    """
    return f"{name}_{recipe}{'' if target == registry.DEFAULT else f'_{target}'}.{suffix}"


def loaded(model, weights, labels):
    """The `source.Source` of what a user names; what is loaded already is taken as it is."""
    from export import source as sources

    return model if isinstance(model, sources.Source) else sources.load(model, weights, labels)


def check_target(args):
    """Refuses a list of targets where one file is written.

    Raises:
        ValueError: there is such a list.
    """
    if args.bundle is None and "," in args.target:
        raise ValueError(f"--target takes several names only together with --bundle. Received: {args.target}.")


def say_default(args):
    """Tells which model is exported where none was named."""
    from resnet_keras import cli

    if args.model is None:
        cli.say("no --model given: exporting the bundled ResNet-20, trained on Fashion-MNIST")


def refuse_calibration(source, *options):
    """Refuses options on calibration for a model that brings its ranges.

    Raises:
        ValueError: such an option was given.
    """
    if source.learned is not None and any(option is not None for option in options):
        raise ValueError("The model was trained for int8 and brings its ranges. Leave the --calibration options out.")


def calibration_record(source, calibrated, method, limits):
    """Where the ranges of an integer file are from, for its sidecar.

    Args:
        source: a `source.Source`.
        calibrated: the `calibration.ImageSet` that was looked at, or None where the ranges were learned.
        method: one of `ranges.METHODS`.
        limits: the ranges.
    """
    from export.calibration import SEED

    if source.learned is not None:
        return {"origin": f"{source.data_name} training", "images": None, "method": "learned", "ranges": limits}
    return {**calibrated.record(), "seed": SEED, "method": method, "ranges": limits}


def record(path, source, recipe, target, **more):
    """What is known of a file before anything was measured on it: the first part of its sidecar."""
    import keras
    import tensorflow as tf

    from export.runtime import Runner
    from resnet_keras import __version__, cli

    with cli.held_stderr():  # LiteRT announces its delegate
        runner = Runner(path)
    return {
        "model": source.name,
        "weights": source.weights,
        "recipe": recipe.name,
        "target": target.name,
        **more,
        "inputs": runner.inputs,
        "outputs": runner.outputs,
        "labels": list(source.labels),
        "preprocess": source.preprocess.to_dict(),
        "versions": {"resnet_keras": __version__, "keras": keras.version(), "tensorflow": tf.version.VERSION},
    }


def rows(record, report):
    """The record of an export as `(what, figure)` pairs for a table."""
    from export import verify

    edges = ", ".join(
        f"{edge['name']} {edge['dtype']} {edge['shape']}" for edge in record["inputs"] + record["outputs"]
    )
    rows = [
        ("model", f"{record['model']} ({record['weights']} weights)"),
        ("recipe", f"{record['recipe']} for {record['target']}"),
        ("edges", edges),
    ]
    calibration = record["calibration"]
    if calibration and calibration["method"] == "learned":
        rows.append(("ranges", "those that it was trained with"))
    elif calibration:
        rows.append(("calibrated on", f"{calibration['images']} images of {calibration['origin']}"))
    if record["kept"]:
        rows.append(("kept in float", ", ".join(record["kept"])))
    rows += verify.rows(report, record["recipe"])
    if "file" in record:
        rows += [("size", f"{record['size_bytes'] / 1024:,.0f} KiB"), ("file", record["file"])]
    return rows
