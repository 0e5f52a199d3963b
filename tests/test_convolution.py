"""The convolution beside Keras's: the same results and gradients, other kernels, and none of them in inference."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras import elementwise
from resnet_keras.convolution import Conv2D

EPSILON_OF = {"float32": 2**-23, "bfloat16": 2**-8}
FASTER = [
    ((6, 7, 5), {"kernel_size": 1}),
    ((6, 8, 5), {"kernel_size": 1, "strides": 2, "padding": "same"}),
    ((7, 5, 5), {"kernel_size": 1, "strides": 2, "padding": "same"}),
    ((7, 8, 5), {"kernel_size": 1, "strides": 3}),
    ((7, 7, 5), {"kernel_size": 3, "padding": "same"}),
    ((4, 6, 5), {"kernel_size": 3}),
    ((4, 6, 5), {"kernel_size": (2, 4), "padding": "same"}),
    ((9, 9, 5), {"kernel_size": 3, "strides": 2}),
    ((8, 9, 5), {"kernel_size": 3, "strides": 2, "padding": "same"}),
]
KERASS_OWN = [
    ((8, 8, 4), {"kernel_size": 3, "padding": "same"}),
    ((None, None, 4), {"kernel_size": 3}),
    ((7, 7, 4), {"kernel_size": 1, "use_bias": True}),
    ((7, 7, 4), {"kernel_size": 1, "activation": "relu"}),
    ((7, 7, 4), {"kernel_size": 1, "groups": 2}),
    ((7, 7, 4), {"kernel_size": 3, "dilation_rate": 2}),
]


@pytest.fixture
def in_float32_too(monkeypatch):
    monkeypatch.setattr(elementwise, "DTYPES", ("float32", "bfloat16"))


def pair(shape, **arguments):
    """Ours and Keras's, built, with the same kernel."""
    arguments = {"filters": 6, "use_bias": False, **arguments}
    ours, theirs = Conv2D(**arguments), keras.layers.Conv2D(**arguments)
    for layer in (ours, theirs):
        layer.build((None, *shape))
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def pixels(shape, dtype):
    return tf.cast(np.random.default_rng(1).normal(size=(3, *shape)), dtype)


def results(layer, x, signature=None, **arguments):
    """Output, input gradient, kernel gradient, and the types of the ops that were traced for them."""

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, **arguments)
            weight = tf.sin(tf.cast(tf.range(tf.size(y)), "float32"))
            total = tf.reduce_sum(tf.cast(y, "float32") * tf.reshape(weight, tf.shape(y)))
        return y, *tape.gradient(total, [x, layer.trainable_variables[0].value])

    traced = tf.function(step, jit_compile=False).get_concrete_function(signature if signature is not None else x)
    types = sorted(op.type for op in traced.graph.get_operations())
    return [tf.cast(value, "float32").numpy() for value in traced(x)], types


def rounding(values, dtype):
    """How far two sums of that size may be apart that are each rounded once."""
    return max(EPSILON_OF[dtype], 1e-6) * max(1, np.abs(values).max())


def assert_close(ours, theirs, dtype):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=rounding(other, dtype))


def in_float32(arguments, layer, x):
    """What Keras gives for the same numbers, those of `layer` as it rounds them, in float32."""
    exact, _ = pair(x.shape[1:], dtype="float32", **arguments)
    exact.set_weights([tf.cast(tf.cast(value, x.dtype), "float32").numpy() for value in layer.get_weights()])
    return results(exact, tf.cast(x, "float32"))[0]


@pytest.mark.parametrize(("shape", "arguments"), FASTER)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.usefixtures("in_float32_too")
def test_equals_keras(shape, arguments, policy):
    ours, theirs = pair(shape, dtype=policy, **arguments)
    x = pixels(shape, ours.compute_dtype)
    mine, types = results(ours, x, training=True)
    other, their_types = results(theirs, x)
    assert "Conv2DBackpropFilter" in their_types
    assert "Conv2DBackpropFilter" not in types
    np.testing.assert_array_equal(mine[0], other[0])
    # Not compared with Keras's: where tensorflow runs without oneDNN, those are sums rounded to bfloat16 at each step.
    for our, their, exact in zip(mine, other, in_float32(arguments, ours, x), strict=True):
        allowed = max(np.abs(their - exact).max(), rounding(exact, ours.compute_dtype))
        np.testing.assert_allclose(our, exact, rtol=0, atol=allowed)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.usefixtures("in_float32_too")
def test_equals_keras_where_only_the_channels_are_known(strides):
    ours, theirs = pair((None, None, 5), kernel_size=1, strides=strides)
    x = pixels((7, 6, 5), "float32")
    mine, types = results(ours, x, tf.TensorSpec((None, None, None, 5)), training=True)
    assert "Conv2DBackpropFilter" not in types
    assert_close(mine, results(theirs, x)[0], "float32")


@pytest.mark.parametrize(("shape", "arguments"), KERASS_OWN)
def test_elsewhere_it_is_kerass_own_code(shape, arguments):
    ours, theirs = pair(shape, dtype="mixed_bfloat16", **arguments)
    x = pixels([side or 9 for side in shape], "bfloat16")
    signature = tf.TensorSpec((None, *shape), "bfloat16")
    mine, types = results(ours, x, signature, training=True)
    other, their_types = results(theirs, x, signature)
    assert types == their_types
    assert_close(mine, other, "bfloat16")


@pytest.mark.parametrize("training", [None, False])
def test_inference_is_kerass_own_code(training):
    ours, theirs = pair((7, 7, 5), kernel_size=1, dtype="mixed_bfloat16")
    x = pixels((7, 7, 5), "bfloat16")
    assert results(ours, x, training=training)[1] == results(theirs, x)[1]


def test_float32_is_kerass_own_code():
    ours, theirs = pair((7, 7, 5), kernel_size=1)
    x = pixels((7, 7, 5), "float32")
    assert results(ours, x, training=True)[1] == results(theirs, x)[1]


def test_config_is_kerass():
    arguments = {"filters": 3, "kernel_size": 3, "strides": 2, "name": "same"}
    assert Conv2D(**arguments).get_config() == keras.layers.Conv2D(**arguments).get_config()


DETERMINISTIC = """
import keras, numpy as np, tensorflow as tf
from resnet_keras.layers import Bottleneck

tf.config.experimental.enable_op_determinism()

def trained():
    keras.utils.set_random_seed(0)
    block = Bottleneck(4, 2, version="v1", dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((9, 9, 8)), block, keras.layers.GlobalAveragePooling2D(dtype="float32")])
    model.compile("sgd", "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(20, 9, 9, 8)), rng.normal(size=(20, 16)), batch_size=8, epochs=2, verbose=0)
    return model.get_weights()

once, again = trained(), trained()
assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
print("the same")
"""


def test_deterministic_ops_run_and_repeat():
    found = subprocess.run([sys.executable, "-c", DETERMINISTIC], capture_output=True, text=True)
    assert found.stdout == "the same\n", found.stderr[-2000:]
