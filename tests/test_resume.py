"""A run that is killed at any moment goes on to the very weights that it would have reached."""

import os
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from resnet_keras import checkpoint, cli, data, recipes, train

# Everything that has a state: averaged weights, dropped branches, mixed images, a warm-up, a repeated order.
RECIPE = [
    *("--recipe", "demo", "--epochs", "3", "--set", "stochastic_depth=0.2", "--set", "ema_decay=0.9"),
    *("--set", "mixup_alpha=0.2", "--set", "cutmix_alpha=1", "--set", "repeats=2", "--set", "erase_probability=0.5"),
]
EXACT = ["--deterministic", "--checkpoint-minutes", "0.002"]  # eight times a second: every kill hits another state
FASHION = recipes.get("demo")


def command(out, *arguments):
    return [sys.executable, "-m", "resnet_keras.train", *arguments, "--out", str(out), "--resume"]


def finished(out, *arguments):
    done = subprocess.run(command(out, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def killed(out, arguments, seconds, number=signal.SIGKILL):
    """Starts a run, waits for its first checkpoint and `seconds` more, and sends it a signal."""
    with subprocess.Popen(
        command(out, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        before = set(checkpoint.checkpoints(out))
        while process.poll() is None and set(checkpoint.checkpoints(out)) <= before:
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(number)
        output, _ = process.communicate()
    return process.returncode, output


def weights(path):
    return keras.models.load_model(path, compile=False).get_weights()


def assert_same_run(one, other):
    for name in (checkpoint.MODEL, checkpoint.BEST):
        for a, b in zip(weights(one / name), weights(other / name), strict=True):
            np.testing.assert_array_equal(a, b)
    rows = [
        [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
        for rows in (checkpoint.read_history(one), checkpoint.read_history(other))
    ]
    assert [list(row) for row in rows[0]] == [list(row) for row in rows[1]]
    for a, b in zip(*rows, strict=True):
        # The figures of a cut epoch are put together from two halves, in float64, from rounded float32 values.
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=2e-5)


@pytest.mark.parametrize(
    ("arguments", "kills"),
    [
        pytest.param(["--precision", "bfloat16"], 1, id="once"),
        pytest.param(["--precision", "float32"], 5, id="five", marks=pytest.mark.slow),
        pytest.param(["--precision", "bfloat16", "--set", "optimizer=lamb"], 5, id="lamb", marks=pytest.mark.slow),
        pytest.param(["--precision", "float32", "--set", "optimizer=adamw"], 5, id="adamw", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_ends_in_the_same_bits(tmp_path, arguments, kills):
    arguments = [*RECIPE, *EXACT, *arguments]
    finished(tmp_path / "whole", *arguments)
    moments = random.Random(0)
    for _ in range(kills):
        # Within the two seconds that three epochs and their evaluations take after the first checkpoint.
        status, _ = killed(tmp_path / "cut", arguments, moments.uniform(0, 1.0))
        assert status == -signal.SIGKILL, "the run was over before it was killed"
    finished(tmp_path / "cut", *arguments)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(tmp_path, number, status):
    code, output = killed(tmp_path, ["--recipe", "demo", "--checkpoint-minutes", "0.002"], 0.2, number)
    newest = checkpoint.checkpoints(tmp_path)[-1]
    step = checkpoint.load_state(newest)[1]["step"]
    assert code == status
    assert f"stopped: {number.name} after step {step}. Wrote {newest}. Go on with --resume." in output
    assert "Traceback" not in output
    assert len(checkpoint.checkpoints(tmp_path)) <= 2


class Stop(Exception):
    pass


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run directory that a run left in its second epoch."""
    sample = data.load("fashion_mnist_sample")
    small = data.Dataset(
        "small",
        sample.class_names,
        sample.train.take(np.arange(96)),
        sample.validation.take(np.arange(20)),
        sample.test.take(np.arange(20)),
    )
    recipe = FASHION.with_changes(epochs=3, batch_size=32)

    def stop(self):
        if self.step == 5:
            self.save()
            raise Stop

    monkeypatch.setattr("resnet_keras.watch.Watch.leave_if_asked", stop)
    with pytest.raises(Stop):
        train.train(recipe, tmp_path, dataset=small, precision="float32", checkpoint_minutes=0)
    monkeypatch.undo()
    return tmp_path, recipe, small


def test_two_checkpoints_are_kept_beside_the_best_model(stopped):
    out, *_ = stopped
    assert [path.name for path in checkpoint.checkpoints(out)] == [
        "step-000000004.safetensors",
        "step-000000005.safetensors",
    ]
    assert (out / "best.keras").exists()
    assert not list(out.rglob("*partial*"))


def test_a_damaged_checkpoint_is_passed_over_aloud(stopped, capsys):
    out, recipe, dataset = stopped
    newest = checkpoint.checkpoints(out)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    card = train.train(recipe, out, dataset=dataset, precision="float32", resume=True)
    assert f"warning: The checkpoint {newest} is damaged" in capsys.readouterr().err
    assert [row["epoch"] for row in checkpoint.read_history(out)] == [1, 2, 3]
    assert card["accuracy_percent"]["test"]["images"] == 20


def test_a_finished_run_needs_no_resuming(stopped, capsys):
    out, recipe, dataset = stopped
    card = train.train(recipe, out, dataset=dataset, precision="float32", resume=True)
    assert not (out / "checkpoints").exists()
    assert not (out / "run.json").exists()
    capsys.readouterr()
    assert train.train(recipe, out, dataset=dataset, precision="float32", resume=True) == card
    assert "nothing to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"peak_learning_rate": 0.5}, {}, "peak_learning_rate = 0.2"),
        ({"model": "resnet20"}, {}, "model = resnet8"),
        ({"epochs": 4}, {}, "epochs = 3"),
        ({}, {"seed": 1}, "seed = 0"),
        ({}, {"precision": "bfloat16"}, "precision = float32"),
    ],
)
def test_another_recipe_is_not_a_resumption(stopped, changes, settings, words):
    out, recipe, dataset = stopped
    with pytest.raises(ValueError, match=words):
        train.train(
            recipe.with_changes(**changes), out, dataset=dataset, resume=True, **{"precision": "float32", **settings}
        )


def test_other_images_are_not_a_resumption(stopped):
    out, recipe, dataset = stopped
    fewer = data.Dataset("x", dataset.class_names, dataset.train.take(np.arange(64)), dataset.validation, dataset.test)
    with pytest.raises(ValueError, match="train = 96"):
        train.train(recipe, out, dataset=fewer, precision="float32", resume=True)


def test_a_run_is_not_started_over_another(stopped):
    out, recipe, dataset = stopped
    with pytest.raises(ValueError, match=r"unfinished run\. Go on with --resume"):
        train.train(recipe, out, dataset=dataset, precision="float32")


def test_two_processes_do_not_train_in_one_directory(stopped):
    out, recipe, dataset = stopped
    hold = f"import time\nfrom resnet_keras.checkpoint import held\nwith held({str(out)!r}): print(1); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-u", "-c", hold], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match="Another process trains in"):
            train.train(recipe, out, dataset=dataset, precision="float32", resume=True)
        other.kill()
    train.train(recipe, out, dataset=dataset, precision="float32", resume=True)


def test_the_command_resumes_what_was_started(tmp_path):
    """Without saying it again: recipe, seed and precision are in the run directory."""
    arguments = ["--recipe", "demo", "--epochs", "2", "--seed", "3", "--precision", "float32", "--batch-size", "64"]
    killed(tmp_path, [*arguments, "--checkpoint-minutes", "0.002"], 0)
    done = finished(tmp_path)
    assert "resuming after step" in done.stderr
    card = checkpoint.load_card(tmp_path)
    assert (card["seed"], card["precision"], card["recipe"]["epochs"], card["recipe"]["batch_size"]) == (
        3,
        "float32",
        2,
        64,
    )


def test_state_survives_the_file(tmp_path):
    arrays = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.array(7, "int64"), "c": np.array([1], "uint32")}
    path = checkpoint.save_state(tmp_path, arrays, {"step": 12, "best": None})
    again, position = checkpoint.load_state(path)
    assert position == {"step": 12, "best": None}
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)
    for share in (0.0, 0.3, 0.99):
        path.write_bytes(path.read_bytes()[: int(share * os.path.getsize(path))])
        with pytest.raises(ValueError, match="damaged"):
            checkpoint.load_state(path)


def test_terminated_is_an_exit_status():
    def main():
        raise cli.Terminated("SIGTERM after step 3.", 143)

    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    assert stopped.value.code == 143
