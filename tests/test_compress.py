"""Pruned, clustered and trained for int8: what is asked for is there, and the file is the network that was trained."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file
from trained import briefly_trained

import resnet_keras
from export import compress, compression, conversion, job, learned, runtime, source, tflite, twin
from export import onnx as onnx_export
from resnet_keras import checkpoint, cli, data

SPARSITY, CLUSTERS = 0.5, 4  # few enough for each channel to have them all, which must not count as its own
# Imports the library, as the process of `export.compression` does, and works on the network written down in argv[1].
BRIDGE = """
import json, pathlib, sys
import numpy as np
from safetensors.numpy import load_file, save_file
from export import techniques, twin
techniques.library()
import tensorflow as tf, tf_keras
directory = pathlib.Path(sys.argv[1])
description = json.loads((directory / "network.json").read_text())
network = twin.build(description, load_file(directory / "weights.safetensors"))
images = np.load(directory / "images.npy")
np.save(directory / "answers.npy", tf.nn.softmax(network(images, training=False)).numpy())
save_file(twin.values(network), directory / "back.safetensors")
"""
STEP = """
everything = {name: (-1.0, 1.0) for at in description for name in (at["name"], "centred")}
quantized = techniques.quantizing(network, everything)
loss = tf_keras.losses.CategoricalCrossentropy(from_logits=True)
quantized.compile(tf_keras.optimizers.SGD(0.01, jit_compile=False), loss, jit_compile=False)
classes = quantized.output_shape[-1]
losses = [float(quantized.train_on_batch(images, np.eye(classes)[np.arange(len(images))])) for _ in range(3)]
arrays, steps = techniques.baked(quantized, description)
save_file(arrays, directory / "baked.safetensors")
(directory / "losses.json").write_text(json.dumps(losses))
"""


def settled(model):
    """Random batch-norm statistics, as after training; at their start they would hide much."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        name = variable.path.rpartition("/")[2]
        low, high = {"gamma": (0.5, 1.5), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2)}.get(name, (0.5, 1.5))
        if name in ("gamma", "beta", "moving_mean", "moving_variance"):
            variable.assign(rng.uniform(low, high, variable.shape))
    return model


def bridged(found, directory, code=BRIDGE):
    """Runs code on the twin of a `Source`'s network in a process of its own, as the command does."""
    size = found.input_shape
    images = np.random.default_rng(1).uniform(0, 255, (4, *size)).astype("float32") - np.float32(found.mean)
    (directory / "network.json").write_text(json.dumps(twin.describe(found.network)))
    save_file(twin.values(found.network), directory / "weights.safetensors")
    np.save(directory / "images.npy", images)
    done = subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return images


def interpreter(data):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=data)


def loaded(model, tmp_path):
    model.save(tmp_path / "x.keras")
    return source.load(str(tmp_path / "x.keras"))


class TestBridge:
    @pytest.mark.parametrize(
        "name",
        ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow), "wide"],
    )
    def test_the_twin_computes_the_same_and_learns(self, name, tmp_path):
        if name == "wide":
            model = resnet_keras.ResNet8(width_multiplier=2, shortcut="identity", input_shape=(24, 24, 1), classes=7)
        else:
            model = getattr(resnet_keras, name.replace("resnet", "ResNet"))(input_shape=(64, 64, 3), classes=10)
        found = loaded(settled(model), tmp_path)
        images = bridged(found, tmp_path, BRIDGE + STEP)
        expected = np.asarray(found.network(images, training=False))
        np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, atol=1e-5)
        own, back = twin.values(found.network), load_file(tmp_path / "back.safetensors")
        assert own.keys() == back.keys()
        assert all(np.array_equal(own[key], back[key]) for key in own)
        losses = json.loads((tmp_path / "losses.json").read_text())
        assert losses[-1] < losses[0]
        baked = load_file(tmp_path / "baked.safetensors")
        assert baked.keys() == own.keys()
        assert not np.array_equal(baked["stem_conv/kernel"], own["stem_conv/kernel"])
        statistics = [key for key in own if "/moving_" in key]
        assert statistics
        assert all(np.array_equal(baked[key], own[key]) for key in statistics)
        restored = found.with_weights(baked)
        for key, values in twin.values(restored.network).items():
            np.testing.assert_allclose(values, baked[key], rtol=1e-6)

    def test_a_layer_without_counterpart_is_named(self, tmp_path):
        model = resnet_keras.ResNet8()
        x = keras.layers.LeakyReLU(name="strange")(model.get_layer("stage1_block1").output)
        for layer in model.layers[4:]:
            x = layer(x)
        found = loaded(keras.Model(model.input, x), tmp_path)
        with pytest.raises(ValueError, match=r"The layer strange \(LeakyReLU\) has no counterpart"):
            twin.describe(found.network)

    def test_what_works_in_training_alone_is_left_out(self, tmp_path):
        models = (resnet_keras.ResNet8(stochastic_depth=rate) for rate in (0.2, 0.0))
        with_drops, without = (twin.describe(loaded(model, tmp_path).network) for model in models)
        assert sorted(with_drops, key=str) == sorted(without, key=str)

    def test_weights_of_another_network_are_refused(self, tmp_path):
        found = loaded(resnet_keras.ResNet8(), tmp_path)
        with pytest.raises(ValueError, match="Differing"):
            twin.assign(found.network, twin.values(source.load().network))


