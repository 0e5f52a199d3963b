"""The fused batch norm beside Keras's: the same results where it fuses, Keras's own code where it cannot."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras import BatchNormalization

EPSILON_OF = {"float32": 2**-23, "bfloat16": 2**-8, "float16": 2**-11}


def pair(shape, **arguments):
    """Ours and Keras's, built, with the same weights off their initial values."""
    ours, theirs = BatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)
    for layer in (ours, theirs):
        layer.build(shape)
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.5, 1.5, w.shape) for w in ours.get_weights()]
    for layer in (ours, theirs):
        layer.set_weights(weights)
    return ours, theirs


def inputs(shape, dtype="float32"):
    return tf.cast(np.random.default_rng(1).normal(2, 3, shape), dtype)


def fuses(layer, x, **arguments):
    graph = tf.function(lambda: layer(x, **arguments)).get_concrete_function().graph
    return any(op.type == "FusedBatchNormV3" for op in graph.get_operations())


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"center": False}, {"scale": False}, {"momentum": 0.9, "epsilon": 1e-5}])
def test_equals_keras(policy, training, arguments):
    ours, theirs = pair((None, 5, 6, 7), dtype=policy, **arguments)
    x = inputs((4, 5, 6, 7), ours.compute_dtype)
    assert fuses(ours, x, training=training)
    assert not fuses(theirs, x, training=training)
    ours, theirs = pair((None, 5, 6, 7), dtype=policy, **arguments)
    outputs, gradients = [], []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            for _ in range(3):
                y = layer(x, training=training)
            total = tf.reduce_sum(tf.cast(y, "float32") * tf.reshape(tf.linspace(-1.0, 1.0, tf.size(y)), y.shape))
        outputs.append(tf.cast(y, "float32").numpy())
        found = tape.gradient(total, [x, *(v.value for v in layer.trainable_variables)])
        gradients.append([tf.cast(g, "float32").numpy() for g in found])
        assert y.dtype.name == layer.compute_dtype
    # One rounding of the result; gradients sum 120 such values.
    step = EPSILON_OF[ours.compute_dtype]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=max(2 * step * np.abs(outputs[1]).max(), 1e-5))
    for ours_value, theirs_value in zip(*gradients, strict=True):
        np.testing.assert_allclose(
            ours_value, theirs_value, atol=max(4 * step, 1e-5) * max(1, np.abs(theirs_value).max())
        )
    for ours_value, theirs_value in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(ours_value, theirs_value, rtol=1e-5)


def test_frozen_means_inference():
    ours, theirs = pair((None, 5, 6, 7))
    ours.trainable = theirs.trainable = False
    x, before = inputs((4, 5, 6, 7)), ours.get_weights()
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), atol=1e-5)
    for now, then in zip(ours.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    ("shape", "arguments", "call"),
    [
        ((4, 7), {}, {}),
        ((4, 5, 7), {}, {}),
        ((4, 5, 6, 7), {"axis": 1}, {}),
        ((4, 5, 6, 7), {"axis": 2}, {}),
        ((4, 5, 6, 7), {"dtype": "float64"}, {}),
        ((4, 5, 6, 7), {"synchronized": True}, {}),
        ((4, 5, 6, 7), {}, {"mask": np.arange(120).reshape(4, 5, 6) % 3 > 0}),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_elsewhere_it_is_kerass_own_code(shape, arguments, call, training):
    ours, theirs = pair((None, *shape[1:]), **arguments)
    x = inputs(shape, arguments.get("dtype", "float32"))
    assert not fuses(ours, x, training=training, **call)
    ours, theirs = pair((None, *shape[1:]), **arguments)
    np.testing.assert_array_equal(ours(x, training=training, **call), theirs(x, training=training, **call))
    for ours_value, theirs_value in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(ours_value, theirs_value)


def test_a_single_value_a_channel_is_no_division_by_zero():
    ours, theirs = pair((None, 1, 1, 3))
    x = inputs((1, 1, 1, 3))
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), atol=1e-5)
    for ours_value, theirs_value in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(ours_value, theirs_value, atol=1e-5)


def test_config_is_kerass():
    arguments = {"momentum": 0.8, "epsilon": 1e-4, "center": False, "name": "same"}
    assert BatchNormalization(**arguments).get_config() == keras.layers.BatchNormalization(**arguments).get_config()
