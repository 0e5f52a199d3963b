"""From a folder of images to a model of them, in one command."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

import resnet_keras
from export import tflite
from resnet_keras import checkpoint, cli, data, evaluate, train

CLASSES = {"bag": 8, "boot": 9, "trousers": 1}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of 40 JPEGs of 48 px, of which two are truncated, one is no image, and one is too wide."""
    folder = tmp_path_factory.mktemp("photos")
    sample = data.load("fashion_mnist_sample").train
    for name, label in CLASSES.items():
        (folder / name).mkdir()
        for i, image in enumerate(sample.images[sample.labels == label][:40]):
            Image.fromarray(image).resize((48, 48)).save(folder / name / f"{i}.jpg", quality=90)
    for i in (3, 7):
        path = folder / "boot" / f"{i}.jpg"
        path.write_bytes(path.read_bytes()[:-200])
    (folder / "bag" / "notes.jpg").write_text("not a picture")
    Image.new("RGB", (20_000, 8)).save(folder / "bag" / "panorama.jpg")
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Weights of another task: a ResNet-8 of ten classes at 32 px."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("pretrained") / "model.keras"
    resnet_keras.ResNet8().save(path)
    return path


@pytest.fixture(scope="module")
def tuned(photos, pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "photos"
    arguments = ["--recipe", "finetune", "--model", "resnet8", "--weights", pretrained, "--data", photos, "--out", out]
    arguments += ["--epochs", "12", "--precision", "float32", "--set", "freeze_stages=2", "--set", "warmup_steps=4"]
    assert train.main([str(a) for a in [*arguments, "--set", "peak_learning_rate=0.05"]]) == cli.GOOD
    return out


def test_the_card_has_the_names_of_the_folders(tuned):
    card = checkpoint.load_card(tuned)
    assert card["labels"] == ["bag", "boot", "trousers"]
    assert card["images"]["train"] + card["images"]["validation"] == 3 * 40 - 2
    assert card["preprocess"]["height"] == 32
    assert card["accuracy_percent"]["validation"]["top1"] > 60


def test_what_cannot_be_read_is_listed_with_its_reason(tuned, capfd):
    lines = (tuned / "unreadable.txt").read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in lines) == [
        "bag/notes.jpg",
        "bag/panorama.jpg",
        "boot/3.jpg",
        "boot/7.jpg",
    ]
    assert all(line.split("\t")[1] for line in lines)
    assert checkpoint.load_card(tuned)["unreadable"] == [line.split("\t")[0] for line in lines]


def test_frozen_stages_keep_their_weights_and_their_statistics(tuned, pretrained):
    before, after = keras.models.load_model(pretrained), keras.models.load_model(tuned / "model.keras")
    for name in ("stem", "stage1_block1"):
        for a, b in zip(before.get_layer(name).get_weights(), after.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    for name in ("stage2_block1", "stage3_block1"):
        pairs = zip(before.get_layer(name).get_weights(), after.get_layer(name).get_weights(), strict=True)
        assert all(np.abs(a - b).max() > 0 for a, b in pairs)
    assert after.output_shape == (None, 3)
    assert all(layer.trainable for layer in after.layers)


def test_a_run_is_what_another_starts_from(tuned, photos, tmp_path, capsys):
    arguments = ["--recipe", "finetune", "--model", "resnet8", "--weights", tuned, "--data", photos]
    arguments += ["--out", tmp_path / "again", "--epochs", "1", "--batch-size", "8", "--set", "peak_learning_rate=0"]
    train.main([str(a) for a in arguments])
    errors = capsys.readouterr().err
    assert "warning: batch norm learns from only 8 images" in errors
    assert "4 images could not be read" in errors
    assert "  bag/panorama.jpg: " in errors
    kernels = [
        keras.models.load_model(run / "model.keras").get_layer("logits").kernel.numpy()
        for run in (tuned, tmp_path / "again")
    ]
    np.testing.assert_array_equal(*kernels)  # the head came along, for the classes are the same


def test_the_export_calibrates_on_the_folder_and_judges_on_what_was_held_out_of_it(tuned, photos, tmp_path):
    out = tmp_path / "photos.tflite"
    assert tflite.main(["--model", str(tuned), "--out", str(out), "--max-drop", "100"]) == cli.GOOD
    record = json.loads(out.with_suffix(".json").read_text())
    held_out = checkpoint.load_card(tuned)["images"]["validation"]
    assert record["calibration"]["origin"] == f"{photos.name} training"
    assert record["calibration"]["images"] == 118 - held_out
    assert record["measured"]["images"] == held_out


def test_evaluation_of_the_run_on_its_folder(tuned, photos, capsys):
    assert evaluate.main(["--model", str(tuned), "--data", str(photos), "--json"]) == cli.GOOD
    output = capsys.readouterr().out
    assert '"images": 118' in output
    assert '"part": "train"' in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nowhere"], "There is no model 'nowhere'"),
        (["--model", "resnet8"], "resnet8 alone has no weights"),
        (["--model", "RUN", "--weights", "imagenet"], "--weights goes with a model's name"),
        (["--model", "RUN", "--part", "test"], "has no test images"),
        (["--model", "RUN", "--data", "fashion_mnist_sample"], "has 10 classes"),
    ],
)
def test_bad_usage_of_the_evaluation(tuned, photos, arguments, words):
    arguments = [str(tuned) if a == "RUN" else a for a in arguments]
    with pytest.raises(ValueError, match=words):
        evaluate.main(arguments if "--data" in arguments else [*arguments, "--data", str(photos)])
