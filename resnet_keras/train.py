"""Trains a model by a recipe and writes a run directory.

python -m resnet_keras.train --recipe fashion --out runs/fashion
"""

import argparse
import dataclasses
import math
import pathlib
import platform
import time

from resnet_keras import checkpoint, cli, recipes


def train(recipe, out, *, dataset=None, precision="auto", seed=0):
    """Trains by `recipe` and writes `model.keras`, `card.json` and `history.jsonl` into `out`.

    SGD with Nesterov momentum, linear warm-up and half a cosine, decoupled weight decay on kernels, label smoothing, on
    shifted and mirrored images. The loss is computed from float32 logits. The test images, where there are any, are
    looked at once, after the last step.

    Args:
        recipe: a `recipes.Recipe`.
        out: the run directory; made if missing, refused if it holds a model.
        dataset: a `data.Dataset`; default: the one that the recipe names.
        precision: one of `precision.CHOICES`; variables stay float32.
        seed: decides initialisation, order and augmentation.

    Returns:
        The card, as a dictionary.

    Raises:
        ValueError: a value is out of range, or `out` holds a finished run.
        ConnectionError: the data set cannot be had.
    """
    import keras

    from resnet_keras import data
    from resnet_keras import precision as precisions
    from resnet_keras.augment import Batches

    out = pathlib.Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must name a directory. Received a file: {out}.")
    if (out / checkpoint.MODEL).exists():
        raise ValueError(f"{out} holds a finished run. Choose another --out, or delete it.")
    dataset = dataset or data.load(_required(recipe.data))
    precision = precisions.resolve(precision)
    keras.utils.set_random_seed(seed)
    with precisions.policy(precision):
        model = _build(recipe, dataset)
    batches = Batches(dataset.train, recipe, len(dataset.class_names), seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / checkpoint.HISTORY).unlink(missing_ok=True)
    started = time.perf_counter()
    _fit(model, batches, dataset.validation, recipe, out)
    card = {
        **_card(model, recipe, dataset, precision, seed),
        "training_seconds": round(time.perf_counter() - started),
        "accuracy_percent": _accuracies(model, dataset),
    }
    checkpoint.save_model(out, model)
    checkpoint.save_card(out, card)
    return card


def _required(name):
    if name is None:
        raise ValueError("No data set. Name one with --data, or use a recipe that does.")
    return name


def _build(recipe, dataset):
    from resnet_keras import models

    return models.build(
        recipe.model,
        classes=len(dataset.class_names),
        input_shape=dataset.train.images.shape[1:],
        zero_init_residual=recipe.zero_init_residual,
    )


def _fit(model, batches, validation, recipe, out):
    import keras
    import numpy as np

    # Trained on logits: the loss then needs no logarithm of a rounded probability.
    logits = keras.Model(model.input, model.get_layer("logits").output)
    logits.compile(
        optimizer=_optimizer(model, recipe, steps=recipe.epochs * len(batches)),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=jit_compile(),
    )
    one_hot = np.eye(batches.classes, dtype="float32")[validation.labels]
    with cli.bar("training", recipe.epochs * len(batches) * recipe.batch_size, "images") as advance:
        logits.fit(
            batches,
            epochs=recipe.epochs,
            validation_data=(validation.images, one_hot),
            validation_batch_size=recipe.batch_size,
            verbose=0,
            callbacks=[_reporter(advance, recipe, out)],
        )


def _optimizer(model, recipe, steps):
    import keras

    from resnet_keras import graph

    warmup_steps = min(recipe.warmup_steps, steps // 2)
    optimizer = keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warmup_steps), warmup_target=recipe.peak_learning_rate, warmup_steps=warmup_steps
        ),
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    weighted = [layer for layer in graph.leaves(model) if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))]
    decayed = {id(layer.kernel) for layer in weighted}
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if id(v) not in decayed])
    return optimizer


