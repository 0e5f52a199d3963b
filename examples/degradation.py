"""The observation behind residual networks (arXiv:1512.03385, Figure 6), on Fashion-MNIST.

    python examples/degradation.py --quick     # one seed, 20 and 56 layers, the bundled images: minutes
    python examples/degradation.py             # three seeds, 20, 32, 44 and 56 layers: two hours or more

Trains plain and residual networks of several depths by one recipe, from the same initial weights and on the same
batches, and measures after each epoch the error on some of the training images, without augmentation, and some of the
test images, always the same; after the last epoch on all of both. Every run lies in a directory of its own, and the
same command goes on where the last one stopped. Beside the runs lie degradation.json and degradation.png.
"""

import argparse
import dataclasses
import itertools
import pathlib
import platform

from resnet_keras import checkpoint, cli, recipes, report

KINDS = "plain", "residual"
DEPTHS, CHOICES = (20, 32, 44, 56), (20, 32, 44, 56, 110)
RESULT, CONDITIONS, JSON, PNG = "result.json", "conditions.json", "degradation.json", "degradation.png"
# As many images train, and as many of them and of the test images are measured after each epoch, where there are more.
TRAINED, MEASURED = 10_000, 3_000
# The paper's recipe for small images (section 4.2) with a warm-up, which the deep plain networks need, half a cosine,
# which needs no long plateaus, crops that move clothes by two pixels, not four, and more steps from few images.
RECIPE = (
    recipes.get("small")
    .with_changes(data="fashion_mnist", epochs=4, schedule="cosine", warmup_steps=50, crop_padding=2)
    .at_batch_size(32)
)
QUICK = RECIPE.with_changes(data="fashion_mnist_sample", epochs=8)


@dataclasses.dataclass(frozen=True)
class Run:
    """One network to be trained."""

    kind: str
    depth: int
    seed: int

    def __str__(self):
        return f"{self.kind}-{self.depth}-seed{self.seed}"


def planned(depths, seeds):
    """All runs, in an order in which the question is answered first, then made sure of, then filled in.

    The shallowest and the deepest network of both kinds come first, seed after seed, then the depths between them.
    """
    ends = sorted({min(depths), max(depths)})
    between = sorted(set(depths) - set(ends), reverse=True)
    outer = [Run(kind, depth, seed) for seed, depth, kind in itertools.product(seeds, ends, KINDS)]
    return outer + [Run(kind, depth, seed) for depth, seed, kind in itertools.product(between, seeds, KINDS)]


def images(recipe):
    """The data set, whose validation images are test images here, and the training images that are measured.

    Nothing is chosen by the test images: every run is trained to its end, and its last state counts.
    """
    from resnet_keras import data

    dataset = data.load(recipe.data)
    train = _some(dataset.train, TRAINED)
    return dataclasses.replace(dataset, train=train, validation=_some(dataset.test, MEASURED)), _some(train, MEASURED)


def _some(split, count):
    from resnet_keras import data

    return split.take(sorted(data.balanced(split.labels, count, seed=0)))


def train(run, recipe, dataset, measured, directory):
    """Trains one network, or goes on with it, and writes what came of it."""
    import keras

    from resnet_keras import devices, models, precision
    from resnet_keras.loop import Loop

    class MeasuredLoop(Loop):
        """Adds the accuracy on unaugmented training images to each epoch's row; has no best epoch, only the last."""

        def _keep_best(self, row):
            pass

        def _record(self, row):
            super()._record({**row, "train_accuracy": self.evaluate(measured)["accuracy"]})

    def network():
        with precision.policy(precision.resolve("auto")):
            shape = dataset.train.images.shape[1:]
            return models.build(f"resnet{run.depth}", plain=run.kind == "plain", input_shape=shape)

    keras.utils.clear_session()
    keras.utils.set_random_seed(run.seed)
    with devices.scope(1) as used:
        loop = MeasuredLoop(
            network(),
            network(),
            dataset,
            recipe,
            directory,
            seed=run.seed,
            devices=used,
            scales_loss=False,
            checkpoint_minutes=5.0,
        )
        directory.mkdir(parents=True, exist_ok=True)
        with checkpoint.held(directory):
            loop.resume()
            with cli.going_on("The same command goes on."):
                loop.run()
            curve = [
                {
                    "epoch": row["epoch"],
                    "train_error_percent": _error(row["train_accuracy"]),
                    "test_error_percent": _error(row["val_accuracy"]),
                }
                for row in loop.history
            ]
            result = {
                **dataclasses.asdict(run),
                "versions": _versions(),
                "train_error_percent": _error(loop.evaluate(dataset.train)["accuracy"]),
                "test_error_percent": _error(loop.evaluate(dataset.test)["accuracy"]),
                "seconds": round(loop.watch.seconds()),
                "curve": curve,
            }
            checkpoint.save_model(directory, loop.trained())
            checkpoint.write_json(directory / RESULT, result)
            checkpoint.remove_checkpoints(directory)


def _versions():
    import keras

    from resnet_keras import __version__

    return {"resnet_keras": __version__, "keras": keras.version(), "python": platform.python_version()}


def _error(accuracy):
    return round(100 * (1 - accuracy), 4)


