"""The builder and its constructors, one a row of the table of variants.

Each constructor has the call signature of `keras.applications` and returns a functional `keras.Model` that takes raw
RGB pixels (`image`, 0 to 255) and gives `probabilities`.
"""

import dataclasses

import keras
import numpy as np

from resnet_keras import layers, transfer
from resnet_keras import weights as weight_files
from resnet_keras.pixels import PixelNormalization
from resnet_keras.preprocessing import Preprocess
from resnet_keras.variants import VARIANTS

DOCSTRING = """Builds {title} (arXiv:1512.03385).

Args:
    include_top: whether to end in global average pooling and a classifier. Without it the model returns features.
    weights: None for random initialisation; a published tag, `"imagenet"`, `"a1_in1k"`, `"a2_in1k"`, `"a3_in1k"`,
        `"tv_in1k"`, `"tv2_in1k"` or `"keras"` (`python -m resnet_keras.weights` lists them); or the path of a
        `.safetensors`, `.pth`, `.pt`, `.bin`, `.weights.h5`, `.keras` or `.h5` file in the layout of torchvision, timm,
        Hugging Face's transformers, `keras.applications` or this package. The weights' own normalisation comes with
        them. Every tensor of the file is used and every variable filled, or the file is refused, but for a classifier
        of another number of classes, which keeps its random start.
    input_tensor: a Keras tensor to build on, in place of a new input.
    input_shape: `(height, width, channels)`, channels last. Defaults to `({size}, {size}, 3)`, and without the top to
        `(None, None, 3)`. Height and width must be at least {minimum}.
    pooling: without the top: None for the 4-D feature map, `"avg"` or `"max"` for a vector.
    classes: number of classes.
    classifier_activation: activation of the classifier; None returns logits.
    name: name of the model.
    version: `"v1.5"` (stride in the 3x3 convolution of a bottleneck, as in PyTorch) or `"v1"` (in the first 1x1, as in
        `keras.applications`, whose weights need it). The same for networks of basic blocks.
    input_channels: number of channels where `input_shape` does not say it. Weights for another number are adapted: the
        stem's kernel is summed for one channel, and repeated and scaled for others.
    include_preprocessing: whether the model takes raw pixels and normalises them itself, `(x - 128) / 128` or as the
        weights need it. If False, it takes pixels that are already normalised, and the export refuses it.
    stem: `"imagenet"` (7x7 of stride 2 and pooling) or `"small"` (3x3, for images of about 32 px). Default: the
        variant's own.
    shortcut: `"projection"` or `"identity"` where the shape changes. Default: the variant's own.
    width_multiplier: factor on the channels of the stem and of every stage, a whole number (Zagoruyko and Komodakis,
        arXiv:1605.07146, section 3; they leave the stem as it is).
    zero_init_residual: start every block as the identity.
    stochastic_depth: in training, the share of images that skip the branch of the last block; it rises linearly from 0
        for the first block (arXiv:1603.09382, equation 4).
    plain: leave out every shortcut: the plain network of the same layers that the paper compares with (section 3.3). It
        exists to be studied, has no published weights, and takes neither `zero_init_residual` nor `stochastic_depth`.

Input: `image`, `(batch, height, width, channels)`, raw RGB pixels from 0 to 255, any numeric dtype.

Returns:
    A `keras.Model`. Its output is `probabilities`, `(batch, classes)`, float32 under any dtype policy.

Raises:
    ValueError: an argument is out of range, or the weights are damaged or do not fit.
    FileNotFoundError: there is no such file.
    ConnectionError: published weights cannot be downloaded.
    ImportError: the package that reads such a file is missing.
"""


