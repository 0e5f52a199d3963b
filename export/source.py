"""Anything a user names becomes a `Source`: the float32, flat, static inference graph that converters take."""

import dataclasses
import os
import pathlib

from export.learned import Learned
from resnet_keras import checkpoint, cli, data
from resnet_keras import weights as weight_files
from resnet_keras.preprocessing import Preprocess

BUNDLED = data.ASSETS / "fashion_resnet20"


@dataclasses.dataclass(frozen=True)
class Source:
    """A model on its way to a converter.

    `reference` is the Keras model in float32, raw pixels to probabilities: what the exported file must compute.
    `network` is the same network laid flat, from `pixel - mean` (`centred`) to probabilities; the division by the
    standard deviation is folded into the first convolution, which is exact, and `mean` is what is left to subtract.
    `weights` says where the weights are from: `"bundled"`, `"file"`, `"random"` or a published tag. `data_name` is the
    data set that the model was trained on, `unreadable` the images that were left out of it. `learned` are ranges and
    steps that the network was trained with for int8, or None.
    """

    name: str
    reference: object
    network: object
    mean: float | tuple[float, ...]
    labels: tuple[str, ...]
    preprocess: Preprocess
    weights: str
    data_name: str | None
    unreadable: tuple[str, ...] = ()
    learned: Learned | None = None

    def with_weights(self, arrays):
        """The same model with other weights.

        Args:
            arrays: `{"LAYER/VARIABLE": array}` of `network`, see `twin.values`.
        """
        import keras
        import numpy as np

        from export import twin
        from resnet_keras import graph

        reference = graph.as_float32(self.reference)
        scale = np.asarray(reference.layers[1].scale, "float64").reshape(-1)
        stem = next(layer.name for layer in self.network.layers if isinstance(layer, keras.layers.Conv2D))
        kernel = (arrays[f"{stem}/kernel"] / scale.reshape(-1, 1)).astype("float32")
        twin.assign(graph.flatten(reference), {**arrays, f"{stem}/kernel": kernel})  # which share their variables
        return dataclasses.replace(self, reference=reference, network=_centred(reference, scale))

    @property
    def input_shape(self):
        return self.reference.input_shape[1:]


def load(model=None, weights=None, labels_file=None):
    """Loads what the command line names.

    Args:
        model: a run directory, a `.keras` file, a name of `resnet_keras.list_models()`, or None for the bundled model.
        weights: for a name: `"random"`, a published tag, or a file in any layout that `resnet_keras.weights` reads.
        labels_file: a text file with one class name a line, in place of the names that came with the model.

    Returns:
        A `Source`.

    Raises:
        ValueError: there is no such model, the file is damaged, it is not a ResNet of this package, or the labels are
            not one a class.
        ImportError: tensorflow is not installed.
    """
    _require_tensorflow()
    model = model if model is not None else str(BUNDLED)
    keras_model, card, origin = _find(model, weights)
    _check(keras_model, model)
    labels = _labels(labels_file, card, classes=keras_model.output_shape[-1])
    found = Learned.read(model) if pathlib.Path(model).is_dir() else None
    return dataclasses.replace(_source(keras_model, card, origin, labels), learned=found)


def _require_tensorflow():
    os.environ["KERAS_BACKEND"] = "tensorflow"  # a model trained on jax is exported from tensorflow all the same
    cli.import_keras()
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Export needs Keras on the tensorflow backend. Set KERAS_BACKEND=tensorflow before importing it."
        )


def _find(model, weights):
    """`(keras model, card, origin of the weights)`."""
    from resnet_keras import models

    path = pathlib.Path(model)
    if model in models.list_models() and not path.exists():
        return _by_name(model, weights)
    if weights is not None:
        raise ValueError(
            f"--weights goes with a model's name. Received: --model {model}, which brings its own weights."
        )
    if path.is_dir():
        origin = "bundled" if path == BUNDLED else "file"
        return _read(path / checkpoint.MODEL), checkpoint.load_card(path), origin
    if path.suffix == ".keras":
        return _read(path), {"model": path.stem}, "file"
    raise ValueError(
        f"There is no model {model!r}. Expected a run directory, a .keras file, or one of: "
        f"{', '.join(models.list_models())}."
    )


