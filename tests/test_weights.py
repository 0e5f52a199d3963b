"""Weights of others: complete mappings, logits equal to the source's, and refusals of what does not fit."""

import json
import pathlib
import pickle
import zipfile

import golden
import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
import synthetic

import resnet_keras
from export import tflite
from export.runtime import Runner
from resnet_keras import certificate, graph, layouts, published, variants, weights
from resnet_keras.preprocessing import Preprocess

FIVE = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
LOGITS = golden.unpack(pathlib.Path(__file__).with_name("golden_logits.npz"))
BASIC_SHAPE = {"input_shape": (64, 64, 3), "classes": 10}


def torch_shapes(name, layout=layouts.TORCHVISION, classes=synthetic.CLASSES):
    """`{name in the file: shape in PyTorch's axis order}` from the Keras model, counters included."""
    model = resnet_keras.build(name, classes=classes, input_shape=(64, 64, 3))
    shapes = {}
    for layer in graph.leaves(model):
        for variable in layer.variables:
            shape = tuple(variable.shape)
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(shape), range(len(shape)))
            key = layout.key(f"{layer.name}/{variable.name}")
            shapes[key] = tuple(shape[i] for i in axes)
            if key.endswith(".running_var"):
                shapes[key.replace("running_var", "num_batches_tracked")] = ()
    return shapes


def save(path, tensors):
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    return path


def timm_file(directory, name, layout=layouts.TORCHVISION, **changes):
    state = synthetic.state_dict(torch_shapes(name, layout))
    return save(directory / f"{name}.safetensors", {**state, **changes})


def leaf_names(model):
    return [f"{layer.name}/{variable.name}" for layer in graph.leaves(model) for variable in layer.variables]


@pytest.fixture(scope="module")
def file18(tmp_path_factory):
    return timm_file(tmp_path_factory.mktemp("timm"), "resnet18")


@pytest.fixture(scope="module")
def keras50(tmp_path_factory):
    """`keras.applications.ResNet50` with statistics that are not the initial ones, saved in all four ways."""
    directory = tmp_path_factory.mktemp("keras")
    model = keras.applications.ResNet50(weights=None, classes=10, classifier_activation=None, input_shape=(64, 64, 3))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for variable in layer.variables:
            low, high = {"moving_variance": (0.5, 1.5), "gamma": (0.4, 0.8)}.get(variable.name, (-0.1, 0.1))
            if variable.name != "kernel":
                variable.assign(rng.uniform(low, high, variable.shape))
    model.save_weights(directory / "x.weights.h5")
    model.save(directory / "x.keras")
    model.save(directory / "x.h5")
    with h5py.File(directory / "x.h5") as whole, h5py.File(directory / "weights_only.h5", "w") as file:
        for group in whole["model_weights"].values():
            whole.copy(group, file)
    return model, directory


class TestMapping:
    @pytest.mark.parametrize("name", FIVE)
    @pytest.mark.parametrize("layout", [layouts.TORCHVISION, layouts.HUGGINGFACE, layouts.KERAS])
    def test_every_variable_has_a_name_of_its_own_in_the_file(self, name, layout):
        names = layouts.variable_names(variants.VARIANTS[name])
        assert len({layout.key(ours) for ours in names}) == len(names)

    # A thousand layers are named as a hundred are.
    @pytest.mark.parametrize("name", [name for name in variants.VARIANTS if name not in ("resnet1001", "resnet1202")])
    def test_names_from_the_row_are_those_of_the_built_model(self, name):
        model = resnet_keras.build(name)
        assert sorted(layouts.variable_names(variants.VARIANTS[name])) == sorted(leaf_names(model))

    @pytest.mark.parametrize(("depth", "count"), [(18, 122), (34, 218), (50, 320), (101, 626), (152, 932)])
    def test_torchvision_names_of_all_depths(self, depth, count):
        """The counts are those of torchvision's state_dicts; a sample of names stands for the pattern."""
        names = set(torch_shapes(f"resnet{depth}"))
        assert len(names) == count
        assert {"conv1.weight", "bn1.num_batches_tracked", "layer4.1.bn2.running_var", "fc.bias"} <= names
        assert ("layer1.0.downsample.0.weight" in names) == (depth >= 50)
        assert {"layer2.0.downsample.1.running_mean", "layer3.0.downsample.0.weight"} <= names

    @pytest.mark.parametrize("name", ["ResNet50", "ResNet101", "ResNet152"])
    def test_keras_names_of_all_depths(self, name):
        theirs = set(leaf_names(getattr(keras.applications, name)(weights=None)))
        ours = {layouts.KERAS.key(n) for n in layouts.variable_names(variants.VARIANTS[name.lower()])}
        assert theirs - ours == {n for n in theirs if n.endswith("_conv/bias")}
        assert ours <= theirs


