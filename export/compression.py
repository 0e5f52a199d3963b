"""Pruning, clustering and quantization-aware training by tensorflow-model-optimization, in a process of its own.

python -m export.compression DIRECTORY   is that process: it finds its job in the directory, leaves its results there,
and prints a line of JSON with every step forward.

The network learns to answer as the float one does: its targets are that one's probabilities (distillation, Hinton et
al., arXiv:1503.02531), so what it is rewarded for is what the compressed file is judged by.
"""

import dataclasses
import json
import math
import pathlib
import sys
import time

import numpy as np

from export import techniques, twin
from export.recipes import OUTPUT_STEP

JOB, WEIGHTS, VALIDATION, EVALUATION = "job.json", "weights.safetensors", "validation.npy", "evaluation.npy"
BAKED, LEARNED, SCORES = "baked.safetensors", "learned.json", "scores.npy"
CHECKPOINTS = "checkpoints"
MOMENTUM = 0.9
REPORT_EVERY_S = 0.5
BATCH = 128  # of images that are only looked at


@dataclasses.dataclass(frozen=True)
class Stage:
    """One round of training.

    `kind` is `"prune"`, `"cluster"` or `"qat"`; `amount` the sparsity or the number of clusters, 0 for the last.
    `pruned` and `clustered` say what came before and has to stay.
    """

    kind: str
    amount: float
    epochs: int
    learning_rate: float
    pruned: bool
    clustered: bool


def main(directory):
    directory = pathlib.Path(directory)
    try:
        techniques.library()
        _run(directory, json.loads((directory / JOB).read_text()))
    except (ValueError, ConnectionError) as error:
        _tell(refusal=str(error))
    except ImportError as error:
        _tell(missing=str(error))


def _tell(**event):
    print(json.dumps(event), flush=True)


def _run(directory, job):
    from safetensors.numpy import load_file, save_file

    stem = next(at["name"] for at in job["network"] if at["kind"] == "convolution")
    arrays = _scaled(load_file(directory / WEIGHTS), stem, 1 / job["scale"])
    trainer = _Trainer(directory, job, twin.build(job["network"], arrays))
    for stage in (Stage(**stage) for stage in job["stages"]):
        done = directory / CHECKPOINTS / f"{stage.kind}.safetensors"
        if done.is_file():
            arrays = load_file(done)
            continue
        network = twin.build(job["network"], arrays)
        if stage.kind == "qat":
            start = {**job["ranges"], "centred": [end * job["scale"] for end in job["ranges"]["centred"]]}
            trained = trainer.train(stage, techniques.quantizing(network, start, stage.pruned, stage.clustered))
            arrays, steps = techniques.baked(trained, job["network"])
            techniques.assign(trained, arrays)
            steps[stem] = steps[stem] * job["scale"]
            learned = {
                "ranges": techniques.ranges(trained),
                "steps": {layer: list(map(float, s)) for layer, s in steps.items()},
            }
            (directory / LEARNED).write_text(json.dumps(learned))
            np.save(directory / SCORES, trainer.probabilities(trained, np.load(directory / EVALUATION)))
        else:
            make = techniques.pruning if stage.kind == "prune" else techniques.clustering
            wrapped, callbacks, strip = make(network, stage.amount, trainer.steps(stage), stage.pruned)
            arrays = twin.values(strip(trainer.train(stage, wrapped, callbacks)))
            save_file(arrays, done)
    save_file(_scaled(arrays, stem, job["scale"]), directory / BAKED)


def _scaled(arrays, stem, factor):
    """Another kernel for the first convolution, whose input is multiplied by the inverse.

    The network takes pixel values, so its first kernel is a hundred times smaller than any other. In front of a batch
    norm the length of a kernel decides nothing but how far a gradient turns it: the first step would throw it away.
    """
    kernel = f"{stem}/kernel"
    return {**arrays, kernel: (arrays[kernel] * factor).astype(np.float32)}


