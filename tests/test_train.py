"""Training, recipes, evaluation and the run directory."""

import json
import platform
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from resnet_keras import (
    checkpoint,
    data,
    evaluate,
    feed,
    graph,
    optimization,
    precision,
    processor,
    profiling,
    recipes,
    train,
    watch,
)

TINY = recipes.Recipe(
    model="resnet8", epochs=2, batch_size=32, peak_learning_rate=0.05, warmup_steps=4, crop_padding=1, weight_decay=1e-2
)


@pytest.fixture(scope="module")
def two_classes():
    """Trousers and bags, 16 px: learned in seconds."""
    sample = data.load("fashion_mnist_sample")

    def part(split, count):
        chosen = np.flatnonzero(np.isin(split.labels, (1, 8)))[:count]
        return data.Split(split.images[chosen, ::2, ::2], (split.labels[chosen] == 8).astype(np.int64))

    return data.Dataset(
        "two", ("Trouser", "Bag"), part(sample.train, 320), part(sample.validation, 20), part(sample.test, 100)
    )


@pytest.fixture(scope="module")
def run(two_classes, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, train.train(TINY, out, dataset=two_classes, precision="float32", seed=1)


class TestTrain:
    def test_it_learns(self, run):
        assert run[1]["accuracy_percent"]["test"]["top1"] > 90

    def test_the_directory_holds_model_card_and_history(self, run):
        out, card = run
        assert checkpoint.load_card(out) == card
        history = [json.loads(line) for line in (out / checkpoint.HISTORY).read_text().splitlines()]
        assert [row["epoch"] for row in history] == [1, 2]
        assert history[1]["loss"] < history[0]["loss"]
        assert sorted(path.name for path in out.iterdir()) == [
            "best.keras",
            "card.json",
            "curves.png",
            "history.jsonl",
            "model.keras",
            "tensorboard",
        ]

    def test_the_best_epoch_is_the_one_of_the_validation_images(self, run, two_classes):
        out, card = run
        history = checkpoint.read_history(out)
        assert card["best_epoch"]["val_accuracy"] == pytest.approx(
            max(row["val_accuracy"] for row in history), abs=1e-6
        )
        best = keras.models.load_model(out / "best.keras")
        scores = best.predict(two_classes.validation.images, verbose=0)
        expected = np.mean(scores.argmax(axis=1) == two_classes.validation.labels)
        assert card["best_epoch"]["val_accuracy"] == pytest.approx(expected)

    def test_curves_and_tensorboard_logs_hold_every_epoch(self, run):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        out, _ = run
        logged = EventAccumulator(str(out / "tensorboard")).Reload()
        history = checkpoint.read_history(out)
        for name, tag in (("loss", "loss"), ("val_accuracy", "validation/accuracy")):
            events = logged.Tensors(tag) if tag in logged.Tags()["tensors"] else logged.Scalars(tag)
            assert [event.step for event in events] == [1, 2]
            values = [getattr(e, "value", None) or e.tensor_proto.float_val[0] for e in events]
            np.testing.assert_allclose(values, [row[name] for row in history], rtol=1e-5)
        with Image.open(out / "curves.png") as picture:
            assert picture.size == (1200, 400)

    def test_the_card_tells_how_it_was_made(self, run):
        card = run[1]
        assert recipes.Recipe(**card["recipe"]) == TINY
        assert card["labels"] == ["Trouser", "Bag"]
        assert card["preprocess"]["height"] == 16
        assert card["images"] == {"train": 320, "validation": 20}
        assert card["seed"] == 1
        assert card["precision"] == "float32"

    def test_the_saved_model_has_the_stated_accuracy(self, run, two_classes):
        out, card = run
        model = keras.models.load_model(out / "model.keras")
        scores = model.predict(two_classes.test.images, verbose=0)
        assert (
            100 * np.mean(scores.argmax(axis=1) == two_classes.test.labels) == card["accuracy_percent"]["test"]["top1"]
        )

    def test_the_same_seed_gives_the_same_weights(self, run, two_classes, tmp_path):
        train.train(TINY, tmp_path, dataset=two_classes, precision="float32", seed=1)
        first, again = (keras.models.load_model(where / "model.keras").get_weights() for where in (run[0], tmp_path))
        # Threads add up gradients in any order; after 20 steps that has grown to no more than this.
        for a, b in zip(first, again, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-2)

    def test_float16_scales_its_loss(self, two_classes, tmp_path, monkeypatch):
        made = []
        original = optimization.optimizer
        monkeypatch.setattr(optimization, "optimizer", lambda *a, **k: made.append(original(*a, **k)) or made[-1])
        for kind in ("float16", "bfloat16"):
            train.train(TINY.with_changes(epochs=1), tmp_path / kind, dataset=two_classes, precision=kind)
        assert [isinstance(o, keras.optimizers.LossScaleOptimizer) for o in made] == [True, False]
        assert float(made[0].dynamic_scale) > 1

    @pytest.mark.parametrize("kind", ["bfloat16", "float16"])
    def test_mixed_precision_keeps_float32_variables_and_learns(self, two_classes, tmp_path, kind):
        card = train.train(TINY, tmp_path, dataset=two_classes, precision=kind, seed=1)
        model = keras.models.load_model(tmp_path / "model.keras")
        assert {v.dtype for v in model.weights} == {"float32"}
        assert model.get_layer("stage1_block1").compute_dtype == kind
        assert card["accuracy_percent"]["test"]["top1"] > 85
        assert keras.config.dtype_policy().name == "float32"

    def test_a_finished_run_is_not_overwritten(self, run, two_classes):
        before = (run[0] / "model.keras").read_bytes()
        with pytest.raises(ValueError, match="holds a finished run"):
            train.train(TINY, run[0], dataset=two_classes)
        assert (run[0] / "model.keras").read_bytes() == before

    def test_a_diverging_run_stops_and_leaves_no_model(self, two_classes, tmp_path):
        with pytest.raises(ValueError, match=r"The loss .* at step \d+, in epoch 1.*There is no checkpoint yet"):
            train.train(TINY.with_changes(peak_learning_rate=1e12), tmp_path, dataset=two_classes, precision="float32")
        assert not (tmp_path / "model.keras").exists()

    def test_a_loss_that_is_no_number_stops_at_its_step_and_names_the_last_good_checkpoint(
        self, two_classes, tmp_path, monkeypatch
    ):
        original = feed.Batches.__getitem__

        def poisoned(self, index):
            images, labels = original(self, index)
            return images, labels * (np.nan if (self.epoch, index) == (1, 3) else 1)

        monkeypatch.setattr(feed.Batches, "__getitem__", poisoned)
        with pytest.raises(ValueError, match=r"at step 14, in epoch 2.*The last good checkpoint is .*step-000000013"):
            train.train(TINY, tmp_path, dataset=two_classes, precision="float32", checkpoint_minutes=0)
        newest = checkpoint.checkpoints(tmp_path)[-1]
        assert all(np.isfinite(array).all() for array in checkpoint.load_state(newest)[0].values())
        assert not (tmp_path / "model.keras").exists()

    def test_an_update_that_spoils_the_weights_never_reaches_a_checkpoint(self, two_classes, tmp_path, monkeypatch):
        original = watch.Watch.on_train_batch_end

        def spoilt(self, batch, logs=None):
            if self.step == 6:  # the loss of this step, the seventh, is still sound
                kernel = self.loop.model.get_layer("logits").kernel
                kernel.assign(kernel * np.inf)
            original(self, batch, logs)

        monkeypatch.setattr(watch.Watch, "on_train_batch_end", spoilt)
        with pytest.raises(
            ValueError, match=r"After step 7, .*kernel holds .*The last good checkpoint is .*step-000000006"
        ):
            train.train(TINY, tmp_path, dataset=two_classes, precision="float32", checkpoint_minutes=0)
        assert checkpoint.load_state(checkpoint.checkpoints(tmp_path)[-1])[1]["step"] == 6

    def test_a_file_is_no_run_directory(self, two_classes, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ValueError, match="Received a file"):
            train.train(TINY, tmp_path / "file", dataset=two_classes)


class TestOptimization:
    def test_weight_decay_acts_on_kernels_alone(self):
        from resnet_keras import ResNet8

        model = ResNet8()
        optimizer = optimization.optimizer(TINY, model, steps=10)
        decayed = {v.path for v in model.trainable_variables if optimizer._use_weight_decay(v)}
        assert decayed == {v.path for v in model.trainable_variables if v.name == "kernel"}
        assert len(decayed) == sum(
            isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)) for layer in graph.leaves(model)
        )

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"warmup_steps": 10}, [0, 0.025, 0.05, 0.025, 0]),
            ({"schedule": "step", "warmup_steps": 0}, [0.05, 0.05, 0.05, 0.005, 0.0005]),
            ({"schedule": "step", "warmup_steps": 10}, [0, 0.025, 0.05, 0.005, 0.0005]),
        ],
    )
    def test_learning_rate_warms_up_and_falls(self, changes, expected):
        schedule = optimization.schedule(TINY.with_changes(**changes), steps=100)
        np.testing.assert_allclose([float(schedule(step)) for step in (0, 5, 10, 55, 100)], expected, atol=1e-6)
        again = type(schedule).from_config(schedule.get_config())
        assert float(again(55)) == float(schedule(55))

    @pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("lamb", "Lamb"), ("adamw", "AdamW")])
    def test_optimizers_are_those_of_keras(self, name, kind):
        from resnet_keras import ResNet8

        made = optimization.optimizer(TINY.with_changes(optimizer=name, ema_decay=0.9), ResNet8(), 10, scales_loss=True)
        assert isinstance(made, keras.optimizers.LossScaleOptimizer)
        assert isinstance(made.inner_optimizer, getattr(keras.optimizers, kind))
        assert made.inner_optimizer.weight_decay == TINY.weight_decay

    def test_losses_against_their_formulas(self):
        rng = np.random.default_rng(0)
        logits, labels = rng.normal(size=(4, 3)).astype("float32"), np.eye(3, dtype="float32")[[0, 2, 1, 1]]
        smooth = 0.9 * labels + 0.1 / 3
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        loss = optimization.loss(TINY.with_changes(label_smoothing=0.1))
        np.testing.assert_allclose(float(loss(labels, logits)), -(smooth * np.log(softmax)).sum(1).mean(), rtol=1e-5)
        sigmoid = 1 / (1 + np.exp(-logits))
        binary = -(labels * np.log(sigmoid) + (1 - labels) * np.log(1 - sigmoid)).mean()
        loss = optimization.loss(TINY.with_changes(loss="sigmoid"))
        np.testing.assert_allclose(float(loss(labels, logits)), binary, rtol=1e-5)

    def test_the_average_of_the_weights_is_what_is_saved(self, two_classes, tmp_path):
        # After one epoch of 10 steps an average of decay 0.999 is still about where the run began.
        recipe = TINY.with_changes(epochs=1, ema_decay=0.999)
        plain = train.train(recipe.with_changes(ema_decay=0.0), tmp_path / "plain", dataset=two_classes, seed=1)
        train.train(recipe, tmp_path / "average", dataset=two_classes, seed=1)
        kernel = [
            keras.models.load_model(tmp_path / run / "model.keras").get_layer("logits").kernel.numpy()
            for run in ("plain", "average")
        ]
        start = train_start(recipe, two_classes).get_layer("logits").kernel.numpy()
        assert np.abs(kernel[1] - start).max() < 0.05 * np.abs(kernel[0] - start).max()
        assert plain["accuracy_percent"]["test"]["images"] == 100


