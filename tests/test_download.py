"""Downloads, for real, from a server on the loopback address that behaves like the hub or misbehaves."""

import hashlib
import http.server
import os
import pathlib
import subprocess
import sys
import threading

import pytest

CONTENT = bytes(range(256)) * 100_000  # the hub keeps what arrived in pieces of 10 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
# The hub's library waits between its attempts, for 23 seconds in all; here it need not.
HUB = (
    "import time; time.sleep = lambda seconds: None; "
    "from resnet_keras import download; print(download.fetch('a1_in1k', 'resnet18'))"
)
KERAS = (
    "from resnet_keras import download; download.KERAS_URL = {url!r}; download.KERAS_MD5 = {{'resnet50': {md5!r}}}; "
    "print(download.fetch('keras', 'resnet50'))"
)
AS_A_COMMAND = "from resnet_keras import cli\ndef main():\n    {code}\n    return 0\ncli.run(main)"


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT as every weight file; `fault` says how it misbehaves, `requests` what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.requests = None, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        fault, start = self.server.fault, self.start()
        if not self.path.endswith((".safetensors", ".h5")):  # the hub's own library asks for other things too
            self.send_error(404)
            return
        self.server.requests.append((self.command, self.path, start))
        if isinstance(fault, int):
            self.send_error(fault)
            return
        body = b"wrong" + CONTENT[5:] if fault == "wrong bytes" else CONTENT
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if with_body:
            rest = body[start:]
            halved = fault == "half a body" or (fault == "drops once" and not start)
            self.wfile.write(rest[: len(rest) // 2] if halved else rest)

    def start(self):
        wanted = self.headers.get("Range", "bytes=0-")
        return int(wanted.removeprefix("bytes=").partition("-")[0])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    running = Server()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def fetch(server, tmp_path):
    """Runs a download as a command with empty caches; returns the finished process."""
    names = {"HF_ENDPOINT": server.url, "HF_HOME": tmp_path / "hub", "KERAS_HOME": tmp_path / "keras"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "KERAS_HOME"))}

    def run(source, **extra):
        code = KERAS.format(url=f"{server.url}/", md5=MD5) if source == "keras" else HUB
        return subprocess.run(
            [sys.executable, "-c", AS_A_COMMAND.format(code=code)],
            env={**environment, **{k: str(v) for k, v in names.items()}, **extra},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def cached(directory):
    """Contents of all files in the caches that a later call would take for weights."""
    return [
        path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.suffix in (".safetensors", ".h5") and "partial" not in path.name
    ]


@pytest.mark.parametrize("source", ["hub", "keras"])
class TestDownload:
    def test_once_and_then_from_the_cache(self, fetch, server, source):
        first = fetch(source)
        assert first.returncode == 0, first.stderr
        assert pathlib.Path(first.stdout.strip()).read_bytes() == CONTENT
        downloads = [r for r in server.requests if r[0] == "GET"]
        assert fetch(source).stdout == first.stdout
        assert [r for r in server.requests if r[0] == "GET"] == downloads

    @pytest.mark.parametrize("fault", [404, 500, "half a body", "wrong bytes"])
    def test_a_fault_is_one_sentence_and_leaves_nothing_broken(self, fetch, server, source, fault, tmp_path):
        server.fault = fault
        failed = fetch(source)
        assert failed.returncode == 3, failed.stderr
        assert "Traceback" not in failed.stderr
        last = failed.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert source == "keras" or "timm/resnet18.a1_in1k" in last
        assert cached(tmp_path) == []
        server.fault = None
        again = fetch(source)
        assert again.returncode == 0, again.stderr
        assert pathlib.Path(again.stdout.strip()).read_bytes() == CONTENT

    def test_a_server_that_is_not_there(self, fetch, server, source):
        server.shutdown()
        server.server_close()
        failed = fetch(source)
        assert failed.returncode == 3
        assert "cannot be downloaded" in failed.stderr
        assert "Traceback" not in failed.stderr


def test_the_hub_continues_a_dropped_connection(fetch, server):
    server.fault = "drops once"
    done = fetch("hub")
    assert done.returncode == 0, done.stderr
    starts = [start for method, _, start in server.requests if method == "GET"]
    assert len(starts) == 2
    assert starts[1] >= 10_000_000
    assert pathlib.Path(done.stdout.strip()).read_bytes() == CONTENT


def test_keras_continues_a_download_of_an_earlier_run(fetch, server):
    server.fault = "half a body"
    assert fetch("keras").returncode == 3
    server.fault, server.requests = None, []
    done = fetch("keras")
    assert done.returncode == 0, done.stderr
    assert [start for _, _, start in server.requests] == [len(CONTENT) // 2]
    assert pathlib.Path(done.stdout.strip()).read_bytes() == CONTENT


def test_offline_says_what_to_do(fetch, server):
    failed = fetch("hub", HF_HUB_OFFLINE="1")
    assert failed.returncode == 3
    assert "HF_ENDPOINT" in failed.stderr
    assert "weights=" in failed.stderr
    assert server.requests == []


def test_a_damaged_cache_is_noticed(fetch, server):
    path = pathlib.Path(fetch("hub").stdout.strip())
    path.write_bytes(CONTENT[:-1] + b"x")
    assert fetch("hub").returncode == 3
    again = fetch("hub")
    assert again.returncode == 0, again.stderr
    assert path.read_bytes() == CONTENT