class TestLogits:
    """Against what timm and transformers answered; they, like PyTorch, are not needed here."""

    def assert_golden(self, key, path, name):
        model = getattr(resnet_keras, name.replace("resnet", "ResNet"))(
            weights=path,
            classes=synthetic.CLASSES,
            input_shape=(synthetic.SIZE, synthetic.SIZE, 3),
            classifier_activation=None,
        )
        found = model.predict_on_batch(certificate.fixed_pixels(synthetic.SIZE))
        assert np.abs(found - LOGITS[key]).max() <= 1e-4 * np.abs(LOGITS[key]).max()

    @pytest.mark.parametrize("name", FIVE)
    def test_timm(self, name, tmp_path):
        self.assert_golden(f"timm/{name}", timm_file(tmp_path, name), name)

    @pytest.mark.parametrize("name", ["resnet18", "resnet50"])
    def test_transformers(self, name, tmp_path):
        self.assert_golden(f"transformers/{name}", timm_file(tmp_path, name, layouts.HUGGINGFACE), name)

    def test_two_tensors_exchanged_would_be_seen(self, file18):
        state = safetensors.numpy.load_file(file18)
        first, second = "layer4.0.conv2.weight", "layer4.1.conv1.weight"
        state[first], state[second] = state[second], state[first]
        swapped = save(file18.with_name("swapped.safetensors"), state)
        with pytest.raises(AssertionError):
            self.assert_golden("timm/resnet18", swapped, "resnet18")

    @pytest.mark.parametrize("file", ["x.weights.h5", "x.keras", "x.h5", "weights_only.h5"])
    @pytest.mark.parametrize("preprocessing", [True, False])
    def test_keras_applications(self, keras50, file, preprocessing):
        theirs, directory = keras50
        pixels = certificate.fixed_pixels(64)
        prepared = keras.applications.resnet.preprocess_input(pixels.copy())
        ours = resnet_keras.ResNet50(
            weights=directory / file,
            version="v1",
            include_preprocessing=preprocessing,
            classifier_activation=None,
            **BASIC_SHAPE,
        )
        expected = theirs.predict_on_batch(prepared)
        found = ours.predict_on_batch(pixels if preprocessing else prepared)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())

    @pytest.mark.slow
    @pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
    @pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}])
    def test_pytorch_files(self, file18, suffix, wrap):
        import torch

        state = {k: torch.from_numpy(v) for k, v in safetensors.numpy.load_file(file18).items()}
        path = file18.with_name(f"x.{suffix}")
        torch.save(wrap(state), path)
        self.assert_golden("timm/resnet18", path, "resnet18")

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["resnet18", "resnet50"])
    def test_pytorch_at_full_width(self, name, tmp_path):
        found = certificate.check(timm_file(tmp_path, name))
        assert found.reference.startswith("PyTorch")
        assert found.model == name
        assert found.failure() is None

    def test_half_precision(self, file18):
        state = safetensors.numpy.load_file(file18)
        halves = {k: v.astype("float16") if v.dtype == np.float32 else v for k, v in state.items()}
        model = resnet_keras.ResNet18(weights=save(file18.with_name("half.safetensors"), halves), **BASIC_SHAPE)
        np.testing.assert_array_equal(model.get_layer("logits").bias, halves["fc.bias"].astype("float32"))


