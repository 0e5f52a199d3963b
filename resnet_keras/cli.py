"""What all commands share: exit statuses, progress on stderr, tables on stdout. Imports nothing heavy."""

import contextlib
import os
import sys

GOOD, GATE_FAILED, BAD_INPUT, MISSING = 0, 1, 2, 3


def run(main):
    """Calls `main()` and leaves the process with its status, turning what a user can cause into one sentence.

    0 good, 1 a gate failed, 2 bad usage or input (`ValueError`, `OSError`), 3 something is missing from the environment
    (`ImportError`, `ConnectionError`). Set `RESNET_KERAS_DEBUG=1` to see the traceback.
    """
    try:
        status = main()
    except (ImportError, ConnectionError) as error:
        status = _report(error, MISSING)
    except (ValueError, OSError) as error:
        status = _report(error, BAD_INPUT)
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
def bar(description, total, unit):
    """A progress bar on stderr with rate and time left. Yields `advance(count, note="")`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    class Rate(ProgressColumn):
        def render(self, task):
            return f"{task.speed or 0:,.0f} {unit}/s"

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), Rate()
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(count, note=None):
            progress.update(task, advance=count, **({} if note is None else {"note": note}))

        yield advance


def quiet_tensorflow():
    """Selects the tensorflow backend's quiet start; call it before the first import of keras."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
