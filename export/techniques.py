"""The three techniques of tensorflow-model-optimization for a twin: pruning, clustering, quantization-aware training.

Each gives a network to train; what it learned is read back as plain arrays. Only for a process of its own: see `twin`.
"""

import numpy as np

from export import twin

MISSING = "tensorflow-model-optimization is missing. Install it with: pip install 'resnet-keras[compress]'."
WEIGHT_LIMIT = 127  # of the narrow range of 8 bits, in which weights are symmetric


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

    The clusters start evenly spaced. Where k-means would put them all get about as many weights; here the few in the
    middle get most, and such bytes zip to a sixth less.

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
            cluster_centroids_init=api.CentroidInitialization.LINEAR,
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

    Batch norm keeps the statistics that it has, as in the file: those of a batch differ from them by more than the
    rounding that is to be learned.

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
    for layer in quantized.layers:
        if isinstance(getattr(layer, "layer", None), tf_keras.layers.BatchNormalization):
            layer.layer.trainable = False
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
        # Asked for the clusters of a convolution, the library looks whether those of each channel are about as many,
        # which few clusters always are, and would then train them channel by channel.
        registry.get_centroids = _clusters_of_a_layer
        return Clusters(preserve_sparsity=pruned)
    if pruned:
        return prune_preserve.Default8BitPrunePreserveQuantizeScheme()
    return default_8bit_quantize_scheme.Default8BitQuantizeScheme()


def _clusters_of_a_layer(layer, weight, data_format):
    """`(clusters, how many, index of each weight's, False)`, in the place of the library's `get_centroids`."""
    import tensorflow as tf

    clusters, indices = tf.unique(tf.reshape(weight, [-1]))
    return clusters, tf.size(clusters), tf.reshape(indices, weight.shape), False


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
    """The weights as an int8 file rounds them, and the steps of each layer.

    Kernels are rounded in training already. The library does not round biases; a file stores them in steps of the
    kernel times steps of the input. That is little, but moves one probability in a hundred by more than a step.

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
    return arrays | _rounded_biases(arrays, steps, _input_steps(ranges(quantized), description), description), steps


def _rounded_biases(arrays, steps, input_steps, description):
    """What gives each layer a bias, batch norm folded in, that is a multiple of the product of its two steps."""
    result = {}
    for at in description:
        if at["kind"] == "batch norm" and at["inputs"][0] in steps:
            layer, key = at["inputs"][0], f"{at['name']}/beta"
            gamma, mean, variance = (
                arrays[f"{at['name']}/{own}"] for own in ("gamma", "moving_mean", "moving_variance")
            )
            shift = -mean * (gamma / np.sqrt(variance.astype(np.float64) + at["epsilon"]))
        elif at["kind"] == "dense" and at["bias"]:
            layer, key, shift = at["name"], f"{at['name']}/bias", 0.0
        else:
            continue
        own = steps[layer]
        own = np.where(own > 0, own, own[own > 0].min(initial=1.0))  # see `learned.Learned.integers`
        step = own.astype(np.float64) * input_steps[layer]
        result[key] = (np.rint((arrays[key] + shift) / step) * step - shift).astype(np.float32)
    return result


def _input_steps(found, description):
    """`{layer: step of its first input}`; layers that only move values pass on the step of theirs."""
    sources = {at["name"]: at["inputs"] for at in description}
    result = {}
    for name, inputs in sources.items():
        at = inputs[0] if inputs else name
        while at not in found and sources.get(at):
            at = sources[at][0]
        low, high = found.get(at, found["centred"])
        result[name] = (max(high, 0.0) - min(low, 0.0)) / 255
    return result


def assign(quantized, arrays):
    """Gives a quantized network the weights that `baked` found."""
    for layer in quantized.layers:
        if hasattr(layer, "layer"):
            for key, variable in _variables(layer).items():
                if (name := f"{layer.layer.name}/{key}") in arrays:
                    variable.assign(arrays[name])