class TestOwnFiles:
    @pytest.mark.parametrize("kind", ["weights.h5", "keras"])
    def test_round_trip_with_version_and_preprocessing(self, file18, kind, tmp_path):
        imported = resnet_keras.ResNet18(weights=file18, **BASIC_SHAPE)
        path = tmp_path / f"x.{kind}"
        (imported.save if kind == "keras" else imported.save_weights)(path)
        again = resnet_keras.ResNet18(weights=path, **BASIC_SHAPE)
        pixels = certificate.fixed_pixels(64)
        np.testing.assert_array_equal(again.predict_on_batch(pixels), imported.predict_on_batch(pixels))
        assert again.get_layer("preprocessing").preprocess == imported.get_layer("preprocessing").preprocess

    def test_another_normalisation_is_not_taken_silently(self, file18, tmp_path):
        resnet_keras.ResNet18(weights=file18, **BASIC_SHAPE).save_weights(tmp_path / "x.weights.h5")
        with pytest.raises(ValueError, match="normalised"):
            resnet_keras.ResNet18(**BASIC_SHAPE).load_weights(tmp_path / "x.weights.h5")

    @pytest.mark.parametrize("kind", ["weights.h5", "keras"])
    def test_the_other_version_is_refused(self, kind, tmp_path):
        model, path = resnet_keras.ResNet50(version="v1", **BASIC_SHAPE), tmp_path / f"x.{kind}"
        (model.save if kind == "keras" else model.save_weights)(path)
        with pytest.raises(ValueError, match="version='v1'"):
            resnet_keras.ResNet50(weights=path, **BASIC_SHAPE)
        if kind == "weights.h5":
            with pytest.raises(ValueError, match="version='v1'"):
                resnet_keras.ResNet50(**BASIC_SHAPE).load_weights(path)


class TestHeadsAndInputs:
    def test_another_number_of_classes_drops_the_head_and_says_so(self, file18, capsys):
        model = resnet_keras.ResNet18(weights=file18, classes=7, input_shape=(64, 64, 3))
        assert "10 classes, the model 7" in capsys.readouterr().err
        assert model.output_shape == (None, 7)
        state = safetensors.numpy.load_file(file18)
        kernel = np.asarray(model.get_layer("stem").chain[1].kernel)
        np.testing.assert_array_equal(kernel[0, 0], state["conv1.weight"][:, :, 0, 0].T)

    @pytest.mark.parametrize("pooling", [None, "avg", "max"])
    def test_features_are_those_before_the_head(self, file18, pooling, capsys):
        features = resnet_keras.ResNet18(weights=file18, include_top=False, pooling=pooling, input_shape=(64, 64, 3))
        whole = resnet_keras.ResNet18(weights=file18, **BASIC_SHAPE)
        inner = keras.Model(whole.input, whole.get_layer("stage4_block2").output)
        pixels = certificate.fixed_pixels(64)
        expected = inner.predict_on_batch(pixels)
        if pooling:
            expected = getattr(np, {"avg": "mean", "max": "max"}[pooling])(expected, axis=(1, 2))
        np.testing.assert_allclose(features.predict_on_batch(pixels), expected, rtol=1e-5, atol=1e-6)
        assert capsys.readouterr().err == ""

    def test_one_channel_sums_the_stem(self, file18):
        shape = {"classes": 10, "include_preprocessing": False, "classifier_activation": None}
        grey = resnet_keras.ResNet18(weights=file18, input_channels=1, **shape)
        colour = resnet_keras.ResNet18(weights=file18, **shape)
        assert grey.input_shape == (None, 224, 224, 1)
        image = certificate.fixed_pixels(224, 1) / 128 - 1
        expected = colour.predict_on_batch(np.repeat(image, 3, axis=-1))
        np.testing.assert_allclose(
            grey.predict_on_batch(image), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )

    def test_more_channels_repeat_the_stem(self, file18):
        kernels = {}
        for channels in (3, 4, 6):
            model = resnet_keras.ResNet18(weights=file18, input_shape=(32, 32, channels), classes=10)
            kernels[channels] = np.asarray(model.get_layer("stem").chain[1].kernel)
            mean = model.get_layer("preprocessing").preprocess.mean
            assert mean == tuple((layouts.IMAGENET.mean * 2)[:channels])
        for channels in (4, 6):
            expected = np.concatenate([kernels[3]] * 2, axis=2)[:, :, :channels] * 3 / channels
            np.testing.assert_allclose(kernels[channels], expected, rtol=1e-6)

    def test_a_network_on_another_tensor(self, file18):
        grey = keras.Input((32, 32, 1))
        colours = keras.layers.Conv2D(3, 1, name="colours")(grey)
        model = resnet_keras.ResNet18(weights=file18, input_tensor=colours, classes=10)
        assert model.input_shape == (None, 32, 32, 1)
        whole = resnet_keras.ResNet18(weights=file18, input_shape=(32, 32, 3), classes=10)
        image = certificate.fixed_pixels(32, 1)
        expected = whole.predict_on_batch(np.asarray(model.get_layer("colours")(image)))
        np.testing.assert_allclose(model.predict_on_batch(image), expected, rtol=1e-5, atol=1e-6)

    def test_shape_and_channels_must_agree(self):
        with pytest.raises(ValueError, match="input_channels=1"):
            resnet_keras.ResNet18(input_shape=(64, 64, 3), input_channels=1)