def train_start(recipe, dataset):
    """The model as a run with seed 1 starts it."""
    from resnet_keras import assembly
    from resnet_keras.devices import Devices

    keras.utils.set_random_seed(1)
    plan = assembly.plan(recipe, dataset, precision.resolve("auto"))
    plan.model_to_save()
    return plan.model_to_train(Devices())


class TestCommand:
    def test_recipe_with_changes_end_to_end(self, tmp_path):
        command = [
            sys.executable,
            "-m",
            "resnet_keras.train",
            "--recipe",
            "demo",
            "--epochs",
            "1",
            "--set",
            "flip=false",
        ]
        done = subprocess.run([*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "test accuracy:" in done.stdout
        assert "epoch 1/1" in done.stderr
        assert checkpoint.load_card(tmp_path / "run")["recipe"]["flip"] is False

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--recipe", "fasion"], "Unknown recipe"),
            (["--recipe", "demo", "--model", "resnet19"], "Unknown model"),
            (["--recipe", "demo", "--data", "nowhere"], "Unknown data set"),
            (["--recipe", "demo", "--data", "nowhere.npz"], "There is no file"),
            (["--recipe", "demo", "--epochs", "many"], "epochs must be of type int"),
            (["--recipe", "demo", "--epochs", "0"], "at least 1"),
            (["--recipe", "demo", "--set", "label_smothing=0.1"], "Did you mean 'label_smoothing'"),
            (["--recipe", "demo", "--set", "flip"], "KEY=VALUE"),
            (["--recipe", "demo", "--precision", "int8"], "Unknown precision"),
            (["--recipe", "demo", "--batch-size", "5000"], "do not fill one batch"),
            (["--recipe", "demo", "--set", "crop_padding=-1"], "crop_padding must be"),
            (["--recipe", "demo", "--set", "weight_decay=nan"], "weight_decay must be"),
            (["--recipe", "demo", "--set", "erase_probability=2"], "erase_probability must be"),
            (["--model", "resnet18"], "No data set"),
            (["--recipe", "demo", "--devices", "0"], "--devices must be"),
            (["--recipe", "demo", "--devices", "99"], "--devices must be"),
            (["--recipe", "demo", "--devices", "many"], "--devices must be"),
            (["--recipe", "demo", "--set", "optimizer=adam"], "optimizer must be one of sgd, lamb, adamw"),
            (["--recipe", "demo", "--set", "schedule=linear"], "schedule must be one of"),
            (["--recipe", "demo", "--set", "ema_decay=1"], "ema_decay must be"),
            (["--recipe", "demo", "--set", "freeze_stages=5"], "freeze_stages must be at most 4"),
            (["--recipe", "demo", "--weights", "nowhere.h5"], "nowhere.h5"),
            (["--recipe", "demo", "--profile", "--data", "nowhere"], "Unknown data set"),
        ],
    )
    def test_bad_usage_is_one_sentence(self, tmp_path, arguments, message):
        with pytest.raises((ValueError, OSError), match=message):
            train.main([*arguments, "--out", str(tmp_path / "run")])
        assert not (tmp_path / "run" / "model.keras").exists()


