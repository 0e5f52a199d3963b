"""Trains a model by a recipe and writes a run directory.

python -m resnet_keras.train --recipe fashion --out runs/fashion
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import platform

from resnet_keras import checkpoint, cli, recipes

LISTED = 30  # unreadable images that are named on the terminal; all are in the run directory
UNREADABLE = "unreadable.txt"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a recipe is run, which changes its cost and its last digits, but not what it is.

    `seed` decides initialisation, order and augmentation. `precision` is one of `precision.CHOICES`; variables stay
    float32. `devices` is a number or `"all"`. `deterministic` makes two runs on one machine agree to the last bit.
    `checkpoint_minutes` is the time between two checkpoints within an epoch; there is one after each epoch anyway.
    """

    seed: int = 0
    precision: str = "auto"
    devices: int | str = 1
    deterministic: bool = False
    checkpoint_minutes: float = 10.0


def train(recipe, out, *, dataset=None, resume=False, **settings):
    """Trains by `recipe` and writes `model.keras`, `card.json`, `history.jsonl`, `curves.png` and more into `out`.

    The loss is computed from float32 logits. The test images, where there are any, are looked at once, after the last
    step; the validation images decide nothing but which epoch's model is kept as `best.keras`.

    Args:
        recipe: a `recipes.Recipe`.
        out: the run directory; made if missing, refused if it holds a run, unless that is resumed.
        dataset: a `data.Dataset`; default: the one that the recipe names.
        resume: whether to go on from the last checkpoint in `out`, if there is one.
        **settings: fields of `Settings`.

    Returns:
        The card, as a dictionary.

    Raises:
        ValueError: a value is out of range, the data are not images with labels, `out` holds another run, or the loss
            runs away.
        ConnectionError: the data set or the weights cannot be had.
        cli.Terminated: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    import keras

    from resnet_keras import assembly, devices, precision
    from resnet_keras.loop import Loop

    out, settings = pathlib.Path(out), Settings(**settings)
    settings = dataclasses.replace(settings, precision=precision.resolve(settings.precision))
    started = _started(out, resume)
    if started is not None and (out / checkpoint.CARD).exists():
        cli.say(f"{out} holds a finished run: nothing to resume")
        return checkpoint.load_card(out)
    dataset = dataset or _load(recipe, started)
    start = _start(recipe, settings, dataset)
    if started is not None:
        _refuse_changes(started, start, out)
    if settings.deterministic:
        make_deterministic()
    keras.utils.set_random_seed(settings.seed)
    plan = assembly.plan(recipe, dataset, settings.precision)
    clean = plan.model_to_save()
    with devices.scope(settings.devices) as used:
        model = plan.model_to_train(used)
        assembly.check_batch(recipe, model, used)
        loop = Loop(
            model,
            clean,
            dataset,
            plan.recipe,
            out,
            seed=settings.seed,
            devices=used,
            scales_loss=settings.precision == "float16",
            checkpoint_minutes=settings.checkpoint_minutes,
        )
        with contextlib.ExitStack() as stack:
            if used.is_chief:
                out.mkdir(parents=True, exist_ok=True)
                stack.enter_context(checkpoint.held(out))
                checkpoint.write_json(out / checkpoint.RUN, start)
                _write_unreadable(out, start["unreadable"])
            if resume:
                loop.resume()
            loop.run()
            card = _finish(loop, start)
    _say_unreadable(out, start["unreadable"])
    return card


def make_deterministic():
    """Two runs on one machine give the same bits; call it before the backend computes anything."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    else:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"


