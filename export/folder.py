"""A bundle's folder: written whole or not at all, and known again by its own files. Imports nothing heavy."""

import os
import pathlib
import shutil
import tempfile

from export import artifact

SUMS, INDEX = "SHA256SUMS", "bundle.json"


def claim(path, force=False):
    """Checks, before any work is done, that a folder can be written and replaces nothing of anybody else's.

    Returns:
        Its resolved path.

    Raises:
        ValueError: it is a file, holds the current directory, or is a folder that is not as a `Draft` left it, and
            `force` is False.
        OSError: the directory around it cannot be made or written.
    """
    path = pathlib.Path(path).resolve()
    if path.exists() and not path.is_dir():
        raise ValueError(f"--bundle must name a folder. Received a file: {path}.")
    for kept in (pathlib.Path.cwd(), pathlib.Path.home()):
        if path in (kept, *kept.parents):
            raise ValueError(f"--bundle names a folder to be replaced as a whole. Received one that holds {kept}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):  # an early, plain answer to whether the directory can be written
        pass
    if path.exists() and not force and (foreign := changed(path)) is not None:
        raise ValueError(
            f"{path} exists and is not as this command left it, see {foreign}. Choose another --bundle, or add --force."
        )
    return path


def changed(path):
    """The first file of a folder that is not as its `SUMS` say, or None. An empty folder is no one's.

    Without an `INDEX` it is somebody else's, whatever its sums.
    """
    entries = (entry for entry in path.rglob("*") if entry.is_symlink() or entry.is_file())
    # Python leaves its own there when the code in a bundle is imported.
    found = {entry.relative_to(path).as_posix() for entry in entries if entry.parent.name != "__pycache__"}
    if not found:
        return None
    try:
        listed = sums(path)
    except (OSError, ValueError):
        return min(found)
    if strange := found ^ {*listed, SUMS, INDEX}:
        return min(strange)
    return damaged(path)


def sums(path):
    """`{file: SHA-256}` of a folder, as its `SUMS` list them.

    Raises:
        OSError, ValueError: they cannot be read.
    """
    found = {}
    for line in (path / SUMS).read_text(encoding="utf-8").splitlines():
        digest, gap, name = line.partition("  ")
        if not (gap and name):
            raise ValueError(f"{path / SUMS} has a line that this package did not write: {line!r}.")
        found[name] = digest
    return found


def damaged(path):
    """The first file in the `SUMS` of a folder that is missing, a link or another one, or None.

    Raises:
        OSError, ValueError: see `sums`.
    """
    for name, digest in sums(path).items():
        file = path / name
        if file.is_symlink() or not file.is_file() or artifact.sha256(file.read_bytes()) != digest:
            return name
    return None


class Draft:
    """A folder written beside its final place, which it takes on `publish`; leaving the block without it removes it.

    with Draft(path) as draft:
        (draft.path / "x").write_bytes(...)
        draft.publish()
    """

    def __init__(self, path):
        self.final = pathlib.Path(path)
        self.path = self.final.with_name(f".{self.final.name}.{os.getpid()}.partial")

    def __enter__(self):
        self.path.mkdir()
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def publish(self):
        """Adds `SUMS` and moves the folder into place, the former one away."""
        files = sorted(entry for entry in self.path.rglob("*") if entry.is_file())
        lines = (f"{artifact.sha256(file.read_bytes())}  {file.relative_to(self.path).as_posix()}\n" for file in files)
        (self.path / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")
        former = self.final.with_name(f".{self.final.name}.{os.getpid()}.former")
        if self.final.exists():
            self.final.rename(former)
        try:
            self.path.rename(self.final)
        except OSError:
            if former.exists():
                former.rename(self.final)
            raise
        shutil.rmtree(former, ignore_errors=True)
