"""`python -m export.serve`: what it serves, what it refuses, and when it builds the app."""

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from export import serve
from resnet_keras import cli

MODEL = "models/x.tflite"
BUILD = 'mkdir -p "$5" && echo built > "$5/index.html"'  # npm run build -- --outDir FOLDER --emptyOutDir
INSTALL = "mkdir -p node_modules && touch node_modules/.package-lock.json"


@pytest.fixture
def bundle(tmp_path):
    """The least that is a bundle."""
    directory = tmp_path / "bundle"
    (directory / "models").mkdir(parents=True)
    index = {"models": [{"file": MODEL, "recipe": "int8"}], "code": {"javascript": {"model": MODEL}}}
    write(directory, "bundle.json", json.dumps(index).encode())
    write(directory, MODEL, b"model")
    return directory


def write(directory, name, data):
    """A file of a bundle, with its sum."""
    (directory / name).write_bytes(data)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = (f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(directory).as_posix()}\n" for p in files)
    (directory / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def dist(tmp_path):
    """The least that is a built app, beside something that is not to be served."""
    directory = tmp_path / "dist"
    files = {
        "index.html": b"page",
        "assets/index-1.js": b"code",
        "litert-1/x.wasm": b"wasm",
        "module.mjs": b"module",
        "manifest.webmanifest": b"{}",
        "icon.svg": b"<svg/>",
        "service_worker.js": b"worker",
    }
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    (tmp_path / "secret").write_text("secret")
    return directory


@pytest.fixture
def running(bundle, dist):
    with serve.server(bundle, dist, port=0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def get(server, path):
    """`(status, headers, body)`; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


class TestServer:
    @pytest.mark.parametrize(
        ("path", "body", "kind", "cache"),
        [
            ("/", b"page", "text/html", "no-cache"),
            ("/?source=home", b"page", "text/html", "no-cache"),
            ("/service_worker.js", b"worker", "text/javascript", "no-cache"),
            ("/module.mjs", b"module", "text/javascript", "no-cache"),
            ("/manifest.webmanifest", b"{}", "application/manifest+json", "no-cache"),
            ("/icon.svg", b"<svg/>", "image/svg+xml", "no-cache"),
            ("/assets/index-1.js", b"code", "text/javascript", "immutable"),
            ("/litert-1/x.wasm", b"wasm", "application/wasm", "immutable"),
            ("/bundle/models/x.tflite", b"model", "application/octet-stream", "no-store"),
        ],
    )
    def test_files_have_their_type_and_their_time(self, running, path, body, kind, cache):
        status, headers, found = get(running, path)
        assert (status, found) == (200, body)
        assert headers.get_content_type() == kind
        assert cache in headers["Cache-Control"]

    @pytest.mark.parametrize(
        "path",
        [
            "/../secret",
            "/bundle/../secret",
            "/bundle/../../secret",
            "/%2e%2e/secret",
            "/bundle/%2e%2e%2fsecret",
            "//../secret",
            "/bundle/link",
            "/bundle/models/",
            "/assets",
            "/missing",
            "/%00",
            "/" + 300 * "x",
        ],
    )
    def test_nothing_else_is_served(self, running, bundle, tmp_path, path):
        (bundle / "link").symlink_to(tmp_path / "secret")
        status, _, body = get(running, path)
        assert status == 404
        assert b"secret" not in body

    def test_a_browser_that_goes_away_is_no_error(self, running, dist, capfd):
        (dist / "large").write_bytes(bytes(10_000_000))
        running.daemon_threads = False  # so that closing waits for the request
        with socket.create_connection(("127.0.0.1", running.server_port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves at once
            connection.sendall(b"GET /large HTTP/1.0\r\n\r\n")
            connection.recv(1)
        running.shutdown()
        running.server_close()
        assert capfd.readouterr().err == ""

    def test_a_changed_page_is_sent_again(self, running, dist):
        _, headers, _ = get(running, "/index.html")
        request = urllib.request.Request(f"http://127.0.0.1:{running.server_port}/index.html")
        request.add_header("If-Modified-Since", headers["Last-Modified"])
        with pytest.raises(urllib.error.HTTPError, match="304") as unchanged:
            urllib.request.urlopen(request)
        unchanged.value.close()
        (dist / "index.html").write_bytes(b"new page")
        os.utime(dist / "index.html", (2e9, 2e9))
        assert urllib.request.urlopen(request).read() == b"new page"


class TestRefusals:
    def run(self, capsys, *arguments):
        with pytest.raises(SystemExit) as stop:
            cli.run(lambda: serve.main([str(argument) for argument in arguments]))
        return stop.value.code, capsys.readouterr().err

    def test_a_folder_that_is_no_bundle(self, tmp_path, capsys):
        status, error = self.run(capsys, tmp_path / "nowhere")
        assert status == 2
        assert "Expected a folder made by: python -m export.tflite --bundle FOLDER. Received" in error

    def test_a_changed_or_missing_file(self, bundle, capsys):
        (bundle / MODEL).write_bytes(b"another model")
        assert self.run(capsys, bundle)[0] == 2
        (bundle / MODEL).unlink()
        status, error = self.run(capsys, bundle)
        assert status == 2
        assert f"{MODEL} is missing: see SHA256SUMS" in error

    @pytest.mark.parametrize("model", [None, "models/x.onnx", "models/unlisted.tflite"])
    def test_no_model_for_browsers(self, bundle, model, capsys):
        code = {"javascript": {"model": model}} if model else {}
        index = {"models": [{"file": MODEL}, {"file": "models/x.onnx"}], "code": code}
        write(bundle, "bundle.json", json.dumps(index).encode())
        status, error = self.run(capsys, bundle)
        assert status == 2
        assert "python -m export.tflite --target web --bundle FOLDER" in error

    def test_a_port_that_is_in_use_or_none(self, bundle, dist, monkeypatch, capsys):
        monkeypatch.setattr(serve, "built", lambda *_: dist)
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            status, error = self.run(capsys, bundle, "--port", port)
        assert (status, f"Port {port} is in use." in error) == (2, True)
        status, error = self.run(capsys, bundle, "--port", 99999)
        assert (status, "--port must be from 0 to 65535" in error) == (2, True)
        status, error = self.run(capsys, bundle, "--host", "192.0.2.1")
        assert (status, "The address 192.0.2.1" in error) == (2, True)

    def test_npm_is_missing(self, bundle, app, monkeypatch, capsys):
        monkeypatch.setattr(serve, "APP", app)
        monkeypatch.setenv("PATH", "")
        status, error = self.run(capsys, bundle)
        assert (status, "npm is missing" in error) == (3, True)

    def test_an_installed_package_has_no_app(self, bundle, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(serve, "APP", tmp_path / "examples" / "web")
        status, error = self.run(capsys, bundle)
        assert (status, "part of the source tree" in error) == (3, True)


@pytest.fixture
def app(tmp_path):
    """Sources of an app, older than anything that is made now."""
    directory = tmp_path / "app"
    (directory / "src").mkdir(parents=True)
    for name in ("index.html", "package.json", "package-lock.json", "vite.config.js", "src/main.js"):
        (directory / name).write_text("")
    for path in (directory, *directory.rglob("*")):
        os.utime(path, (1e9, 1e9))
    return directory


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts another npm in the place of npm; returns a setter of what it does for `ci` and for `run build`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def does(install=INSTALL, build=BUILD):
        (folder / "npm").write_text(f'#!/bin/sh\nset -e\nif [ "$1" = ci ]; then {install}\nelse {build}\nfi\n')
        (folder / "npm").chmod(0o755)

    does()
    return does


class TestBuilding:
    def built(self, app):
        """The lines of progress of a build."""
        said = []
        assert serve.built(app, said.append) == app / "dist"
        return [line.split("(")[1] for line in said]

    def test_only_what_is_needed(self, app, npm):
        assert self.built(app) == ["npm ci)", "npm run build)"]
        assert (app / "dist" / "index.html").read_text() == "built\n"
        assert self.built(app) == []
        os.utime(app / "src" / "main.js")
        assert self.built(app) == ["npm run build)"]
        os.utime(app / "package-lock.json")
        assert self.built(app) == ["npm ci)", "npm run build)"]

    def test_an_interrupted_installation_is_done_again(self, app, npm):
        (app / "node_modules" / "vite").mkdir(parents=True)
        assert self.built(app) == ["npm ci)", "npm run build)"]

    def test_a_failed_build_leaves_the_old_one(self, app, npm):
        self.built(app)
        os.utime(app / "src" / "main.js")
        npm(build="echo half > dist.partial/index.html; echo a reason >&2; false")
        (app / "dist.partial").mkdir()
        with pytest.raises(ImportError, match=r"npm run build failed in .*: a reason"):
            serve.built(app, str)
        assert (app / "dist" / "index.html").read_text() == "built\n"

    def test_the_users_bundle_is_not_copied(self, app, npm, monkeypatch):
        monkeypatch.setenv("BUNDLE", "somewhere")
        npm(build=f'test -z "$BUNDLE" && {BUILD}')
        self.built(app)


def test_the_command(bundle, tmp_path):
    """As a user types it; with an app that is built already."""
    root = tmp_path / "tree"
    shutil.copytree(serve.APP.parent.parent / "export", root / "export")
    shutil.copytree(serve.APP.parent.parent / "resnet_keras", root / "resnet_keras", ignore=lambda *_: ["assets"])
    (root / "examples" / "web" / "dist").mkdir(parents=True)
    for name in ("package.json", "dist/index.html"):
        (root / "examples" / "web" / name).write_text("page")
    command = [sys.executable, "-m", "export.serve", str(bundle), "--port", "0", "--no-browser"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": root}
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": ""}, **options
    ) as process:
        url = process.stdout.readline().strip()
        assert urllib.request.urlopen(url).read() == b"page"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert f"serving {MODEL} (int8)" in error
    assert process.returncode == 130
