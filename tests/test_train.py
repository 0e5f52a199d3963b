"""Training, recipes, evaluation and the run directory."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from resnet_keras import checkpoint, data, evaluate, graph, precision, recipes, train

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
        assert sorted(path.name for path in out.iterdir()) == ["card.json", "history.jsonl", "model.keras"]

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
        with pytest.raises(ValueError, match="no longer a number in epoch 1"):
            train.train(TINY.with_changes(peak_learning_rate=1e12), tmp_path, dataset=two_classes, precision="float32")
        assert not (tmp_path / "model.keras").exists()

    def test_a_file_is_no_run_directory(self, two_classes, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ValueError, match="Received a file"):
            train.train(TINY, tmp_path / "file", dataset=two_classes)

    def test_weight_decay_acts_on_kernels_alone(self):
        from resnet_keras import ResNet8

        model = ResNet8()
        optimizer = train._optimizer(model, TINY, steps=10)
        decayed = {v.path for v in model.trainable_variables if optimizer._use_weight_decay(v)}
        assert decayed == {v.path for v in model.trainable_variables if v.name == "kernel"}
        assert len(decayed) == sum(
            isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)) for layer in graph.leaves(model)
        )

    def test_learning_rate_warms_up_and_falls_to_zero(self):
        from resnet_keras import ResNet8

        schedule = train._optimizer(ResNet8(), TINY.with_changes(warmup_steps=10), steps=100)._learning_rate
        rates = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
        np.testing.assert_allclose(rates, [0, 0.025, 0.05, 0.025, 0], atol=1e-6)


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
        ],
    )
    def test_bad_usage_is_one_sentence(self, tmp_path, arguments, message):
        with pytest.raises((ValueError, OSError), match=message):
            train.main([*arguments, "--out", str(tmp_path / "run")])
        assert not (tmp_path / "run" / "model.keras").exists()


class TestRecipes:
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


def test_auto_precision_follows_the_processor(monkeypatch):
    monkeypatch.setattr(precision, "_gpu_capabilities", lambda: None)
    for flags, expected in (({"avx2"}, "float32"), ({"avx512_bf16"}, "bfloat16"), ({"bf16"}, "bfloat16")):
        monkeypatch.setattr(precision, "_processor_flags", lambda flags=flags: flags)
        assert precision.resolve("auto") == expected
    monkeypatch.setattr(precision, "_gpu_capabilities", lambda: (7, 5))
    assert precision.resolve("auto") == "float32"