def _started(out, resume):
    """How the run in `out` was started, or None where there is none."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must name a directory. Received a file: {out}.")
    finished, unfinished = (out / checkpoint.CARD).exists(), (out / checkpoint.RUN).exists()
    if finished and not resume:
        raise ValueError(f"{out} holds a finished run. Choose another --out, or delete it.")
    if unfinished and not resume:
        raise ValueError(f"{out} holds an unfinished run. Go on with --resume, choose another --out, or delete it.")
    if finished:
        return {}
    return checkpoint.read_json(out / checkpoint.RUN) if unfinished else None


def _load(recipe, started):
    from resnet_keras import data

    if recipe.data is None:
        raise ValueError("No data set. Name one with --data, or use a recipe that does.")
    return data.load(recipe.data, known_unreadable=started["unreadable"] if started else None)


def _start(recipe, settings, dataset):
    """What decides the run, and what is known of its data, as JSON-ready values."""
    # Validation images that were held out from the training folder share its list.
    parts = (dataset.train, dataset.validation, dataset.test)
    unreadable = dict.fromkeys(tuple(pair) for part in parts for pair in getattr(part, "unreadable", ()))
    return {
        "recipe": dataclasses.asdict(recipe),
        "settings": {**dataclasses.asdict(settings), "devices": str(settings.devices)},
        "classes": list(dataset.class_names),
        "images": {
            part: len(getattr(dataset, part))
            for part in ("train", "validation", "test")
            if getattr(dataset, part) is not None
        },
        "unreadable": [list(pair) for pair in unreadable],
    }


def _refuse_changes(started, start, out):
    """Refuses to go on with a run under other conditions than those that it was started under."""
    for name, what in (("recipe", "value"), ("settings", "setting"), ("images", "number of images of the part")):
        for key in started[name].keys() | start[name].keys():
            before, now = started[name].get(key), start[name].get(key)
            if before != now and key not in ("checkpoint_minutes", "data"):
                raise ValueError(
                    f"{out} was started with the {what} {key} = {before}. Received: {now}. Resume without changes, or "
                    f"start a new run from its weights with --weights {out / checkpoint.BEST}."
                )
    if started["classes"] != start["classes"]:
        raise ValueError(f"{out} was started on other classes. Resume with the same data, or choose another --out.")


def _finish(loop, start):
    with loop.averaged():
        measured = {}
        for part in ("validation", "test"):
            split = getattr(loop.dataset, part)
            if split is not None:
                figures = loop.evaluate(split)
                shares = {"top1": 100 * figures["accuracy"]}
                if "top5" in figures:
                    shares["top5"] = 100 * figures["top5"]
                measured[part] = {**{k: round(v, 4) for k, v in shares.items()}, "images": len(split)}
        card = {
            **_card(loop, start),
            "training_seconds": round(loop.watch.seconds()),
            "accuracy_percent": measured,
        }
        if loop.devices.is_chief:
            checkpoint.save_model(loop.out, loop.trained())
            checkpoint.save_card(loop.out, card)
            checkpoint.remove_checkpoints(loop.out)
            (loop.out / checkpoint.RUN).unlink()
    return card


def _card(loop, start):
    import keras

    from resnet_keras import __version__, graph

    parameters, moving_statistics = graph.count_parameters(loop.clean)
    return {
        "model": loop.recipe.model,
        "labels": start["classes"],
        "preprocess": loop.clean.get_layer("preprocessing").preprocess.to_dict(),
        "data": loop.dataset.name,
        "images": {part: count for part, count in start["images"].items() if part != "test"},
        "unreadable": [name for name, _ in start["unreadable"]],
        "recipe": start["recipe"],
        **start["settings"],
        "replicas": loop.devices.replicas,
        "best_epoch": loop.best,
        "parameters": parameters,
        "moving_statistics": moving_statistics,
        "macs": graph.count_macs(loop.clean),
        "versions": {
            "resnet_keras": __version__,
            "keras": keras.version(),
            "backend": keras.backend.backend(),
            "python": platform.python_version(),
        },
    }


def _write_unreadable(out, unreadable):
    if unreadable:
        checkpoint.write_text(out / UNREADABLE, "".join(f"{name}\t{reason}\n" for name, reason in unreadable))


def _say_unreadable(out, unreadable):
    if not unreadable:
        return
    cli.say(f"{len(unreadable)} images could not be read and had no part in this run ({out / UNREADABLE}):")
    for name, reason in unreadable[:LISTED]:
        cli.say(f"  {name}: {reason}")
    if len(unreadable) > LISTED:
        cli.say(f"  and {len(unreadable) - LISTED} more")


def parser():
    """The command line; importing neither keras nor a backend keeps `--help` instant."""
    p = argparse.ArgumentParser(prog="python -m resnet_keras.train", description="Train a ResNet by a recipe.")
    p.add_argument("--recipe", help=f"one of: {', '.join(recipes.RECIPES)}; python -m resnet_keras.recipes lists them")
    p.add_argument("--model", help="name of the model, in place of the recipe's")
    p.add_argument("--data", help="a folder of images, a folder of TFRecord shards, an .npz file, or a named data set")
    p.add_argument("--weights", help="what to start from: a published tag, a file, or a run directory")
    p.add_argument("--out", help="run directory (default: runs/RECIPE)")
    p.add_argument("--epochs", help="passes over the training images")
    p.add_argument("--batch-size", help="images a step, over all devices; the learning rate is scaled with it")
    p.add_argument("--precision", help="auto (the default), float32, bfloat16 or float16")
    p.add_argument("--devices", help="how many to use: a number or all (default: 1)")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out, if there is one")
    p.add_argument("--seed", type=int, help="decides initialisation, order and augmentation (default: 0)")
    p.add_argument("--deterministic", action="store_true", default=None, help="the same bits twice, somewhat slower")
    p.add_argument("--checkpoint-minutes", type=float, help="time between checkpoints within an epoch (default: 10)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change any value of the recipe")
    p.add_argument("--profile", action="store_true", help="say what limits the speed, without training")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    out = pathlib.Path(args.out or f"runs/{args.recipe or 'default'}")
    recipe, settings = _chosen(args, out)
    cli.import_keras()
    from resnet_keras import devices

    devices.initialize(settings.get("seed", 0))
    if args.profile:
        from resnet_keras import profiling

        return profiling.main(recipe, Settings(**settings))
    with cli.going_on("Go on with --resume."):
        card = train(recipe, out, resume=args.resume, **settings)
    for part, measured in card["accuracy_percent"].items():
        print(f"{part} accuracy: {measured['top1']:.2f} % of {measured['images']} images")
    print(f"wrote {out}")
    return cli.GOOD


def _chosen(args, out):
    """`(recipe, settings)` of the command line; what it does not say is as the run was started."""
    settings, recipe = {}, None
    if args.resume and (out / checkpoint.RUN).is_file():
        started = checkpoint.read_json(out / checkpoint.RUN)
        settings, recipe = started["settings"], recipes.Recipe(**started["recipe"])
    if args.recipe is not None or recipe is None:
        recipe = recipes.get(args.recipe or "default")
    for option in ("model", "data", "weights", "epochs"):
        if getattr(args, option) is not None:
            recipe = recipe.with_changes(**{option: getattr(args, option)})
    if args.batch_size is not None:
        recipe = recipe.at_batch_size(args.batch_size)
    for pair in args.set:
        key, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"--set takes KEY=VALUE. Received: {pair!r}.")
        recipe = recipe.with_changes(**{key: value})
    for field in dataclasses.fields(Settings):
        if getattr(args, field.name) is not None:
            settings = {**settings, field.name: getattr(args, field.name)}
    return recipe, settings


if __name__ == "__main__":
    cli.run(main)