@pytest.fixture(scope="module")
def few_images(tmp_path_factory):
    """A data set that a tiny network learns in seconds, as the command takes it."""
    path, sample = tmp_path_factory.mktemp("data") / "few.npz", data.load("fashion_mnist_sample")
    np.savez(
        path,
        train_images=sample.train.images[:1024],
        train_labels=sample.train.labels[:1024],
        validation_images=sample.validation.images[:200],
        validation_labels=sample.validation.labels[:200],
        test_images=sample.test.images[:500],
        test_labels=sample.test.labels[:500],
    )
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return briefly_trained(tmp_path_factory.mktemp("tiny"))[0]


@pytest.fixture(scope="module")
def everything(few_images, tiny, tmp_path_factory):
    """`(card, run directory)` after pruning, clustering and quantization-aware training."""
    out = tmp_path_factory.mktemp("runs") / "all"
    arguments = {"prune": SPARSITY, "cluster": CLUSTERS, "qat": True, "epochs": 3}
    return compress.compress(str(tiny), data=str(few_images), out=str(out), **arguments)


class TestEverything:
    def test_each_layer_is_sparse_and_clustered(self, everything):
        _, out = everything
        for name, values in twin.values(source.load(str(out)).network).items():
            if name.endswith("/kernel"):
                assert np.mean(values == 0) >= SPARSITY - 0.01, name
                # The stem's kernel has the deviation of the pixels inside.
                assert len(np.unique(np.float32(values))) <= CLUSTERS, name

    def test_the_file_is_the_network_that_was_trained(self, everything):
        assert everything[0]["compression"]["same_as_trained_percent"] >= compress.SAME_SHARE_PERCENT

    def test_biases_are_rounded_in_the_network_too(self, everything):
        """To the steps of the file: where they are not, one answer in a hundred of a trained network differs."""
        found = source.load(str(everything[1]))
        form = conversion.form(found, "int8")
        floats = conversion.float_file(found, form)
        limits = conversion.observed(floats, found, None, form.recipe.method)
        integers = conversion.integer_file(floats, form, limits, (), found.learned)
        base, file = interpreter(floats), interpreter(integers)
        biases = {t["name"]: t for t in file.get_tensor_details() if t["name"].endswith("/bias")}
        assert len(biases) >= 10
        for tensor in base.get_tensor_details():
            if bias := biases.get(tensor["name"]):
                exact = base.get_tensor(tensor["index"]) / bias["quantization_parameters"]["scales"]
                # Up to 1e5 steps, and float32 has a relative error of 6e-8 in each of the folding's few products.
                np.testing.assert_allclose(exact, file.get_tensor(bias["index"]), atol=0.1)

    def test_the_table_tells_sizes_and_gains(self, everything, capsys):
        full, plain, own = everything[0]["compression"]["files"]
        assert plain["figures"]["float_top1_percent"] == full["figures"]["top1_percent"]
        assert own["zero_percent"] >= 100 * SPARSITY - 1 > 10 > plain["zero_percent"]
        # A negative scale of batch norm turns a cluster's sign.
        assert own["distinct"] <= 2 * CLUSTERS < plain["distinct"]
        assert own["zipped_bytes"] < 0.75 * plain["zipped_bytes"]
        assert own["npu"]["compressed_weights_bytes"] < 0.75 * plain["npu"]["compressed_weights_bytes"]
        over, low_high = everything[0]["compression"]["over_plain"], "interval_points"
        assert over[low_high][0] <= over["gain_points"] <= over[low_high][1]

    def test_export_takes_ranges_and_steps(self, everything, few_images, tmp_path):
        _, out = everything
        record, _, _ = tflite.export(str(out), max_drop=100, out=tmp_path / "x.tflite")
        held = learned.Learned.read(out)
        assert record["calibration"]["method"] == "learned"
        assert record["calibration"]["ranges"]["stem_relu"] == held.ranges["stem_relu"]
        onnx_export.export(str(out), max_drop=100, out=tmp_path / "x.onnx")
        constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "x.onnx").graph.initializer}
        for layer, steps in held.steps.items():
            np.testing.assert_allclose(constants[f"{layer}/kernel/scale"], steps, rtol=1e-6)
            assert len(np.unique(constants[f"{layer}/kernel/integer"])) <= 2 * CLUSTERS
        images = data.load(str(few_images)).test.images[:100]
        files = [runtime.Runner(tmp_path / name).predict(images) for name in ("x.tflite", "x.onnx")]
        # Two runtimes break ties in other ways, and a step of the answer is 1/256.
        assert np.mean(np.abs(files[0] - files[1]) < 3 / 256) > 0.98

    def test_a_finished_run_is_not_overwritten(self, everything, tiny, few_images):
        with pytest.raises(ValueError, match="holds a finished run"):
            compress.compress(str(tiny), qat=True, data=str(few_images), out=str(everything[1]), resume=True)

    def test_calibration_is_refused(self, everything, few_images, tmp_path):
        for command in (tflite, onnx_export):
            with pytest.raises(ValueError, match="brings its ranges"):
                command.export(
                    str(everything[1]), calibration_method="minmax", out=tmp_path / f"x.{command.__name__[7:]}"
                )

    def test_weights_that_changed_since_are_refused(self, everything, tmp_path):
        _, out = everything
        found = source.load(str(out))
        arrays = twin.values(found.network)
        arrays["stage2_block1_conv1/kernel"] = arrays["stage2_block1_conv1/kernel"] * 1.05
        with pytest.raises(ValueError, match="stage2_block1_conv1 are not those"):
            conversion.convert(dataclasses.replace(found.with_weights(arrays), learned=found.learned))


