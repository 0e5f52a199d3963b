"""An exported file and the record beside it: `x.tflite` with `x.json`. Imports neither keras nor tensorflow."""

import hashlib
import json
import os
import pathlib
import tempfile


def sidecar_path(path):
    """`x.json` for `x.tflite`."""
    return pathlib.Path(path).with_suffix(".json")


def sha256(data):
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def read_sidecar(path):
    """The record of an exported file, or None where there is none that can be read."""
    try:
        return json.loads(sidecar_path(path).read_text())
    except (OSError, ValueError, RecursionError):  # the last for lists in lists in lists
        return None


def claim(path, force=False):
    """Checks, before any work is done, that `path` can be written and holds nothing that this project did not write.

    Raises:
        ValueError: it is a directory, or a file without a matching record, and `force` is False.
        OSError: its directory cannot be made or written.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"--out must name a file. Received a directory: {path}.")
    if path.suffix == ".json":
        raise ValueError(f"--out names the model file; {path} is where its record would go.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):  # an early, plain answer to whether the directory can be written
        pass
    if path.exists() and not force:
        record = read_sidecar(path)
        if record is None or record.get("sha256") != sha256(path.read_bytes()):
            raise ValueError(
                f"{path} exists and was not written by this command. Choose another --out, or add --force."
            )


class Draft:
    """A file written beside its final place, which it takes only on `publish`; leaving the block without it removes it.

    with Draft(path, data) as draft:
        check(draft.path)
        draft.publish(record)
    """

    def __init__(self, path, data):
        self.final = pathlib.Path(path)
        self.data = data
        self.path = self.final.with_name(f".{self.final.stem}.{os.getpid()}.partial{self.final.suffix}")

    def __enter__(self):
        self.path.write_bytes(self.data)
        return self

    def __exit__(self, *_):
        self.path.unlink(missing_ok=True)

    def amend(self, data):
        """Other bytes in place of the first; a runtime that has the old file open keeps it."""
        self.path.unlink()
        self.path.write_bytes(data)
        self.data = data

    def publish(self, record):
        """Moves the file into place, and its record with it."""
        record = {"file": self.final.name, "sha256": sha256(self.data), "size_bytes": len(self.data), **record}
        partial = self.path.with_suffix(".json")
        partial.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(self.path, self.final)
        os.replace(partial, sidecar_path(self.final))
        return record
