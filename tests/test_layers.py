"""Every layer through one harness: shapes, serialisation, dtype policies."""

import inspect

import keras
import numpy as np
import pytest

from resnet_keras import BasicBlock, BatchNormalization, Bottleneck, ChannelPadding, Stem

# How much of its scale a result may lose when each of some ten operations rounds to this many bits.
RELATIVE_ERROR = {"float32": 1e-5, "mixed_bfloat16": 10 * 2**-8, "mixed_float16": 10 * 2**-11}

LAYERS = {
    "batch_norm": lambda: BatchNormalization(name="layer"),
    "batch_norm_bare": lambda: BatchNormalization(center=False, scale=False, momentum=0.5, epsilon=1e-3, name="layer"),
    "channel_padding": lambda: ChannelPadding(7, name="layer"),
    "stem_imagenet": lambda: Stem(4, name="layer"),
    "stem_small": lambda: Stem(4, kind="small", name="layer"),
    "basic": lambda: BasicBlock(4, name="layer"),
    "basic_projection": lambda: BasicBlock(6, stride=2, name="layer"),
    "basic_identity_shortcut": lambda: BasicBlock(6, stride=2, shortcut="identity", name="layer"),
    "basic_wider_identity_shortcut": lambda: BasicBlock(6, shortcut="identity", name="layer"),
    "basic_plain": lambda: BasicBlock(6, stride=2, shortcut="none", name="layer"),
    "basic_zero_init": lambda: BasicBlock(4, zero_init_residual=True, name="layer"),
    "bottleneck": lambda: Bottleneck(1, name="layer"),
    "bottleneck_projection": lambda: Bottleneck(2, stride=2, name="layer"),
    "bottleneck_v1": lambda: Bottleneck(2, stride=2, version="v1", name="layer"),
    "bottleneck_identity_shortcut": lambda: Bottleneck(2, stride=2, shortcut="identity", name="layer"),
    "bottleneck_plain": lambda: Bottleneck(2, shortcut="none", name="layer"),
}
CHANNELS = 4


def pictures(height, width, seed=0):
    return np.random.default_rng(seed).normal(size=(2, height, width, CHANNELS)).astype("float32")


def model_of(layer, height=None, width=None):
    image = keras.Input((height, width, CHANNELS))
    return keras.Model(image, layer(image))


def disturbed(model):
    """Moves every weight off its initial value, so that a weight that is not restored shows."""
    rng = np.random.default_rng(1)
    model.set_weights([w + rng.uniform(0.1, 0.3, w.shape) for w in model.get_weights()])
    return model


def check_shapes(make):
    """Symbolic, eager and computed shapes agree for odd, even and unknown sizes."""
    for height, width in ((8, 8), (7, 9), (5, 6), (1, 1)):
        layer = make()
        eager = layer(pictures(height, width)).shape
        assert tuple(eager) == layer.compute_output_shape((2, height, width, CHANNELS))
        assert model_of(make(), height, width).output_shape == (None, *eager[1:])
        unknown = model_of(make())
        assert unknown.output_shape == (None, None, None, eager[-1])
        assert tuple(unknown(pictures(height, width)).shape) == tuple(eager)


def check_serialisation(make, tmp_path):
    """Config, clone and file give a layer that computes the same with the same weights."""
    x, model = pictures(7, 8), disturbed(model_of(make()))
    expected = model(x)
    config = make().get_config()
    arguments = set(inspect.signature(type(make())).parameters) - {"kwargs"}
    assert arguments <= set(config)
    twin = type(make()).from_config(config)
    assert twin.get_config() == config
    for copy in (model_of(twin), keras.models.clone_model(model)):
        assert [v.path for v in copy.weights] == [v.path for v in model.weights]
        copy.set_weights(model.get_weights())
        np.testing.assert_array_equal(copy(x), expected)
    model.save(tmp_path / "x.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "x.keras")(x), expected)
    model.save_weights(tmp_path / "x.weights.h5")
    fresh = model_of(make())
    fresh.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(fresh(x), expected)


def check_policies(make):
    """Computes in the policy's dtype, keeps float32 variables, stays close to float32, in both modes."""
    x = pictures(6, 6)
    reference = disturbed(model_of(make()))
    weights = reference.get_weights()
    for policy, error in RELATIVE_ERROR.items():
        keras.config.set_dtype_policy(policy)
        model = model_of(make())
        keras.config.set_dtype_policy("float32")
        for training in (False, True):
            reference.set_weights(weights)
            model.set_weights(weights)
            expected, got = np.asarray(reference(x, training=training)), model(x, training=training)
            assert keras.backend.standardize_dtype(got.dtype) == policy.removeprefix("mixed_")
            assert {v.dtype for v in model.weights} <= {"float32"}
            assert np.abs(np.asarray(keras.ops.cast(got, "float32")) - expected).max() <= error * np.abs(expected).max()


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, tmp_path):
    make = LAYERS[name]
    check_shapes(make)
    check_serialisation(make, tmp_path)
    check_policies(make)


@pytest.mark.parametrize("name", [name for name in LAYERS if "padding" not in name])
def test_training_moves_the_statistics_and_inference_does_not(name):
    model = model_of(LAYERS[name]())
    x = pictures(6, 6) + 3
    before = [np.array(v) for v in model.non_trainable_variables]
    model(x, training=False)
    assert all((np.array(v) == b).all() for v, b in zip(model.non_trainable_variables, before, strict=True))
    model(x, training=True)
    assert all((np.array(v) != b).any() for v, b in zip(model.non_trainable_variables, before, strict=True))


def test_zero_init_starts_as_the_shortcut():
    x = pictures(6, 6)
    for block in (BasicBlock(CHANNELS, zero_init_residual=True), Bottleneck(1, zero_init_residual=True)):
        np.testing.assert_array_equal(block(x, training=True), np.maximum(x, 0))
        np.testing.assert_array_equal(block(x), np.maximum(x, 0))


def test_identity_shortcut_subsamples_and_appends_zeros():
    x = pictures(5, 6)
    block = BasicBlock(6, stride=2, shortcut="identity", zero_init_residual=True)
    expected = np.zeros((2, 3, 3, 6), "float32")
    expected[..., :CHANNELS] = np.maximum(x[:, ::2, ::2], 0)
    np.testing.assert_array_equal(block(x), expected)
    assert len(block.trainable_variables) == 6


def test_a_projection_only_where_the_shape_changes():
    for block, expected in ((BasicBlock(4), 6), (BasicBlock(5), 9), (BasicBlock(4, stride=2), 9), (Bottleneck(1), 9)):
        block.build((None, 8, 8, 4))
        assert len(block.trainable_variables) == expected


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: BasicBlock(4, shortcut="conv"), "'conv'"),
        (lambda: Bottleneck(4, version="v2"), "'v2'"),
        (lambda: BasicBlock(4, shortcut="none", zero_init_residual=True), "zero_init_residual=True"),
        (lambda: BasicBlock(4, shortcut="none", drop_rate=0.1), "drop_rate=0.1"),
        (lambda: Stem(4, kind="tiny"), "'tiny'"),
        (lambda: BasicBlock(2, shortcut="identity")(pictures(4, 4)), "4 input channels"),
    ],
)
def test_errors_say_what_was_received(make, received):
    with pytest.raises(ValueError, match=received):
        make()
