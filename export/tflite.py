"""Exports a ResNet to a `.tflite` file and proves it in LiteRT before it takes its name.

python -m export.tflite --int8
"""

import argparse
import contextlib
import dataclasses
import logging
import warnings

from export import artifact, metadata_schema, recipes

INPUT_NAME, OUTPUT_NAME = "image", "probabilities"
PIXEL_MAX = 255.0
PROOF_IMAGES = 8


def export(
    model=None,
    weights=None,
    *,
    recipe="int8",
    io="float32",
    calibration_data=None,
    eval_data=None,
    labels=None,
    max_drop=None,
    out=None,
    force=False,
):
    """Converts a model, runs the file beside the float model, and writes it with its record.

    Args:
        model: a run directory, a `.keras` file, a model's name, or None for the bundled model.
        weights: for a name, a published tag, a file of weights, or `"random"`.
        recipe: `"float32"`, `"float16"`, `"dynamic"` or `"int8"`.
        io: dtype of the input and output tensor: `"float32"`, or `"int8"`, `"uint8"` for an int8 file.
        calibration_data: folder or `.npz` file; default: training images of the model's data set.
        eval_data: folder or `.npz` file; default: test images of the model's data set.
        labels: text file with one class name a line.
        max_drop: largest accepted drop in accuracy, in points; see `verify.Report.failure`.
        out: path of the file; default: `MODEL_RECIPE.tflite` in the current directory.
        force: replace a foreign file, and write the file even if it fails the gate.

    Returns:
        `(record, report, failure)`: the sidecar's content, a `verify.Report`, and why the file failed, or None. A file
        that failed is not written unless `force` is set.

    Raises:
        ValueError, OSError: something about the input or the output path; nothing is written.
        ImportError: a package is missing.
    """
    from export import calibration, verify
    from export import source as sources
    from resnet_keras import cli

    recipes.check(recipe, io)
    if out is not None:
        artifact.claim(out, force)
    source = sources.load(model, weights, labels)
    if out is None:
        out = f"{source.name}_{recipe}.tflite"
        artifact.claim(out, force)
    integer_only = recipes.RECIPES[recipe].integer_only
    calibrated, evaluation = calibration.gather(source, calibration_data, eval_data, integer_only, cli.say)
    data = convert(source, recipe, io, calibrated)
    with artifact.Draft(out, data) as draft:
        report = verify.verify(draft.path, source, evaluation)
        failure = None if source.weights == "random" else report.failure(max_drop)
        record = _record(source, recipe, io, draft.path, calibrated, evaluation, report)
        if failure is None or force:
            _add_metadata(draft, source, record, evaluation.images[:PROOF_IMAGES])
            record = draft.publish(record)
    return record, report, failure


def convert(source, recipe, io="float32", calibration=None):
    """The bytes of a `.tflite` file.

    Args:
        source: a `source.Source`.
        recipe: a name in `recipes.RECIPES`.
        io: dtype of the edges, `"float32"`, `"int8"` or `"uint8"`.
        calibration: a `calibration.ImageSet`, for a recipe with integer activations.

    Returns:
        A model with one input `image`, `(1, height, width, channels)`, and one output `probabilities`, `(1, classes)`.
        The same arguments give the same bytes.

    Raises:
        ValueError: the recipe and the edges do not go together, or the result is not what its name says.
    """
    import tensorflow as tf

    recipes.check(recipe, io)
    integer_only = recipes.RECIPES[recipe].integer_only
    with _quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([_frozen(source, integer_only)])
    if recipe != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if integer_only:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(io)
        data = _calibrated_and_converted(converter, calibration)
    else:
        with _quiet():
            data = converter.convert()
    return _named(data, integer_only)


def _calibrated_and_converted(converter, calibration):
    from resnet_keras import cli

    with cli.bar("calibrating", len(calibration), "images") as advance:

        def images():
            for image in calibration.images:
                yield [image[None].astype("float32")]
                advance(1)

        converter.representative_dataset = images
        with _quiet():
            return converter.convert()


def _frozen(source, integer_only):
    """A concrete function of static shape with constants for weights, from raw pixels to probabilities.

    A pixel is an integer from 0 to 255 whatever the calibration images hold, so for integer recipes the ranges of the
    input and of the centred input are stated here: one step of the input tensor is one pixel value.
    """
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def pinned(x, low, high):
        return tf.quantization.fake_quant_with_min_max_args(x, low, high) if integer_only else x

    def pixels_to_probabilities(image):
        centred = pinned(image, 0.0, PIXEL_MAX) - source.mean
        low, high = -np.max(source.mean), PIXEL_MAX - np.min(source.mean)
        return source.network(pinned(centred, float(low), float(high)), training=False)

    signature = tf.TensorSpec((1, *source.input_shape), tf.float32, name=INPUT_NAME)
    concrete = tf.function(pixels_to_probabilities, autograph=False).get_concrete_function(signature)
    return convert_variables_to_constants_v2(concrete)


