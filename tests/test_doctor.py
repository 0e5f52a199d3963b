"""The doctor names the mistake that a file was made with, and finds none where there is none."""

import dataclasses
import json

import coloured
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from export import conversion, doctor, source
from resnet_keras import cli


@pytest.fixture(scope="module")
def images():
    return coloured.dataset()


@pytest.fixture(scope="module")
def network(images, tmp_path_factory):
    import keras

    return keras.models.load_model(coloured.trained(images, tmp_path_factory.mktemp("run")) / "model.keras")


@pytest.fixture(scope="module")
def photos(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, (image, label) in enumerate(zip(images.test.images, images.test.labels, strict=True)):
        path = folder / images.class_names[label] / f"{i}.png"
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


# A wrong mean inside makes a picture brighter or darker, by which a network that knows colours is not put out.
SHIFTS = {
    **{f"RGB pixels less {shift}": lambda x, shift=shift: x + shift for shift in doctor.SHIFTS},
    **{f"RGB pixels plus {shift}": lambda x, shift=shift: x - shift for shift in doctor.SHIFTS},
    "RGB pixels less torch's mean": lambda x: x + doctor.TORCH_MEAN,
    "RGB pixels plus torch's mean": lambda x: x - doctor.TORCH_MEAN,
}
LEVELS = np.arange(8, 256, 16)


def brightness(pixels):
    """Sixteen classes: the level to which the three channels are nearest."""
    means = tf.reduce_mean(pixels, (1, 2))[:, None]
    return tf.nn.softmax(-tf.reduce_sum((means - LEVELS[:, None].astype("float32")) ** 2, -1) / 100)


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    """Noise around sixteen levels."""
    path = tmp_path_factory.mktemp("greys") / "greys.npz"
    labels = np.arange(208) % len(LEVELS)
    noise = np.random.default_rng(0).integers(-6, 7, (208, 32, 32, 3))
    np.savez(
        path,
        test_images=(LEVELS[labels][:, None, None, None] + noise).astype(np.uint8),
        test_labels=labels,
        train_images=np.zeros((16, 32, 32, 3), np.uint8),
        train_labels=np.arange(16),
    )
    return path


@pytest.mark.parametrize("mistake", SHIFTS)
def test_a_wrong_mean_is_named(greys, tmp_path, mistake, capsys):
    prepare = SHIFTS[mistake]
    path = written(
        lambda image, training: brightness(image), tmp_path / "x.tflite", lambda x: tf.cast(prepare(x), "float32")
    )
    assert doctor.main([str(path), str(greys)]) == cli.GATE_FAILED
    assert f"The file wants {mistake}: 100.0 %" in capsys.readouterr().err


def test_the_right_mean_is_well(greys, tmp_path):
    path = written(lambda image, training: brightness(image), tmp_path / "x.tflite", lambda x: x)
    assert doctor.main([str(path), str(greys)]) == cli.GOOD


def test_a_mean_that_is_wrong_inside_a_converted_file(network, photos, tmp_path, capsys):
    """Where a file of this project has another mean than its model."""
    network.save(tmp_path / "mine.keras")
    wrong = dataclasses.replace(source.load(str(tmp_path / "mine.keras")), mean=0.0)
    (tmp_path / "x.tflite").write_bytes(conversion.convert(wrong, "float32"))
    assert doctor.main([str(tmp_path / "x.tflite"), str(photos)]) == cli.GATE_FAILED
    assert "The file wants RGB pixels less" in capsys.readouterr().err


def test_every_usual_mistake_has_a_test():
    assert {*MISTAKES, *SHIFTS} == set(doctor.VALUES) - {doctor.CONTRACT}


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
    with pytest.raises(ValueError, match=r"a \.tflite file"):
        doctor.main([str(tmp_path / "x.tflite"), str(photos)])