def list_models():
    """Names of all models: `"resnet18"` to `"resnet152"`, then `"resnet8"` to `"resnet1202"`."""
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
        input_channels=None,
        include_preprocessing=True,
        stem=row.stem,
        shortcut=row.shortcut,
        width_multiplier=1,
        zero_init_residual=False,
        stochastic_depth=0.0,
        plain=False,
    ):
        if pooling not in (None, "avg", "max"):
            raise ValueError(f"Unknown pooling. Received: pooling={pooling!r}. Expected: None, 'avg' or 'max'.")
        if not isinstance(width_multiplier, int) or width_multiplier < 1:
            raise ValueError(f"width_multiplier must be a whole number from 1 up. Received: {width_multiplier!r}.")
        shortcut = _checked_shortcut(row, shortcut, plain, weights)
        widths = [width_multiplier * width for width in row.widths]
        image = _image(input_tensor, _checked_shape(row, stem, include_top, input_shape, input_channels))
        found, preprocess = None, Preprocess(crop_fraction=1.0)
        if weights is not None:
            found = weight_files.find(weights, row.name)
            transfer.check_version(found, row, version)
            preprocess = transfer.normalisation(found, channels=image.shape[-1])
        x = _normalised(image, preprocess) if include_preprocessing else image
        x = layers.Stem(widths[0], kind=stem, name="stem")(x)
        x = _stages(row, widths, x, version, stochastic_depth, shortcut=shortcut, zero_init_residual=zero_init_residual)
        x = _top(x, classes, classifier_activation) if include_top else _features(x, pooling)
        if found is not None:
            transfer.fill(keras.Model(image, x, name=name), found)
        inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
        return keras.Model(inputs, x, name=name)

    constructor.__name__ = constructor.__qualname__ = title
    constructor.__doc__ = DOCSTRING.format(title=title, size=row.size, minimum=_reduction(row, row.stem))
    return constructor


def _checked_shortcut(row, shortcut, plain, weights):
    if shortcut not in ("projection", "identity"):
        raise ValueError(f"Unknown shortcut. Received: shortcut={shortcut!r}. Expected: 'projection' or 'identity'.")
    if not plain:
        return shortcut
    if weights is not None:
        raise ValueError(
            f"Weights for a constructor are those of a residual network. Received: weights={str(weights)!r} and "
            "plain=True. Build with plain=True alone, and read a plain network's weights with load_weights."
        )
    if shortcut != row.shortcut:
        raise ValueError(f"A plain network has no shortcuts. Received: shortcut={shortcut!r} and plain=True.")
    return "none"


def _reduction(row, stem):
    """The factor by which the network shrinks height and width: the smallest image that leaves a pixel."""
    return 2 ** (len(row.depths) - 1) * (4 if stem == "imagenet" else 1)


def _checked_shape(row, stem, include_top, input_shape, input_channels):
    if input_channels is not None and (not isinstance(input_channels, int) or input_channels < 1):
        raise ValueError(f"input_channels must be a whole number from 1 up. Received: {input_channels!r}.")
    if input_shape is None:
        size = (row.size if stem == row.stem else 32) if include_top else None
        return size, size, input_channels or 3
    shape, minimum = tuple(input_shape), _reduction(row, stem)
    if len(shape) != 3 or any(side is not None and side < minimum for side in shape[:2]) or not shape[2]:
        raise ValueError(
            f"input_shape must be (height, width, channels) with height and width of at least {minimum}. "
            f"Received: input_shape={input_shape}."
        )
    if input_channels not in (None, shape[2]):
        raise ValueError(
            f"input_shape and input_channels disagree. Received: input_shape={input_shape}, "
            f"input_channels={input_channels}."
        )
    return shape


def _image(input_tensor, shape):
    if input_tensor is None:
        return keras.Input(shape, name="image")
    if keras.backend.is_keras_tensor(input_tensor):
        return input_tensor
    raise ValueError(f"input_tensor must be a Keras tensor, as keras.Input returns it. Received: {type(input_tensor)}.")


def _normalised(image, preprocess):
    height, width = image.shape[1:3]
    if None not in (height, width):
        preprocess = dataclasses.replace(preprocess, height=height, width=width)
    return PixelNormalization(preprocess, name="preprocessing")(image)


def _stages(row, widths, x, version, stochastic_depth, **arguments):
    block_class = layers.BasicBlock
    drop_rates = iter(np.linspace(0, stochastic_depth, sum(row.depths)).tolist())
    if row.block == "bottleneck":
        block_class, arguments = layers.Bottleneck, {**arguments, "version": version}
    for stage, (depth, width) in enumerate(zip(row.depths, widths, strict=True), 1):
        for block in range(1, depth + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = block_class(width, stride, drop_rate=next(drop_rates), name=f"stage{stage}_block{block}", **arguments)(
                x
            )
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
ResNet1001 = _constructor("ResNet1001")
ResNet1202 = _constructor("ResNet1202")

_CONSTRUCTORS = {
    f.__name__.lower(): f for f in list(globals().values()) if getattr(f, "__name__", "").startswith("ResNet")
}
