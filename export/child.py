"""A module of this package run in a process of its own, which may crash, hang or want all memory."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

MEMORY_LIMIT_BYTES = 8 * 2**30  # of address space: stops a hostile file before it takes the machine's memory


@dataclasses.dataclass(frozen=True)
class Done:
    """A process that came to an end by itself, well or not: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(module, arguments, time_limit_s, heard=None):
    """Runs `python -m module arguments` to its end.

    Args:
        module: a module of this project; its `main` should call `limit_memory` before it touches a foreign file.
        arguments: strings.
        time_limit_s: after that many seconds the process is ended; with `heard`, that many without a line of output.
        heard: called with each line that the process prints on stdout, as it is printed, from another thread.

    Returns:
        A `Done`, or a few words on why it came to no good end.
    """
    here = str(pathlib.Path(__file__).parent.parent)
    search = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": search},
        )
        try:
            lines = _listened(process, time_limit_s, heard)
        finally:
            process.kill()  # harmless where it has ended
            process.wait()
            process.stdout.close()
        stderr.seek(0)
        if lines is None:
            return f"{'gave no sign of life for' if heard else 'did not come to an end within'} {time_limit_s:g} s"
        if process.returncode < 0:
            return f"crashed ({signal.Signals(-process.returncode).name})"
        return Done(process.returncode, "".join(lines), stderr.read())


def _listened(process, time_limit_s, heard):
    """The lines that the process prints until it ends, or None if it takes too long."""
    lines, deadline_s = [], [time.monotonic() + time_limit_s]

    def read():
        for line in process.stdout:
            lines.append(line)
            if heard is not None:
                deadline_s[0] = time.monotonic() + time_limit_s
                heard(line)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(time_limit_s)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive():
        left_s = deadline_s[0] - time.monotonic()
        if left_s <= 0:
            process.kill()
            reader.join()
            return None
        reader.join(left_s)
    return lines if process.poll() is not None else None


def limit_memory():
    """Holds this process, a child, to a share of the machine's memory, and lets it leave no core file."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows; not above what the system allows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))


def printable(text):
    """Foreign text as it may be shown in a terminal, which takes some letters for commands."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
