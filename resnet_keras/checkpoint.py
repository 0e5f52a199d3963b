"""The run directory: `model.keras`, `card.json` (what it is, how it was made, what was measured), `history.jsonl`.

While a run goes on, `run.json` says how it was started and `checkpoints/` holds its last two states. A file under its
final name is always whole: it is written beside its place, brought to the disk, and renamed.
"""

import contextlib
import json
import os
import pathlib

MODEL, BEST, CARD, HISTORY, RUN = "model.keras", "best.keras", "card.json", "history.jsonl", "run.json"
CHECKPOINTS, KEPT = "checkpoints", 2


@contextlib.contextmanager
def held(directory):
    """Holds a run directory for this process: two that write one run would spoil it.

    Raises:
        ValueError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have none either
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"Another process trains in {directory}. Wait until it has left, or choose another --out."
                ) from error
        yield
    finally:
        os.close(descriptor)


def save_model(directory, model, name=MODEL):
    """Writes the model, atomically."""
    directory = pathlib.Path(directory)
    partial = directory / "partial.keras"
    model.save(partial)
    _to_disk(partial)
    os.replace(partial, directory / name)


def save_card(directory, card):
    """Writes the card, atomically."""
    write_json(pathlib.Path(directory) / CARD, card)


def load_card(directory):
    """The card of a run directory.

    Raises:
        ValueError: the directory has no card, or it is not JSON.
    """
    path = pathlib.Path(directory) / CARD
    if not path.is_file():
        raise ValueError(f"{directory} is not a run directory: it has no {CARD}.")
    return read_json(path)


def read_json(path):
    """The object in a JSON file.

    Raises:
        ValueError: the file does not hold a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object. Received: {type(value).__name__}.")
    return value


def read_history(directory):
    """The rows of the history, one an epoch; an interrupted last line is left out."""
    path = pathlib.Path(directory) / HISTORY
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def write_history(directory, rows):
    """Writes the history, atomically."""
    write_text(pathlib.Path(directory) / HISTORY, "".join(json.dumps(row) + "\n" for row in rows))


def save_state(directory, arrays, position):
    """Writes a checkpoint, atomically, and removes all but the last two.

    Args:
        directory: the run directory.
        arrays: `{name: array}`, everything that changes while a model trains.
        position: a JSON-ready dictionary with at least `step`, the number of steps taken so far.

    Returns:
        The path of the checkpoint.
    """
    from safetensors.numpy import save_file

    folder = pathlib.Path(directory) / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{position['step']:09d}.safetensors"
    partial = path.with_suffix(".partial")
    save_file(arrays, partial, metadata={"position": json.dumps(position)})
    _to_disk(partial)
    os.replace(partial, path)
    for old in checkpoints(directory)[:-KEPT]:
        old.unlink()
    return path


def checkpoints(directory):
    """Paths of the checkpoints of a run, oldest first."""
    return sorted((pathlib.Path(directory) / CHECKPOINTS).glob("step-*.safetensors"))


def load_state(path):
    """`(arrays, position)` of a checkpoint.

    Raises:
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            position = json.loads(file.metadata()["position"])
            return {name: file.get_tensor(name) for name in file.keys()}, position  # noqa: SIM118  no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The checkpoint {path} is damaged: {error}.") from error


def remove_checkpoints(directory):
    """Removes what only an unfinished run needs."""
    folder = pathlib.Path(directory) / CHECKPOINTS
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def to_arrays(groups):
    """`{name: array}` of the Keras variables in `{group: variables}`.

    A name is made of group, position and the variable's own name: what stands before that in its path is counted up
    with every model of a process.
    """
    import keras

    return {name: keras.ops.convert_to_numpy(v) for group in groups for name, v in _named(group, groups[group])}


def from_arrays(arrays, group, variables, path):
    """Gives the variables of one group the values that `to_arrays` took from them.

    Raises:
        ValueError: the checkpoint `path`, which the arrays are from, is of another model or optimizer.
    """
    named = dict(_named(group, variables))
    saved = {name: array for name, array in arrays.items() if name.startswith(f"{group}/")}
    different = sorted(name for name in named.keys() | saved.keys() if _shape(named, name) != _shape(saved, name))
    if different:
        raise ValueError(
            f"The checkpoint {path} is of another model or optimizer: {len(different)} of its values do not fit, such "
            f"as {different[0]}. Resume with the recipe and the precision that the run was started with."
        )
    for name, variable in named.items():
        variable.assign(saved[name])


def _named(group, variables):
    return [(f"{group}/{i:04d} {v.name}", v) for i, v in enumerate(variables)]


def _shape(values, name):
    return tuple(values[name].shape) if name in values else None


def write_json(path, value):
    """Writes a JSON file, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path, text):
    """Writes a text file, atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    _to_disk(partial)
    os.replace(partial, path)


def _to_disk(path):
    """Waits until the file is on the disk: after a power cut the new name must not show an empty file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
