"""More than one device: the same losses, step by step, as one device with the same batch."""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from resnet_keras import checkpoint, devices

# A low learning rate: at a high one, rounding alone drives any two runs apart, on one device as well.
RUN = """
import json, os, sys
arguments, devices, virtual = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if virtual:
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * virtual)
import keras
import numpy as np
from resnet_keras import devices as places, data, recipes, train, watch
places.initialize(1)
losses, original = [], watch.Watch.on_train_batch_end
def listening(self, batch, logs=None):
    losses.append(float(np.asarray(logs["loss"])))
    original(self, batch, logs)
watch.Watch.on_train_batch_end = listening
sample = data.load("fashion_mnist_sample")
small = data.Dataset("small", sample.class_names, sample.train.take(np.arange(640)), *(
    part.take(np.arange(99)) for part in (sample.validation, sample.test)))
recipe = recipes.get("demo").with_changes(
    epochs=2, batch_size=64, peak_learning_rate=2e-3, warmup_steps=0, mixup_alpha=0.2, cutmix_alpha=1.0)
card = train.train(recipe, arguments["out"], dataset=small, precision="float32", seed=1, devices=devices)
print(json.dumps({"losses": losses, "card": card}))
"""


def start(out, backend, count, virtual=0, **environment):
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", RUN, json.dumps({"out": str(out)}), str(count), str(virtual)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def one_jax_device(tmp_path_factory):
    """What one device gives, with which several are compared."""
    return result(start(tmp_path_factory.mktemp("one"), "jax", 1))


def assert_same_curve(one, several):
    assert len(one["losses"]) == 20
    np.testing.assert_allclose(several["losses"], one["losses"], atol=1e-4)
    accuracies = [run["card"]["accuracy_percent"] for run in (one, several)]
    assert accuracies[0]["test"]["images"] == accuracies[1]["test"]["images"] == 99
    # One image may lie on the border between two classes.
    assert abs(accuracies[0]["test"]["top1"] - accuracies[1]["test"]["top1"]) <= 100 / 99 + 1e-3


def test_two_virtual_devices_under_mirrored_strategy(tmp_path):
    one, two = start(tmp_path / "one", "tensorflow", 1), start(tmp_path / "two", "tensorflow", 2, virtual=2)
    one, two = result(one), result(two)
    assert (one["card"]["replicas"], two["card"]["replicas"]) == (1, 2)
    assert_same_curve(one, two)
    model = keras.models.load_model(tmp_path / "two" / checkpoint.MODEL)
    assert not any(getattr(layer, "synchronized", False) for layer in model.get_layer("stage1_block1").sublayers)


def test_two_jax_processes_on_the_loopback_address(one_jax_device, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    places = [
        {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": str(process),
        }
        for process in range(2)
    ]
    two = [start(tmp_path / "two", "jax", "all", **place) for place in places]
    chief, other = (result(process) for process in two)
    assert chief["card"]["replicas"] == 2
    assert_same_curve(one_jax_device, chief)
    np.testing.assert_array_equal(chief["losses"], other["losses"])
    assert len(checkpoint.read_history(tmp_path / "two")) == 2


def test_two_jax_devices_in_one_process(one_jax_device, tmp_path):
    two = result(start(tmp_path / "two", "jax", 2, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    assert two["card"]["replicas"] == 2
    assert_same_curve(one_jax_device, two)


def test_several_processes_need_jax(monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="Set KERAS_BACKEND=jax"):
        devices.initialize(0)


def test_devices_that_are_not_there():
    with pytest.raises(ValueError, match="from 1 to 1"), devices.scope(2):
        pass
    with devices.scope("all") as used:
        assert (used.replicas, used.shard, used.is_chief) == (1, (0, 1), True)