class TestTags:
    def test_preprocessing_comes_with_the_tag(self, file18, monkeypatch):
        monkeypatch.setattr("resnet_keras.download.fetch", lambda tag, model: file18)
        model = resnet_keras.ResNet18(weights="imagenet", classes=10)
        found = model.get_layer("preprocessing").preprocess
        assert (found.height, found.crop_fraction, found.interpolation) == (224, 0.95, "bicubic")
        np.testing.assert_allclose(found.mean, (123.675, 116.28, 103.53))
        np.testing.assert_allclose(found.std, (58.395, 57.12, 57.375))

    @pytest.mark.parametrize(
        ("tag", "model"), [("b1_in1k", "resnet50"), ("tv2_in1k", "resnet18"), ("keras", "resnet8")]
    )
    def test_unknown_tags_name_the_known_ones(self, tag, model):
        with pytest.raises(ValueError, match=tag):
            resnet_keras.build(model, weights=tag)

    def test_the_list(self, capsys):
        assert weights.main([]) == 0
        printed = capsys.readouterr().out
        assert all(tag in printed for tag in published.names())
        assert weights.main(["--json"]) == 0
        listed = json.loads(capsys.readouterr().out)["weights"]
        a1 = {row["model"]: row["top1_percent"] for row in listed if row["weights"] == "a1_in1k"}
        assert a1 == {"resnet18": 71.5, "resnet34": 76.4, "resnet50": 80.4, "resnet101": 81.5, "resnet152": 82.0}
        assert {row["megabytes"] for row in listed if row["model"] == "resnet50"} == {102}

    def test_class_names(self):
        scores = np.zeros((2, 1000))
        scores[0, 207], scores[1, [1, 999]] = 0.9, (0.7, 0.2)
        best = resnet_keras.decode_predictions(scores, top=2)
        assert best[0][0] == ("n02099601", "golden retriever", 0.9)
        assert [name for _, name, _ in best[1]] == ["goldfish", "toilet tissue"]
        with pytest.raises(ValueError, match=r"\(2, 10\)"):
            resnet_keras.decode_predictions(scores[:, :10])

    def test_preprocess_input_is_the_identity(self):
        pixels = certificate.fixed_pixels(32)
        assert resnet_keras.preprocess_input(pixels) is pixels