class _Trainer:
    """Trains networks on the images of a job to answer as the teacher does."""

    def __init__(self, directory, job, teacher):
        from resnet_keras import data, recipes

        self._directory, self._seed = directory, job["seed"]
        self._mean, self._scale = np.float32(job["mean"]), np.float32(job["scale"])
        self._recipe = recipes.Recipe(**job["recipe"])
        self._dataset = data.load(job["data"], known_unreadable=job["unreadable"])
        self._teacher = _compiled(teacher)
        self._validation = np.load(directory / VALIDATION)
        self._expected = self._logits(self._teacher, self._validation).argmax(axis=1)
        self._told_s = 0.0

    def steps(self, stage):
        from resnet_keras import feed

        return stage.epochs * feed.steps_per_epoch(self._dataset.train, self._recipe)

    def train(self, stage, network, callbacks=()):
        """The network after the epochs of a stage, those of an interrupted run counted in."""
        import tensorflow as tf
        import tf_keras

        # Compiling by XLA, which tf_keras chooses by itself, makes both slower on a processor.
        optimizer = tf_keras.optimizers.SGD(0.0, MOMENTUM, nesterov=True, jit_compile=False)
        optimizer.build(network.trainable_variables)
        network.compile(optimizer, tf_keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
        done = tf.Variable(0, dtype=tf.int64)  # epochs
        saved = tf.train.Checkpoint(network=network, optimizer=optimizer, done=done)
        manager = tf.train.CheckpointManager(saved, str(self._directory / CHECKPOINTS / stage.kind), max_to_keep=1)
        manager.restore_or_initialize()
        for callback in callbacks:
            callback.set_model(network)
            callback.on_train_begin()
        for epoch in range(int(done.numpy()), stage.epochs):
            loss = self._epoch(stage, network, epoch, callbacks)
            done.assign_add(1)
            manager.save()
            answers = self._logits(_compiled(network), self._validation).argmax(axis=1)
            agreement = 100.0 * float(np.mean(answers == self._expected))
            _tell(stage=stage.kind, epoch=epoch + 1, epochs=stage.epochs, loss=loss, agreement_percent=agreement)
        return network

    def _epoch(self, stage, network, epoch, callbacks):
        import tensorflow as tf

        from resnet_keras import feed

        total, classes, losses = self.steps(stage), len(self._dataset.class_names), []
        batches = feed.iterate(feed.training(self._dataset.train, self._recipe, classes, self._seed, epoch))
        for step, (images, _) in enumerate(batches, epoch * total // stage.epochs):
            pixels = self._centred(images)
            network.optimizer.learning_rate.assign(stage.learning_rate * (1 + math.cos(math.pi * step / total)) / 2)
            for callback in callbacks:
                callback.on_train_batch_begin(step)
            losses.append(network.train_on_batch(pixels, tf.nn.softmax(self._teacher(pixels))))
            if time.monotonic() - self._told_s > REPORT_EVERY_S or step + 1 == total:
                self._told_s = time.monotonic()
                _tell(stage=stage.kind, step=step + 1, steps=total)
        for callback in callbacks:
            callback.on_epoch_end(epoch)
        return float(np.mean(losses))

    def _logits(self, function, images):
        parts = [self._centred(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return np.concatenate([function(part).numpy() for part in parts])

    def _centred(self, images):
        return (np.asarray(images, np.float32) - self._mean) * self._scale

    def probabilities(self, network, images):
        """What an int8 file of the quantized network should give: `(count, classes)`, in the steps of its output."""
        import tensorflow as tf

        exact = tf.nn.softmax(self._logits(_compiled(network), images)).numpy()
        return np.clip(np.rint(exact / OUTPUT_STEP), 0, 255).astype(np.float32) * np.float32(OUTPUT_STEP)


def _compiled(network):
    import tensorflow as tf

    return tf.function(lambda pixels: network(pixels, training=False), autograph=False, reduce_retracing=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
