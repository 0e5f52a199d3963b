"""The memory that a file takes to run, found in a process of its own, since a process has one high-water mark.

python -m export.footprint FILE THREADS   is that process, which may crash or hang; it prints one line of JSON.
"""

import json
import pathlib
import re
import sys

import numpy as np

from export import backends, child, runtime

TIME_LIMIT_S = 600


def peak_bytes(path, threads, time_limit_s=TIME_LIMIT_S):
    """Runs the file twice.

    Args:
        path: a file that `runtime.Runner` takes.
        threads: processor threads.
        time_limit_s: after that many seconds the process is ended.

    Returns:
        The most memory that was resident at any time, above that of the process before it loaded the file, in bytes;
        None where the system does not tell (Windows).

    Raises:
        ValueError: the file cannot be run, or crashes or hangs its runtime.
        ImportError: the runtime is not installed.
    """
    done = child.run("export.footprint", [str(path), str(threads)], time_limit_s)
    if isinstance(done, str):
        raise ValueError(f"{path} cannot be run: the runtime {done}.")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ValueError(f"{path} cannot be run: it ended with status {done.returncode}: {last}") from None
    if "missing" in answer:
        raise ImportError(answer["missing"])
    if "refusal" in answer:
        raise ValueError(child.printable(answer["refusal"]))
    return answer["peak_bytes"]


# What follows runs in the child.


def _resident_peak_bytes():
    status = pathlib.Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])  # on Linux getrusage goes on from what the parent held when it started this process
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _answer(path, threads):
    try:
        backends.of(path).library()  # takes memory that is not the file's
        before = _resident_peak_bytes()
        runner = runtime.Runner(path, threads)
        runner.load(np.zeros(runner.image_shape, np.uint8))
        for _ in range(2):
            runner.invoke()
    except ImportError as error:
        return {"missing": str(error)}
    except (ValueError, OSError) as error:
        return {"refusal": str(error)}
    except Exception as error:  # whatever a runtime throws at a file that it had taken
        return {"refusal": f"{path} cannot be run: {error or type(error).__name__}"}
    return {"peak_bytes": None if before is None else _resident_peak_bytes() - before}


def main(path, threads):
    child.limit_memory()
    print(json.dumps(_answer(path, int(threads))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