class TestRecipes:
    @pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.2), ("lamb", 0.1 * 2**0.5), ("adamw", 0.1 * 2**0.5)])
    def test_the_learning_rate_follows_the_batch(self, optimizer, rate):
        recipe = recipes.Recipe(optimizer=optimizer, batch_size=128, peak_learning_rate=0.1, warmup_steps=500)
        changed = recipe.at_batch_size("256")
        assert (changed.batch_size, changed.warmup_steps) == (256, 250)
        assert changed.peak_learning_rate == pytest.approx(rate)

    def test_published_recipes_are_as_published(self):
        a1, a3 = recipes.get("a1"), recipes.get("a3")
        assert (a1.epochs, a1.batch_size, a1.optimizer, a1.loss, a1.repeats) == (600, 2048, "lamb", "sigmoid", 3)
        assert (a3.epochs, a3.size, a3.eval_size, a3.eval_crop_fraction, a3.peak_learning_rate) == (
            100,
            160,
            224,
            0.95,
            8e-3,
        )
        v1, v2 = recipes.get("torchvision-v1"), recipes.get("torchvision-v2")
        assert (v1.epochs, v1.batch_size, v1.schedule, v1.weight_decay) == (90, 256, "step", 1e-3)
        assert (v2.epochs, v2.batch_size, v2.peak_learning_rate, v2.ema_decay, v2.size) == (
            600,
            1024,
            0.5,
            0.99998,
            176,
        )
        assert recipes.get("small").epochs * (50_000 // 128) == pytest.approx(64_000, rel=0.01)

    def test_every_row_says_what_is_known_of_it(self, capsys):
        for row in recipes.ROWS.values():
            assert row.source
            assert row.expected
            assert row.cost
            assert row.measured
        assert recipes.main([]) == 0
        listing = capsys.readouterr().out
        for name in recipes.RECIPES:
            assert f"\n{name}: python -m resnet_keras.train --recipe {name}" in "\n" + listing
        assert recipes.main(["--json"]) == 0
        assert json.loads(capsys.readouterr().out)["a3"]["recipe"]["size"] == 160

    def test_values_keep_their_types(self):
        changed = recipes.Recipe().with_changes(epochs="3", weight_decay="1e-4", flip="False", model="resnet8")
        assert (changed.epochs, changed.weight_decay, changed.flip, changed.model) == (3, 1e-4, False, "resnet8")

    def test_the_bundled_model_is_made_by_its_recipe(self):
        card = checkpoint.load_card(data.ASSETS / "fashion_resnet20")
        assert recipes.Recipe(**card["recipe"]) == recipes.get("fashion")
        assert card["images"] == {"train": 58_000, "validation": 2_000}
        assert card["accuracy_percent"]["test"]["images"] == 10_000

    def test_the_bundled_model_is_saved_by_the_oldest_keras(self):
        """A newer Keras reads what an older one saved, not the other way round; Python 3.10 has nothing after 3.12."""
        with zipfile.ZipFile(data.ASSETS / "fashion_resnet20" / "model.keras") as archive:
            assert json.loads(archive.read("metadata.json"))["keras_version"].startswith("3.12.")

    def test_every_row_builds_a_known_model_on_known_data(self):
        from resnet_keras import list_models

        for recipe in recipes.RECIPES.values():
            assert recipe.model in list_models()
            assert recipe.data in (None, *data.names())


class TestEvaluate:
    @pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
    def test_every_example_counts_once_at_a_constant_batch_size(self, batch_size):
        images, seen = np.arange(7.0)[:, None], []

        def predict(batch):
            seen.append(len(batch))
            return batch * 2

        assert evaluate.predict_all(predict, images, batch_size).ravel().tolist() == [0, 2, 4, 6, 8, 10, 12]
        assert set(seen) == {batch_size}

    def test_top_k(self):
        scores = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6], [0.4, 0.4, 0.2]])
        labels = np.array([1, 2, 0, 1])
        assert evaluate.top_k_percent(scores, labels) == 25.0
        assert evaluate.top_k_percent(scores, labels, k=2) == 100.0

    def test_what_is_no_number_is_no_answer(self):
        scores = np.array([[0.9, np.nan, 0.1]])
        assert evaluate.top_k_percent(scores, np.array([1])) == 0.0