class TestExport:
    @pytest.mark.parametrize("recipe", ["float32", "int8"])
    def test_pixels_in_probabilities_out(self, file18, recipe, tmp_path, monkeypatch):
        monkeypatch.setattr("resnet_keras.download.fetch", lambda tag, model: file18)
        monkeypatch.setattr("resnet_keras.imagenet.class_names", lambda: tuple("abcdefghij"))
        photos = np.asarray(resnet_keras.data.load("fashion_mnist_sample").train.images[:60])
        np.savez(tmp_path / "photos.npz", images=photos)
        record, _, _ = tflite.export(
            "resnet18",
            "a1_in1k",
            recipe=recipe,
            calibration_data=tmp_path / "photos.npz",
            out=tmp_path / "x.tflite",
            force=True,  # with random weights the answers are near ties
        )
        assert record["weights"] == "a1_in1k"
        assert record["labels"] == list("abcdefghij")
        preprocess = Preprocess(**record["preprocess"])
        assert preprocess == published.PUBLISHED["a1_in1k"].preprocess
        pixels = preprocess.pixels(photos[0])
        keras_model = resnet_keras.ResNet18(weights=file18, classes=10)
        expected = keras_model.predict_on_batch(pixels[None])
        found = Runner(tmp_path / "x.tflite").predict(pixels[None])
        # float32: another order of summation. int8: a network that was never trained is quantized coarsely.
        np.testing.assert_allclose(found, expected, atol=1e-5 if recipe == "float32" else 0.1)

    def test_a_v1_file_is_exported_as_v1(self, keras50, tmp_path):
        _, directory = keras50
        source, images, out = directory / "x.weights.h5", self.folder(tmp_path), tmp_path / "k.tflite"
        record, _, failure = tflite.export("resnet50", source, recipe="float32", eval_data=images, out=out)
        assert failure is None
        assert record["preprocess"]["std"] == 1.0

    def folder(self, tmp_path):
        np.savez(tmp_path / "few.npz", images=resnet_keras.data.load("fashion_mnist_sample").test.images[:8])
        return tmp_path / "few.npz"


class Exploit:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("exploited"),)


