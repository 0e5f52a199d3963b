"""Ranges, folding, targets and what is kept in float: the steps between a float and an integer file."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import resnet_keras
from export import (
    anatomy,
    budgeting,
    calibration,
    conversion,
    folding,
    lint,
    ranges,
    runtime,
    source,
    sweep,
    tflite_file,
)
from resnet_keras import cli
from resnet_keras.pixels import PixelNormalization
from resnet_keras.preprocessing import Preprocess

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
EIGHT_BIT_TARGETS = ("app", "web", "mediapipe", "ethos-u55-128", "ethos-u85-256", "edgetpu", "micro", "vivante")


@pytest.fixture(scope="module")
def bundled():
    return source.load()


@pytest.fixture(scope="module")
def images(bundled):
    return calibration.gather(bundled)[0].take(slice(40))


@pytest.fixture(scope="module")
def per_channel(tmp_path_factory):
    """A small ResNet with a mean for each channel and batch-norm statistics that are no identity."""
    keras.utils.set_random_seed(3)
    pixels = keras.Input((33, 32, 3), name="image")
    normalised = PixelNormalization(Preprocess(33, 32, mean=IMAGENET_MEAN, std=IMAGENET_STD), name="preprocessing")
    model = resnet_keras.ResNet8(
        input_tensor=normalised(pixels), include_preprocessing=False, classes=5, stem="imagenet"
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        low, high = {"gamma": (0.5, 1.5), "beta": (-0.5, 0.5), "moving_mean": (-0.5, 0.5)}.get(weight.name, (0, 0))
        if high:
            weight.assign(rng.uniform(low, high, weight.shape))
    path = tmp_path_factory.mktemp("per_channel") / "mine.keras"
    model.save(path)
    return source.load(str(path))


@pytest.fixture(scope="module")
def photos():
    """Smooth coloured noise, raw pixels of 33 x 32."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (16, 6, 6, 3))
    return tf.image.resize(coarse, (33, 32), "bicubic").numpy().clip(0, 255).round().astype("uint8")


def as_set(photos):
    return calibration.ImageSet(photos, None, "photos")


def runner(data, tmp_path):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tflite"  # LiteRT maps a file that is open
    path.write_bytes(data)
    return runtime.Runner(path), tflite_file.read(path)[1]


def ops(model):
    return [op.name for op in model.ops]


class TestFloatFile:
    @pytest.mark.parametrize("fold", ["op", "channel"])
    def test_folding_is_exact_borders_included(self, per_channel, photos, tmp_path, fold):
        form = dataclasses.replace(conversion.form(per_channel, "float32"), fold=fold)
        got = runner(conversion.float_file(per_channel, form), tmp_path)[0].predict(photos)
        expected = per_channel.reference.predict(photos, verbose=0)
        assert np.ptp(expected, axis=0).max() > 0.01  # the answers depend on the image
        np.testing.assert_allclose(got, expected, atol=1e-5)

    def test_the_plane_is_needed_at_the_border(self, per_channel, photos):
        """A mean folded into the bias, as if there were no border, is another network: the test above can see it."""
        network = folding.with_plane(per_channel.network, per_channel.mean)
        plane = np.full((len(photos), 33, 32, 1), 255, "float32")
        whole = np.concatenate([photos, plane], axis=-1)
        exact = network.predict(whole, verbose=0)
        np.testing.assert_allclose(exact, per_channel.reference.predict(photos, verbose=0), atol=1e-5)
        whole[:, 0, :, 3] = 0
        assert np.abs(network.predict(whole, verbose=0) - exact).max() > 1e-3

    def test_tensors_have_the_names_of_layers(self, bundled, tmp_path):
        _, model = runner(conversion.convert(bundled, "float32"), tmp_path)
        layers = {layer.name for layer in bundled.network.layers}
        inner = {t.name for op in model.ops for t in op.outputs} - {"centred", "probabilities"}
        assert inner <= layers
        assert len(inner) == len(model.ops) - 2
        kernels = {t.name for op in model.ops if op.name == "CONV_2D" for t in op.inputs if t.constant}
        convolutions = {layer.name for layer in bundled.network.layers if isinstance(layer, keras.layers.Conv2D)}
        assert kernels == {f"{name}/{what}" for name in convolutions for what in ("kernel", "bias")}


