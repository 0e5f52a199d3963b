"""The real consumer of target `web`: LiteRT.js in a headless browser, beside LiteRT on this machine."""

import pathlib
import shutil

import numpy as np
import pytest

from export import calibration, lint, source
from export.conversion import convert
from export.runtime import Runner

IMAGES = 100
STEP = 1 / 256  # of the probabilities in a file that quantizes them
PAGE = pathlib.Path(__file__).with_name("web_page.html")


@pytest.fixture
def in_browser(answer_of, site):
    """Runs a file of the site on the images of the site: `{"outputs": rows}` or `{"refusal": text}`."""
    shutil.copy(PAGE, site)
    return lambda file: answer_of(f"{PAGE.name}?model=/{file}")


@pytest.fixture(scope="module")
def prepared(site):
    """The bundled model, the images that calibrate it, and those that judge it, which the site serves too."""
    model = source.load()
    calibrating, judging = calibration.gather(model)
    images = judging.images[:IMAGES]
    (site / "images.bin").write_bytes(images.tobytes())
    return model, calibrating, images


@pytest.fixture
def converted(prepared, site):
    """Puts the bundled model on the site as a `.tflite` file."""
    model, calibrating, _ = prepared

    def write(recipe, io, target="web"):
        path = site / f"{recipe}-{io}.tflite"
        path.write_bytes(convert(model, recipe, io, calibrating, target=target))
        return path

    return write


# Integers come out the same to the bit where both sides ran on one x86 processor. One step is left for processors whose
# kernels round otherwise; a `dynamic` file rounds its activations too.
@pytest.mark.parametrize(
    ("recipe", "io", "tolerance"),
    [
        ("float32", "float32", 1e-5),
        ("float16", "float32", 1e-5),
        ("dynamic", "float32", STEP),
        ("int8", "float32", STEP),
        ("int8", "uint8", STEP),
        ("int16x8", "float32", STEP),
    ],
)
def test_answers_are_those_of_litert(prepared, converted, in_browser, recipe, io, tolerance):
    path = converted(recipe, io)
    runner = Runner(path)
    expected = runner.predict(prepared[-1])
    answer = in_browser(path.name)
    assert "refusal" not in answer
    found = np.array(answer["outputs"])
    if io == "uint8":
        found = (found - runner.outputs[0]["zero_point"]) * runner.outputs[0]["scale"]
    assert len(np.unique(expected.argmax(axis=1))) == expected.shape[1]
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert lint.lint(path, "web").failure() is None


def test_int8_edges_are_refused(converted, in_browser):
    path = converted("int8", "int8", "app")
    assert "Element type INT8 is not supported" in in_browser(path.name)["refusal"]
    assert "'image' is int8" in lint.lint(path, "web").failure()


def test_an_open_batch_is_refused(site, in_browser):
    import tensorflow as tf

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, 4, 4, 3), tf.float32)])
    def call(image):
        return tf.nn.softmax(tf.reshape(image, (-1, 48)) @ tf.ones((48, 4)))

    path = site / "open.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()]).convert())
    assert "litert_layout" in in_browser(path.name)["refusal"]
    assert "[-1, 4, 4, 3]" in lint.lint(path, "web").failure()
