"""The examples, run as a user runs them: from photos to a bundle, and from the bundle to labels on a small computer."""

import os
import pathlib
import stat
import subprocess
import sys

import pytest
from PIL import Image

from resnet_keras import data

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
BUNDLED = pathlib.Path(data.ASSETS, "fashion_resnet20")
CLASSES, PHOTOS_EACH = (0, 1, 8), 40  # shirts, trousers and bags: easily told apart
# Refuses what a Raspberry Pi does not have, in a process that then runs the example in argv.
BARE = """
import runpy, sys
class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("keras", "tensorflow", "resnet_keras", "export", "rich", "flatbuffers"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CAMERA = """#!{python}
import sys, time
frame = open({frame!r}, "rb").read()
for _ in range({count}):
    sys.stdout.buffer.write(frame)
    sys.stdout.buffer.flush()
    time.sleep(0.02)
"""


def run(script, *arguments, cwd, path=None):
    environment = {**os.environ, "PATH": path or os.environ["PATH"], "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, *(["-c", BARE] if script == "raspberry_pi.py" else []), EXAMPLES / script, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of PNG files, `photos/CLASS/N.png`."""
    directory = tmp_path_factory.mktemp("photos")
    sample = data.load("fashion_mnist_sample")
    for label in CLASSES:
        folder = directory / sample.class_names[label].replace("/", " or ")
        folder.mkdir()
        chosen = sample.train.images[sample.train.labels == label][:PHOTOS_EACH]
        for number, pixels in enumerate(chosen):
            Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return directory


@pytest.fixture(scope="module")
def bundle(photos, tmp_path_factory):
    """What `finetune.py` makes of the photos, from the bundled weights."""
    cwd = tmp_path_factory.mktemp("finetune")
    start = ("--model", "resnet20", "--weights", BUNDLED, "--epochs", "8")
    done = run("finetune.py", photos, "--bundle", "mine", *start, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "export.serve mine" in done.stdout
    return cwd / "mine"


def test_photos_become_a_bundle_that_knows_them(bundle, photos):
    done = run("raspberry_pi.py", bundle, photos, cwd=bundle)
    assert done.returncode == 0, done.stderr
    assert "self-test passed" in done.stderr
    answers = [line.split(": ") for line in done.stdout.splitlines()]
    right = [pathlib.Path(name).parent.name == label.rpartition(" ")[0].rpartition(" ")[0] for name, label in answers]
    assert len(right) == len(CLASSES) * PHOTOS_EACH
    assert sum(right) > 2 / 3 * len(right)  # one in three by chance


def camera(directory, photos, count):
    """A folder with a camera program that gives `count` pictures of a bag."""
    frame = directory / "bag.jpg"
    Image.open(photos / "Bag" / "00.png").resize((320, 240)).save(frame)
    program = directory / "rpicam-vid"
    program.write_text(CAMERA.format(python=sys.executable, frame=str(frame), count=count))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return directory


def test_a_camera_is_classified(bundle, photos, tmp_path):
    path = f"{camera(tmp_path, photos, 200)}:{os.environ['PATH']}"
    done = run("raspberry_pi.py", bundle, "--camera", "--frames", "5", cwd=tmp_path, path=path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all(": Bag " in line for line in lines)
    assert "5 frames" in done.stderr
    assert " a second" in done.stderr


def test_what_goes_wrong_is_said(bundle, photos, tmp_path):
    silent = f"{camera(tmp_path, photos, 0)}:{os.environ['PATH']}"
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in bundle.rglob("*"):
        if file.is_file():
            target = changed / file.relative_to(bundle)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    for model in (changed / "models").glob("*.tflite"):
        damaged = bytearray(model.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        model.write_bytes(damaged)
    for arguments, status, words, path in [
        ((bundle, "--camera"), 1, "gave no picture", silent),
        ((bundle, "--camera"), 2, "No camera can be read", "/nowhere"),
        ((bundle, tmp_path / "empty"), 2, "There is no image", None),
        ((bundle, tmp_path / "broken.jpg"), 1, "no frame could be read", None),
        ((tmp_path, photos), 2, "is no bundle", None),
        ((changed, photos), 1, "SHA-256", None),
        ((bundle,), 2, "or give --camera", None),
    ]:
        done = run("raspberry_pi.py", *arguments, cwd=tmp_path, path=path)
        assert (done.returncode, words in done.stderr) == (status, True), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_quickstart(tmp_path):
    done = run("quickstart.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    truth, keras_answer, file_answer, _ = done.stdout.splitlines()
    assert all(truth.partition(": ")[2] in answer for answer in (keras_answer, file_answer))
    assert (tmp_path / "runs" / "quickstart" / "bundle" / "bundle.json").is_file()
