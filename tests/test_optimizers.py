"""The fused SGD beside Keras's: the same variables after the same steps, in every setting."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.optimizers import SGD

SETTINGS = [
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": False},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.5, "nesterov": True, "use_ema": True, "ema_momentum": 0.5},
    {"momentum": 0.5, "nesterov": True, "use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    {"momentum": 0.9, "nesterov": True, "global_clipnorm": 0.5},
    {"momentum": 0.9, "gradient_accumulation_steps": 2},
    {"momentum": 0.0},
]
START = [[[1.0, -2.0], [3.0, 0.5]], [0.25, -0.75]]


def after_steps(optimizer, wrap=lambda optimizer: optimizer, dtype="float32"):
    """All variables after five steps of different sizes, and the types of the ops of a step."""
    variables = [keras.Variable(value, dtype=dtype) for value in START]
    optimizer.build(variables)
    if optimizer.weight_decay:
        optimizer.exclude_from_weight_decay(variables[1:])
    outer = wrap(optimizer)
    step = tf.function(lambda *gradients: outer.apply(gradients, variables), jit_compile=False)
    rng = np.random.default_rng(0)
    for _ in range(5):
        gradients = [tf.constant(rng.normal(size=v.shape), "float32") for v in variables]
        step(*gradients)
    graph = step.get_concrete_function(*gradients).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return [np.array(v) for v in [*variables, *optimizer.variables]], {node.op for node in nodes}


@pytest.mark.parametrize("arguments", SETTINGS)
def test_equals_keras(arguments):
    schedule = keras.optimizers.schedules.CosineDecay(0.3, 10)
    ours, types = after_steps(SGD(schedule, **arguments))
    theirs, their_types = after_steps(keras.optimizers.SGD(schedule, **arguments))
    assert ("ResourceApplyKerasMomentum" in types) == (arguments["momentum"] > 0)
    assert "ResourceApplyKerasMomentum" not in their_types
    assert not np.allclose(ours[0], START[0])
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_equals_keras_under_loss_scaling():
    ours, theirs = (
        after_steps(made(0.1, momentum=0.9, nesterov=True), keras.optimizers.LossScaleOptimizer)
        for made in (SGD, keras.optimizers.SGD)
    )
    assert "ResourceApplyKerasMomentum" in ours[1]
    for mine, other in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)


def test_half_precision_variables_are_kerass_own_code():
    ours, theirs = (after_steps(made(0.1, momentum=0.9), dtype="bfloat16") for made in (SGD, keras.optimizers.SGD))
    assert ours[1] == theirs[1]
    for mine, other in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sparse_gradients_equal_keras(momentum):
    found = []
    for made in (SGD, keras.optimizers.SGD):
        table = keras.Variable(np.ones((4, 2)), dtype="float32")
        optimizer = made(0.1, momentum=momentum, nesterov=True)
        optimizer.build([table])
        for row in (2, 3):
            optimizer.apply([tf.IndexedSlices(tf.ones((1, 2)), [row], (4, 2))], [table])
        found.append(np.array(table))
    np.testing.assert_array_equal(*found)
    assert found[0][2, 0] < 1


def test_round_trip():
    made = SGD(0.1, momentum=0.8, nesterov=True, weight_decay=1e-4)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert type(again) is SGD
    assert again.get_config() == made.get_config()


MIRRORED = """
import keras, numpy as np, tensorflow as tf
from resnet_keras.layers import Bottleneck
from resnet_keras.optimizers import SGD

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
images, targets = rng.normal(size=(12, 6, 6, 4)).astype("float32"), rng.normal(size=(12, 16)).astype("float32")

def trained(made, policy):
    keras.utils.set_random_seed(0)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        pool = keras.layers.GlobalAveragePooling2D(dtype="float32")
        model = keras.Sequential([keras.Input((6, 6, 4)), Bottleneck(4, 2, dtype=policy), pool])
        optimizer = made(0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
        model.compile(optimizer, "mse", jit_compile=False)
    losses = model.fit(images, targets, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0], losses
    return model.get_weights() + [np.array(v) for v in optimizer.variables]

for ours, theirs in zip(trained(SGD, "float32"), trained(keras.optimizers.SGD, "float32"), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
trained(SGD, "mixed_bfloat16")
print("the same")
"""


def test_two_devices_equal_keras():
    found = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True)
    assert found.stdout == "the same\n", found.stderr[-3000:]