class TestTargets:
    @pytest.mark.parametrize("target", EIGHT_BIT_TARGETS)
    def test_a_mean_for_each_channel(self, per_channel, photos, tmp_path, target):
        """The answers are the model's whatever the folding; what is in front of the network follows the target."""
        data = conversion.convert(per_channel, "int8", None, as_set(photos), target)
        file, model = runner(data, tmp_path)
        row = conversion.targets.get(target)
        assert file.inputs[0]["dtype"] == file.outputs[0]["dtype"] == row.edges[0]
        assert ("CONCATENATION" in ops(model)) == (row.folding == "channel")
        assert ("SUB" in ops(model)) == (row.folding == "op")
        if row.edges[0] != "float32":
            assert file.inputs[0]["scale"] == 1.0
        expected = per_channel.reference.predict(photos, verbose=0)
        # A probability has 256 steps, and the logits of an untrained network lie close together.
        np.testing.assert_allclose(file.predict(photos), expected, atol=0.05)

    @pytest.mark.parametrize(("target", "zero_point"), [("ethos-u55-128", 0), ("edgetpu", 128)])
    def test_a_mean_of_128_costs_nothing(self, bundled, images, tmp_path, target, zero_point):
        data = conversion.convert(bundled, "int8", None, images, target)
        file, model = runner(data, tmp_path)
        assert not {"SUB", "MUL", "ADD"} & set(ops(model)[: ops(model).index("CONV_2D")])
        assert (file.inputs[0]["scale"], file.inputs[0]["zero_point"]) == (1.0, zero_point)
        app, _ = runner(conversion.convert(bundled, "int8", "float32", images), tmp_path)
        tolerance = 0 if target == "ethos-u55-128" else 2 / 256  # edgetpu has one scale for all of the last layer
        np.testing.assert_allclose(file.predict(images.images), app.predict(images.images), atol=tolerance)

    @pytest.mark.parametrize("mean", [0.0, 100.0])
    def test_other_whole_means_cost_nothing_either(self, bundled, images, tmp_path, mean):
        other = dataclasses.replace(bundled, mean=mean)
        file, model = runner(conversion.convert(other, "int8", "int8", images), tmp_path)
        assert ops(model)[0] == "CONV_2D"
        assert (file.inputs[0]["scale"], file.inputs[0]["zero_point"]) == (1.0, mean - 128)
        explicit, _ = runner(conversion.convert(other, "int8", "float32", images), tmp_path)
        np.testing.assert_array_equal(file.predict(images.images), explicit.predict(images.images))

    def test_a_mean_between_pixels_is_an_op(self, bundled, images, tmp_path):
        other = dataclasses.replace(bundled, mean=127.5)
        assert "SUB" in ops(runner(conversion.convert(other, "int8", "int8", images), tmp_path)[1])

    @pytest.mark.parametrize(("target", "scales"), [("app", 10), ("micro", 1), ("vivante", 1)])
    def test_scales_of_the_weights(self, bundled, images, tmp_path, target, scales):
        _, model = runner(conversion.convert(bundled, "int8", None, images, target), tmp_path)
        weights = {op.name: len(op.inputs[1].scales) for op in model.ops if op.name in ("CONV_2D", "FULLY_CONNECTED")}
        assert weights["FULLY_CONNECTED"] == scales
        assert (weights["CONV_2D"] == 1) == (target == "vivante")

    @pytest.mark.parametrize(("target", "io"), [("app", "float32"), ("micro", "int16"), ("ethos-u55-128", "int16")])
    def test_16_bits_are_nearer_to_float(self, bundled, images, tmp_path, target, io):
        expected = bundled.reference.predict(images.images, verbose=0)
        file, model = runner(conversion.convert(bundled, "int16x8", None, images, target), tmp_path)
        assert file.inputs[0]["dtype"] == io
        assert {t.dtype for op in model.ops for t in op.outputs if t.name.startswith("stage")} == {"INT16"}
        eight, _ = runner(conversion.convert(bundled, "int8", None, images, target), tmp_path)
        errors = [np.abs(f.predict(images.images) - expected).mean() for f in (file, eight)]
        assert errors[0] < errors[1] / 2

    @pytest.mark.parametrize(
        ("recipe", "target", "io", "sentence"),
        [
            ("float32", "micro", None, "micro computes in integers"),
            ("float16", "edgetpu", None, "edgetpu computes in integers"),
            ("int8", "web", "int8", "web takes float32 or uint8"),
            ("int8", "app", "uint8", "app takes float32 or int8"),
            ("float32", "app", "int8", "app takes float32 at the edges of a float32 file"),
            ("int16x8", "app", "int16", "app takes float32 at the edges of a int16x8 file"),
            ("int16x8", "vivante", None, "vivante does not take 16-bit activations"),
            ("int4", "app", None, "Unknown recipe"),
            ("int8", "coral", None, "Unknown target"),
        ],
    )
    def test_refusals(self, bundled, recipe, target, io, sentence):
        with pytest.raises(ValueError, match=sentence):
            conversion.form(bundled, recipe, io, target)