def _by_name(name, weights):
    from resnet_keras import models

    if weights is None:
        raise ValueError(
            f"{name} alone has no weights. Name a run directory or a .keras file, add --weights imagenet or --weights "
            "FILE, or --weights random for a file whose answers mean nothing."
        )
    if weights == "random":
        return models.build(name), {"model": name}, "random"
    found = weight_files.find(weights, name)
    shape = {"classes": found.classes, "input_channels": found.channels, "version": found.version or "v1.5"}
    card = {"model": name, "labels": found.labels, "preprocess": found.preprocess.to_dict()}
    return models.build(name, weights=found, **shape), card, found.origin if found.labels else "file"


def _read(path):
    import keras

    import resnet_keras.layers  # noqa: F401  registers the layers

    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds for a damaged or foreign file
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path} cannot be loaded as a Keras model: {reason}") from error


def _check(model, name):
    import keras

    from resnet_keras.layers import ResidualBlock, Stem

    own = isinstance(model, keras.Model) and {type(layer).__name__ for layer in model.layers}
    if not own or not any(isinstance(layer, Stem) for layer in model.layers):
        raise ValueError(f"{name} is not a ResNet of this package: it has no {Stem.__name__} layer.")
    if not any(isinstance(layer, ResidualBlock) for layer in model.layers):
        raise ValueError(f"{name} is not a ResNet of this package: it has no residual block.")
    if not isinstance(model.layers[1], keras.layers.Rescaling):
        raise ValueError(
            f"{name} takes normalised pixels. Build it with include_preprocessing=True: files take raw pixels."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise ValueError(f"{name} must have one image as input and one score a class as output.")
    if None in model.input_shape[1:]:
        raise ValueError(f"{name} has no fixed input size: {model.input_shape[1:]}. Build it with input_shape.")


def _labels(labels_file, card, classes):
    labels, where = card.get("labels") or [f"class {i}" for i in range(classes)], "The card"
    if labels_file is not None:
        try:
            labels, where = pathlib.Path(labels_file).read_text(encoding="utf-8-sig").strip().splitlines(), labels_file
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"The labels file {labels_file} cannot be read as text: {error}.") from error
    labels = tuple(str(label).strip() for label in labels)
    if len(labels) != classes or "" in labels:
        raise ValueError(
            f"{where} must hold one label for each of the {classes} classes. "
            f"Received: {len(labels)} lines, {labels.count('')} of them empty."
        )
    return labels


def _source(model, card, origin, labels):
    import numpy as np

    from resnet_keras import graph

    reference = graph.as_float32(model)
    if _ends_in_logits(reference):
        reference = _with_softmax(reference)
    rescaling = reference.layers[1]
    scale, offset = (np.asarray(value, "float64").reshape(-1) for value in (rescaling.scale, rescaling.offset))
    travelled = getattr(rescaling, "preprocess", None)
    if travelled is None:
        values = {"mean": _number(-offset / scale), "std": _number(1 / scale)}
    else:
        values = {"mean": travelled.mean, "std": travelled.std}
    height, width = reference.input_shape[1:3]
    outside = card.get("preprocess") or (travelled.to_dict() if travelled else {"crop_fraction": 1.0})
    try:
        preprocess = Preprocess(**{**outside, "height": height, "width": width, **values})
    except TypeError as error:
        raise ValueError(f"The card's preprocess is not one: {error}.") from error
    return Source(
        name=card.get("model") or model.name,
        reference=reference,
        network=_centred(reference, scale),
        mean=values["mean"],
        labels=labels,
        preprocess=preprocess,
        weights=origin,
        data_name=card.get("data"),
        unreadable=tuple(card.get("unreadable", ())),
    )


def _number(values):
    return float(values[0]) if values.size == 1 else tuple(float(v) for v in values)


def _ends_in_logits(model):
    import keras

    last = model.layers[-1]
    return isinstance(last, keras.layers.Dense) and last.activation is keras.activations.linear


def _with_softmax(model):
    import keras

    return keras.Model(
        model.input, keras.layers.Activation("softmax", name="probabilities")(model.output), name=model.name
    )


def _centred(reference, scale):
    """A flat copy that takes `pixel - mean`: no rescaling layer, its `scale` folded into the first kernel."""
    import keras

    from resnet_keras import graph

    flat = graph.flatten(graph.as_float32(reference))

    def call(layer, *args, **kwargs):
        return args[0] if isinstance(layer, keras.layers.Rescaling) else layer(*args, **kwargs)

    network = graph.clone(flat, lambda layer: layer, call_function=call)
    stem = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    stem.kernel.assign(stem.kernel * scale.reshape(-1, 1).astype("float32"))
    return network
