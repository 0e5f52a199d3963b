"""Networks of a thousand layers, and the two examples that study depth."""

import dataclasses
import importlib
import inspect
import pathlib
import sys

import keras
import numpy as np
import pytest

import resnet_keras
from resnet_keras import checkpoint, data, graph, models
from resnet_keras.variants import VARIANTS

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
COUNTS = "trainable_parameters", "moving_statistics", "macs"
PAPER_MILLIONS = {"resnet1202": 19.4}  # Table 6


def with_real_statistics(model):
    """`model` with the batch-norm statistics of a few images, without which so many layers overflow."""
    norms = [layer for layer in graph.leaves(model) if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # one step then leaves nothing of the initial values
    model(sample().images[:8], training=True)
    for norm in norms:
        norm.momentum = 0.9
    return model


def sample():
    return data.load("fashion_mnist_sample").train


@pytest.fixture
def short_stack():
    """A limit of recursion that a walk of one frame a layer over a flat ResNet-56 exceeds, and nothing else."""
    before, used = sys.getrecursionlimit(), len(inspect.stack(0))
    sys.setrecursionlimit(used + 150)
    yield
    sys.setrecursionlimit(before)


class TestRecursion:
    """What would break a network of 1,202 layers breaks one of 56 here, whose flat form has some 200 layers."""

    def test_the_stack_is_short(self, short_stack):
        image = x = keras.Input((1,))
        for _ in range(200):
            x = keras.layers.Activation("relu")(x)
        with pytest.raises(RecursionError):
            keras.Model(image, x)
        with graph.room_for(200):
            keras.Model(image, x)

    def test_all_views_of_a_deep_network(self, short_stack, tmp_path):
        from export import anatomy, conversion, folding, source, twin

        limit = sys.getrecursionlimit()
        model, images = with_real_statistics(resnet_keras.ResNet56()), sample().images[:4]
        expected = model(images)
        flat = graph.flatten(model)
        assert len(flat.layers) > 200
        np.testing.assert_array_equal(flat(images), expected)
        assert graph.count_macs(model) == VARIANTS["resnet56"].macs
        model.save(tmp_path / "x.keras")
        loaded = source.load(str(tmp_path / "x.keras"))
        assert len(anatomy.Anatomy(loaded.reference).run(["stage3_block9_out"], images)) == 1
        for fold in ("op", "channel"):
            given = folding.function(loaded, fold)(images[:1].astype("float32"))
            np.testing.assert_allclose(given, expected[:1], atol=1e-4)
        conversion._frozen(loaded, "op")
        assert len(twin.describe(loaded.network)) > 200
        assert sys.getrecursionlimit() == limit


class TestThousandLayers:
    def test_the_counts_are_those_of_their_family(self):
        """Each block of a stage counts the same, so two of the family tell those of any depth."""
        few, many, row = VARIANTS["resnet20"], VARIANTS["resnet110"], VARIANTS["resnet1202"]
        for count in COUNTS:
            a_block = (getattr(many, count) - getattr(few, count)) / (many.depths[0] - few.depths[0])
            assert getattr(row, count) == getattr(few, count) + (row.depths[0] - few.depths[0]) * a_block

    def test_the_counts_of_bottlenecks(self, monkeypatch):
        row, counts = VARIANTS["resnet1001"], {}
        for depth in (1, 2):
            monkeypatch.setitem(VARIANTS, "resnet8", dataclasses.replace(row, name="resnet8", depths=(depth,) * 3))
            model = models._constructor("ResNet8")()
            counts[depth] = *graph.count_parameters(model), graph.count_macs(model)
        for count, one, two in zip(COUNTS, counts[1], counts[2], strict=True):
            assert getattr(row, count) == one + (row.depths[0] - 1) * (two - one)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["resnet1001", "resnet1202"])
    def test_from_the_builder_to_a_file(self, name, tmp_path):
        from export import conversion, source
        from export.runtime import Runner

        row, model = VARIANTS[name], resnet_keras.build(name)
        assert graph.count_parameters(model) == (row.trainable_parameters, row.moving_statistics)
        assert graph.count_macs(model) == row.macs
        if name in PAPER_MILLIONS:
            assert round(row.trainable_parameters / 1e6, 1) == PAPER_MILLIONS[name]
        weighted = [x for x in graph.leaves(model) if isinstance(x, (keras.layers.Conv2D, keras.layers.Dense))]
        assert len(weighted) == int(name.removeprefix("resnet"))
        train_a_step(model)
        images = sample().images[:4]
        expected = with_real_statistics(model)(images)
        model.save(tmp_path / "x.keras")
        np.testing.assert_array_equal(keras.models.load_model(tmp_path / "x.keras")(images), expected)
        np.testing.assert_array_equal(graph.flatten(model)(images), expected)
        (tmp_path / "x.tflite").write_bytes(conversion.convert(source.load(str(tmp_path / "x.keras")), "float32"))
        assert np.abs(Runner(tmp_path / "x.tflite").predict(images) - expected).max() <= 1e-3


