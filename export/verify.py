"""Opens an exported file in a real runtime and compares it with the Keras model on held-out images.

python -m export.verify model.tflite --model runs/mine --data photos/
"""

import argparse
import dataclasses
import functools
import pathlib
import tempfile

from export import backends, claims, comparison, diagnosis, execution, layers, onnx_file, parts, tflite_file
from export.comparison import compare  # noqa: F401  the figures alone, for whoever has the probabilities
from export.report import Evidence, Report, rows
from resnet_keras import cli
from resnet_keras.evaluate import predict_all
from resnet_keras.preprocessing import Preprocess

BATCH_SIZE = 32
SMALLEST_CROP = 0.1


def verify(path, source, evaluation, twin=None):
    """Runs the file, in a process of its own, and the float model on the same pixels.

    Args:
        path: an exported file.
        source: the `source.Source` that it was made from.
        evaluation: a `calibration.ImageSet` that had no part in making the file.
        twin: path of the float32 file of the same network, which lets the difference be split, or None.

    Returns:
        A `Report`.

    Raises:
        ValueError: the file cannot be run, or takes other images or gives other classes than the model.
        ImportError: the runtime is not installed.
    """
    return examine(path, source, evaluation, twin)[0]


def examine(path, source, evaluation, twin=None, recorded=None):
    """As `verify`, with the arrays that the report was made from.

    Args:
        path, source, evaluation, twin: see `verify`.
        recorded: the pixels of the same images as the file's own record prepares them, or None.

    Returns:
        `(Report, Evidence)`.
    """
    data, model = _read(path)
    _check(path, model, source)
    step = output_step(model)
    predict = functools.partial(predict_all, source.reference.predict_on_batch, batch_size=BATCH_SIZE)
    with cli.bar("verifying", 2 * len(evaluation), "images") as advance:
        scores = execution.predict(path, evaluation.images, advance)
        if scores.shape[1] != len(source.labels):
            raise ValueError(f"{path} gives {scores.shape[1]} classes; the model has {len(source.labels)}.")

        def counted(images):
            advance(len(images))
            return source.reference.predict_on_batch(images)

        reference = predict_all(counted, evaluation.images, batch_size=BATCH_SIZE)
    figures = comparison.compare(reference, scores, evaluation.labels, step)
    evidence = Evidence(evaluation.images, reference, scores, evaluation.labels)
    report = Report(**vars(figures))
    if figures.largest_difference is None:
        return report, evidence
    report = _looked_into(report, path, model, source, evaluation)
    if twin is not None:
        report = _split(report, path, twin, evidence, predict, recorded, step)
    found = diagnosis.find(report, evidence, source, claims.read(path, data, model), path)
    return dataclasses.replace(report, findings=found), evidence


def _read(path):
    if backends.is_onnx(path):
        data, model = onnx_file.read(path)
        return data, onnx_file.described(model)[0]
    return tflite_file.read(path)


def _twin(path, model, directory):
    """A float32 file of the same network and format in `directory`."""
    from export import conversion, onnx_graph, onnx_targets

    if backends.is_onnx(path):
        onnx_graph.require()
        twin, target = pathlib.Path(directory, "float32.onnx"), onnx_targets.get(onnx_targets.DEFAULT)
        twin.write_bytes(onnx_graph.build(model, target, onnx_targets.OPSET).SerializeToString())
    else:
        twin = pathlib.Path(directory, "float32.tflite")
        twin.write_bytes(conversion.convert(model, "float32"))
    return twin