class TestRanges:
    def test_minmax_is_that_of_the_activations(self, bundled, images):
        """Against Keras, layer by layer."""
        base = conversion.float_file(bundled, conversion.form(bundled))
        found = conversion.observed(base, bundled, images, "minmax")
        assert (found["image"], found["centred"]) == ((0, 255), (-128, 127))
        names = "stem_relu", "stage1_block3_bn2", "stage2_block1_pad1", "stage3_block3_out", "pool", "logits"
        expected = anatomy.Anatomy(bundled.reference).run(names, images.images)
        for name in names:
            values = expected[name]
            np.testing.assert_allclose(found[name], (min(values.min(), 0), max(values.max(), 0)), rtol=1e-4, atol=1e-4)

    def test_outliers_are_clipped(self):
        values = np.random.default_rng(0).normal(0, 1, 64_000).astype("float32")
        histogram = ranges._Histogram()
        for part in np.split(values, 4):  # of a larger array only a part is counted
            histogram.add(part)
        histogram.add(np.array([100.0], "float32"))
        low, high = histogram.percentile()
        assert (histogram.low, histogram.high) == (values.min(), 100)
        # A normal value exceeds 3.9 once in ten thousand on its side, and a bin is 0.05 wide.
        assert 3.7 < high < 4.2
        assert -4.1 < low < -3.7

    def test_the_bins_follow_what_comes(self):
        """Small values first, then large ones: the same as all at once but for the width of a bin."""
        values = np.abs(np.random.default_rng(0).normal(0, 1, 16_000)).astype("float32")
        one, other = ranges._Histogram(), ranges._Histogram()
        one.add(np.sort(values))
        for part in np.split(np.sort(values), 20):
            other.add(part)
        assert other._counts.sum() == one._counts.sum() == 16_000
        assert other.percentile()[1] == pytest.approx(one.percentile()[1], abs=float(values.max()) / 500)

    def test_mse_has_the_least_error(self):
        values = np.random.default_rng(1).exponential(1, 64_000).astype("float32") ** 2
        histogram = ranges._Histogram()
        for part in np.split(values, 4):
            histogram.add(part)

        def error(high):
            step = high / 255
            return np.mean((np.clip(np.rint(values / step), 0, 255) * step - values) ** 2)

        low, high = histogram.mse()
        errors = [error(share * values.max()) for share in ranges.SHRINKING]
        assert low == 0
        assert error(high) == pytest.approx(min(errors), rel=0.02)
        assert min(errors) < 0.97 * errors[0]

    def test_scores_keep_their_extremes(self, bundled, images):
        base = conversion.float_file(bundled, conversion.form(bundled))
        found = {m: conversion.observed(base, bundled, images.take(slice(10)), m) for m in ranges.METHODS}
        assert found["mse"]["logits"] == found["percentile"]["logits"] == found["minmax"]["logits"]
        assert found["mse"]["stem_relu"] != found["minmax"]["stem_relu"]

    def test_unknown_method(self):
        with pytest.raises(ValueError, match="minmax, percentile, mse"):
            ranges.check("entropy")

    def test_an_activation_that_is_always_zero(self, tmp_path):
        """As in a network whose blocks start as the identity."""
        path = tmp_path / "fresh.keras"
        resnet_keras.ResNet8(zero_init_residual=True).save(path)
        fresh, pixels = source.load(str(path)), np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
        file, _ = runner(conversion.convert(fresh, "int8", None, as_set(pixels)), tmp_path)
        expected = fresh.reference.predict(pixels, verbose=0)
        np.testing.assert_allclose(file.predict(pixels), expected, atol=0.03)


