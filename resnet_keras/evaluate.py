"""Exact accuracy over any predict callable: every example counts once, whatever the batch size.

python -m resnet_keras.evaluate --model resnet50 --weights imagenet --data imagenet/validation
"""

import argparse
import pathlib

import numpy as np

from resnet_keras import checkpoint, cli
from resnet_keras.preprocessing import Preprocess

PARTS = ("test", "validation", "train")


def predict_all(predict, images, batch_size=64):
    """Applies `predict` to all images in batches of one constant size.

    The last batch is filled up with copies of its last image, whose results are dropped, so that a callable with a
    fixed batch size (a compiled function, a device) sees no other shape.

    Args:
        predict: callable from `(batch_size, height, width, channels)` to `(batch_size, classes)`.
        images: `(count, height, width, channels)`, count at least 1.
        batch_size: images a call.

    Returns:
        Array of shape `(count, classes)`.
    """
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        filler = np.repeat(batch[-1:], batch_size - len(batch), axis=0)
        outputs.append(np.asarray(predict(np.concatenate([batch, filler])))[: len(batch)])
    return np.concatenate(outputs)


def top_k_percent(scores, labels, k=1):
    """Share of examples whose label is among the `k` highest scores, in percent; of equal scores the lower index wins.

    Args:
        scores: `(count, classes)`, logits or probabilities.
        labels: `(count,)`, integers.
        k: how many guesses count.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100.0 * float(np.mean(np.any(best == labels[:, None], axis=1)))


def over_batches(predict, batches):
    """Applies `predict` to batches of `(images, labels, weights)` and keeps what has a weight.

    Args:
        predict: callable from `(batch, height, width, channels)` to `(batch, classes)`.
        batches: what `feed.evaluation` returns, with labels as `(batch, classes)`.

    Returns:
        `(scores, labels)`: `(count, classes)` and `(count,)`, every image once.
    """
    scores, labels = [], []
    for images, one_hot, weights in batches:
        counts = np.asarray(weights) > 0
        scores.append(np.asarray(predict(images))[counts])
        labels.append(np.argmax(np.asarray(one_hot)[counts], axis=1))
    return np.concatenate(scores), np.concatenate(labels)


def evaluate(model, dataset_part, preprocess, batch_size=64, advance=lambda count: None):
    """Accuracy of a model on labelled images.

    Args:
        model: a `keras.Model` from raw pixels to probabilities or logits.
        dataset_part: a `data.Split` or an `encoded.EncodedSplit`.
        preprocess: the model's `preprocessing.Preprocess`, applied to images on disk.
        batch_size: images a call.
        advance: called with the number of images that each batch brought.

    Returns:
        `{"top1_percent", "top5_percent", "images"}`; every image counted once.
    """
    from resnet_keras import feed

    def predict(images):
        advance(len(images))
        return model.predict_on_batch(images)

    batches = feed.evaluation(dataset_part, preprocess, model.output_shape[-1], batch_size)
    scores, labels = over_batches(predict, feed.iterate(batches))
    return {
        "top1_percent": top_k_percent(scores, labels),
        "top5_percent": top_k_percent(scores, labels, k=5),
        "images": len(labels),
    }


def parser():
    p = argparse.ArgumentParser(
        prog="python -m resnet_keras.evaluate",
        description="Top-1 and top-5 accuracy of a model, with its own preprocessing, every image counted once.",
    )
    p.add_argument("--model", required=True, help="a run directory, a .keras file, or a model's name")
    p.add_argument("--weights", help="for a name: a published tag or a file")
    p.add_argument("--data", required=True, help="a folder of images or TFRecord shards, an .npz file, or a named set")
    p.add_argument("--part", choices=PARTS, help="default: the first of test, validation and train that there is")
    p.add_argument("--json", action="store_true", help="print the result as JSON")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    cli.import_keras()
    model, preprocess, labels = _model(args.model, args.weights)
    class_names, part, split = _images(args.data, args.part)
    if len(class_names) != model.output_shape[-1] or (labels and list(class_names) != list(labels)):
        raise ValueError(
            f"{args.data} has {len(class_names)} classes, {', '.join(class_names[:5])}, ..., and {args.model} knows "
            f"{model.output_shape[-1]}, {', '.join((labels or ['without names'])[:5])}, .... Expected the same."
        )
    with cli.bar(f"evaluating the {part} images", len(split), "images") as advance:
        result = {"part": part, **evaluate(model, split, preprocess, advance=advance)}
    rows = [(f"top-{k} accuracy", f"{result[f'top{k}_percent']:.2f} %") for k in (1, 5)]
    cli.print_result([*rows, (f"{part} images", f"{result['images']:,}")], result, args.json)
    return cli.GOOD


def _images(source, part):
    """`(class names, part, images)`."""
    if pathlib.Path(source).is_dir():
        from resnet_keras import encoded

        class_names, parts = encoded.load(source)
    else:
        from resnet_keras import data

        dataset = data.load(source)
        class_names, parts = dataset.class_names, {name: getattr(dataset, name) for name in PARTS}
    there = [name for name in PARTS if parts[name] is not None]
    if part is not None and part not in there:
        raise ValueError(f"{source} has no {part} images. It has: {', '.join(there)}.")
    part = part or there[0]
    return class_names, part, parts[part]


def _model(name, weights):
    """`(model, its Preprocess, its class names or None)`."""
    import keras

    from resnet_keras import models
    from resnet_keras import weights as weight_files

    path = pathlib.Path(name)
    if name in models.list_models() and not path.exists():
        if weights is None:
            raise ValueError(
                f"{name} alone has no weights. Add --weights TAG or --weights FILE, or name a run directory."
            )
        found = weight_files.find(weights, name)
        model = models.build(name, weights=found, classes=found.classes, version=found.version or "v1.5")
        card = {}
    elif weights is not None:
        raise ValueError(f"--weights goes with a model's name. Received: --model {name}, which brings its own weights.")
    else:
        card = checkpoint.load_card(path) if path.is_dir() else {}
        path = path / checkpoint.MODEL if path.is_dir() else path
        if not path.is_file():
            raise ValueError(
                f"There is no model {name!r}. Expected a run directory, a .keras file, or one of: "
                f"{', '.join(models.list_models())}."
            )
        try:
            model = keras.models.load_model(path, compile=False)
        except Exception as error:  # Keras raises many kinds for a damaged or foreign file
            raise ValueError(f"{path} cannot be loaded as a Keras model: {str(error).splitlines()[0][:200]}") from error
    height, width = model.input_shape[1:3]
    travelled = getattr(model.layers[1], "preprocess", None)  # models saved by the first release have it in the card
    given = card.get("preprocess") or (travelled.to_dict() if travelled else {"crop_fraction": 1.0})
    return model, Preprocess(**{**given, "height": height, "width": width}), card.get("labels")


if __name__ == "__main__":
    cli.run(main)
