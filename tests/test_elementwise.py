"""The compiled elementwise ops beside the plain ones: equal to the bit, and absent from inference."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras import elementwise
from resnet_keras.layers import BasicBlock, Bottleneck

SPECIAL = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan"), -float("nan"), 3.0, -1e-40]


def plain(name):
    return {
        "relu": tf.nn.relu,
        "add_relu": lambda x, y: tf.nn.relu(x + y),
        "fork": lambda x: (tf.identity(x), tf.identity(x)),
    }[name]


def values_and_gradients(function, inputs, weights):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tf.nest.flatten(function(*inputs))
        total = tf.add_n([tf.reduce_sum(y * w) for y, w in zip(outputs, weights, strict=False)])
    found = [*outputs, *tape.gradient(total, inputs)]
    return [tf.cast(value, "float32").numpy() for value in found]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "count"), [("relu", 1), ("add_relu", 2), ("fork", 1)])
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_plain_op(name, count, dtype, seed):
    rng = np.random.default_rng(seed)
    # Seed 0 pairs every special value with every other, seed 1 draws ordinary ones, where rounding shows.
    pairs = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1) if seed == 0 else rng.normal(size=(2, 100))
    inputs = [tf.cast(row, dtype) for row in pairs][:count]
    weights = [tf.cast(rng.normal(size=100), dtype) for _ in range(2)]
    ours = values_and_gradients(getattr(elementwise, name), inputs, weights)
    theirs = values_and_gradients(plain(name), inputs, weights)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def traced(layer, x, training):
    return tf.function(lambda x: layer(x, training=training)).get_concrete_function(x).graph


def compiled(graph):
    return any("_XlaMustCompile" in op.node_def.attr for op in graph.get_operations()) or any(
        function.attr["_XlaMustCompile"].b for function in graph.as_graph_def().library.function
    )


@pytest.mark.parametrize(
    ("dtype", "training", "expected"),
    [
        ("mixed_bfloat16", True, True),
        ("mixed_bfloat16", False, False),
        ("mixed_bfloat16", None, False),
        ("float32", True, False),
    ],
)
def test_compiled_only_where_it_pays(dtype, training, expected):
    block = BasicBlock(4, dtype=dtype)
    x = tf.zeros((2, 5, 5, 4), block.compute_dtype)
    block(x)
    assert compiled(traced(block, x, training)) == expected


@pytest.mark.parametrize("make", [lambda: Bottleneck(2, 2, version="v1"), lambda: Bottleneck(2), lambda: BasicBlock(8)])
def test_block_equals_one_of_plain_ops(make, monkeypatch):
    block = make()
    x = tf.constant(np.random.default_rng(0).normal(size=(4, 7, 7, 8)).astype("float32"))
    block(x)
    block.set_weights([np.random.default_rng(1).uniform(0.5, 1.5, w.shape) for w in block.get_weights()])
    found = []
    for dtypes in (("float32",), ()):
        monkeypatch.setattr(elementwise, "DTYPES", dtypes)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = block(x, training=True)
            total = tf.reduce_sum(y * tf.reshape(tf.sin(tf.range(tf.size(y), dtype="float32")), y.shape))
        found.append([y, *tape.gradient(total, [x, *(v.value for v in block.trainable_variables)])])
    for ours, theirs in zip(*found, strict=True):
        # Two batch norms divide by standard deviations near 0.3, each a chance to grow a rounding error.
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1, np.abs(theirs).max()))


def test_activation_config_is_kerass():
    ours, theirs = elementwise.Activation("relu", name="same"), keras.layers.Activation("relu", name="same")
    assert ours.get_config() == theirs.get_config()


def test_another_activation_is_kerass_own_code():
    layer = elementwise.Activation("tanh", dtype="bfloat16")
    x = tf.constant([-1.0, 2.0], "bfloat16")
    np.testing.assert_array_equal(layer(x, training=True), tf.tanh(x))