def test_an_untrained_network_with_the_stem_of_imagenet(few_images, tmp_path):
    """Its first layer pads the pixels, its batch norms do nothing yet, and it has no card."""
    resnet_keras.ResNet8(stem="imagenet").save(tmp_path / "x.keras")
    card, out = compress.compress(
        str(tmp_path / "x.keras"), qat=True, data=str(few_images), out=str(tmp_path / "run"), epochs=1
    )
    assert card["labels"] == [f"class {i}" for i in range(10)]
    for recipe, pixels in (("int8", "centred"), ("int16x8", "pixels")):
        record, _, _ = tflite.export(str(out), recipe=recipe, max_drop=100, out=tmp_path / f"{recipe}.tflite")
        found = record["calibration"]["ranges"]
        assert found["stem_pad"] == found[pixels]
    onnx_export.export(str(out), max_drop=100, out=tmp_path / "x.onnx")


def test_other_classes_are_refused(few_images, tmp_path):
    arrays = dict(np.load(few_images))
    np.savez(tmp_path / "x.npz", **arrays, class_names=data.FASHION_CLASSES[::-1])
    with pytest.raises(ValueError, match="class 'Ankle boot' where the model has 'T-shirt"):
        compress.compress(qat=True, data=str(tmp_path / "x.npz"), out=str(tmp_path / "run"))


def test_another_run_is_not_overwritten(few_images, tiny, tmp_path):
    (tmp_path / checkpoint.RUN).write_text("{}")
    with pytest.raises(ValueError, match=r"holds something else, see run\.json"):
        compress.compress(str(tiny), qat=True, data=str(few_images), out=str(tmp_path))


def test_terminated_and_resumed(tiny, few_images, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--model", str(tiny), "--data", str(few_images), "--out", str(out), "--prune", "0.5", "--cluster", "8"]
    command = [sys.executable, "-m", "export.compress", *arguments, "--epochs", "2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first = out / job.DIRECTORY / compression.CHECKPOINTS / "prune" / "checkpoint"
        while process.poll() is None and not first.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, stderr[-1000:]
    assert "Go on with --resume" in stderr
    assert not (out / checkpoint.CARD).exists()
    with pytest.raises(ValueError, match="unfinished run"):
        compress.main([*arguments, "--epochs", "2"])
    with pytest.raises(ValueError, match="started in another way"):
        compress.main([*arguments, "--epochs", "3", "--resume"])
    capsys.readouterr()
    status = compress.main([*arguments, "--epochs", "2", "--resume", "--json"])
    printed = capsys.readouterr()
    assert status in (cli.GOOD, cli.GATE_FAILED)
    assert "prune epoch 1/2" not in printed.err
    found = json.loads(printed.out)
    assert found["files"][-1]["zero_percent"] > 45
    assert found["same_as_trained_percent"] is None  # without QAT it is calibrated as any other
    assert source.load(str(out)).learned is None
    assert not (out / job.DIRECTORY).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Nothing to do"),
        (["--prune", "1.5"], "above 0 and below 1"),
        (["--prune", "nan"], "above 0 and below 1"),
        (["--cluster", "1"], "from 2 to 256"),
        (["--prune", "0.5", "--cluster", "2"], "from 3 to 256 together with --prune"),
        (["--qat", "--seed", "-1"], "at least 0"),
        (["--qat", "--epochs", "0"], "at least 1"),
        (["--qat", "--model", "resnet50"], "There is no resnet50"),
        (["--qat", "--data", "nonsense"], "Unknown data set"),
    ],
)
def test_bad_input(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: compress.main(arguments))
    assert stopped.value.code == cli.BAD_INPUT
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_images_than_the_model_takes(tiny, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28, 3), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=np.arange(200) % 10)
    with pytest.raises(ValueError, match=r"images of shape \(28, 28, 3\)"):
        compress.compress(str(tiny), qat=True, data=str(tmp_path / "x.npz"), out=str(tmp_path / "run"))


def test_the_missing_library_is_named(tiny, monkeypatch, capsys, tmp_path):
    import importlib.util

    found = importlib.util.find_spec
    missing = "tensorflow_model_optimization"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportError, match=r"resnet-keras\[compress\]"):
        compress.compress(str(tiny), qat=True)
    assert not pathlib.Path("runs").exists()
