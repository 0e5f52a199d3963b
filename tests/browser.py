"""A headless browser for tests, and LiteRT.js for its pages. Every test file has these fixtures, by `conftest.py`."""

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

import pytest

TIME_LIMIT_S = 120

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

WEB_APP = pathlib.Path(__file__).parent.parent / "examples" / "web"


def unavailable(reason):
    """CI installs everything, so there a missing part is a failure."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def browser():
    """The browser's command. Where the tests run as root anyway, as in a container, it is installed."""
    if not any(map(shutil.which, BROWSERS)) and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
        subprocess.run(INSTALL, capture_output=True, check=False)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or unavailable(f"There is no browser. On Debian: {' '.join(INSTALL)}")


@pytest.fixture(scope="session")
def web_app(tmp_path_factory):
    """A copy of `examples/web` with what it is built with, which its lock pins by version and content."""
    directory = tmp_path_factory.mktemp("app") / "web"
    shutil.copytree(WEB_APP, directory, ignore=shutil.ignore_patterns("node_modules", "dist*"))
    npm = shutil.which("npm") or unavailable("npm is missing. On Debian: apt-get install npm")
    command = [npm, "ci", "--ignore-scripts", "--fetch-retry-mintimeout=1000"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    assert "EINTEGRITY" not in done.stderr, done.stderr
    if done.returncode:
        unavailable(f"The web app's packages cannot be installed here: {done.stderr.strip()[:300]}")
    return directory


@pytest.fixture(scope="module")
def site(web_app, tmp_path_factory):
    """A folder for pages and what they fetch, with LiteRT.js in `node_modules`."""
    directory = tmp_path_factory.mktemp("site")
    (directory / "node_modules").symlink_to(web_app / "node_modules")
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
def ended(process):
    """Ends a process, which leads a session of its own, with all of its children."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def opened(browser, url, profile, log):
    """A browser that shows a page, as a context."""
    command = [browser, *FLAGS, f"--user-data-dir={profile}", url]
    return ended(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))


@pytest.fixture
def answer_of(browser, site, tmp_path):
    """Opens an address of the site, such as `"page.html?model=/x"`, and returns the JSON that the page posts."""

    def run(address):
        log = tmp_path / "browser.log"
        with served(site) as server, log.open("wb") as stream:
            url = f"http://127.0.0.1:{server.server_port}/{address}"
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