def verdict(results):
    """What the training errors of the shallowest and the deepest networks show, in sentences."""
    depths = sorted({result["depth"] for result in results})
    shallow, deep = depths[0], depths[-1]
    plain, residual = (_gaps(results, kind, shallow, deep) for kind in KINDS)
    if shallow == deep or not plain or not residual:
        return ["Nothing yet: it takes a shallow and a deep network of both kinds."]
    sentences = [
        f"{kind}: {deep} layers have {', '.join(f'{g:+.2f}' for g in gaps)} points of training error over {shallow}."
        for kind, gaps in zip(KINDS, (plain, residual), strict=True)
    ]
    if min(plain) <= 0:
        sentences.append(f"Not with every seed are {deep} plain layers worse: degradation is not shown.")
    elif max(residual) > 0:
        sentences.append(f"Degradation. With shortcuts {deep} layers can be worse, too: not shown to remove it.")
    else:
        sentences.append(f"Degradation: {deep} plain layers are worse. With shortcuts they are not: these remove it.")
    if min(len(plain), len(residual)) == 1:
        sentences.append("One seed is an observation; the full form repeats it.")
    return sentences


def _gaps(results, kind, shallow, deep):
    """The training error of the deep network over that of the shallow one, for each seed that has both."""
    errors = {(r["depth"], r["seed"]): r["train_error_percent"] for r in results if r["kind"] == kind}
    seeds = sorted({seed for _, seed in errors})
    return [errors[deep, s] - errors[shallow, s] for s in seeds if {(deep, s), (shallow, s)} <= errors.keys()]


def table(results):
    """`(header, lines)`: one line for each kind and depth, mean errors over the seeds with their range."""
    lines = []
    for (kind, depth), group in _grouped(results):
        cells = [_mean_and_range([result[f"{part}_error_percent"] for result in group]) for part in ("train", "test")]
        lines.append([kind, str(depth), str(len(group)), *cells])
    return ["network", "layers", "seeds", "training error, %", "test error, %"], lines


def _mean_and_range(values):
    mean = f"{sum(values) / len(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def _grouped(results):
    def key(result):
        return result["kind"], result["depth"]

    return [(k, list(group)) for k, group in itertools.groupby(sorted(results, key=key), key)]


def plot(results, path):
    """Draws the errors over the epochs, training dashed and test solid, bands from the lowest to the highest seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
    axes = dict(zip(KINDS, figure.subplots(1, 2, sharey=True), strict=True))
    colours = {depth: f"C{i}" for i, depth in enumerate(sorted({r["depth"] for r in results}))}
    for (kind, depth), group in _grouped(results):
        for part, style in (("train", "--"), ("test", "-")):
            epochs = [row["epoch"] for row in group[0]["curve"]]
            seeds = list(zip(*([row[f"{part}_error_percent"] for row in r["curve"]] for r in group), strict=True))
            mean = [sum(values) / len(values) for values in seeds]
            axes[kind].plot(epochs, mean, style, color=colours[depth], label=f"{depth} layers" * (part == "test"))
            band = [min(v) for v in seeds], [max(v) for v in seeds]
            axes[kind].fill_between(epochs, *band, color=colours[depth], alpha=0.15, linewidth=0)
    for kind, ax in axes.items():
        ax.set(title=f"{kind} networks", xlabel="epoch", yscale="log")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
        ax.grid(alpha=0.3, which="both")
        if ax.lines:  # before the first run of its kind there are none
            ax.legend(title="solid: test, dashed: training", reverse=True)
    axes["plain"].set_ylabel("error, %")
    report.save_figure(figure, path)


def record(out, recipe):
    """Writes and draws what all runs in a directory gave; returns their results."""
    results = [checkpoint.read_json(path) for path in sorted(out.glob(f"*/{RESULT}"))]
    found = {"data": recipe.data, "conditions": conditions(recipe), "verdict": verdict(results), "runs": results}
    checkpoint.write_json(out / JSON, found)
    plot(results, out / PNG)
    return results


def conditions(recipe):
    """What all runs of a directory have in common."""
    import keras

    from resnet_keras import precision

    used = {"precision": precision.resolve("auto"), "backend": keras.backend.backend(), "images_at_most": TRAINED}
    return dataclasses.asdict(recipe) | used


def prepare(out, recipe):
    """Makes the directory of all runs; refuses to mix runs that were trained under different conditions."""
    path, now = out / CONDITIONS, conditions(recipe)
    before = checkpoint.read_json(path) if path.exists() else now
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise ValueError(
            f"{out} holds runs with {changed[0]} = {before.get(changed[0])}. Received: {now[changed[0]]}. Choose "
            "another directory."
        )
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(path, now)


def parser():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--quick", action="store_true", help="one seed, 20 and 56 layers, the bundled images: minutes")
    p.add_argument(
        "--depths",
        type=int,
        nargs="+",
        choices=CHOICES,
        metavar="N",
        help="numbers of layers: %(choices)s (default: 20 32 44 56, quick: 20 56)",
    )
    p.add_argument("--out", type=pathlib.Path, help="where the runs lie (default: runs/degradation)")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    recipe, seeds = (QUICK, (0,)) if args.quick else (RECIPE, (0, 1, 2))
    depths = args.depths or ((20, 56) if args.quick else DEPTHS)
    out = args.out or pathlib.Path("runs") / ("degradation-quick" if args.quick else "degradation")
    report.require_matplotlib()
    cli.import_keras()
    prepare(out, recipe)
    dataset, measured = images(recipe)
    runs = planned(depths, seeds)
    for number, run in enumerate(runs, 1):
        if not (out / str(run) / RESULT).exists():
            cli.say(f"{number}/{len(runs)}  {run}")
            train(run, recipe, dataset, measured, out / str(run))
            record(out, recipe)
    results = record(out, recipe)
    cli.print_table(*table(results))
    print("\n" + "\n".join(verdict(results)))
    print(f"\nThe figures are in {out / JSON}, the curves in {out / PNG}.")
    return cli.GOOD


if __name__ == "__main__":
    cli.run(main)
