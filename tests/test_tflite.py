"""The exported file: what is in it, what it computes, and that it says so."""

import collections
import hashlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from trained import briefly_trained

import resnet_keras
from export import artifact, calibration, conversion, runtime, source, tflite, verify
from resnet_keras import checkpoint, data, train
from resnet_keras import recipes as training_recipes


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The plain command, as a user types it, in an empty directory."""
    directory = tmp_path_factory.mktemp("bundled")
    done = run_export(directory, "--int8")
    assert done.returncode == 0, done.stderr
    return directory / "resnet20_int8.tflite", done


def run_export(directory, *arguments):
    command = [sys.executable, "-m", "export.tflite", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def tensors(path):
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    return interpreter, {d["index"]: d for d in interpreter.get_tensor_details()}


def operators(path):
    """`{op: version}` read from the flatbuffer."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    model = flatbuffer_utils.read_model(str(path))
    return {names[code.builtinCode]: code.version for code in model.operatorCodes}


class TestBundledInt8:
    def test_says_what_it_does(self, bundled):
        assert "exporting the bundled ResNet-20" in bundled[1].stderr
        assert "Traceback" not in bundled[1].stderr
        assert "INFO" not in bundled[1].stderr
        assert "int8 accuracy" in bundled[1].stdout

    def test_no_tensor_but_the_two_edges_is_float(self, bundled):
        interpreter, details = tensors(bundled[0])
        floats = {d["name"] for d in details.values() if d["dtype"] in (np.float32, np.float16)}
        assert floats == {"image", "probabilities"}
        assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 32, 32, 3]
        assert list(interpreter.get_signature_list()) == ["serving_default"]
        assert interpreter.get_signature_list()["serving_default"] == {
            "inputs": ["image"],
            "outputs": ["probabilities"],
        }

    def test_only_old_builtin_ops(self, bundled):
        # Compilers frozen in time refuse newer versions of an op.
        allowed = {
            "ADD": 2,
            "CONV_2D": 3,
            "DEQUANTIZE": 2,
            "FULLY_CONNECTED": 4,
            "MAX_POOL_2D": 2,
            "MEAN": 2,
            "PAD": 2,
            "QUANTIZE": 1,
            "SOFTMAX": 2,
            "SUB": 3,
        }
        found = operators(bundled[0])
        assert set(found) <= set(allowed)
        assert all(version <= allowed[name] for name, version in found.items()), found

    def test_accuracy_measured_again(self, bundled):
        """By a loop of its own over the raw interpreter, against the float Keras model as it is shipped."""
        test = data.load("fashion_mnist_sample").test
        interpreter, _ = tensors(bundled[0])
        feed, fetch = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        answers = []
        for image in test.images:
            interpreter.set_tensor(feed, image[None].astype(np.float32))
            interpreter.invoke()
            answers.append(interpreter.get_tensor(fetch)[0].argmax())
        model = keras.models.load_model(source.BUNDLED / "model.keras")
        expected = model.predict(test.images, verbose=0).argmax(axis=1)
        drop_points = 100 * (np.mean(expected == test.labels) - np.mean(answers == test.labels))
        assert drop_points <= 0.3
        assert np.mean(answers == expected) >= 0.99

    @pytest.mark.slow
    def test_the_whole_test_set(self, bundled, bundled_source, capsys):
        """The card's accuracy, and an int8 file within 0.1 points of it."""
        test = data.load("fashion_mnist").test
        report = verify.verify(bundled[0], bundled_source, calibration.ImageSet(test.images, test.labels, "test"))
        card = checkpoint.load_card(source.BUNDLED)
        reference, top1, agreement = report.float_top1_percent, report.top1_percent, report.agreement_percent
        with capsys.disabled():
            print(f"\nfloat {reference:.2f} %, int8 {top1:.2f} %, same answer {agreement:.2f} %", end="")
        # The card was measured in bfloat16, which changes the answer to a few images near a boundary.
        assert reference == pytest.approx(card["accuracy_percent"]["test"]["top1"], abs=0.1)
        assert report.drop_points <= 0.1
        assert agreement >= 99.5

    def test_one_step_of_the_input_is_one_pixel(self, bundled):
        _, details = tensors(bundled[0])
        quantized = {d["quantization"] for d in details.values() if d["shape"].tolist() == [1, 32, 32, 3]}
        assert {(1.0, -128), (1.0, 0)} <= quantized  # the pixel, and the pixel minus 128

    def test_the_same_bytes_in_another_process(self, bundled, tmp_path):
        assert run_export(tmp_path, "--int8").returncode == 0
        for name in ("resnet20_int8.tflite", "resnet20_int8.json"):
            assert (tmp_path / name).read_bytes() == (bundled[0].parent / name).read_bytes()

    def test_the_record_is_true(self, bundled):
        path, _ = bundled
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert record["size_bytes"] == path.stat().st_size
        assert record["labels"] == list(data.FASHION_CLASSES)
        assert record["weights"] == "bundled"
        assert record["calibration"]["images"] == 200
        assert record["calibration"]["ranges"]["image"] == [0, 255]
        assert (record["target"], record["kept"], record["lint"]["problems"]) == ("app", [], [])
        assert record["measured"]["images"] == 2800
        assert (record["preprocess"]["mean"], record["preprocess"]["std"]) == (128.0, 128.0)
        assert sorted(p.name for p in path.parent.iterdir()) == ["resnet20_int8.json", "resnet20_int8.tflite"]

    def test_the_verify_command_says_the_same(self, bundled, capsys):
        assert verify.main([str(bundled[0]), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report == {
            k: v for k, v in json.loads(bundled[0].with_suffix(".json").read_text())["measured"].items() if k in report
        }


@pytest.fixture(scope="module")
def bundled_source():
    return source.load()


@pytest.fixture(scope="module")
def images(bundled_source):
    calibrated, evaluation = calibration.gather(bundled_source)
    return calibrated.take(slice(50)), evaluation.take(slice(200))


class TestConvert:
    @pytest.mark.parametrize(
        ("recipe", "io", "target"),
        [
            ("float32", "float32", "app"),
            ("float16", "float32", "app"),
            ("dynamic", "float32", "app"),
            ("int8", "float32", "app"),
            ("int8", "int8", "app"),
            ("int8", "uint8", "web"),
        ],
    )
    def test_every_recipe_and_edge(self, bundled_source, images, tmp_path, recipe, io, target):
        path = tmp_path / "x.tflite"
        path.write_bytes(conversion.convert(bundled_source, recipe, io, images[0], target))
        runner = runtime.Runner(path)
        assert [edge["dtype"] for edge in runner.inputs + runner.outputs] == [io, io]
        assert [edge["name"] for edge in runner.inputs + runner.outputs] == ["image", "probabilities"]
        if io != "float32":
            # It means the pixel minus 128; so an unsigned byte is the pixel, a signed one the pixel minus 128.
            zero_point = {"int8": 0, "uint8": 128}[io]
            assert (runner.inputs[0]["scale"], runner.inputs[0]["zero_point"]) == (1.0, zero_point)
        report = verify.verify(path, bundled_source, images[1])
        # Float: another order of summation. Half: 11 bits of weight through 20 layers. int8: see the accuracy test.
        limits = {"float32": 1e-4, "float16": 2e-2}
        assert report.largest_difference <= limits.get(recipe, 0.5)
        assert report.agreement_percent >= {"float32": 100, "float16": 99.5}.get(recipe, 98)

    def test_twice_in_one_process_gives_the_same_bytes(self, bundled_source, images):
        one, other = (conversion.convert(bundled_source, "int8", "int8", images[0]) for _ in range(2))
        assert one == other

    def test_dark_calibration_images_do_not_clip_bright_pixels(self, bundled_source, images, tmp_path):
        dark = calibration.ImageSet(images[0].images // 4, None, "dark")
        path = tmp_path / "x.tflite"
        path.write_bytes(conversion.convert(bundled_source, "int8", "int8", dark))
        assert runtime.Runner(path).inputs[0]["scale"] == 1.0

    def test_the_folded_network_is_the_model(self, bundled_source, images):
        pixels = images[1].images[:50]
        folded = bundled_source.network.predict(pixels - np.float32(bundled_source.mean), verbose=0)
        expected = bundled_source.reference.predict(pixels, verbose=0)
        np.testing.assert_allclose(folded, expected, atol=1e-4)


class TestSources:
    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
    def test_any_policy_goes_in(self, tmp_path, policy):
        path, pixels = briefly_trained(tmp_path, policy)
        loaded = source.load(str(path))
        assert loaded.reference.get_layer("stage1_block1").compute_dtype == "float32"
        (tmp_path / "x.tflite").write_bytes(conversion.convert(loaded, "float32"))
        got = runtime.Runner(tmp_path / "x.tflite").predict(pixels[:50])
        expected = keras.models.load_model(path).predict(pixels[:50], verbose=0)
        # The model as trained computes in 8 or 11 bits; the float32 file may differ from it by what those lose.
        tolerance = {"float32": 1e-4, "mixed_bfloat16": 0.15, "mixed_float16": 0.02}[policy]
        np.testing.assert_allclose(got, expected, atol=tolerance)

    def test_logits_become_probabilities(self, tmp_path):
        path, pixels = briefly_trained(tmp_path, classifier_activation=None)
        loaded = source.load(str(path))
        (tmp_path / "x.tflite").write_bytes(conversion.convert(loaded, "float32"))
        got = runtime.Runner(tmp_path / "x.tflite").predict(pixels[:20])
        np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
        logits = keras.models.load_model(path).predict(pixels[:20], verbose=0)
        np.testing.assert_allclose(got, keras.ops.softmax(logits), atol=1e-4)

    @pytest.mark.parametrize("shape", [(29, 31, 3), (32, 32, 1), (24, 32, 3)])
    def test_other_shapes_with_calibration_from_a_file(self, tmp_path, shape):
        path, pixels = briefly_trained(tmp_path, input_shape=shape, classes=4)
        np.savez(tmp_path / "pixels.npz", images=pixels[:60])
        record, report, failure = tflite.export(
            str(path), calibration_data=tmp_path / "pixels.npz", out=tmp_path / "x.tflite", max_drop=50
        )
        assert failure is None
        assert record["inputs"][0]["shape"] == [1, *shape]
        assert (record["calibration"]["images"], report.images) == (48, 12)
        assert report.drop_points is None
        assert record["labels"] == ["class 0", "class 1", "class 2", "class 3"]

    def test_a_run_on_own_arrays_brings_its_images(self, tmp_path):
        images = data.load("fashion_mnist_sample").train.images[:240, :16, :16]
        labels = data.load("fashion_mnist_sample").train.labels[:240]
        np.savez(tmp_path / "mine.npz", train_images=images, train_labels=labels)
        recipe = training_recipes.get("demo").with_changes(data=str(tmp_path / "mine.npz"), epochs=1, batch_size=32)
        train.train(recipe, tmp_path / "run", precision="float32")
        record, _, _ = tflite.export(tmp_path / "run", out=tmp_path / "x.tflite", max_drop=100)
        assert (record["calibration"]["origin"], record["calibration"]["images"]) == ("mine.npz training", 200)
        assert (record["measured"]["origin"], record["measured"]["images"]) == ("mine.npz validation", 8)

    def test_imagenet_depths_by_name_with_random_weights(self, tmp_path):
        record, _, failure = tflite.export("resnet18", "random", out=tmp_path / "x.tflite")
        assert failure is None
        assert record["weights"] == "random"
        assert record["calibration"]["images"] == 32
        assert record["measured"]["top1_percent"] is None
        counts = collections.Counter(d["dtype"].__name__ for d in tensors(tmp_path / "x.tflite")[1].values())
        assert counts["float32"] == 2


class TestGate:
    def test_a_file_that_is_not_the_model_fails(self, bundled, bundled_source, images, tmp_path):
        keras.utils.set_random_seed(1)
        stranger = tmp_path / "stranger.keras"
        resnet_keras.ResNet8().save(stranger)
        (tmp_path / "x.tflite").write_bytes(conversion.convert(source.load(str(stranger)), "float32"))
        report = verify.verify(tmp_path / "x.tflite", bundled_source, images[1])
        assert "The accuracy drops by" in report.failure()
        assert verify.main([str(tmp_path / "x.tflite")]) == 1

    def test_past_max_drop_nothing_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert tflite.main(["--int8", "--max-drop=-101"]) == 1
        assert list(tmp_path.iterdir()) == []
        assert tflite.main(["--int8", "--max-drop=-101", "--force"]) == 1
        assert artifact.read_sidecar("resnet20_int8.tflite")["model"] == "resnet20"

    def test_compare(self):
        reference = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
        scores = np.array([[0.8, 0.2], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
        report = verify.compare(reference, scores, np.array([0, 1, 1, 1]))
        assert (report.float_top1_percent, report.top1_percent, report.drop_points) == (75, 50, 25)
        assert report.agreement_percent == 75
        assert report.largest_difference == pytest.approx(0.7)
        assert report.failure(25) is None
        assert "25.00 points" in report.failure(24.9)
        unlabelled = verify.compare(reference, scores)
        assert unlabelled.drop_points is None
        assert "of the answers change" in unlabelled.failure()
        assert unlabelled.failure(25) is None

    def test_what_is_no_number_fails(self):
        reference = np.array([[0.9, 0.1]])
        report = verify.compare(reference, np.array([[0.9, np.nan]]), np.array([0]))
        assert "not numbers" in report.failure(100)
