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

from export import twin

JOB, WEIGHTS, VALIDATION, EVALUATION = "job.json", "weights.safetensors", "validation.npy", "evaluation.npy"
BAKED, LEARNED, SCORES = "baked.safetensors", "learned.json", "scores.npy"
CHECKPOINTS = "checkpoints"
MISSING = "tensorflow-model-optimization is missing. Install it with: pip install 'resnet-keras[compress]'."
MOMENTUM = 0.9
REPORT_EVERY_S = 0.5
BATCH = 128  # of images that are only looked at
OUTPUT_STEP = 1 / 256  # of a probability in 8 bits, as TensorFlow Lite fixes it
WEIGHT_LIMIT = 127  # of the narrow range of 8 bits, in which weights are symmetric


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


def library():
    """`tensorflow_model_optimization`; from now on `tf.keras` is `tf_keras`, for the whole process.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import tensorflow_model_optimization
    except ImportError as error:
        raise ImportError(MISSING) from error
    return tensorflow_model_optimization


def main(directory):
    directory = pathlib.Path(directory)
    try:
        library()
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
            trained = trainer.train(stage, quantizing(network, start, stage.pruned, stage.clustered))
            arrays, steps = baked(trained, job["network"])
            steps[stem] = steps[stem] * job["scale"]
            learned = {"ranges": ranges(trained), "steps": {layer: list(map(float, s)) for layer, s in steps.items()}}
            (directory / LEARNED).write_text(json.dumps(learned))
            np.save(directory / SCORES, trainer.probabilities(trained, np.load(directory / EVALUATION)))
        else:
            make = pruning if stage.kind == "prune" else clustering
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


def pruning(network, sparsity, steps, pruned=False):
    """The network with weights that go to 0, the smallest first (Zhu and Gupta, arXiv:1710.01878).

    The sparsity of each convolution and dense layer rises over the first half of the steps.

    Returns:
        `(network to train, callbacks, function that gives the plain network back)`.
    """
    sparsities = library().sparsity.keras
    schedule = sparsities.PolynomialDecay(0.0, sparsity, 0, max(steps // 2, 1), frequency=max(steps // 100, 1))
    wrapped = _wrapped(network, lambda layer: sparsities.prune_low_magnitude(layer, pruning_schedule=schedule))
    return wrapped, [sparsities.UpdatePruningStep()], sparsities.strip_pruning


def clustering(network, clusters, steps, pruned):
    """The network with `clusters` different weights a layer (Han et al., arXiv:1510.00149, section 3), zeros kept.

    Returns:
        See `pruning`.
    """
    library()
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    api = library().clustering.keras

    def wrap(layer):
        return cluster.cluster_weights(
            layer,
            number_of_clusters=int(clusters),
            cluster_centroids_init=api.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=pruned,
        )

    return _wrapped(network, wrap), [], api.strip_clustering


def _wrapped(network, wrap):
    import tf_keras

    def clone(layer):
        return wrap(layer) if isinstance(layer, (tf_keras.layers.Conv2D, tf_keras.layers.Dense)) else layer

    return tf_keras.models.clone_model(network, clone_function=clone)


def quantizing(network, start, pruned=False, clustered=False):
    """The network that rounds weights and activations as an int8 file does (Jacob et al., arXiv:1712.05877).

    Args:
        network: a twin.
        start: `{layer: (low, high)}`, the ranges of plain int8, from which training goes on.
        pruned, clustered: what has to stay as it is.

    Returns:
        A `tf_keras.Model` up to the rounded logits.
    """
    import tf_keras

    quantize = library().quantization.keras

    class Nothing(quantize.QuantizeConfig):
        """Rounds nothing: the values are those that went in."""

        def get_weights_and_quantizers(self, layer):
            return []

        def get_activations_and_quantizers(self, layer):
            return []

        def set_quantize_weights(self, layer, quantize_weights):
            pass

        def set_quantize_activations(self, layer, quantize_activations):
            pass

        def get_output_quantizers(self, layer):
            return []

        def get_config(self):
            return {}

    def annotate(layer):
        if isinstance(layer, tf_keras.layers.InputLayer):
            return layer
        return quantize.quantize_annotate_layer(layer, Nothing() if isinstance(layer, twin.channel_padding()) else None)

    with quantize.quantize_scope({"Nothing": Nothing, "ChannelPadding": twin.channel_padding()}):
        annotated = tf_keras.models.clone_model(network, clone_function=annotate)
        quantized = quantize.quantize_apply(annotated, _scheme(pruned, clustered))
    for layer, low, high in _ranged(quantized):
        low.assign(start[layer][0])
        high.assign(start[layer][1])
    return quantized


def _scheme(pruned, clustered):
    library()
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (
        cluster_preserve_quantize_registry as registry,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (
        default_8bit_cluster_preserve_quantize_scheme as cluster_preserve,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (
        default_8bit_prune_preserve_quantize_scheme as prune_preserve,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import default_8bit_quantize_scheme

    class Clusters(cluster_preserve.Default8BitClusterPreserveQuantizeScheme):
        """One scale a layer before batch norm is folded in, where the library has one for each channel.

        With scales of their own the channels would round one cluster to different integers, and a file of 16 clusters
        would hold as many different bytes as any other.
        """

        def get_quantize_registry(self):
            found = super().get_quantize_registry()
            one_scale = registry.ClusterPreserveDefault8BitWeightsQuantizer
            found._config_quantizer_map["Default8BitConvQuantizeConfig"] = one_scale(self.preserve_sparsity)
            return found

    if clustered:
        return Clusters(preserve_sparsity=pruned)
    if pruned:
        return prune_preserve.Default8BitPrunePreserveQuantizeScheme()
    return default_8bit_quantize_scheme.Default8BitQuantizeScheme()


def _variables(layer):
    """`{last part of the name: variable}` of a layer of a quantized network."""
    return {variable.name.split("/")[-1].split(":")[0]: variable for variable in layer.weights}


def _ranged(quantized):
    """`(name of the layer whose result is rounded, variable of the lower end, of the upper end)`, the input first."""
    for layer in quantized.layers:
        own = _variables(layer)
        for place in ("quantize_layer", "output", "post_activation"):
            if f"{place}_min" in own:
                name = layer.layer.name if hasattr(layer, "layer") else "centred"
                yield name, own[f"{place}_min"], own[f"{place}_max"]


def ranges(quantized):
    """`{layer: (low, high)}` of what a quantized network rounds; of its input, `centred`."""
    return {layer: (float(low.numpy()), float(high.numpy())) for layer, low, high in _ranged(quantized)}


def baked(quantized, description):
    """The weights as the quantized network rounds them, and the steps of each layer.

    Returns:
        `({"LAYER/VARIABLE": array}, {layer: steps})`; the steps, one for each output, are those of the kernel after
        batch norm is folded into it, which scales each output.
    """
    arrays, steps = {}, {}
    for layer in quantized.layers:
        if not hasattr(layer, "layer"):
            continue
        name, own = layer.layer.name, _variables(layer)
        arrays |= {f"{name}/{key}": own[key].numpy() for key in twin.VARIABLES if key in own}
        if "kernel_max" in own:
            kernel = arrays[f"{name}/kernel"]
            largest = np.maximum(np.abs(own["kernel_min"].numpy()), np.abs(own["kernel_max"].numpy()))
            step = (largest / WEIGHT_LIMIT).astype(np.float32)
            integers = np.rint(kernel / np.where(step > 0, step, 1))
            arrays[f"{name}/kernel"] = np.clip(integers, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.float32) * step
            steps[name] = np.broadcast_to(step, kernel.shape[-1:])
    for at in description:
        if at["kind"] == "batch norm" and at["inputs"][0] in steps:
            gamma, variance = (arrays[f"{at['name']}/{key}"] for key in ("gamma", "moving_variance"))
            steps[at["inputs"][0]] = steps[at["inputs"][0]] * np.abs(gamma) / np.sqrt(variance + at["epsilon"])
    return arrays, steps


if __name__ == "__main__":
    main(*sys.argv[1:])
