"""Fetches published weights into the caches of their own tools: the Hugging Face hub's, and Keras's."""

import contextlib
import hashlib
import os
import pathlib
import urllib.error
import urllib.request

from resnet_keras import cli

KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
# MD5 of the files, as keras.applications states them.
KERAS_MD5 = {
    "resnet50": "2cb95161c43110f7111970584f804107",
    "resnet101": "f1aeb4b969a6efcfb50fad2f0c20cfc5",
    "resnet152": "100835be76be38e30d865e96f2aaae62",
}
CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30


def fetch(tag, model):
    """The path of the weights of `tag` for `model`, downloaded once, checked each time.

    A dropped connection is taken up where it dropped. `HF_ENDPOINT` names a mirror of the hub, `HF_HOME` and
    `KERAS_HOME` move the caches, `HF_HUB_OFFLINE=1` forbids the network.

    Raises:
        ConnectionError: the file cannot be had, or what arrived is not the file; nothing broken stays in the cache.
        ImportError: huggingface_hub is not installed.
    """
    return _from_keras(model) if tag == "keras" else _from_hub(f"timm/{model}.{tag}", "model.safetensors")


def _from_hub(repository, name):
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("Published weights need huggingface_hub. Install it: pip install huggingface_hub") from error
    try:
        path = pathlib.Path(huggingface_hub.hf_hub_download(repository, name))
    except Exception as error:  # the hub's own errors, and those of the HTTP package that it happens to use
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ConnectionError(
            f"{repository} cannot be downloaded ({type(error).__name__}: {reason}). {_advice(repository, name)}"
        ) from error
    _check_hub_file(path, repository)
    return path


def _advice(repository, name):
    return (
        f"Connect to the network, set HF_ENDPOINT to a mirror, or fetch {name} of {repository} elsewhere and pass its "
        "path as weights=."
    )


def _check_hub_file(path, repository):
    """The cache names a large file by its SHA-256: what lies there must have it."""
    blob = path.resolve()
    if len(blob.name) == 64 and _digest(blob, hashlib.sha256()) != blob.name:
        blob.unlink()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        raise ConnectionError(
            f"What was downloaded from {repository} is not the published file: its SHA-256 is not {blob.name}. It was "
            "deleted. Try again; if it comes back, the mirror or a proxy on the way changes it."
        )


def _digest(path, hasher):
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def _from_keras(model):
    name = f"{model}_weights_tf_dim_ordering_tf_kernels.h5"
    folder = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras") / "models"
    path = folder / name  # where keras.applications looks too
    if path.is_file() and _digest(path, hashlib.md5()) == KERAS_MD5[model]:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial"
    try:
        _continue(KERAS_URL + name, partial)
    except OSError as error:
        raise ConnectionError(
            f"{KERAS_URL}{name} cannot be downloaded: {error}. Try again, which continues where it stopped, or put the "
            f"file at {path}."
        ) from error
    if _digest(partial, hashlib.md5()) != KERAS_MD5[model]:
        partial.unlink()
        raise ConnectionError(
            f"What was downloaded from {KERAS_URL}{name} is not the published file: its MD5 is not {KERAS_MD5[model]}. "
            "It was deleted. Try again."
        )
    os.replace(partial, path)
    return path


def _continue(url, partial):
    """Downloads what `partial` still lacks, with a bar."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with response:
        resumed = response.status == 206
        total = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
        received = have if resumed else 0
        with open(partial, "ab" if resumed else "wb") as file, cli.bar("downloading", total, "bytes") as advance:
            advance(received)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                received += len(chunk)
                advance(len(chunk))
    if received < total:
        raise ConnectionError(f"the connection ended after {received:,} of {total:,} bytes")
