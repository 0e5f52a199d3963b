"""Prunes, clusters and trains a model for int8, and shows what that gained over plain int8.

python -m export.compress --model runs/mine --qat
python -m export.compress --model runs/mine --prune 0.5 --cluster 16 --qat
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np

from export import compression, gains, job, techniques
from resnet_keras import checkpoint, cli

LARGEST_BATCH = 128
# Of the file's outputs have to be the trained network's to one step. The two round sums that lie in the middle of two
# steps differently, which a few outputs in ten thousand show. What was wrong here, biases or kernels on other steps,
# showed as 80 to 98 %.
SAME_SHARE_PERCENT = 99.0
# Passes over the training images and rate of the first step for each round; it falls along a cosine.
SCHEDULE = {"prune": (4, 0.01), "cluster": (2, 0.0001), "qat": (3, 0.003)}
# The gradient of a cluster is the sum over its members, of which there are hundreds.
CLUSTERED_QAT_RATE = 0.00001


def compress(
    model=None,
    *,
    prune=None,
    cluster=None,
    qat=False,
    data=None,
    out=None,
    epochs=None,
    seed=0,
    resume=False,
):
    """Compresses a model and writes a run directory, from which the export commands make files.

    The rounds follow each other: pruning, clustering that keeps the zeros, and quantization-aware training that keeps
    both (the "collaborative optimization" of tensorflow-model-optimization). Each trains the network to answer as the
    float one does, on augmented training images; test images are looked at once, at the end.

    Args:
        model: a run directory, a `.keras` file, or None for the bundled model.
        prune: the share of the weights of each convolution and dense layer that becomes 0, above 0 and below 1.
        cluster: how many different weights each of these layers has, from 2 to 256; from 3 if it is pruned, too.
        qat: whether to train with the rounding of int8.
        data: what `resnet_keras.data.load` takes; default: the data set that the model was trained on.
        out: the directory; default: `runs/MODEL_ROUNDS`.
        epochs: passes over the training images in each round; default: 4 for pruning, 2 for clustering, 3 for QAT.
        seed: decides the order and augmentation of the images.
        resume: go on with what an interrupted call left in `out`; at most an epoch is lost.

    Returns:
        `(card, out)`: the model's card with the figures under `compression`, and the directory.

    Raises:
        ValueError: an argument is out of range, the library does not know one of the layers, or the data do not fit.
        ConnectionError: the data set cannot be had.
        ImportError: a package is missing.
    """
    import importlib.util

    from export import conversion, twin
    from export import source as sources
    from resnet_keras import data as data_sets

    # TensorFlow would take all memory of a GPU, and leave none for the child.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    stages = _stages(prune, cluster, qat, epochs, seed)
    if importlib.util.find_spec("tensorflow_model_optimization") is None:  # not imported: see `twin`
        raise ImportError(techniques.MISSING)
    if model is not None and not pathlib.Path(model).exists():  # a name alone has no weights
        raise ValueError(f"--model takes a run directory or a .keras file. There is no {model}.")
    source = dataclasses.replace(sources.load(model), learned=None)  # what it was trained for before counts no more
    description = twin.describe(source.network)
    card = _card(model, source)
    out = pathlib.Path(out or f"runs/{source.name}_{_name(stages)}")
    job.claim(out, resume)
    where = data or card.get("data")
    if where is None:
        raise ValueError("The model does not say what it was trained on. Name a data set or a folder with --data.")
    dataset = data_sets.load(where, known_unreadable=source.unreadable if data is None else None)
    _check(dataset, source, where, card.get("labels"))
    card["data"] = card.get("data") or str(where)
    card["labels"] = card.get("labels") or list(dataset.class_names)
    images = _images(dataset, source)
    form = conversion.form(source)
    base = conversion.float_file(source, form)
    limits = conversion.observed(base, source, images["calibration"], form.recipe.method)
    work = {
        "network": description,
        "mean": source.mean,
        "scale": 1 / float(np.mean(source.preprocess.std)),
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "data": str(where),
        "unreadable": [list(pair) for pair in dict.fromkeys(getattr(dataset.train, "unreadable", ()))],
        "recipe": _recipe(card, source, dataset),
        "seed": seed,
        "ranges": limits,
    }
    directory = out / job.DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    with checkpoint.held(out):
        job.prepare(directory, work, twin.values(source.network), images)
        job.work(directory)
        result = job.collected(source, directory, description, limits)
        candidates = gains.measure(source, result, images["calibration"], images["evaluation"], _name(stages))
        same = job.same_percent(directory, candidates[-1])
        card["compression"] = {
            "stages": work["stages"],
            "seed": seed,
            "data": dataset.name,
            "files": [candidate.to_dict() for candidate in candidates],
            "over_plain": gains.over_plain(candidates, images["evaluation"].labels),
            "same_as_trained_percent": same,
        }
        if result.learned is not None:
            result.learned.write(out)
        checkpoint.save_model(out, result.reference)
        checkpoint.save_card(out, card)
        shutil.rmtree(directory)
    return card, out


def _stages(prune, cluster, qat, epochs, seed):
    """The rounds, in the order in which each keeps what those before it made."""
    if prune is not None and not 0 < prune < 1:
        raise ValueError(f"--prune takes a share of the weights above 0 and below 1, such as 0.5. Received: {prune}.")
    fewest = 2 if prune is None else 3  # one is zero then, with one on each side
    if cluster is not None and not fewest <= cluster <= 256:
        also = "" if prune is None else " together with --prune"
        raise ValueError(
            f"--cluster takes a number of different weights from {fewest} to 256{also}. Received: {cluster}."
        )
    if seed < 0:
        raise ValueError(f"--seed must be at least 0. Received: {seed}.")
    if epochs is not None and epochs < 1:
        raise ValueError(f"--epochs must be at least 1. Received: {epochs}.")
    chosen = {"prune": prune, "cluster": cluster, "qat": 0 if qat else None}
    kinds = [kind for kind, amount in chosen.items() if amount is not None]
    if not kinds:
        raise ValueError("Nothing to do. Give --qat, --prune SPARSITY, --cluster N, or several of them.")
    return tuple(
        compression.Stage(
            kind,
            chosen[kind],
            epochs or SCHEDULE[kind][0],
            CLUSTERED_QAT_RATE if kind == "qat" and "cluster" in kinds else SCHEDULE[kind][1],
            pruned="prune" in kinds[:place],
            clustered="cluster" in kinds[:place],
        )
        for place, kind in enumerate(kinds)
    )


def _name(stages):
    """Such as `prune50_cluster16_qat`."""
    amounts = {"prune": lambda share: f"{100 * share:g}", "cluster": lambda count: f"{count:g}", "qat": lambda _: ""}
    return "_".join(f"{stage.kind}{amounts[stage.kind](stage.amount)}" for stage in stages)


def _card(model, source):
    """What the card of the result starts from."""
    from export import source as sources

    path = pathlib.Path(model) if model is not None else sources.BUNDLED
    card = checkpoint.load_card(path) if path.is_dir() else {}
    kept = {key: value for key, value in card.items() if key not in ("accuracy_percent", "compression")}
    return {**kept, "model": source.name, "preprocess": source.preprocess.to_dict()}


def _check(dataset, source, where, labels):
    """Refuses data of other classes or images than the model was trained on; `labels` is what its card calls them."""
    from resnet_keras import folders

    if len(dataset.class_names) != len(source.labels):
        raise ValueError(f"{where} has {len(dataset.class_names)} classes; the model has {len(source.labels)}.")
    unnamed = [f"class {i}" for i in range(len(source.labels))]
    names, known = (list(map(folders.folder_name, n)) for n in (dataset.class_names, labels or unnamed))
    other = next((pair for pair in zip(names, known, strict=True) if pair[0] != pair[1]), None)
    if other is not None and unnamed not in (names, known):
        raise ValueError(
            f"{where} has the class {other[0]!r} where the model has {other[1]!r}. Expected the same order."
        )
    shape, height = tuple(source.input_shape), source.input_shape[0]
    given = getattr(dataset.train, "images", None)
    if (given.shape[1:] if given is not None else (height, height, 3)) != shape:
        found = f"images of shape {given.shape[1:]}" if given is not None else "images that are made square, in RGB"
        raise ValueError(f"{where} has {found}; the model takes {shape}.")


def _images(dataset, source):
    """What the network is looked at with: training images that set the ranges it starts from, and others."""
    from export import calibration

    judge, part = (dataset.test, "test") if dataset.test else (dataset.validation, "validation")
    parts = {
        "calibration": (dataset.train, "training", calibration.COUNT),
        "validation": (dataset.validation, "validation", calibration.EVALUATION),
        "evaluation": (judge, part, len(judge) if hasattr(judge, "images") else calibration.EVALUATION),
    }
    return {
        name: calibration.from_split(split, dataset.name, kind, source, count)
        for name, (split, kind, count) in parts.items()
    }


def _recipe(card, source, dataset):
    """How the images are augmented: as when the model was trained, if that is known."""
    from resnet_keras import recipes

    known, held_in_memory = card.get("recipe"), hasattr(dataset.train, "images")
    try:
        recipe = recipes.Recipe(**known) if known else recipes.get("fashion" if held_in_memory else "a3")
    except TypeError as error:
        raise ValueError(f"The card's recipe is not one: {error}.") from error
    batch = min(recipe.batch_size, LARGEST_BATCH, len(dataset.train))
    recipe = dataclasses.replace(recipe, batch_size=batch, size=source.input_shape[0], repeats=1)
    return dataclasses.asdict(recipe)


def parser():
    p = argparse.ArgumentParser(prog="python -m export.compress", description=__doc__.split("\n")[0])
    p.add_argument("--model", help="run directory or .keras file (default: the bundled ResNet-20)")
    p.add_argument("--qat", action="store_true", help="train with the rounding of int8")
    p.add_argument("--prune", type=float, metavar="SPARSITY", help="set this share of the weights to 0, such as 0.5")
    p.add_argument("--cluster", type=int, metavar="N", help="keep N different weights in each layer, such as 16")
    p.add_argument("--data", help="data set, folder or .npz file to train on (default: what the model was trained on)")
    p.add_argument("--out", metavar="DIR", help="run directory to write (default: runs/MODEL_ROUNDS)")
    p.add_argument("--epochs", type=int, metavar="N", help="of each round (default: 4 prune, 2 cluster, 3 qat)")
    p.add_argument("--seed", type=int, default=0, help="decides order and augmentation of the images (default: 0)")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted run in --out")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    as_json = vars(args).pop("json")
    if args.model is None:
        cli.say("no --model given: compressing the bundled ResNet-20, trained on Fashion-MNIST")
    cli.import_keras()
    card, out = compress(**vars(args))
    found = card["compression"]
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        cli.print_table(gains.HEADER, [gains.cells(entry) for entry in found["files"]])
        for line in gains.sentences(found):
            print(line)
        print(f"wrote {out}; next: python -m export.tflite --model {out} --int8")
    same = found["same_as_trained_percent"]
    failure = None
    if same is not None and same < SAME_SHARE_PERCENT:
        failure = (
            f"Only {same:.2f} % of the file's outputs are the trained network's; expected {SAME_SHARE_PERCENT:g} %."
        )
    return cli.gate(failure)


if __name__ == "__main__":
    cli.run(main)
