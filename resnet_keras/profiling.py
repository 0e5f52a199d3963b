"""What limits the speed of a training run: the input, the computation, or the number format.

python -m resnet_keras.train --profile ...
"""

import dataclasses
import time

import keras
import numpy as np

from resnet_keras import assembly, cli, devices, feed
from resnet_keras import precision as precisions
from resnet_keras.data import load
from resnet_keras.loop import Loop

SECONDS = 5.0  # measured for each figure
WARMUP_STEPS = 2
MARGIN = 1.1  # what is faster by less than this is not worth a change


@dataclasses.dataclass(frozen=True)
class Profile:
    """Images per second: of the input alone, of the whole training, and of the computation in each number format."""

    precision: str
    input: float
    training: float
    computation: dict[str, float]

    def verdict(self):
        """One sentence that says what to change."""
        compute = self.computation[self.precision]
        best = max(self.computation, key=self.computation.get)
        if self.input < MARGIN * compute:
            return (
                f"The input is the limit: it makes {self.input:,.0f} images/s, and the computation could take "
                f"{compute:,.0f}. Use more processor cores, smaller image files, or fewer augmentations."
            )
        if self.computation[best] > MARGIN * compute:
            return (
                f"The precision is the limit: {best} computes {self.computation[best] / compute:.1f} times as fast as "
                f"{self.precision}. Use --precision {best}."
            )
        return (
            f"The computation is the limit: the input could feed {self.input / compute:.1f} times as much. Use more or "
            "faster devices (--devices), smaller images, or a smaller model."
        )

    def rows(self):
        """`(what, figure)` rows for a table."""
        figures = [("input alone", self.input)]
        figures += [(f"computation in {name}", rate) for name, rate in self.computation.items()]
        figures += [(f"training in {self.precision}", self.training)]
        return [(what, f"{rate:,.1f} images/s") for what, rate in figures]


class Repeated(keras.utils.PyDataset):
    """One batch again and again: input that costs nothing."""

    def __init__(self, batch, steps, **kwargs):
        super().__init__(**kwargs)
        self.batch, self.steps = batch, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        return self.batch


def profile(recipe, dataset, settings):
    """Measures a `Profile` of training `recipe` on `dataset` under `settings` (a `train.Settings`).

    Raises:
        ValueError: see `train.train`.
    """
    precision = precisions.resolve(settings.precision)
    plan = assembly.plan(recipe, dataset, precision)
    classes = len(dataset.class_names)
    with devices.scope(settings.devices) as used:

        def batches():
            return feed.training(dataset.train, plan.recipe, classes, settings.seed, 0, 0, used.shard)

        images = plan.recipe.batch_size
        input_rate, batch = _input(batches(), images)
        computation = {}
        for name in _formats(precision):
            logits = _trainer(dataclasses.replace(plan, precision=name), dataset, used)
            computation[name] = _fit_rate(logits, lambda steps: Repeated(batch, steps), images)
            if name == precision:
                training = _fit_rate(logits, lambda steps: _take(batches(), steps), images)
        return Profile(precision, input_rate, training, computation)


def _formats(precision):
    """The number formats worth a look: the chosen one, float32, and what `auto` would choose."""
    return list(dict.fromkeys([precision, "float32", precisions.resolve("auto")]))


def _trainer(plan, dataset, used):
    model = plan.model_to_train(used)
    assembly.check_batch(plan.recipe, model, used)
    return Loop(
        model,
        model,
        dataset,
        plan.recipe,
        out=None,
        seed=0,
        devices=used,
        scales_loss=plan.precision == "float16",
        checkpoint_minutes=float("inf"),
    ).logits


def _input(batches, images):
    """`(images per second, one batch as arrays)`."""
    iterator = feed.iterate(batches)
    batch = tuple(np.asarray(part) for part in next(iterator))
    steps, started = 0, time.perf_counter()
    for _ in iterator:
        steps += 1
        if time.perf_counter() - started > SECONDS:
            break
    if not steps:
        raise ValueError("There is only one batch of training images, too few to measure. Use a smaller --batch-size.")
    return images * steps / (time.perf_counter() - started), batch


def _take(batches, steps):
    if isinstance(batches, keras.utils.PyDataset):
        batches.steps = min(batches.steps, steps)
        return batches
    return batches.take(steps)


def _fit_rate(logits, source, images):
    """Images per second of `fit` over `source(steps)`, compilation left out."""
    logits.fit(source(WARMUP_STEPS), verbose=0, shuffle=False)
    started = time.perf_counter()
    logits.fit(source(WARMUP_STEPS), verbose=0, shuffle=False)
    steps = max(2, round(SECONDS * WARMUP_STEPS / (time.perf_counter() - started)))
    timed = source(steps)
    started = time.perf_counter()
    logits.fit(timed, verbose=0, shuffle=False)
    return images * min(steps, len(timed)) / (time.perf_counter() - started)


def main(recipe, settings):
    """The command's `--profile`: prints the figures and the verdict."""
    if recipe.data is None:
        raise ValueError("No data set. Name one with --data, or use a recipe that does.")
    dataset = load(recipe.data)
    cli.say("measuring input, computation and training, some seconds each")
    measured = profile(recipe, dataset, settings)
    cli.print_result(measured.rows(), None)
    print(measured.verdict())
    return cli.GOOD