class TestProfile:
    @pytest.mark.parametrize(
        ("rates", "words"),
        [
            ({"input": 100, "computation": {"float32": 200.0}}, "input is the limit"),
            ({"input": 900, "computation": {"float32": 200.0, "bfloat16": 300.0}}, "Use --precision bfloat16"),
            ({"input": 900, "computation": {"float32": 200.0, "bfloat16": 205.0}}, "computation is the limit"),
        ],
    )
    def test_the_verdict_names_the_limit(self, rates, words):
        assert words in profiling.Profile(precision="float32", training=90.0, **rates).verdict()

    def test_figures_are_measured_without_a_run_directory(self, two_classes, tmp_path, monkeypatch):
        monkeypatch.setattr(profiling, "SECONDS", 0.3)
        monkeypatch.chdir(tmp_path)
        measured = profiling.profile(TINY, two_classes, train.Settings(precision="float32"))
        assert min(measured.input, measured.training, *measured.computation.values()) > 0
        assert "float32" in measured.computation
        assert list(tmp_path.iterdir()) == []


def test_auto_precision_follows_the_processor(monkeypatch):
    monkeypatch.setattr(precision, "_gpu_capabilities", lambda: None)
    for features, expected in (({"avx2"}, "float32"), ({"avx512_bf16"}, "bfloat16"), ({"bf16"}, "bfloat16")):
        monkeypatch.setattr(processor, "features", lambda features=features: features)
        assert precision.resolve("auto") == expected
    monkeypatch.setattr(precision, "_gpu_capabilities", lambda: (7, 5))
    assert precision.resolve("auto") == "float32"


@pytest.mark.parametrize(
    ("said", "name", "features"),
    [
        ("processor\t: 0\nmodel name\t: A: B\nflags\t\t: fpu avx2\n\nmodel name\t: other\n", "A: B", {"fpu", "avx2"}),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", None, {"fp", "asimd", "bf16"}),
        (None, None, set()),
    ],
)
def test_the_processor_as_the_system_describes_it(said, name, features, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "INFO", tmp_path / "cpuinfo")
    if said:
        processor.INFO.write_text(said)
    assert processor.name() == (name or platform.processor() or platform.machine())
    assert processor.features() == features