def jit_compile():
    """XLA everywhere but on tensorflow's CPU, where it is slower than the kernels it replaces."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow as tf

    return "auto" if tf.config.list_physical_devices("GPU") else False


def _reporter(advance, recipe, out):
    import keras

    class Reporter(keras.callbacks.Callback):
        """Moves the bar each step, writes a line and a history row each epoch."""

        def on_train_batch_end(self, batch, logs=None):
            advance(recipe.batch_size)

        def on_epoch_end(self, epoch, logs=None):
            if not math.isfinite(logs["loss"]):
                raise ValueError(
                    f"The loss is no longer a number in epoch {epoch + 1}. Lower peak_learning_rate, or use "
                    "--precision float32."
                )
            row = {"epoch": epoch + 1, **{name: round(float(value), 5) for name, value in logs.items()}}
            checkpoint.append_history(out, row)
            figures = f"loss {row['loss']:.4f}, validation accuracy {100 * row['val_accuracy']:.2f} %"
            advance(0, f"epoch {epoch + 1}/{recipe.epochs}")
            cli.say(f"epoch {epoch + 1}/{recipe.epochs}: {figures}")

    return Reporter()


def _accuracies(model, dataset):
    from resnet_keras.evaluate import predict_all, top_k_percent

    measured = {}
    for part in ("validation", "test"):
        split = getattr(dataset, part)
        if split is not None:
            scores = predict_all(model.predict_on_batch, split.images, batch_size=250)
            measured[part] = {"top1": top_k_percent(scores, split.labels), "images": len(split)}
    return measured


def _card(model, recipe, dataset, precision, seed):
    import keras

    from resnet_keras import __version__, graph

    parameters, moving_statistics = graph.count_parameters(model)
    return {
        "model": recipe.model,
        "labels": list(dataset.class_names),
        "preprocess": model.get_layer("preprocessing").preprocess.to_dict(),
        "data": dataset.name,
        "images": {"train": len(dataset.train), "validation": len(dataset.validation)},
        "recipe": dataclasses.asdict(recipe),
        "precision": precision,
        "seed": seed,
        "parameters": parameters,
        "moving_statistics": moving_statistics,
        "macs": graph.count_macs(model),
        "versions": {
            "resnet_keras": __version__,
            "keras": keras.version(),
            "backend": keras.backend.backend(),
            "python": platform.python_version(),
        },
    }


def parser():
    """The command line; importing neither keras nor a backend keeps `--help` instant."""
    p = argparse.ArgumentParser(prog="python -m resnet_keras.train", description="Train a ResNet by a recipe.")
    p.add_argument("--recipe", default="default", help=f"one of: {', '.join(recipes.RECIPES)}")
    p.add_argument("--model", help="name of the model, in place of the recipe's")
    p.add_argument("--data", help="data set: fashion_mnist, fashion_mnist_sample, or an .npz file")
    p.add_argument("--out", help="run directory (default: runs/RECIPE)")
    p.add_argument("--epochs", help="passes over the training images")
    p.add_argument("--batch-size", help="images a step")
    p.add_argument("--precision", default="auto", help="auto, float32, bfloat16 or float16")
    p.add_argument("--seed", type=int, default=0, help="decides initialisation, order and augmentation")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change any value of the recipe")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    recipe = recipes.get(args.recipe)
    for option in ("model", "data", "epochs", "batch_size"):
        if getattr(args, option) is not None:
            recipe = recipe.with_changes(**{option: getattr(args, option)})
    for pair in args.set:
        key, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"--set takes KEY=VALUE. Received: {pair!r}.")
        recipe = recipe.with_changes(**{key: value})
    cli.import_keras()
    out = args.out or f"runs/{args.recipe}"
    card = train(recipe, out, precision=args.precision, seed=args.seed)
    for part, measured in card["accuracy_percent"].items():
        print(f"{part} accuracy: {measured['top1']:.2f} % of {measured['images']} images")
    print(f"wrote {out}")
    return cli.GOOD


if __name__ == "__main__":
    cli.run(main)