def _named(data, integer_only):
    """Gives the two edges their names and the file its signature, and refuses a file that is not what it is called."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    (graph,) = model.subgraphs
    (first,), (last,) = graph.inputs, graph.outputs
    inner = [tensor for index, tensor in enumerate(graph.tensors) if index not in (first, last)]
    floats = [tensor.name.decode() for tensor in inner if tensor.type == schema.TensorType.FLOAT32]
    if integer_only and floats:
        raise ValueError(f"The converter left {len(floats)} tensors in float, among them {floats[0]}.")
    if any(code.customCode for code in model.operatorCodes):
        raise ValueError("The converter left ops that are not built in.")
    graph.tensors[first].name, graph.tensors[last].name = INPUT_NAME, OUTPUT_NAME
    model.signatureDefs = [_signature(schema, first, last)]
    return metadata_schema.packed_model(model)


def _signature(schema, first, last):
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    for name, index in ((INPUT_NAME, first), (OUTPUT_NAME, last)):
        edge = schema.TensorMapT()
        edge.name, edge.tensorIndex = name, index
        setattr(signature, "inputs" if name == INPUT_NAME else "outputs", [edge])
    return signature


@contextlib.contextmanager
def _quiet():
    """Holds back what the converter prints, from Python and from C++, and shows its end if the conversion fails."""
    from resnet_keras import cli

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with cli.held_stderr() as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or printed()[-300:]
            raise ValueError(f"The converter refused the network: {reason}") from error
        finally:
            logger.setLevel(level)


def _record(source, recipe, io, path, calibration, evaluation, report):
    import keras
    import tensorflow as tf

    from export.runtime import Runner
    from resnet_keras import __version__

    runner = Runner(path)
    return {
        "model": source.name,
        "weights": source.weights,
        "recipe": recipe,
        "io": io,
        "inputs": runner.inputs,
        "outputs": runner.outputs,
        "labels": list(source.labels),
        "preprocess": source.preprocess.to_dict(),
        "calibration": {**calibration.record(), "seed": 0} if calibration else None,
        "measured": {**evaluation.record(), **dataclasses.asdict(report)},
        "versions": {"resnet_keras": __version__, "keras": keras.version(), "tensorflow": tf.version.VERSION},
    }


def _add_metadata(draft, source, record, images):
    """Puts the labels into the file, and what was measured on it, which is known only after it was verified.

    The file that is published is therefore not the one that was verified. That it computes the same is shown by running
    both: equal to the bit on a few images, as only a copy of the same network is.
    """
    import numpy as np

    from export import description, metadata
    from export.runtime import Runner
    from resnet_keras import cli

    with cli.held_stderr():  # LiteRT announces its delegate
        verified = Runner(draft.path).predict(images)
        draft.amend(metadata.write(draft.data, **description.of(record, source.data_name)))
        published = Runner(draft.path).predict(images)
    if not np.array_equal(verified, published, equal_nan=True):
        raise ValueError("The file computes something else with its metadata than without.")


def parser():
    """The command line; importing nothing heavy keeps `--help` instant."""
    p = argparse.ArgumentParser(prog="python -m export.tflite", description=__doc__.split("\n")[0])
    p.add_argument("--model", help="run directory, .keras file or model name (default: the bundled ResNet-20)")
    p.add_argument("--weights", help="for a model name: imagenet or another published tag, a file, or random")
    kind = p.add_mutually_exclusive_group()
    for recipe in recipes.RECIPES.values():
        kind.add_argument(
            f"--{recipe.name}", dest="recipe", action="store_const", const=recipe.name, help=recipe.description
        )
    p.set_defaults(recipe="int8")
    p.add_argument("--io", default="float32", help="dtype of input and output: float32 (default), int8 or uint8")
    p.add_argument("--calibration-data", metavar="DIR|NPZ", help="typical images that set the int8 ranges")
    p.add_argument("--eval-data", metavar="DIR|NPZ", help="other images, to verify the file with")
    p.add_argument("--max-drop", type=float, metavar="POINTS", help="largest accepted drop in accuracy (default: 1)")
    p.add_argument("--labels", metavar="FILE", help="text file with one class name a line")
    p.add_argument("--out", metavar="FILE", help="file to write (default: MODEL_RECIPE.tflite)")
    p.add_argument("--force", action="store_true", help="replace a foreign file; keep a file that fails --max-drop")
    p.add_argument("--json", action="store_true", help="print the record as JSON instead of a table")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    from resnet_keras import cli

    if args.model is None:
        cli.say("no --model given: exporting the bundled ResNet-20, trained on Fashion-MNIST")
    as_json = vars(args).pop("json")
    record, report, failure = export(**vars(args))
    if failure and not args.force:
        cli.say("nothing was written; --force keeps the file all the same")
    cli.print_result(_rows(record, report), record, as_json)
    return cli.gate(failure)


def _rows(record, report):
    from export import verify

    edges = ", ".join(
        f"{edge['name']} {edge['dtype']} {edge['shape']}" for edge in record["inputs"] + record["outputs"]
    )
    rows = [
        ("model", f"{record['model']} ({record['weights']} weights)"),
        ("recipe", record["recipe"]),
        ("edges", edges),
    ]
    if record["calibration"]:
        rows.append(("calibrated on", f"{record['calibration']['images']} images of {record['calibration']['origin']}"))
    rows += verify.rows(report, record["recipe"])
    if "file" in record:
        rows += [("size", f"{record['size_bytes'] / 1024:,.0f} KiB"), ("file", record["file"])]
    return rows


if __name__ == "__main__":
    from resnet_keras import cli

    cli.run(main)
