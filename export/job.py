"""The directory in which a compression goes on: its job is written down there, done by a child, and collected.

An interrupted one is still there, and goes on from its last epoch.
"""

import contextlib
import dataclasses
import json
import shutil
import signal

import numpy as np

from export import child, compression, learned, recipes

DIRECTORY = "job"  # in that of the run
STALL_LIMIT_S = 1800.0  # without one batch done: the first one compiles


def claim(out, resume):
    """Checks, before any work is done, that a run can be written to a directory, or gone on with.

    Raises:
        ValueError: it is a file, holds a finished run, another kind of run, or an unfinished one and `resume` is False.
    """
    from resnet_keras import checkpoint

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must name a directory. Received a file: {out}.")
    if (out / checkpoint.CARD).exists():
        raise ValueError(f"{out} holds a finished run. Choose another --out, or delete it.")
    if (out / DIRECTORY).exists():
        if not resume:
            raise ValueError(f"{out} holds an unfinished run. Go on with --resume, choose another --out, or delete it.")
    elif held := next((name for name in (checkpoint.RUN, checkpoint.MODEL) if (out / name).exists()), None):
        raise ValueError(f"{out} holds something else, see {held}. Choose another --out.")


def prepare(directory, job, weights, images):
    """Writes a job down; one that is there already has to be the same.

    Args:
        directory: an existing directory.
        job: what `compression` reads, fit for JSON.
        weights: of the network, as `twin.values` gives them.
        images: `{"validation": calibration.ImageSet, "evaluation": calibration.ImageSet}`.

    Raises:
        ValueError: another job is written down there.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from resnet_keras import checkpoint

    text = json.dumps(job)
    path = directory / compression.JOB
    if path.is_file():
        if path.read_text() != text:
            raise ValueError(f"{directory.parent} was started in another way. Resume without changes, or delete it.")
        return
    try:
        save_file(weights, directory / compression.WEIGHTS)
    except SafetensorError as error:
        raise OSError(f"{directory} cannot be written: {error}") from error
    np.save(directory / compression.VALIDATION, images["validation"].images)
    np.save(directory / compression.EVALUATION, images["evaluation"].images)
    (directory / compression.CHECKPOINTS).mkdir(exist_ok=True)
    checkpoint.write_text(path, text)


@contextlib.contextmanager
def _terminable():
    """SIGTERM ends this process as an error does, and with it the child, which would else go on."""
    from resnet_keras import cli

    def leave(number, _):
        raise cli.Terminated("SIGTERM. Go on with --resume.", 128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def work(directory):
    """Runs the child to its end, with a bar for each round.

    Raises:
        ValueError: it refused the job, crashed or hung.
        ImportError: a package is missing.
    """
    from resnet_keras import cli

    seen, bars = {}, {}
    with _terminable(), contextlib.ExitStack() as stack:

        def heard(line):
            try:
                event = json.loads(line)
            except ValueError:  # what libraries print
                return
            if not isinstance(event, dict):
                return
            seen.update(event)
            if "step" in event:
                kind, step = event["stage"], event["step"]
                if kind not in bars:
                    stack.close()  # the bar of the round before
                    bars[kind] = stack.enter_context(cli.bar(kind, event["steps"], "steps", done=step)), step
                advance, before = bars[kind]
                advance(step - before)
                bars[kind] = advance, step
            elif "epoch" in event:
                cli.say(
                    f"{event['stage']} epoch {event['epoch']}/{event['epochs']}: loss {event['loss']:.4f}, same answer "
                    f"as float on {event['agreement_percent']:.2f} % of the validation images"
                )

        done = child.run("export.compression", [str(directory)], STALL_LIMIT_S, heard)
    if seen.get("missing"):
        raise ImportError(seen["missing"])
    if seen.get("refusal"):
        if not any(path.is_file() for path in (directory / compression.CHECKPOINTS).rglob("*")):
            shutil.rmtree(directory)  # nothing that a corrected call could go on with
        raise ValueError(seen["refusal"])
    if isinstance(done, str):
        hint = " The system does that when memory is short." if "SIGKILL" in done else ""
        raise ValueError(f"The training process {done}.{hint} Go on with --resume.")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ValueError(f"The training process ended with status {done.returncode}: {last}")


def collected(source, directory, description, limits):
    """The `Source` of the compressed network."""
    from safetensors.numpy import load_file

    arrays = load_file(directory / compression.BAKED)
    found = None
    if (directory / compression.LEARNED).is_file():
        values = json.loads((directory / compression.LEARNED).read_text())
        found = learned.Learned(learned.complete(values["ranges"], limits, description), values["steps"])
    return dataclasses.replace(source.with_weights(arrays), learned=found)


def same_percent(directory, candidate):
    """The share of the outputs of the file that are those of the trained network to within one step, in percent.

    None where no rounding was trained.
    """
    path = directory / compression.SCORES
    if not path.is_file():
        return None
    difference = np.abs(np.load(path) - candidate.scores)
    return 100.0 * float(np.mean(difference < 1.5 * recipes.OUTPUT_STEP))
