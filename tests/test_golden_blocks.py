"""Residual blocks against PyTorch: forward in both modes, every gradient, the moving statistics.

`make_golden_blocks.py` made the arrays. Float32 sums of at most 36 products in another order differ by a few 1e-6.
"""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from golden import unpack

from resnet_keras import BasicBlock, Bottleneck

GOLDEN = unpack(pathlib.Path(__file__).parent / "golden_blocks.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN})
TOLERANCE = 1e-5


def block_of(case):
    """The Keras block of a case with the weights that PyTorch's had."""
    arrays = {key.removeprefix(f"{case}/"): GOLDEN[key] for key in GOLDEN if key.startswith(f"{case}/")}
    stride = 2 if "stride" in case else 1
    if case.startswith("basic"):
        block = BasicBlock(arrays["start/conv1.weight"].shape[-1], stride, name="block")
    else:
        version = "v1" if "_v1_" in case else "v1.5"
        block = Bottleneck(arrays["start/conv1.weight"].shape[-1], stride, version, name="block")
    block.build(arrays["x"].shape)
    for variable in block.weights:
        variable.assign(arrays[f"start/{torch_name(variable)}"])
    return block, arrays


def torch_name(variable):
    """`block_shortcut_bn/gamma` is `downsample.1.weight` in PyTorch's naming."""
    layer, kind = variable.path.split("/")[-2:]
    layer = layer.removeprefix("block_").replace("shortcut_conv", "downsample.0").replace("shortcut_bn", "downsample.1")
    kinds = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
    return f"{layer}.{kinds.get(kind, 'running_var')}"


def assert_close(got, expected, what):
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(np.asarray(got) / scale, expected / scale, rtol=0, atol=TOLERANCE, err_msg=what)


@pytest.mark.parametrize("case", CASES)
def test_inference(case):
    block, arrays = block_of(case)
    assert_close(block(arrays["x"], training=False), arrays["eval"], "output")


@pytest.mark.parametrize("case", CASES)
def test_training(case):
    block, arrays = block_of(case)
    x = tf.constant(arrays["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = block(x, training=True)
        total = tf.reduce_sum(y * np.linspace(-1, 1, y.numpy().size, dtype=np.float32).reshape(y.shape))
    assert_close(y, arrays["train"], "output")
    gradients = tape.gradient(total, [x, *(v.value for v in block.trainable_variables)])
    assert_close(gradients[0], arrays["gradient/x"], "gradient of the input")
    for variable, gradient in zip(block.trainable_variables, gradients[1:], strict=True):
        assert_close(gradient, arrays[f"gradient/{torch_name(variable)}"], variable.path)


@pytest.mark.parametrize("case", CASES)
def test_moving_statistics(case):
    block, arrays = block_of(case)
    block(arrays["x"], training=True)
    for variable in block.non_trainable_variables:
        assert_close(variable, arrays[f"after/{torch_name(variable)}"], variable.path)


def test_every_kind_of_block_is_there():
    assert len(CASES) == 12
    shapes = [GOLDEN[f"{case}/x"].shape[1:3] for case in CASES]
    assert {side % 2 for shape in shapes for side in shape} == {0, 1}
    assert sum(f"{case}/start/downsample.0.weight" in GOLDEN for case in CASES) == 8
