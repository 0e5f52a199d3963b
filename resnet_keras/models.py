"""The builder and its constructors, one a row of the table of variants.

Each constructor has the call signature of `keras.applications` and returns a functional `keras.Model` that takes raw
RGB pixels (`image`, 0 to 255) and gives `probabilities`.
"""

import keras

from resnet_keras import layers
from resnet_keras.preprocessing import Preprocess
from resnet_keras.variants import VARIANTS

DOCSTRING = """Builds {title} (arXiv:1512.03385).

Args:
    include_top: whether to end in global average pooling and a classifier. Without it the model returns features.
    weights: None for random initialisation, or the path of a `.weights.h5` file of the same model.
    input_tensor: a Keras tensor to build on, in place of a new input.
    input_shape: `(height, width, channels)`, channels last. Defaults to `({size}, {size}, 3)`, and without the top to
        `(None, None, 3)`. Height and width must be at least {minimum}.
    pooling: without the top: None for the 4-D feature map, `"avg"` or `"max"` for a vector.
    classes: number of classes.
    classifier_activation: activation of the classifier; None returns logits.
    name: name of the model.
    version: `"v1.5"` (stride in the 3x3 convolution of a bottleneck) or `"v1"` (in the first 1x1). The same for
        networks of basic blocks.
    include_preprocessing: whether the model takes raw pixels and normalises them itself, `(x - 128) / 128`. If False,
        it takes pixels that are already normalised, and the export refuses it.
    stem: `"imagenet"` (7x7 of stride 2 and pooling) or `"small"` (3x3, for images of about 32 px). Default: the
        variant's own.
    shortcut: `"projection"` or `"identity"` where the shape changes. Default: the variant's own.
    zero_init_residual: start every block as the identity.

Input: `image`, `(batch, height, width, channels)`, raw RGB pixels from 0 to 255, any numeric dtype.

Returns:
    A `keras.Model`. Its output is `probabilities`, `(batch, classes)`, float32 under any dtype policy.

Raises:
    ValueError: an argument is out of range, or the weights do not fit.
"""


def list_models():
    """Names of all models: `"resnet18"` to `"resnet152"`, then `"resnet8"` to `"resnet110"`."""
    return list(VARIANTS)


def build(name, **arguments):
    """Builds a model by its name in `list_models()`; `arguments` are those of the constructors.

    Raises:
        ValueError: there is no model of that name.
    """
    if name not in VARIANTS:
        raise ValueError(f"Unknown model. Received: {name!r}. Expected one of: {', '.join(list_models())}.")
    return _CONSTRUCTORS[name](**arguments)


def _constructor(title):
    row = VARIANTS[title.lower()]

    def constructor(
        include_top=True,
        weights=None,
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=row.classes,
        classifier_activation="softmax",
        name=row.name,
        *,
        version="v1.5",
        include_preprocessing=True,
        stem=row.stem,
        shortcut=row.shortcut,
        zero_init_residual=False,
    ):
        if pooling not in (None, "avg", "max"):
            raise ValueError(f"Unknown pooling. Received: pooling={pooling!r}. Expected: None, 'avg' or 'max'.")
        image = _image(input_tensor, _checked_shape(row, stem, include_top, input_shape))
        x = Preprocess().layer()(image) if include_preprocessing else image
        x = layers.Stem(row.widths[0], kind=stem, name="stem")(x)
        x = _stages(row, x, version, shortcut=shortcut, zero_init_residual=zero_init_residual)
        x = _top(x, classes, classifier_activation) if include_top else _features(x, pooling)
        inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
        model = keras.Model(inputs, x, name=name)
        if weights is not None:
            _load(model, weights)
        return model

    constructor.__name__ = constructor.__qualname__ = title
    constructor.__doc__ = DOCSTRING.format(title=title, size=row.size, minimum=_reduction(row, row.stem))
    return constructor


def _reduction(row, stem):
    """The factor by which the network shrinks height and width: the smallest image that leaves a pixel."""
    return 2 ** (len(row.depths) - 1) * (4 if stem == "imagenet" else 1)


def _checked_shape(row, stem, include_top, input_shape):
    if input_shape is None:
        size = row.size if stem == row.stem else 32
        return (size, size, 3) if include_top else (None, None, 3)
    shape, minimum = tuple(input_shape), _reduction(row, stem)
    if len(shape) != 3 or any(side is not None and side < minimum for side in shape[:2]) or not shape[2]:
        raise ValueError(
            f"input_shape must be (height, width, channels) with height and width of at least {minimum}. "
            f"Received: input_shape={input_shape}."
        )
    return shape


def _image(input_tensor, shape):
    if input_tensor is None:
        return keras.Input(shape, name="image")
    if keras.backend.is_keras_tensor(input_tensor):
        return input_tensor
    raise ValueError(f"input_tensor must be a Keras tensor, as keras.Input returns it. Received: {type(input_tensor)}.")


def _stages(row, x, version, **arguments):
    block_class = layers.BasicBlock
    if row.block == "bottleneck":
        block_class, arguments = layers.Bottleneck, {**arguments, "version": version}
    for stage, (depth, width) in enumerate(zip(row.depths, row.widths, strict=True), 1):
        for block in range(1, depth + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = block_class(width, stride, name=f"stage{stage}_block{block}", **arguments)(x)
    return x


def _features(x, pooling):
    if pooling is None:
        return x
    pool_class = keras.layers.GlobalAveragePooling2D if pooling == "avg" else keras.layers.GlobalMaxPooling2D
    return pool_class(data_format="channels_last", name="pool")(x)


def _top(x, classes, activation):
    x = _features(x, "avg")
    # Uniform within 1 / sqrt(fan_in), as the PyTorch reference starts its classifier.
    initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    x = keras.layers.Dense(classes, kernel_initializer=initializer, name="logits", dtype="float32")(x)
    if activation is None:
        return x
    return keras.layers.Activation(activation, name="probabilities", dtype="float32")(x)


def _load(model, weights):
    if not str(weights).endswith(".weights.h5"):
        raise ValueError(f"weights must be None or the path of a '.weights.h5' file. Received: weights={weights!r}.")
    try:
        model.load_weights(weights)
    except ValueError as error:
        raise ValueError(f"The weights in {weights} do not fit {model.name}: {str(error).splitlines()[0]}") from error


ResNet18 = _constructor("ResNet18")
ResNet34 = _constructor("ResNet34")
ResNet50 = _constructor("ResNet50")
ResNet101 = _constructor("ResNet101")
ResNet152 = _constructor("ResNet152")
ResNet8 = _constructor("ResNet8")
ResNet20 = _constructor("ResNet20")
ResNet32 = _constructor("ResNet32")
ResNet44 = _constructor("ResNet44")
ResNet56 = _constructor("ResNet56")
ResNet110 = _constructor("ResNet110")

_CONSTRUCTORS = {
    f.__name__.lower(): f for f in list(globals().values()) if getattr(f, "__name__", "").startswith("ResNet")
}
