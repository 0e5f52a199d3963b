"""Serves the web app with a bundle in it, on this machine.

python -m export.serve BUNDLE

The app is `examples/web`; it is built first where it has not been since it last changed, which needs npm.
"""

import argparse
import contextlib
import errno
import functools
import http.server
import ipaddress
import json
import os
import pathlib
import posixpath
import shutil
import subprocess
import sys
import threading
import urllib.parse
import webbrowser

from export import folder

APP = pathlib.Path(__file__).parent.parent / "examples" / "web"
SOURCES = ("index.html", "package.json", "package-lock.json", "vite.config.js", "public", "src")
PORT = 8000
EVERYWHERE = ("", "0.0.0.0")


def check(bundle):
    """Checks that a folder is a whole bundle with a model for browsers.

    Args:
        bundle: folder that `--bundle` wrote.

    Returns:
        The entry of the model that browsers run, from `bundle.json`.

    Raises:
        ValueError: it is no bundle, a file is not the one that was exported, or no model in it is for browsers.
    """
    bundle = pathlib.Path(bundle)
    try:
        index = json.loads((bundle / folder.INDEX).read_text())
        damaged = folder.damaged(bundle)
        models = {model["file"]: model for model in index["models"]}
        chosen = index["code"].get("javascript", {}).get("model", "")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"Expected a folder made by: python -m export.tflite --bundle FOLDER. Received {bundle}, without a "
            f"{folder.SUMS} and {folder.INDEX} that can be read."
        ) from error
    if damaged is not None:
        fault = "is not the file that was exported" if (bundle / damaged).is_file() else "is missing"
        raise ValueError(f"{bundle / damaged} {fault}: see {folder.SUMS}. Copy or export the bundle again.")
    if chosen not in models or not chosen.endswith(".tflite"):
        raise ValueError(
            f"{bundle} has no .tflite file that browsers take, which has float32 or uint8 edges. Make one with: "
            "python -m export.tflite --target web --bundle FOLDER."
        )
    return models[chosen]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of the built app, and those of the bundle under `bundle/`; nothing else, and no listings."""

    extensions_map = {  # noqa: RUF012 -- of the base class
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".json": "application/json",
        ".mjs": "text/javascript",
        ".svg": "image/svg+xml",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
    }

    def __init__(self, *args, app, bundle, **options):
        self.roots = {"app": app.resolve(), "bundle": bundle.resolve()}
        super().__init__(*args, **options)

    def translate_path(self, path):
        """The file that a request means: outside the two folders there is none."""
        name = posixpath.normpath("/" + urllib.parse.unquote(urllib.parse.urlsplit(path).path)).lstrip("/")
        inside = name.partition("/")[0] == "bundle"
        root = self.roots["bundle" if inside else "app"]
        with contextlib.suppress(OSError, ValueError):  # no name at all: too long, or with a zero in it
            file = (root / (name.partition("/")[2] if inside else name or "index.html")).resolve()
            if file.is_relative_to(root) and file.is_file():
                return str(file)
        return str(root / ".missing")

    def end_headers(self):
        # A name with a hash or a version in it stands for one content; the rest is asked for again, the bundle in full.
        if self.path.startswith(("/assets/", "/litert-")):
            rule = "public, max-age=31536000, immutable"
        else:
            rule = "no-store" if self.path.startswith("/bundle/") else "no-cache"
        self.send_header("Cache-Control", rule)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_):
        """Requests are no progress."""


class Server(http.server.ThreadingHTTPServer):
    """Says nothing of a browser that went away before it had all."""

    def handle_error(self, *address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*address)


def server(bundle, app, host="127.0.0.1", port=PORT):
    """A server, bound to its address and not yet running.

    Raises:
        ValueError: the address or the port cannot be had.
    """
    handler = functools.partial(Handler, app=pathlib.Path(app), bundle=pathlib.Path(bundle))
    try:
        return Server((host, port), handler)
    except OverflowError as error:
        raise ValueError(f"--port must be from 0 to 65535. Received: {port}.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"Port {port} is in use. Choose another with --port, or 0 for any that is free."
            ) from error
        raise ValueError(f"The address {host}, port {port} cannot be had: {error.strerror}.") from error


def built(app, say):
    """Builds the app where it is missing or older than its sources.

    Args:
        app: folder of its sources.
        say: called with a line of progress.

    Returns:
        The folder to serve.

    Raises:
        ImportError: the sources, npm, or what npm would install are missing.
    """
    out = app / "dist"
    if not (app / "package.json").exists():
        raise ImportError(f"{app} is missing: the web app is part of the source tree, not of the installed package.")
    if _time(out / "index.html") > max(map(_newest, (app / name for name in SOURCES))):
        return out
    # npm writes the copy of the lock last.
    if _time(app / "node_modules" / ".package-lock.json") < _time(app / "package-lock.json"):
        say("installing what the web app is built with (npm ci)")
        _npm(app, "ci", "--ignore-scripts")
    say("building the web app (npm run build)")
    partial = app / "dist.partial"
    _npm(app, "run", "build", "--", "--outDir", partial.name, "--emptyOutDir")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


def _npm(app, *arguments):
    npm = shutil.which("npm")
    if npm is None:
        raise ImportError(
            "npm is missing, which builds the web app. Install Node.js 18 or newer, on Debian: apt install npm."
        )
    environment = {name: value for name, value in os.environ.items() if name != "BUNDLE"}  # it is served, not copied
    done = subprocess.run([npm, *arguments], cwd=app, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())[-500:]
        raise ImportError(f"npm {' '.join(arguments[:2])} failed in {app}: {reason}")


def _time(path):
    """When a file was last changed, in seconds; 0 for one that is not there."""
    return path.stat().st_mtime if path.exists() else 0


def _newest(path):
    return max((_time(file) for file in (path, *path.rglob("*"))), default=0)


def _is_local(host):
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def parser():
    """The command line; importing nothing heavy keeps `--help` instant."""
    p = argparse.ArgumentParser(prog="python -m export.serve", description=__doc__.split("\n")[0])
    p.add_argument("bundle", metavar="BUNDLE", help="folder made by: python -m export.tflite --bundle FOLDER")
    p.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0 for any that is free")
    p.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine only)")
    p.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    from resnet_keras import cli

    model = check(args.bundle)
    app = built(APP, cli.say)
    with server(args.bundle, app, args.host, args.port) as running:
        host = "localhost" if args.host in EVERYWHERE else args.host  # browsers trust no other name for this machine
        url = f"http://{host}:{running.server_port}/"
        cli.say(f"serving {model['file']} ({model['recipe']}) of {args.bundle}; Ctrl-C ends it")
        if not _is_local(args.host):
            cli.say("Other devices need https for this page: examples/web/README.md says how to reach it from a phone.")
        print(url, flush=True)
        if not args.no_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        running.serve_forever()
    return cli.GOOD


if __name__ == "__main__":
    from resnet_keras import cli

    cli.run(main)