def train_a_step(model):
    """One step of gradient descent, which must reach the first layer."""
    before = keras.ops.convert_to_numpy(model.get_layer("stem").weights[0])
    logits = keras.Model(model.input, model.get_layer("logits").output)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    logits.compile(keras.optimizers.SGD(1e-4), loss, run_eagerly=True)  # compiling takes longer than one step
    assert np.isfinite(logits.train_on_batch(sample().images[:8], sample().labels[:8]))
    after = keras.ops.convert_to_numpy(model.get_layer("stem").weights[0])
    assert np.isfinite(after).all()
    assert (after != before).any()


@pytest.fixture
def example(monkeypatch):
    """Imports an example by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def result(kind, depth, seed, error):
    curve = [{"epoch": 1, "train_error_percent": 50.0, "test_error_percent": 50.0}]
    errors = {"train_error_percent": error, "test_error_percent": error + 1}
    return {"kind": kind, "depth": depth, "seed": seed, **errors, "curve": curve}


def results(*errors):
    """Of plain-20, plain-56, residual-20 and residual-56, one tuple a seed."""
    networks = [("plain", 20), ("plain", 56), ("residual", 20), ("residual", 56)]
    return [result(*n, seed, e) for seed, each in enumerate(errors) for n, e in zip(networks, each, strict=True)]


@pytest.mark.parametrize("name", ["degradation", "gradient_flow"])
def test_a_figure_that_cannot_be_drawn_costs_no_training(name, example, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib is missing.*resnet-keras\[train\]"):
        example(name).main(["--quick", "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


class TestDegradation:
    def test_the_ends_come_first(self, example):
        runs = list(map(str, example("degradation").planned((20, 32, 44, 56), (0, 1))))
        assert runs[:4] == ["plain-20-seed0", "residual-20-seed0", "plain-56-seed0", "residual-56-seed0"]
        assert runs[8] == "plain-44-seed0"
        assert len(set(runs)) == len(runs) == 16

    @pytest.mark.parametrize(
        ("errors", "says", "not_says"),
        [
            ([(5, 9, 5, 4), (5, 8, 5, 5)], ["+4.00, +3.00 points", "these remove it"], ["not shown", "One"]),
            ([(5, 9, 5, 4)], ["these remove it", "One seed"], []),
            ([(5, 9, 5, 4), (5, 4, 5, 4)], ["degradation is not shown"], ["remove it", "One"]),
            ([(5, 9, 5, 4), (5, 9, 5, 6)], ["not shown to remove it"], ["these remove it"]),
        ],
    )
    def test_the_verdict_claims_what_the_numbers_show(self, example, errors, says, not_says):
        text = " ".join(example("degradation").verdict(results(*errors)))
        assert all(part in text for part in says), text
        assert not any(part in text for part in not_says), text

    def test_half_a_study_has_no_verdict(self, example):
        degradation, some = example("degradation"), results((5, 9, 5, 4))
        for part in (some[:1], some[:3], some[:2]):
            assert "Nothing yet" in degradation.verdict(part)[-1]

    def test_some_images_are_measured_on_the_way_and_all_of_the_test_at_the_end(self, example, monkeypatch):
        degradation = example("degradation")
        monkeypatch.setattr(degradation, "TRAINED", 200)
        monkeypatch.setattr(degradation, "MEASURED", 50)
        dataset, measured = degradation.images(degradation.QUICK)
        everything = data.load(degradation.QUICK.data)
        assert [len(part.labels) for part in (dataset.train, measured, dataset.validation)] == [200, 50, 50]
        np.testing.assert_array_equal(dataset.test.images, everything.test.images)
        assert np.bincount(dataset.train.labels).tolist() == [20] * 10
        trained = {image.tobytes() for image in dataset.train.images}
        assert {image.tobytes() for image in measured.images} <= trained  # the training error is of what trains
        monkeypatch.setattr(degradation, "TRAINED", 10_000)
        np.testing.assert_array_equal(degradation.images(degradation.QUICK)[0].train.images, everything.train.images)

    def test_a_study_goes_on_and_refuses_other_conditions(self, example, monkeypatch, tmp_path, capsys):
        degradation, one = example("degradation"), data.Split(sample().images[:128], sample().labels[:128])
        small = data.Dataset("small", data.FASHION_CLASSES, one, one, one)
        monkeypatch.setattr(data, "load", lambda name: small)
        monkeypatch.setattr(degradation, "MEASURED", 32)
        monkeypatch.setattr(degradation, "QUICK", degradation.QUICK.with_changes(epochs=1, batch_size=64))
        arguments = ["--quick", "--depths", "20", "--out", str(tmp_path / "x")]
        assert degradation.main(arguments) == 0
        table = capsys.readouterr().out
        assert "plain" in table
        assert (tmp_path / "x" / degradation.PNG).exists()
        record = checkpoint.read_json(tmp_path / "x" / degradation.JSON)
        assert [run["kind"] for run in record["runs"]] == ["plain", "residual"]
        model = keras.models.load_model(tmp_path / "x" / "plain-20-seed0" / checkpoint.MODEL)
        assert model.get_layer("stage2_block1").plain
        wrong = np.argmax(model.predict_on_batch(one.images), axis=1) != one.labels
        assert record["runs"][0]["train_error_percent"] == pytest.approx(100 * wrong.mean(), abs=1)
        assert record["runs"][0]["test_error_percent"] == record["runs"][0]["train_error_percent"]
        monkeypatch.setattr(degradation, "train", None)  # nothing is trained twice
        assert degradation.main(arguments) == 0
        assert capsys.readouterr().out == table
        monkeypatch.setattr(degradation, "QUICK", degradation.QUICK.with_changes(epochs=2))
        with pytest.raises(ValueError, match="epochs = 1"):
            degradation.main(arguments)


class TestGradientFlow:
    def test_the_norms_are_those_of_the_gradient(self, example):
        """Along the gradient's direction the loss rises by its norm."""
        flow, few = example("gradient_flow"), sample()
        model = flow.initial("residual", 8)
        norms = flow.gradient_norms(model, few.images[:4], few.labels[:4])
        assert len(norms) == 7
        kernel, small = flow.weighted_layers(model)[3].kernel, 1e-3
        start = keras.ops.convert_to_numpy(kernel)
        _, gradient = loss_and_gradient(model, kernel, few)
        losses = []
        for sign in (1, -1):
            kernel.assign(start + sign * small * gradient / np.linalg.norm(gradient))
            losses.append(loss_and_gradient(model, kernel, few)[0])
        assert (losses[0] - losses[1]) / (2 * small) == pytest.approx(norms[3], rel=1e-2)

    def test_the_responses_are_those_of_batch_norm(self, example):
        flow, images = example("gradient_flow"), sample().images[:4]
        model = with_real_statistics(resnet_keras.ResNet8(plain=True))
        found = flow.responses(model, images)
        assert len(found) == 7
        conv, norm = model.get_layer("stem").sublayers[:2]
        answer = norm(conv(model.get_layer("preprocessing")(images)))
        assert found[0] == pytest.approx(np.std(answer), rel=1e-3)


def loss_and_gradient(model, kernel, few):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        probabilities = model(few.images[:4], training=True)
        loss = keras.losses.SparseCategoricalCrossentropy()(few.labels[:4], probabilities)
    return float(loss), tape.gradient(loss, kernel.value).numpy()
