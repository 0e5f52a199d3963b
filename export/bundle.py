"""A folder for whoever builds the app: model, labels, code in five languages, and images that prove it on the device.

from export import bundle
bundle.write("flowers", "runs/flowers", targets=["app", "web"])
"""

import importlib
import json

from export import (
    backends,
    bundle_index,
    bundle_readme,
    command,
    folder,
    golden,
    onnx_targets,
    recipes,
    targets,
    templates,
    trial,
)

README = "README.md"
REGISTRIES = {"tflite": targets, "onnx": onnx_targets}


def write(directory, model=None, weights=None, *, format="tflite", targets=None, force=False, **options):
    """Exports a model for one target or several and writes the bundle: all of it, or nothing.

    Args:
        directory: the folder; a former bundle is replaced if nobody changed it.
        model, weights: see `tflite.export`.
        format: `"tflite"` or `"onnx"`.
        targets: names; each language takes the first file that its runtime can run. Default: that of the format.
        force: replace a foreign folder. A file that fails its gate is not bundled for all that.
        options: further arguments of `tflite.export` or `onnx.export`.

    Returns:
        `(index, exports, failure)`: the content of `bundle.json`; `(record, report)` of each file; and why a file
        failed, or None. With a failure the index is None and nothing is written.

    Raises:
        ValueError, OSError, ImportError: see `tflite.export`.
    """
    from export import calibration
    from resnet_keras import cli

    registry, export = cli.looked_up(REGISTRIES, format, "format"), importlib.import_module(f"export.{format}").export
    names = [registry.DEFAULT] if targets is None else list(targets)
    recipe = options.setdefault("recipe", "int8")
    _check(names, registry, recipe, options.get("io"))
    path = folder.claim(directory, force)
    source = command.loaded(model, weights, options.pop("labels", None))
    with folder.Draft(path) as draft:
        for part in ("models", "golden"):
            (draft.path / part).mkdir()
        exports, files = [], []
        for name in names:
            file = command.file_name(bundle_index.plain(source.name), recipe, name, registry, format)
            files.append(draft.path / "models" / file)
            cli.say(f"{file} for {name}")
            record, report, failure = export(source, target=name, out=files[-1], **options)
            exports.append((record, report))
            if failure:
                return None, exports, failure
        images = options.get("calibration_data"), options.get("eval_data")
        _, evaluation = calibration.gather(source, *images, False, count=options.get("calibration_images"))
        proof = golden.choose(source, evaluation, files, recipe)
        index = bundle_index.of(source, [record for record, _ in exports], proof)
        _fill(draft.path, index, source, proof, format)
        draft.publish()
    return index, exports, None


def _check(names, registry, recipe, io):
    """Refuses at once what an export would refuse when its turn comes."""
    if len(set(names)) < len(names):
        raise ValueError(f"--target must name each target once. Received: {','.join(names)}.")
    for name in names:
        target, chosen = registry.get(name), recipes.get(recipe)
        if registry is onnx_targets:
            target.check(chosen)
        else:
            target.edge(chosen, io)
        trial.require(target)


def _fill(path, index, source, proof, format):
    """Writes what is in a bundle besides the models."""
    golden.write(path, index, source, proof)
    _write(path / index["labels"], "\n".join(source.labels))
    _write(path / folder.INDEX, json.dumps(index, indent=2) + "\n")
    runtime, sections = backends.of(path / index["models"][0]["file"]), []
    for language in templates.LANGUAGES:
        if language.folder in index["code"]:
            values = bundle_index.values(index, language.folder, format, runtime.version())
            files = templates.code(language, format, values)
            sections.append(files.pop(templates.README, ""))
            for name, text in files.items():
                _write(path / "code" / language.folder / name, text)
    _write(path / README, bundle_readme.text(path, index, sections, f"{runtime.name} {runtime.version()}"))


def _write(path, text):
    """The same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def main(args, format):
    """`--bundle` on a command line; `args` as `command.parser` gives them."""
    from resnet_keras import cli

    options = vars(args)
    as_json, directory, names, _ = (options.pop(name) for name in ("json", "bundle", "target", "out"))
    index, exports, failure = write(directory, format=format, targets=names.split(","), **options)
    rows = [row for record, report in exports for row in command.rows(record, report)]
    if index is None:
        cli.say("nothing was written")
    else:
        rows += [("code", ", ".join(index["code"])), *(("", sentence) for sentence in index["left_out"].values())]
        rows += [("tolerance", f"{m['file']}: {m['tolerance']:.2g} of a probability") for m in index["models"]]
        rows += [("bundle", directory)]
    records = [record for record, _ in exports]
    cli.print_result(rows, {"bundle": index and directory, "index": index, "records": records}, as_json)
    return cli.gate(failure)