class TestBudget:
    def test_the_spoilt_layers_are_those_that_are_kept(self, bundled, images, tmp_path):
        """One activation gets a range far too narrow: int8 falls short, and the two layers at it repair it."""
        form = conversion.form(bundled, "int8")
        base = conversion.float_file(bundled, form)
        limits = {**conversion.observed(base, bundled, images, "minmax"), "stage2_block2_relu1": (0.0, 0.02)}
        kept = budgeting.spend(5.0, base, form, limits, images.images)
        assert set(kept) == {"stage2_block2_relu1", "stage2_block2_bn2"}  # what gives the activation and what takes it
        file, model = runner(conversion.integer_file(base, form, limits, kept), tmp_path)
        floats = [op for op in model.ops if op.outputs[0].dtype == "FLOAT32" and op.name == "CONV_2D"]
        assert {op.outputs[0].name for op in floats} == set(kept)
        whole, _ = runner(conversion.integer_file(base, form, limits), tmp_path)
        expected = runner(base, tmp_path)[0].predict(images.images).argmax(axis=1)
        assert np.mean(whole.predict(images.images).argmax(axis=1) == expected) < 0.9
        assert np.mean(file.predict(images.images).argmax(axis=1) == expected) >= 0.95

    def test_nothing_is_kept_where_int8_is_good_enough(self, bundled, images):
        form = conversion.form(bundled, "int8")
        base = conversion.float_file(bundled, form)
        assert (
            budgeting.spend(50.0, base, form, conversion.observed(base, bundled, images, "minmax"), images.images) == ()
        )

    def test_lint_knows_what_is_kept(self, bundled, images, tmp_path):
        form = conversion.form(bundled, "int8")
        base = conversion.float_file(bundled, form)
        kept = ("stage1_block1_relu1", "logits")
        data = conversion.integer_file(base, form, conversion.observed(base, bundled, images, "minmax"), kept)
        (tmp_path / "x.tflite").write_bytes(data)
        assert lint.lint(tmp_path / "x.tflite", "app", kept=kept).problems == ()
        problems = lint.lint(tmp_path / "x.tflite", "app", kept=kept[:1]).problems
        assert any("FULLY_CONNECTED ('logits') touches float" in problem for problem in problems)
        assert lint.lint(tmp_path / "x.tflite", "micro", kept=kept).problems

    @pytest.mark.parametrize(
        ("points", "recipe", "target", "sentence"),
        [
            (1, "int8", "ethos-u55-128", "app or web or mediapipe"),
            (1, "float32", "app", "Received: --float32 --target app"),
            (-1, "int8", "app", "from 0 to 100"),
            (float("nan"), "int8", "app", "from 0 to 100"),
        ],
    )
    def test_refusals(self, points, recipe, target, sentence):
        with pytest.raises(ValueError, match=sentence):
            budgeting.check(points, recipe, target)


class TestSweep:
    def test_more_images_stop_mattering(self, bundled, images):
        steps = sweep.sweep(bundled, conversion.form(bundled), images, "minmax")
        assert [step.images for step in steps] == [1, 2, 4, 8, 16, 32]
        widths = [step.range_percent for step in steps]
        assert widths == sorted(widths)
        assert widths[0] < 80
        assert widths[-1] == 100
        assert steps[-1].mean_difference < steps[0].mean_difference

    def test_too_few_images(self, bundled, images):
        with pytest.raises(ValueError, match="at least 5"):
            sweep.sweep(bundled, conversion.form(bundled), images.take(slice(4)), "minmax")


def test_ranges_are_those_of_tensorflows_calibrator(bundled, images, tmp_path):
    """Where no sum follows: there its calibrator looks at a buffer that the sum has overwritten by then."""
    form = conversion.form(bundled, "int8")
    base = conversion.float_file(bundled, form)
    own = runner(conversion.integer_file(base, form, conversion.observed(base, bundled, images, "minmax")), tmp_path)[1]
    with cli.held_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_concrete_functions([conversion._frozen(bundled, "op")])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([image[None].astype("float32")] for image in images.images)
        theirs = runner(converter.convert(), tmp_path)[1]
    pairs = [(a, b) for a, b in zip(own.ops[2:-2], theirs.ops[2:-2], strict=True) if a.name != "SOFTMAX"]
    compared = 0
    for a, b in pairs:
        assert a.name == b.name
        if not a.outputs[0].name.endswith("_bn2"):
            assert a.outputs[0].scales == pytest.approx(b.outputs[0].scales, rel=1e-4), a.outputs[0].name
            compared += 1
    assert compared > 20


def test_a_bias_of_zeros_leaves_the_output_its_name(tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(conversion.convert(source.load("resnet8", "random"), "float32"))
    assert tflite_file.read(path)[1].outputs[0].name == "probabilities"
