"""The Keras layers of a residual network: the two residual blocks and the stem.

Every layer is channels-last, works under any dtype policy and on any Keras backend. Padding is explicit and symmetric,
one pixel on each side of a 3x3 window and three of a 7x7 one, as in the PyTorch reference and the published weights.
TensorFlow's "same" agrees with that at stride 1 and is used there; at stride 2 it pads an even-sized image on one side
only, which shifts every feature by a pixel, so the padding is a layer of its own there.
"""

import keras
import numpy as np
from keras import ops

import resnet_keras.pixels  # noqa: F401  registers its layer with these
from resnet_keras import elementwise
from resnet_keras.batch_norm import BatchNormalization, register
from resnet_keras.convolution import Conv2D

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9
SHORTCUTS = ("projection", "identity", "none")


@register
class ChannelPadding(keras.layers.Layer):
    """Appends all-zero channels until there are `filters`: the parameter-free shortcut (arXiv:1512.03385, option A).

    Input shape: `(batch, height, width, channels)` with `channels <= filters`.
    Output shape: `(batch, height, width, filters)`.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape):
        if input_shape[-1] > self.filters:
            raise ValueError(
                f"An identity shortcut can add channels but not drop them. Received: {input_shape[-1]} input channels "
                f"for {self.filters} output channels. Use shortcut='projection'."
            )
        self.built = True

    def call(self, inputs):
        return ops.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, self.filters - inputs.shape[-1]]])

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


class Composite(keras.layers.Layer):
    """A layer made of chains of stock layers, which `graph.flatten` can lay open.

    A subclass names its chains in `chains` and fills them in `build`, where the input channels are known. Inner layers
    carry the composite's name and their role (`stage2_block1_conv2`), which makes them unique in the model.
    """

    chains = ()

    @property
    def sublayers(self):
        """The inner layers, chain after chain, in the order in which each is applied. Empty before `build`."""
        return [layer for chain in self.chains for layer in getattr(self, chain, ())]

    def _inner(self, layer_class, role, *args, **kwargs):
        return layer_class(*args, name=f"{self.name}_{role}", dtype=self.dtype_policy, **kwargs)

    def _spatial(self, layer_class, role, *args, **kwargs):
        return self._inner(layer_class, role, *args, data_format="channels_last", **kwargs)

    def _conv_bn(self, role, filters, kernel_size, stride=1, gamma_initializer="ones"):
        """`[ZeroPadding2D], Conv2D, BatchNormalization`: the one place where they are made.

        `role` is a pattern such as `"{}2"` or `"shortcut_{}"`. The kernel starts from a normal distribution of
        variance 2 / fan_out (He et al., arXiv:1502.01852, section 2.2).
        """
        explicit = stride > 1 and kernel_size > 1
        conv = self._spatial(
            Conv2D,
            role.format("conv"),
            filters,
            kernel_size,
            strides=stride,
            padding="valid" if explicit else "same",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        )
        norm = self._inner(
            BatchNormalization,
            role.format("bn"),
            epsilon=BN_EPSILON,
            momentum=BN_MOMENTUM,
            gamma_initializer=gamma_initializer,
        )
        if explicit:
            return [self._spatial(keras.layers.ZeroPadding2D, role.format("pad"), kernel_size // 2), conv, norm]
        return [conv, norm]

    def _relu(self, role):
        return self._inner(elementwise.Activation, role, "relu")


def _build_chain(layers, shape):
    for layer in layers:
        layer.build(shape)
        shape = layer.compute_output_shape(shape)
    return shape


def _apply_chain(layers, x):
    for layer in layers:
        x = layer(x)
    return x


@register
class Stem(Composite):
    """The layers before the first residual block.

    `kind="imagenet"`: 7x7 convolution of stride 2, batch norm, ReLU, 3x3 max pooling of stride 2 (arXiv:1512.03385,
    Table 1). `kind="small"`: 3x3 convolution of stride 1, batch norm, ReLU (section 4.2).

    Input shape: `(batch, height, width, channels)`.
    Output shape: `(batch, ceil(height / 4), ceil(width / 4), filters)`, or `(batch, height, width, filters)` for
    `"small"`.

    Raises:
        ValueError: `kind` is neither `"imagenet"` nor `"small"`.
    """

    chains = ("chain",)

    def __init__(self, filters, kind="imagenet", **kwargs):
        super().__init__(**kwargs)
        if kind not in ("imagenet", "small"):
            raise ValueError(f"Unknown stem. Received: kind={kind!r}. Expected: 'imagenet' or 'small'.")
        self.filters = filters
        self.kind = kind

    def build(self, input_shape):
        if self.kind == "small":
            self.chain = [*self._conv_bn("{}", self.filters, 3), self._relu("relu")]
        else:
            self.chain = [
                *self._conv_bn("{}", self.filters, 7, stride=2),
                self._relu("relu"),
                # After a ReLU nothing is below zero, so zeros at the border never win the maximum.
                self._spatial(keras.layers.ZeroPadding2D, "pool_pad", 1),
                self._spatial(keras.layers.MaxPooling2D, "pool", 3, strides=2),
            ]
        _build_chain(self.chain, input_shape)
        self.built = True

    def call(self, inputs):
        return _apply_chain(self.chain, inputs)

    def compute_output_shape(self, input_shape):
        *batch, height, width, _ = input_shape
        if self.kind == "imagenet":
            height, width = _halved(_halved(height)), _halved(_halved(width))
        return (*batch, height, width, self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "kind": self.kind}


def _halved(size):
    return None if size is None else (size + 1) // 2


class ResidualBlock(Composite):
    """`relu(F(x) + shortcut(x))` (arXiv:1512.03385, equations 1 and 2); subclasses say what `F` is.

    The shortcut is the identity unless the stride or the channels change. There `shortcut="projection"` puts a 1x1
    convolution and batch norm (option B of section 3.3), `shortcut="identity"` subsamples and appends zero channels,
    without parameters (option A). With `shortcut="none"` there is none anywhere, and the block is `relu(F(x))`, that of
    a plain network (section 3.3): the paper's other half, to be studied, not to be used.

    Args:
        filters: width of the block's 3x3 convolution.
        stride: 1 or 2, the factor by which height and width shrink (rounded up).
        shortcut: `"projection"`, `"identity"` or `"none"`.
        zero_init_residual: start the last batch norm's scale at zero, so that the block starts as `relu(shortcut(x))`
            (Goyal et al., arXiv:1706.02677, section 5.1).
        drop_rate: share of the images of a training batch for which `F` is left out (stochastic depth, Huang et al.,
            arXiv:1603.09382); what is kept is scaled up, so that inference needs no change.

    Input shape: `(batch, height, width, channels)`.
    Output shape: `(batch, ceil(height / stride), ceil(width / stride), filters * expansion)`.

    Raises:
        ValueError: an unknown `shortcut`, an identity shortcut that would have to drop channels, or a plain block that
            would start or be left out as if it had a shortcut.
    """

    chains = ("branch", "shortcut_chain", "merge")
    expansion = 1

    def __init__(self, filters, stride=1, shortcut="projection", zero_init_residual=False, drop_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= drop_rate < 1:
            raise ValueError(f"drop_rate must be from 0 to below 1. Received: drop_rate={drop_rate}.")
        if shortcut not in SHORTCUTS:
            raise ValueError(
                f"Unknown shortcut. Received: shortcut={shortcut!r}. Expected one of: {', '.join(SHORTCUTS)}."
            )
        if shortcut == "none" and (zero_init_residual or drop_rate):
            raise ValueError(
                "A plain block has no shortcut to stand in for its branch. Received: "
                f"zero_init_residual={zero_init_residual}, drop_rate={drop_rate}. Leave both out, or keep the shortcut."
            )
        self.filters = filters
        self.stride = stride
        self.shortcut = shortcut
        self.zero_init_residual = zero_init_residual
        self.drop_rate = drop_rate

    @property
    def plain(self):
        """Whether the block has no shortcut."""
        return self.shortcut == "none"

    @property
    def output_filters(self):
        return self.filters * self.expansion

    def _branch(self, last_gamma):
        """The layers of `F`; `last_gamma` initialises the scale of its last batch norm."""
        raise NotImplementedError

    def build(self, input_shape):
        self.branch = self._branch("zeros" if self.zero_init_residual else "ones")
        if self.drop_rate:
            self.branch.append(self._inner(keras.layers.Dropout, "drop", self.drop_rate, noise_shape=(None, 1, 1, 1)))
        output_shape = _build_chain(self.branch, input_shape)
        self.shortcut_chain, self.merge = [], [self._relu("out")]
        if not self.plain:
            self.shortcut_chain = self._shortcut_chain(input_shape[-1])
            _build_chain(self.shortcut_chain, input_shape)
            self.merge.insert(0, self._inner(keras.layers.Add, "add"))
            self.merge[0].build([output_shape, output_shape])
        self.merge[-1].build(output_shape)
        self.built = True

    def _shortcut_chain(self, input_filters):
        if self.stride == 1 and input_filters == self.output_filters:
            return []
        if self.shortcut == "projection":
            return self._conv_bn("shortcut_{}", self.output_filters, 1, self.stride)
        # A 1x1 maximum is plain subsampling, in the one form that every int8 runtime has as a single op.
        pool = self._spatial(keras.layers.MaxPooling2D, "shortcut_pool", 1, strides=self.stride)
        pad = self._inner(ChannelPadding, "shortcut_channels", self.output_filters)
        return [pool, pad] if self.stride > 1 else [pad]

    def call(self, inputs, training=None):
        if self.plain:
            return _apply_chain([*self.branch, *self.merge], inputs)
        if elementwise.pays(inputs, training):
            to_branch, to_shortcut = elementwise.fork(inputs)
            branch, shortcut = _apply_chain(self.branch, to_branch), _apply_chain(self.shortcut_chain, to_shortcut)
            return elementwise.add_relu(branch, shortcut)
        add, relu = self.merge
        return relu(add([_apply_chain(self.branch, inputs), _apply_chain(self.shortcut_chain, inputs)]))

    def compute_output_shape(self, input_shape):
        *batch, height, width, _ = input_shape
        if self.stride == 2:
            height, width = _halved(height), _halved(width)
        return (*batch, height, width, self.output_filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "stride": self.stride,
            "shortcut": self.shortcut,
            "zero_init_residual": self.zero_init_residual,
            "drop_rate": self.drop_rate,
        }

    def save_own_variables(self, store):
        if self.plain:
            store["plain"] = np.float32(1)

    def load_own_variables(self, store):
        theirs, ours = ("plain" if plain else "residual" for plain in ("plain" in store, self.plain))
        if theirs != ours:
            raise ValueError(
                f"The weights are those of a {theirs} network, the model's is a {ours} one: the shapes agree, the "
                f"results would not. Build the model with plain={theirs == 'plain'}."
            )


@register
class BasicBlock(ResidualBlock):
    __doc__ = (
        """Two 3x3 convolutions (arXiv:1512.03385, Figure 5 left), the block of ResNet-18 and ResNet-34.

    """
        + ResidualBlock.__doc__
    )

    def _branch(self, last_gamma):
        return [
            *self._conv_bn("{}1", self.filters, 3, self.stride),
            self._relu("relu1"),
            *self._conv_bn("{}2", self.filters, 3, gamma_initializer=last_gamma),
        ]


@register
class Bottleneck(ResidualBlock):
    __doc__ = (
        """1x1, 3x3 and 1x1 convolutions (Figure 5 right), the block of ResNet-50, ResNet-101 and ResNet-152.

    The output has `4 * filters` channels. `version` says which convolution carries the stride: `"v1.5"` the 3x3, as in
    PyTorch and nearly all published weights; `"v1"` the first 1x1, as in the paper and `keras.applications`. The
    weights of one fit the other in shape but not in meaning.

    """
        + ResidualBlock.__doc__
    )

    expansion = 4

    def __init__(self, filters, stride=1, version="v1.5", **kwargs):
        super().__init__(filters, stride, **kwargs)
        if version not in ("v1.5", "v1"):
            raise ValueError(f"Unknown version. Received: version={version!r}. Expected: 'v1.5' or 'v1'.")
        self.version = version

    def _branch(self, last_gamma):
        first, second = (self.stride, 1) if self.version == "v1" else (1, self.stride)
        return [
            *self._conv_bn("{}1", self.filters, 1, first),
            self._relu("relu1"),
            *self._conv_bn("{}2", self.filters, 3, second),
            self._relu("relu2"),
            *self._conv_bn("{}3", self.output_filters, 1, gamma_initializer=last_gamma),
        ]

    def get_config(self):
        return {**super().get_config(), "version": self.version}

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["version"] = np.float32(self.version.removeprefix("v"))

    def load_own_variables(self, store):
        super().load_own_variables(store)
        theirs = f"v{float(store['version']):g}" if "version" in store else self.version
        if theirs != self.version:
            raise ValueError(
                f"The weights are those of a {theirs} bottleneck, the model's are {self.version}: the shapes agree, "
                f"the results would not. Build the model with version={theirs!r}."
            )