class TestRefusals:
    def refused(self, path, *said, model="resnet18", **arguments):
        with pytest.raises((ValueError, OSError, ImportError)) as caught:
            resnet_keras.build(model, weights=path, **{**BASIC_SHAPE, **arguments})
        for words in said:
            assert words in str(caught.value)
        assert "Traceback" not in str(caught.value)

    def test_truncated(self, file18, keras50, tmp_path):
        sources = [file18, *(keras50[1] / name for name in ("x.weights.h5", "x.keras", "x.h5"))]
        for source in sources:
            broken = tmp_path / source.name
            broken.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
            self.refused(broken, str(broken))

    def test_wrong_depth_names_the_right_one(self, file18):
        self.refused(file18, "looks like resnet18", "Missing in the file: layer1.2.", model="resnet34")
        self.refused(file18, "looks like resnet18", "Not used", model="resnet50")

    def test_wrong_version(self, keras50):
        self.refused(keras50[1] / "x.h5", "version='v1'", model="resnet50")

    def test_pytorch_weights_in_a_v1_model(self, tmp_path):
        self.refused(timm_file(tmp_path, "resnet50"), "version='v1.5'", model="resnet50", version="v1")

    @pytest.mark.parametrize("name", ["conv1.weight", "layer2.0.downsample.1.running_var", "fc.bias"])
    def test_one_tensor_too_few(self, file18, name):
        state = safetensors.numpy.load_file(file18)
        del state[name]
        self.refused(save(file18.with_name("few.safetensors"), state), name)

    def test_one_tensor_too_many(self, file18):
        state = safetensors.numpy.load_file(file18)
        state["layer1.0.se.weight"] = np.zeros(3, "float32")
        self.refused(save(file18.with_name("many.safetensors"), state), "Not used by the model: layer1.0.se.weight")

    def test_nothing_is_assigned_if_one_shape_differs(self, file18):
        state = safetensors.numpy.load_file(file18)
        state["layer4.1.bn2.bias"] = np.zeros(3, "float32")
        model = resnet_keras.ResNet18(**BASIC_SHAPE)
        before = model.get_weights()
        found = weights.find(save(file18.with_name("shape.safetensors"), state))
        with pytest.raises(ValueError, match=r"layer4.1.bn2.bias has shape \(3,\)"):
            resnet_keras.transfer.fill(model, found)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_no_classifier(self, file18):
        state = {k: v for k, v in safetensors.numpy.load_file(file18).items() if not k.startswith("fc.")}
        path = save(file18.with_name("headless.safetensors"), state)
        self.refused(path, "include_top=False")
        assert resnet_keras.ResNet18(weights=path, include_top=False).output_shape[-1] == 512

    def test_not_a_number(self, file18, tmp_path):
        path = timm_file(tmp_path, "resnet18", **{"bn1.running_var": np.full(64, np.nan, "float32")})
        self.refused(path, "bn1.running_var", "finite")

    @pytest.mark.slow
    def test_a_pickle_that_would_run_code(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        plain, archive = tmp_path / "plain.pth", tmp_path / "archive.pt"
        plain.write_bytes(pickle.dumps({"conv1.weight": Exploit()}))
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps({"conv1.weight": Exploit()}))
            file.writestr("archive/version", "3")
        for path in (plain, archive):
            self.refused(path, path.name)
        assert not (tmp_path / "exploited").exists()

    def test_without_pytorch(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "torch", None)
        (tmp_path / "x.pth").write_bytes(b"x")
        with pytest.raises(ImportError, match="safetensors"):
            resnet_keras.ResNet18(weights=tmp_path / "x.pth")

    @pytest.mark.parametrize("name", ["x.txt", "x.onnx"])
    def test_other_kinds(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"x")
        self.refused(tmp_path / name, ".safetensors", name)

    def test_another_network(self, tmp_path):
        path = save(tmp_path / "x.safetensors", {"features.0.weight": np.zeros(3, "float32")})
        self.refused(path, "features.0.weight", "no layout known")


class TestCertificate:
    def test_recorded_logits_stand_in_for_the_source(self, keras50, tmp_path, capsys):
        path, store = str(keras50[1] / "x.h5"), str(tmp_path / "logits.npz")
        assert weights.main(["--check", path, "--record", store]) == 0
        assert "keras.applications" in capsys.readouterr().out
        assert weights.main(["--check", path, "--reference", store]) == 0
        assert "stored logits" in capsys.readouterr().out
        with np.load(store) as stored:
            np.savez(store, **{key: value * 1.01 for key, value in stored.items()})
        assert weights.main(["--check", path, "--reference", store]) == 1

    def test_other_weights_have_no_stored_logits(self, keras50, file18, tmp_path):
        store = str(tmp_path / "logits.npz")
        weights.main(["--check", str(keras50[1] / "x.h5"), "--record", store])
        with pytest.raises(ValueError, match="no logits for these weights"):
            certificate.check(str(file18), reference=store)

    def test_what_cannot_be_checked(self, tmp_path):
        with pytest.raises(ValueError, match="--model"):
            certificate.check("a1_in1k")
        resnet_keras.ResNet8().save_weights(tmp_path / "x.weights.h5")
        with pytest.raises(ValueError, match="nothing is imported"):
            certificate.check(str(tmp_path / "x.weights.h5"))

    def test_without_pytorch_it_says_how_to_go_on(self, file18, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "torch", None)
        monkeypatch.delitem(__import__("sys").modules, "resnet_keras.torch_reference", raising=False)
        with pytest.raises(ImportError, match="--reference"):
            certificate.check(str(file18))
