"""What all commands share: exit statuses, progress on stderr, tables on stdout. Imports nothing heavy."""

import contextlib
import difflib
import os
import sys
import tempfile

GOOD, GATE_FAILED, BAD_INPUT, MISSING = 0, 1, 2, 3


class Terminated(Exception):
    """A command stopped in good order because a signal asked it to; `status` is 128 and the signal's number."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


@contextlib.contextmanager
def going_on(how):
    """Lets a stopped run end with a sentence on how to go on with it, which only the command knows."""
    try:
        yield
    except Terminated as stop:
        raise Terminated(f"{stop} {how}", stop.status) from None


def run(main):
    """Calls `main()` and leaves the process with its status, turning what a user can cause into one sentence.

    0 good, 1 a gate failed, 2 bad usage or input (`ValueError`, `OSError`), 3 something is missing from the environment
    (`ImportError`, `ConnectionError`), 128 and its number for a signal. `RESNET_KERAS_DEBUG=1` shows the traceback.
    """
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = GOOD
    except (ImportError, ConnectionError) as error:
        status = _report(error, MISSING)
    except (ValueError, OSError) as error:
        status = _report(error, BAD_INPUT)
    except Terminated as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        status = stop.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def _report(error, status):
    if os.environ.get("RESNET_KERAS_DEBUG"):
        raise error
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def say(text):
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def bar(description, total, unit, done=0):
    """A progress bar on stderr with rate and time left, `done` already. Yields `advance(count, note=None)`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    class Rate(ProgressColumn):
        def render(self, task):
            speed = task.speed or 0
            return f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s"

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), Rate()
    # On a descriptor of its own the bar stays visible while `held_stderr` holds what libraries print.
    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stderr:
        layout = (*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*layout, console=Console(file=stderr)) as progress:
            task = progress.add_task(description, total=total, completed=done, note="")

            def advance(count, note=None):
                progress.update(task, advance=count, **({} if note is None else {"note": note}))

            yield advance


@contextlib.contextmanager
def held_stderr():
    """Holds back what libraries write to stderr, from C++ too. Yields a callable that reads it so far."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:

        def read():
            held.seek(0)
            return held.read().decode(errors="replace")

        os.dup2(held.fileno(), 2)
        try:
            yield read
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def import_keras():
    """Imports keras, its backend and the layers of saved models, without start-up messages; commands call this first.

    Raises:
        ImportError: keras or its backend is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with held_stderr():
            import keras  # noqa: F401

            import resnet_keras.layers  # noqa: F401
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise ImportError(
            f"Keras or its backend {backend!r} is missing. Install them with: pip install 'resnet-keras[export]', "
            "or choose another backend with KERAS_BACKEND."
        ) from error


def print_result(rows, record, as_json=False):
    """Prints `(what, figure)` rows as a table on stdout, or `record` as JSON."""
    import json

    if as_json:
        print(json.dumps(record, indent=2))
        return
    width = max(len(what) for what, _ in rows)
    for what, figure in rows:
        print(f"{what:<{width}}  {figure}")


def print_table(header, lines):
    """Prints a table with a header on stdout; every cell is a string."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def gate(failure):
    """The exit status of a command whose gate failed for the reason `failure`, or did not (None)."""
    if failure is None:
        return GOOD
    print(f"failed: {failure}", file=sys.stderr)
    return GATE_FAILED


def looked_up(table, name, kind):
    """The entry of that name in a table of named rows.

    Args:
        table: a dictionary.
        name: what a user named.
        kind: what the table holds, such as `"recipe"`.

    Raises:
        ValueError: there is none; says which is near.
    """
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown {kind}. Received: {name!r}.{hint} Expected one of: {', '.join(table)}.")
    return table[name]
