"""The builders: counts against published tables, results against keras.applications, arguments, views of a model."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest

import resnet_keras
from resnet_keras import graph
from resnet_keras.layers import Composite
from resnet_keras.variants import VARIANTS

PUBLISHED = {  # trainable parameters, batch-norm moving statistics, GMAC at 224 px
    "resnet18": (11_689_512, 9_600, 1.814),
    "resnet34": (21_797_672, 17_024, 3.664),
    "resnet50": (25_557_032, 53_120, 4.089),
    "resnet101": (44_549_160, 105_344, 7.801),
    "resnet152": (60_192_808, 151_424, 11.514),
}
PAPER_MILLIONS = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7}
THOUSAND_LAYERS = "resnet1001", "resnet1202"  # built in test_depth.py
BUILT = [name for name in VARIANTS if name not in THOUSAND_LAYERS]


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", BUILT)
def test_counts(name):
    row, model = VARIANTS[name], resnet_keras.build(name)
    assert graph.count_parameters(model) == (row.trainable_parameters, row.moving_statistics)
    assert graph.count_macs(model) == row.macs
    if name in PUBLISHED:
        assert (row.trainable_parameters, row.moving_statistics, round(row.macs / 1e9, 3)) == PUBLISHED[name]
    if name in PAPER_MILLIONS:
        digits = 1 if name == "resnet110" else 2
        assert round(row.trainable_parameters / 1e6, digits) == PAPER_MILLIONS[name]


def test_list_models_is_the_table():
    assert resnet_keras.list_models() == [*PUBLISHED, "resnet8", *PAPER_MILLIONS, *THOUSAND_LAYERS]
    with pytest.raises(ValueError, match="resnet19"):
        resnet_keras.build("resnet19")


def test_a_wider_network():
    """All channels but those of image and classes; so the kernels of the blocks grow with the square."""
    plain, wide = (resnet_keras.ResNet20(width_multiplier=factor) for factor in (1, 3))
    block = "stage2_block2"
    assert wide.get_layer(block).output.shape[-1] == 3 * plain.get_layer(block).output.shape[-1] == 96
    sizes = [sum(np.prod(w.shape) for w in m.get_layer(block).weights if "kernel" in w.path) for m in (plain, wide)]
    assert sizes[1] == 9 * sizes[0]
    for factor in (0, 1.5, "2"):
        with pytest.raises(ValueError, match="width_multiplier"):
            resnet_keras.ResNet20(width_multiplier=factor)


def test_depth_counts_the_weighted_layers():
    for name in BUILT:
        layers = graph.leaves(resnet_keras.build(name))
        weighted = [
            x for x in layers if isinstance(x, (keras.layers.Conv2D, keras.layers.Dense)) and "shortcut" not in x.name
        ]
        assert len(weighted) == int(name.removeprefix("resnet"))


class TestAgainstKerasApplications:
    def test_the_same_call_signature(self):
        theirs = inspect.signature(keras.applications.ResNet50).parameters
        ours = inspect.signature(resnet_keras.ResNet50).parameters
        assert list(ours)[: len(theirs)] == list(theirs)
        changed = {name for name in theirs if theirs[name].default != ours[name].default}
        assert changed == {"weights"}
        assert ours["weights"].default is None

    def test_version_1_computes_the_same(self):
        """Their weights in our network give their probabilities."""
        theirs = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=7)
        rng = np.random.default_rng(0)
        for layer in theirs.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.set_weights([rng.uniform(0.5, 1.0, w.shape) for w in layer.get_weights()])
        ours = resnet_keras.ResNet50(version="v1", input_shape=(64, 64, 3), classes=7, include_preprocessing=False)
        for layer in graph.leaves(ours):
            if isinstance(layer, keras.layers.Conv2D):
                layer.kernel.assign(theirs.get_layer(their_name(layer.name)).kernel)
            elif isinstance(layer, keras.layers.BatchNormalization):
                name = their_name(layer.name)
                gamma, beta, mean, variance = theirs.get_layer(name).get_weights()
                bias = theirs.get_layer(name.replace("_bn", "_conv")).bias
                layer.epsilon = 1.001e-5
                layer.set_weights([gamma, beta, mean - bias, variance])
        ours.get_layer("logits").set_weights(theirs.get_layer("predictions").get_weights())
        images = rng.normal(size=(3, 64, 64, 3)).astype("float32")
        expected = np.log(theirs.predict(images, verbose=0))
        np.testing.assert_allclose(
            np.log(ours.predict(images, verbose=0)), expected, atol=1e-4 * np.abs(expected).max()
        )
        assert np.ptp(expected) > 1e-2


def their_name(name):
    """`stage2_block1_shortcut_conv` is `conv3_block1_0_conv` in keras.applications."""
    if name.startswith("stem"):
        return name.replace("stem", "conv1")
    stage, block, *role = name.split("_")
    kind, number = (role[1], "0") if role[0] == "shortcut" else (role[0][:-1], role[0][-1])
    return f"conv{int(stage[-1]) + 1}_{block}_{number}_{kind}"


class TestArguments:
    def test_without_the_top(self):
        images = pixels(2, 64, 96, 3)
        assert resnet_keras.ResNet18(include_top=False)(images).shape == (2, 2, 3, 512)
        features = resnet_keras.ResNet50(include_top=False)
        assert features.input_shape == (None, None, None, 3)
        for pooling, reduce in (("avg", np.mean), ("max", np.max)):
            pooled = resnet_keras.ResNet20(include_top=False, pooling=pooling)
            flat = resnet_keras.ResNet20(include_top=False)
            flat.set_weights(pooled.get_weights())
            np.testing.assert_allclose(pooled(images), reduce(flat(images), axis=(1, 2)), rtol=1e-5, atol=1e-5)

    def test_classes_and_activation(self):
        images = pixels(2, 32, 32, 3)
        model = resnet_keras.ResNet8(classes=4)
        logits = resnet_keras.ResNet8(classes=4, classifier_activation=None)
        logits.set_weights(model.get_weights())
        np.testing.assert_allclose(keras.ops.softmax(logits(images)), model(images), atol=1e-6)
        sigmoid = resnet_keras.ResNet8(classes=1, classifier_activation="sigmoid")
        assert sigmoid(images).shape == (2, 1)

    def test_names(self):
        model = resnet_keras.ResNet50(input_shape=(32, 32, 3), name="mine")
        assert (model.name, model.inputs[0].name, model.layers[-1].name) == ("mine", "image", "probabilities")
        names = [layer.name for layer in graph.leaves(model)]
        assert len(set(names)) == len(names)
        assert {"stem_conv", "stage2_block1_conv2", "stage4_block3_bn3", "stage3_block1_shortcut_conv"} <= set(names)

    def test_on_a_tensor(self):
        image = keras.Input((40, 40, 3), name="photo")
        flipped = keras.layers.RandomFlip()(image)
        model = resnet_keras.ResNet8(input_tensor=flipped)
        assert [tensor.name for tensor in model.inputs] == ["photo"]
        assert model.output_shape == (None, 10)
        with pytest.raises(ValueError, match="input_tensor"):
            resnet_keras.ResNet8(input_tensor=np.zeros((1, 32, 32, 3)))

    def test_small_stem_for_the_big_depths(self):
        model = resnet_keras.ResNet18(stem="small", classes=10)
        assert model.input_shape == (None, 32, 32, 3)
        assert model.get_layer("stage1_block1").output.shape[1:3] == (32, 32)
        assert model.get_layer("stage4_block2").output.shape[1:3] == (4, 4)

    def test_projection_for_the_small_family(self):
        identity, projection = resnet_keras.ResNet20(), resnet_keras.ResNet20(shortcut="projection")
        assert projection.count_params() - identity.count_params() == 16 * 32 + 4 * 32 + 32 * 64 + 4 * 64

    @pytest.mark.parametrize("channels", [1, 4])
    def test_other_channels(self, channels):
        assert resnet_keras.ResNet18(input_shape=(32, 32, channels))(pixels(1, 32, 32, channels)).shape == (1, 1000)

    def test_preprocessing_is_inside(self):
        images = pixels(2, 32, 32, 3)
        inside = resnet_keras.ResNet8()
        outside = resnet_keras.ResNet8(include_preprocessing=False)
        outside.set_weights(inside.get_weights())
        np.testing.assert_allclose(inside(images), outside((images.astype("float32") - 128) / 128), atol=1e-6)
        np.testing.assert_array_equal(inside(images), inside(images.astype("float32")))

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_mixed_precision_ends_in_float32(self, policy):
        keras.config.set_dtype_policy(policy)
        model = resnet_keras.ResNet8()
        assert model.output.dtype == "float32"
        assert model.get_layer("logits").compute_dtype == "float32"
        assert model.get_layer("stage2_block1").compute_dtype == policy.removeprefix("mixed_")
        assert {v.dtype for v in model.weights} == {"float32"}

    @pytest.mark.parametrize(
        ("arguments", "received"),
        [
            ({"input_shape": (31, 31, 3)}, r"\(31, 31, 3\)"),
            ({"input_shape": (64, 64)}, r"\(64, 64\)"),
            ({"pooling": "mean"}, "'mean'"),
            ({"version": "v2"}, "'v2'"),
            ({"stem": "big"}, "'big'"),
            ({"weights": "none.weights.h5"}, "none.weights.h5"),
        ],
    )
    def test_errors_say_what_was_received(self, arguments, received):
        with pytest.raises((ValueError, OSError), match=received):
            resnet_keras.ResNet50(**arguments)

    def test_weights_from_a_file(self, tmp_path):
        model = resnet_keras.ResNet8()
        model.save_weights(tmp_path / "x.weights.h5")
        again, images = resnet_keras.ResNet8(weights=tmp_path / "x.weights.h5"), pixels(2, 32, 32, 3)
        np.testing.assert_array_equal(again(images), model(images))
        with pytest.raises(ValueError, match="does not fit"):
            resnet_keras.ResNet20(weights=tmp_path / "x.weights.h5")

    def test_channels_first_as_a_global_setting_changes_nothing(self):
        code = (
            "import keras, numpy; keras.config.set_image_data_format('channels_first'); import resnet_keras\n"
            "keras.utils.set_random_seed(0); model = resnet_keras.ResNet20()\n"
            "print(float(model(numpy.arange(32 * 32 * 3).reshape(1, 32, 32, 3) % 251)[0, 0]))"
        )
        found = {
            subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
            for text in (code, code.replace("channels_first", "channels_last"))
        }
        assert len(found) == 1


class TestPlain:
    """The same network without shortcuts."""

    @pytest.mark.parametrize("name", ["resnet20", "resnet18"])
    def test_the_same_layers_without_the_additions(self, name):
        plain, residual = resnet_keras.build(name, plain=True), resnet_keras.build(name)
        names = [{layer.name for layer in graph.leaves(model)} for model in (plain, residual)]
        assert names[0] < names[1]
        assert {name.split("_")[2] for name in names[1] - names[0]} == {"add", "shortcut"}
        if name == "resnet20":  # where the shortcuts have no parameters either (section 4.2)
            assert graph.count_parameters(plain) == graph.count_parameters(residual)
            assert graph.count_macs(plain) == graph.count_macs(residual)

    def test_it_computes_the_chain_of_its_layers(self):
        model, images = resnet_keras.ResNet8(plain=True, include_preprocessing=False), pixels(2, 32, 32, 3) / 255
        x = images
        for layer in graph.leaves(model)[1:]:
            x = layer(x)
        np.testing.assert_allclose(model(images), x, atol=1e-6)
        residual = resnet_keras.ResNet20()
        chain = resnet_keras.ResNet20(plain=True)
        chain.set_weights(residual.get_weights())
        assert np.abs(chain(pixels(2, 32, 32, 3)) - residual(pixels(2, 32, 32, 3))).max() > 1e-3

    def test_it_starts_from_the_same_weights(self):
        weights = []
        for plain in (True, False):
            keras.utils.set_random_seed(0)
            weights.append(resnet_keras.ResNet20(plain=plain).get_weights())
        assert all((a == b).all() for a, b in zip(*weights, strict=True))

    def test_it_stays_plain(self, tmp_path):
        model, images = resnet_keras.ResNet20(plain=True), pixels(2, 32, 32, 3)
        model.save(tmp_path / "x.keras")
        for copy in (keras.models.load_model(tmp_path / "x.keras"), graph.as_float32(model), graph.flatten(model)):
            np.testing.assert_array_equal(copy(images), model(images))

    def test_weights_of_the_other_kind_are_refused(self, tmp_path):
        """They fit in shape: nothing else would tell."""
        for plain, theirs in ((True, "plain"), (False, "residual")):
            path = tmp_path / f"{theirs}.weights.h5"
            model = resnet_keras.ResNet20(plain=plain)
            model.save_weights(path)
            resnet_keras.ResNet20(plain=plain).load_weights(path)
            with pytest.raises(ValueError, match=f"weights are those of a {theirs} network"):
                resnet_keras.ResNet20(plain=not plain).load_weights(path)
        resnet_keras.ResNet20(plain=True).save(tmp_path / "plain.keras")
        for name in ("plain.weights.h5", "plain.keras"):
            with pytest.raises(ValueError, match="stage1_block1/plain"):
                resnet_keras.ResNet20(weights=tmp_path / name)

    @pytest.mark.parametrize(
        ("arguments", "received"),
        [
            ({"weights": "imagenet"}, "weights='imagenet'"),
            ({"zero_init_residual": True}, "zero_init_residual=True"),
            ({"stochastic_depth": 0.5}, r"drop_rate=0\.0625"),
            ({"shortcut": "projection"}, "shortcut='projection'"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, arguments, received):
        with pytest.raises(ValueError, match=received):
            resnet_keras.ResNet20(plain=True, **arguments)

    def test_one_way_to_say_it(self):
        with pytest.raises(ValueError, match="shortcut='none'"):
            resnet_keras.ResNet20(shortcut="none")


class TestGraph:
    @pytest.mark.parametrize("name", ["resnet8", "resnet20"])
    def test_flat_is_the_same_network_of_stock_layers(self, name):
        model, images = resnet_keras.build(name), pixels(4, 32, 32, 3)
        for _ in range(2):  # laying it open must not spoil it for a second time
            flat = graph.flatten(model)
            np.testing.assert_array_equal(flat(images), model(images))
            assert not any(isinstance(layer, Composite) for layer in flat.layers)
            assert {id(v) for v in flat.weights} == {id(v) for v in model.weights}
            assert graph.count_macs(model) == VARIANTS[name].macs

    def test_float32_copy_of_a_mixed_model(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        mixed = resnet_keras.ResNet8()
        keras.config.set_dtype_policy("float32")
        copy = graph.as_float32(mixed)
        assert {layer.compute_dtype for layer in graph.leaves(copy)} == {"float32"}
        for a, b in zip(copy.get_weights(), mixed.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        copy.weights[0].assign(copy.weights[0] + 1)
        assert (np.asarray(copy.weights[0]) != np.asarray(mixed.weights[0])).all()
