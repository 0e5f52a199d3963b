"""What a user can get wrong: one sentence on stderr, the right exit status, and nothing written."""

import sys
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

import resnet_keras
from export import tflite
from resnet_keras import cli, data


def run(arguments, capsys):
    """`(exit status, stderr)` of the command, in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: tflite.main([str(a) for a in arguments]))
    return stopped.value.code, capsys.readouterr().err


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty directory and checks the form of the refusal."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def check(arguments, *words, status=2):
        code, stderr = run(arguments, capsys)
        assert code == status, stderr
        (sentence,) = [line for line in stderr.splitlines() if line.startswith("error:")]
        assert "Traceback" not in stderr
        for word in words:
            assert word in sentence
        assert list(work.iterdir()) == []

    return check


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "plain.keras"
    resnet_keras.ResNet8().save(path)
    return path


def save(model, path):
    model.save(path)
    return path


def pictures(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


class TestModel:
    def test_missing_or_unknown(self, refused):
        refused(["--model", "nowhere.keras"], "nowhere.keras")
        refused(["--model", "resnet19"], "resnet19", "resnet18")
        refused(["--model", "resnet50"], "has no weights", "--weights random")
        refused(["--model", "resnet8", "--weights", "nowhere.weights.h5"], "nowhere.weights.h5")
        refused(["--model", "resnet8", "--weights", "imagenet"], "imagenet")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"\x00" * 1000])
    def test_damaged(self, refused, tmp_path, content):
        (tmp_path / "bad.keras").write_bytes(content)
        refused(["--model", tmp_path / "bad.keras"], "bad.keras")

    def test_truncated_at_any_place(self, refused, tmp_path, plain):
        whole = plain.read_bytes()
        for share in (0.1, 0.5, 0.99):
            (tmp_path / "bad.keras").write_bytes(whole[: int(share * len(whole))])
            refused(["--model", tmp_path / "bad.keras"], "bad.keras")

    def test_archive_without_weights(self, refused, tmp_path, plain):
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "bad.keras", "w") as target:
            for name in ("config.json", "metadata.json"):
                target.writestr(name, source.read(name))
        refused(["--model", tmp_path / "bad.keras"], "bad.keras")

    def test_another_architecture(self, refused, tmp_path):
        image = keras.Input((32, 32, 3))
        dense = keras.layers.Dense(10)(keras.layers.Flatten()(image))
        refused(["--model", save(keras.Model(image, dense), tmp_path / "a.keras")], "not a ResNet of this package")
        foreign = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=10)
        refused(["--model", save(foreign, tmp_path / "b.keras")], "not a ResNet of this package")
        sequential = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
        refused(["--model", save(sequential, tmp_path / "c.keras")], "not a ResNet of this package")

    def test_a_resnet_that_is_no_classifier_of_pixels(self, refused, tmp_path):
        for arguments, words in (
            ({"include_top": False, "input_shape": (32, 32, 3)}, "one score a class"),
            ({"include_preprocessing": False}, "include_preprocessing=True"),
            ({"input_shape": (None, None, 3)}, "no fixed input size"),
        ):
            refused(["--model", save(resnet_keras.ResNet8(**arguments), tmp_path / "x.keras")], words)

    def test_a_run_directory_without_its_parts(self, refused, tmp_path, plain):
        (tmp_path / "run").mkdir()
        refused(["--model", tmp_path / "run"], "model.keras")
        (tmp_path / "run" / "model.keras").write_bytes(plain.read_bytes())
        refused(["--model", tmp_path / "run"], "card.json")
        (tmp_path / "run" / "card.json").write_text("{not json")
        refused(["--model", tmp_path / "run"], "not valid JSON")
        (tmp_path / "run" / "card.json").write_text("[]")
        refused(["--model", tmp_path / "run"], "JSON object")
        (tmp_path / "run" / "card.json").write_text('{"labels": ["one", "two"]}')
        refused(["--model", tmp_path / "run"], "10 classes")
        (tmp_path / "run" / "card.json").write_text('{"preprocess": {"sise": 3}}')
        refused(["--model", tmp_path / "run"], "preprocess")

    def test_code_in_a_model_is_not_run(self, refused, tmp_path):
        image = keras.Input((32, 32, 3))
        model = keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image))
        refused(["--model", save(model, tmp_path / "lambda.keras")], "lambda.keras")


class TestLabels:
    @pytest.mark.parametrize("text", ["one\ntwo\n", "", "\n".join("abcdefghijk"), "a\nb\nc\nd\n\nf\ng\nh\ni\nj"])
    def test_wrong_count(self, refused, tmp_path, text):
        (tmp_path / "labels.txt").write_text(text)
        refused(["--labels", tmp_path / "labels.txt"], "10 classes")

    def test_unreadable(self, refused, tmp_path):
        (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00\x80")
        refused(["--labels", tmp_path / "labels.txt"], "cannot be read")
        refused(["--labels", tmp_path / "none.txt"], "cannot be read")
        refused(["--labels", tmp_path], "cannot be read")


class TestCalibration:
    def test_nothing_to_read(self, refused, tmp_path):
        (tmp_path / "empty").mkdir()
        refused(["--calibration-data", tmp_path / "empty"], "holds no images")
        refused(["--calibration-data", tmp_path / "none"], "not a folder")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "1.jpg").write_bytes(b"no picture")
        refused(["--calibration-data", tmp_path / "broken"], "can be read")
        refused(["--calibration-data", tmp_path / "none.npz"], "no file")

    def test_one_colour(self, refused, tmp_path):
        colours = [np.full((40, 40, 3), value, np.uint8) for value in range(0, 250, 25)]
        refused(["--calibration-data", pictures(tmp_path / "flat", colours)], "one colour")

    def test_noise(self, refused, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
        refused(["--calibration-data", pictures(tmp_path / "noise", noise)], "noise")
        smooth = [np.asarray(Image.fromarray(image).resize((224, 224))) for image in noise]
        refused(["--calibration-data", pictures(tmp_path / "smooth", smooth)], "noise")
        np.savez(tmp_path / "noise.npz", images=noise)
        refused(["--calibration-data", tmp_path / "noise.npz"], "noise")

    def test_pixels_in_another_range(self, refused, tmp_path):
        images = data.load("fashion_mnist_sample").train.images[:20]
        np.savez(tmp_path / "unit.npz", images=images / np.float32(255))
        refused(["--calibration-data", tmp_path / "unit.npz"], "uint8")
        np.savez(tmp_path / "binary.npz", images=images // 200)
        refused(["--calibration-data", tmp_path / "binary.npz"], "one colour")

    def test_images_of_the_evaluation_set(self, refused, tmp_path):
        images = data.load("fashion_mnist_sample").test.images[:20]
        np.savez(tmp_path / "test.npz", images=images)
        refused(["--calibration-data", tmp_path / "test.npz"], "in both")

    def test_evaluation_labels_that_are_no_classes(self, refused, tmp_path):
        images = data.load("fashion_mnist_sample").train.images[:4]
        np.savez(tmp_path / "test.npz", images=images, labels=np.array([0, 1, 2, 10]))
        refused(["--eval-data", tmp_path / "test.npz"], "class indices from 0 to 9")
        refused(["--eval-data", pictures(tmp_path / "eval" / "Cat", images).parent], "Cat")

    def test_a_model_of_unknown_origin_needs_images(self, refused, plain):
        refused(["--model", plain], "--calibration-data")
        refused(["--model", plain, "--float32"], "--eval-data")

    def test_some_unreadable_images_are_skipped_and_named(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        folder = pictures(tmp_path / "mixed", data.load("fashion_mnist_sample").train.images[:30])
        (folder / "broken.png").write_bytes(b"no picture")
        code, stderr = run(["--calibration-data", folder], capsys)
        assert code == 0
        assert "skipped 1 unreadable" in stderr
        assert "broken.png" in stderr


class TestOutput:
    def test_paths_that_cannot_be_written(self, refused, tmp_path):
        refused(["--out", tmp_path], "directory")
        (tmp_path / "file").write_text("")
        refused(["--out", tmp_path / "file" / "x.tflite"], "file")
        refused(["--out", "/proc/x.tflite"], "/proc")
        refused(["--out", "x.json"], "record")

    def test_a_foreign_file_is_not_replaced(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        foreign = tmp_path / "x.tflite"
        foreign.write_text("mine")
        code, stderr = run(["--out", foreign], capsys)
        assert code == 2
        assert "--force" in stderr
        assert foreign.read_text() == "mine"

    def test_a_crash_leaves_nothing_behind(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("export.verify.verify", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tflite.main(["--int8"])
        assert list(tmp_path.iterdir()) == []


class TestUsage:
    def test_edges_that_the_recipe_does_not_have(self, refused):
        refused(["--float16", "--io", "uint8"], "app takes float32 at the edges of a float16 file")
        refused(["--int8", "--io", "int4"], "int4")

    def test_targets(self, refused):
        refused(["--target", "ethos-u55"], "Did you mean 'ethos-u55-")
        refused(["--target", "micro", "--float32"], "micro computes in integers")
        refused(["--target", "micro", "--budget", "1"], "--target app or web or mediapipe")
        refused(["--budget", "nan"], "from 0 to 100")

    def test_calibration(self, refused):
        refused(["--calibration-images", "0"], "At least one image")
        refused(["--calibration-method", "entropy"], "minmax, percentile, mse")
        refused(["--calibration-sweep", "--float32"], "goes with --int8")
        refused(["--calibration-sweep", "--calibration-images", "4"], "at least 5")

    def test_weights_beside_a_file(self, refused, plain):
        refused(["--model", plain, "--weights", "random"], "its own weights")

    def test_unknown_options_end_with_status_2(self, capsys):
        for arguments in (["--int9"], ["--int8", "--float16"], ["--max-drop", "much"]):
            with pytest.raises(SystemExit) as stopped:
                tflite.main(arguments)
            assert stopped.value.code == 2
            assert "error:" in capsys.readouterr().err


def test_a_missing_package_is_status_3(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    code, stderr = run(["--int8"], capsys)
    assert code == 3
    assert "pip install" in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_compiler_is_said_before_any_work(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ethosu", None)
    monkeypatch.setattr("export.source.load", lambda *_: pytest.fail("the model was loaded"))
    code, stderr = run(["--target", "ethos-u55-128"], capsys)
    assert code == 3
    assert "Vela is missing" in stderr
    assert list(tmp_path.iterdir()) == []


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("RESNET_KERAS_DEBUG", "1")
    with pytest.raises(ValueError, match="resnet19"):
        cli.run(lambda: tflite.main(["--model", "resnet19"]))


def test_a_table_reads_well(capsys):
    cli.print_result([("short", "1"), ("much longer", "2")], {})
    assert capsys.readouterr().out == "short        1\nmuch longer  2\n"
