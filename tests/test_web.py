"""The real consumer of target `web`: LiteRT.js in a headless browser, beside LiteRT on this machine."""

import contextlib
import functools
import http.server
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import threading

import numpy as np
import pytest

from export import calibration, lint, source
from export.conversion import convert
from export.runtime import Runner

IMAGES = 100
STEP = 1 / 256  # of the probabilities in a file that quantizes them
TIME_LIMIT_S = 120
PAGE = pathlib.Path(__file__).with_name("web_page.html")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
INSTALL = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-dev-shm-usage",  # small in containers
    "--disable-background-networking",
    "--no-first-run",
    "--enable-logging=stderr",
)

LITERT_JS = "2.5.3"
INTEGRITY = {
    "@litertjs/core": "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    "@litertjs/wasm-utils": "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
}


def unavailable(reason):
    """CI installs everything, so there a missing part is a failure."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def browser():
    """The browser's command. Where the tests run as root anyway, as in a container, it is installed."""
    if not any(map(shutil.which, BROWSERS)) and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
        subprocess.run(INSTALL, capture_output=True, check=False)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or unavailable(f"There is no browser. On Debian: {' '.join(INSTALL)}")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the page and LiteRT.js, of one version and with one content, whatever the registry says."""
    directory = tmp_path_factory.mktemp("site")
    shutil.copy(PAGE, directory)
    wanted = dict.fromkeys(INTEGRITY, LITERT_JS)
    pinned = {
        f"node_modules/{name}": {"version": LITERT_JS, "integrity": f"sha512-{digest}"}
        for name, digest in INTEGRITY.items()
    }
    lock = {"lockfileVersion": 3, "packages": {"": {"dependencies": wanted}, **pinned}}
    (directory / "package.json").write_text(json.dumps({"private": True, "dependencies": wanted}))
    (directory / "package-lock.json").write_text(json.dumps(lock))
    npm = shutil.which("npm") or unavailable("npm is missing. On Debian: apt-get install npm")
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retry-mintimeout=1000"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    assert "EINTEGRITY" not in done.stderr, done.stderr
    if done.returncode:
        unavailable(f"LiteRT.js cannot be installed here: {done.stderr.strip()[:300]}")
    return directory


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site, and takes the page's answer."""

    def do_POST(self):
        self.server.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(directory):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=directory)) as server:
        server.answers = queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextlib.contextmanager
def opened(browser, url, profile, log):
    """A running browser, which ends with all of its children."""
    command = [browser, *FLAGS, f"--user-data-dir={profile}", url]
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def in_browser(browser, site, tmp_path):
    """Runs a file of the site on the images of the site: `{"outputs": rows}` or `{"refusal": text}`."""

    def run(file):
        log = tmp_path / "browser.log"
        with served(site) as server, log.open("wb") as stream:
            url = f"http://127.0.0.1:{server.server_port}/{PAGE.name}?model=/{file}"
            with opened(browser, url, tmp_path / "profile", stream) as process:
                for _ in range(TIME_LIMIT_S):
                    with contextlib.suppress(queue.Empty):
                        return server.answers.get(timeout=1)
                    if process.poll() is not None:
                        break
        lines = log.read_text(errors="replace").splitlines()
        console = [line for line in lines if "CONSOLE" in line] or lines
        return pytest.fail("\n".join(["The page gave no answer. The browser says:", *console[-20:]]))

    return run


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