def _check(path, model, source):
    """Refuses a file that takes other images or gives other classes than the model, before it is run."""
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    if (len(model.inputs), len(model.outputs)) != (1, 1):
        raise ValueError(f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; expected one each.")
    if shapes[0][1:] != tuple(source.input_shape) or len(shapes[0]) != 4:
        raise ValueError(f"{path} takes images of shape {shapes[0][1:]}; the model takes {tuple(source.input_shape)}.")
    if shapes[1][-1:] != (len(source.labels),):
        raise ValueError(f"{path} gives {shapes[1][-1:] or 'no'} classes; the model has {len(source.labels)}.")


def output_step(model):
    """The distance between two neighbouring values of a file's output: its scale, 0 for float.

    A float output behind a DEQUANTIZE has the steps of what is dequantized.
    """
    (output,) = model.outputs
    made_by = next((op for op in model.ops if output in op.outputs), None)
    if made_by is not None and made_by.name == "DEQUANTIZE" and made_by.inputs and made_by.inputs[0] is not None:
        output = made_by.inputs[0]
    scale = output.scales[0] if output.scales else 0.0
    return float(scale) if 0 < scale < 1 else 0.0  # anything else is no scale of a probability


@functools.lru_cache(maxsize=1)  # several files of one model are verified in a row
def _anatomy(reference):
    from export.anatomy import Anatomy

    return Anatomy(reference)


def _looked_into(report, path, model, source, evaluation):
    try:
        observation = layers.observe(path, model, _anatomy(source.reference), evaluation.images)
    except ValueError as error:  # it gave answers all the same, which are no less true for that
        return dataclasses.replace(report, unseen=str(error))
    return dataclasses.replace(report, observation=observation)


def _split(report, path, twin, evidence, predict, recorded, step):
    chosen = parts.chosen(len(evidence.images))
    images = evidence.images[chosen]
    seen = images if recorded is None else recorded[chosen]
    if report.seen is not None and not report.seen.is_faithful:
        seen = report.seen.pixels(seen)
    with cli.bar("splitting the difference", len(images), "images") as advance:
        split = parts.split(
            twin,
            images,
            evidence.reference[chosen],
            evidence.scores[chosen],
            predict,
            None if seen is images else seen,
            step,
            advance,
        )
    return dataclasses.replace(report, split=split)


def _as_recorded(source, preprocess):
    """The source with the resizing and cropping of the file's own record, or None where they are the same."""
    own = source.preprocess.to_dict()
    theirs = {**own, **{name: (preprocess or {}).get(name, own[name]) for name in ("crop_fraction", "interpolation")}}
    if theirs == own:
        return None
    try:
        if theirs["crop_fraction"] < SMALLEST_CROP:  # would blow an image up to any size
            return None
        return dataclasses.replace(source, preprocess=Preprocess(**theirs))
    except (ValueError, TypeError):  # the record is damaged, which is found elsewhere
        return None


def parser():
    p = argparse.ArgumentParser(prog="python -m export.verify", description=__doc__.split("\n")[0])
    p.add_argument("file", help="an exported .tflite or .onnx file")
    p.add_argument("--model", help="run directory, .keras file or model name (default: the bundled model)")
    p.add_argument("--weights", help="for a model name: imagenet or another published tag, or a file")
    p.add_argument("--data", help="folder of images or .npz file (default: the model's own test images)")
    p.add_argument("--max-drop", type=float, metavar="POINTS", help="largest accepted drop in accuracy (default: 1)")
    p.add_argument("--labels", metavar="FILE", help="text file with one class name a line")
    p.add_argument("--html", metavar="FILE", help="write a page with pictures, which needs no other file")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    from export import calibration, page, source

    if args.html is not None:
        page.claim(args.html)
    data, contents = _read(args.file)  # first of all: a damaged file needs no model
    model = source.load(args.model, args.weights, args.labels)
    gather = functools.partial(calibration.gather, eval_data=args.data, needs_calibration=False)
    _, evaluation = gather(model, say=cli.say)
    other = _as_recorded(model, claims.read(args.file, data, contents).preprocess)
    recorded = None if other is None else gather(other)[1].images
    with tempfile.TemporaryDirectory() as directory:
        twin = _twin(args.file, model, directory)
        report, evidence = examine(args.file, model, evaluation, twin, recorded)
    failure = report.failure(args.max_drop)
    if args.html is not None:
        name = pathlib.Path(args.file).name
        page.write(args.html, report, evidence, model.labels, name, failure, evaluation.origin)
    cli.print_result(rows(report, "file"), dataclasses.asdict(report), as_json=args.json)
    return cli.gate(failure)


if __name__ == "__main__":
    cli.run(main)
