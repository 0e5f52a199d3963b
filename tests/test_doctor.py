"""The doctor names the mistake that a file was made with, and finds none where there is none."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from export import doctor
from resnet_keras import cli, data, recipes, train

TINTS = {"blue": (0.2, 0.3, 1.0), "green": (0.2, 1.0, 0.3), "red": (1.0, 0.3, 0.2)}


def tinted(grey, label):
    return (grey * np.array(list(TINTS.values())[label])).astype(np.uint8)


@pytest.fixture(scope="module")
def coloured():
    """Clothes of three colours: what tells the classes apart is what a mistake with channels or range destroys."""
    sample = data.load("fashion_mnist_sample")

    def part(split, count):
        labels = np.arange(count) % 3
        images = np.stack([tinted(image, label) for image, label in zip(split.images[:count], labels, strict=True)])
        return data.Split(images, labels)

    return data.Dataset(
        "coloured", tuple(TINTS), part(sample.train, 480), part(sample.validation, 60), part(sample.test, 240)
    )


@pytest.fixture(scope="module")
def network(coloured, tmp_path_factory):
    import keras

    recipe = recipes.get("demo").with_changes(epochs=4, batch_size=32, crop_padding=0)
    out = tmp_path_factory.mktemp("run")
    card = train.train(recipe, out, dataset=coloured, precision="float32", seed=0)
    assert card["accuracy_percent"]["test"]["top1"] > 95
    return keras.models.load_model(out / "model.keras")


@pytest.fixture(scope="module")
def photos(coloured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, (image, label) in enumerate(zip(coloured.test.images, coloured.test.labels, strict=True)):
        path = folder / coloured.class_names[label] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def written(network, path, prepare):
    """A float file whose input has to be prepared by the inverse of `prepare`."""
    signature = tf.TensorSpec((1, 32, 32, 3), tf.float32, name="image")
    concrete = tf.function(lambda image: network(prepare(image), training=False)).get_concrete_function(signature)
    frozen = convert_variables_to_constants_v2(concrete)
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())
    return path


MISTAKES = {
    "RGB pixels divided by 255": lambda x: x * 255,
    "RGB pixels scaled to -1..1": lambda x: (x + 1) * 127.5,
    "RGB pixels less torch's mean, by its standard deviation": lambda x: x * doctor.TORCH_STD + doctor.TORCH_MEAN,
    "raw BGR pixels, 0 to 255": lambda x: x[..., ::-1],
    "BGR pixels divided by 255": lambda x: x[..., ::-1] * 255,
    "BGR pixels scaled to -1..1": lambda x: (x[..., ::-1] + 1) * 127.5,
    "BGR pixels less caffe's mean": lambda x: (x + doctor.CAFFE_MEAN)[..., ::-1],
    "raw RGB pixels, all of one channel before the next (NCHW)": lambda x: tf.transpose(
        tf.reshape(x, (-1, 3, 32, 32)), (0, 2, 3, 1)
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named(network, photos, tmp_path, mistake, capsys):
    prepare = MISTAKES[mistake]
    path = written(network, tmp_path / "x.tflite", lambda x: tf.cast(prepare(x), tf.float32))
    assert doctor.main([str(path), str(photos)]) == cli.GATE_FAILED
    captured = capsys.readouterr()
    assert f"The file wants {mistake}" in captured.err
    assert "raw RGB pixels, 0 to 255" in captured.out


def test_a_file_as_the_contract_says_is_well(network, photos, tmp_path, capsys):
    path = written(network, tmp_path / "x.tflite", lambda x: x)
    assert doctor.main([str(path), str(photos), "--json"]) == cli.GOOD
    result = json.loads(capsys.readouterr().out)
    assert result["mistake"] is None
    assert result["images"] == doctor.IMAGES
    assert result["top1_percent"][doctor.CONTRACT] > 95


def test_every_usual_mistake_has_a_test():
    assert set(MISTAKES) == set(doctor.VALUES) - {doctor.CONTRACT}


def test_classes_that_the_file_does_not_know(network, photos, tmp_path):
    path = written(network, tmp_path / "x.tflite", lambda x: x)
    (tmp_path / "labels.txt").write_text("cyan\ngreen\nred\n")
    with pytest.raises(ValueError, match="images of 'blue', and the file knows 3 classes"):
        doctor.main([str(path), str(photos), "--labels", str(tmp_path / "labels.txt")])


def test_a_difference_that_chance_explains_is_no_mistake():
    contract = doctor.Trial(doctor.CONTRACT, 90.0, (True,) * 9 + (False,))
    other = doctor.Trial("something else", 100.0, (True,) * 10)
    assert doctor.Diagnosis(10, (contract, other)).failure() is None
    many = doctor.Trial(doctor.CONTRACT, 50.0, (True, False) * 20), doctor.Trial("something else", 100.0, (True,) * 40)
    assert "something else" in doctor.Diagnosis(40, many).failure()


def test_files_that_cannot_be_run(photos, tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"not a \.tflite file"):
        doctor.main([str(tmp_path / "x.tflite"), str(photos)])
