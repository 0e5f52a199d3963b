"""Every recipe and format of one model in one table: accuracy, size, time, and which targets take the file.

python -m export.matrix --model runs/mine --html matrix.html
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import math
import os
import pathlib
import tempfile

from export import artifact, onnx_targets, targets

# A file alone keeps one core busy for most of the time; each process more takes as much memory as TensorFlow does.
MOST_PROCESSES = 2
SECONDS = 10.0
SLOWEST = "int16x8"  # by far, in LiteRT: begun first, it is not waited for at the end


@dataclasses.dataclass(frozen=True)
class File:
    """One file to make: `format` is its suffix without the dot, `target` what it is made for."""

    format: str
    recipe: str
    target: str

    @property
    def label(self):
        return f"{self.format} {self.recipe} for {self.target}"


FILES = (
    File("tflite", "float32", "app"),
    File("tflite", "float16", "app"),
    File("tflite", "dynamic", "app"),
    # Files for web and mediapipe are made as those for app, and those of one Ethos-U series alike.
    File("tflite", "int8", "app"),
    File("tflite", "int8", "edgetpu"),
    File("tflite", "int8", "micro"),
    File("tflite", "int8", "vivante"),
    File("tflite", "int8", "ethos-u55-128"),
    File("tflite", SLOWEST, "app"),
    # Float files differ in layout and batch alone: for tensorrt and openvino they are made as for ort-x86.
    *(File("onnx", recipe, name) for recipe in ("float32", "float16") for name in ("ort-x86", "ort-arm", "qnn")),
    *(File("onnx", "int8", name) for name in onnx_targets.TARGETS),
    File("onnx", SLOWEST, "qnn"),
)
# What each file is held against. One member stands for its Ethos-U series: the rules are the same for all of them.
CHECKED = {
    "tflite": (
        *(name for name in targets.TARGETS if not name.startswith("ethos-u")),
        "ethos-u55-128",
        "ethos-u65-256",
        "ethos-u85-256",
    ),
    "onnx": tuple(onnx_targets.TARGETS),
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a target takes a file; `takes` is None where its compiler is not installed. `reason` says why not."""

    target: str
    takes: bool | None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One file: what `verify` measured, what it takes, and who takes it.

    `failure` is why it failed its gate or could not be made, `missing` what has to be installed to make it. Figures are
    None where there is no such file, or no labels to measure an accuracy with.
    """

    format: str
    recipe: str
    target: str
    file: str | None = None
    top1_percent: float | None = None
    float_top1_percent: float | None = None
    agreement_percent: float | None = None
    drop_points: float | None = None
    drop_interval_points: tuple[float, float] | None = None
    size_bytes: int | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    verdicts: tuple[Verdict, ...] = ()
    failure: str | None = None
    missing: str | None = None

    @property
    def label(self):
        return File(self.format, self.recipe, self.target).label

    @property
    def gate(self):
        """The outcome in two words at most."""
        return "not installed" if self.missing else "failed" if self.failure else "passed"


@dataclasses.dataclass(frozen=True)
class Matrix:
    """All rows of one model; `timed` says on what their times were measured, None where nothing was."""

    model: str
    weights: str
    rows: tuple[Row, ...]
    timed: str | None

    def failure(self):
        """One sentence on the files that failed, or None."""
        failed = [row.label for row in self.rows if row.failure]
        return f"{len(failed)} of {len(self.rows)} files: {', '.join(failed)}" if failed else None


def build(options, out=None, seconds=SECONDS, files=None):
    """Makes, verifies, checks and times all files.

    Args:
        options: `model`, `weights`, `calibration_data`, `eval_data`, `labels` as `tflite.export` takes them; a dict.
        out: directory that keeps the files and their records, those of files that failed, too; default: none.
        seconds: about how long to measure times.
        files: `File`s; default: `FILES`.

    Returns:
        A `Matrix`.

    Raises:
        ValueError, OSError: something about the model, the images or the output directory.
        ImportError: a package is missing without which there is no file at all.
    """
    from resnet_keras import cli

    files = FILES if files is None else files
    if not 0 < seconds < math.inf:
        raise ValueError(f"--seconds must be a number above 0. Received: {seconds:g}.")
    if out is not None and pathlib.Path(out).exists() and not pathlib.Path(out).is_dir():
        raise ValueError(f"--out must name a directory. Received a file: {out}.")
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(out or stack.enter_context(tempfile.TemporaryDirectory()))
        pool = stack.enter_context(_processes(len(files)))
        try:
            name, weights, said = pool.submit(_check, options).result()
        except concurrent.futures.BrokenExecutor as error:
            raise ValueError("The process that loads the model was ended by the system.") from error
        paths = [directory / f"{name}_{file.recipe}_{file.target}.{file.format}" for file in files]
        for path in paths:
            artifact.claim(path)  # the exports replace what they find
        rows = _rows(pool, files, paths, options, said)
        if all(row.missing for row in rows):
            raise ImportError(rows[0].missing)
        rows, timed = _timed(rows, paths, seconds)
    for row in rows:
        if row.failure or row.missing:
            cli.say(f"{row.label}: {row.failure or row.missing}")
    return Matrix(name, weights, tuple(rows), timed)


def _processes(count):
    import multiprocessing

    return concurrent.futures.ProcessPoolExecutor(
        max(1, min(count, MOST_PROCESSES, os.cpu_count() or 1)),
        multiprocessing.get_context("spawn"),  # TensorFlow does not survive a fork
        _end_when_interrupted,
    )


def _rows(pool, files, paths, options, said):
    """A `Row` a file. What is `said` of the model, each export would say again: it is told once."""
    from resnet_keras import cli

    told = dict.fromkeys(said)
    order = sorted(range(len(files)), key=lambda k: files[k].recipe != SLOWEST)
    jobs = {pool.submit(make, files[k], paths[k], options): k for k in order}
    rows = {}
    try:
        with cli.bar("exporting", len(files), "files") as advance:
            for job in concurrent.futures.as_completed(jobs):
                file = files[jobs[job]]
                try:
                    rows[jobs[job]], lines = job.result()
                except concurrent.futures.BrokenExecutor:
                    lines, failure = [], "The process that made it, or one beside it, was ended by the system."
                    rows[jobs[job]] = Row(**vars(file), failure=failure)
                advance(1, file.label)
                told.update(dict.fromkeys(lines))
    except BaseException:  # such as an interrupt: nobody waits for the files that were not begun
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    for line in told:
        cli.say(line)
    return [rows[k] for k in range(len(files))]


def _timed(rows, paths, seconds):
    """The rows with their times, and what they were measured on."""
    from export import bench, footprint

    threads = os.cpu_count()
    made = {k: paths[k] for k, row in enumerate(rows) if row.file is not None}
    try:
        benches = bench.measure(made.values(), seconds) if made else []
    except ValueError:  # one that cannot be run is left out, not all
        for k, path in list(made.items()):
            try:
                footprint.peak_bytes(path, threads)
            except ValueError as error:
                del made[k]
                rows[k] = dataclasses.replace(rows[k], failure=rows[k].failure or str(error))
        benches = bench.measure(made.values(), seconds) if made else []
    for k, found in zip(made, benches, strict=True):
        rows[k] = dataclasses.replace(rows[k], p50_ms=found.p50_ms, p90_ms=found.p90_ms)
    if not benches:
        return rows, None
    runtimes = ", ".join(sorted({found.runtime for found in benches}))
    first = benches[0]
    counted = f"{first.threads} thread{'s' if first.threads > 1 else ''}, {first.rounds:,} rounds"
    return rows, f"{first.machine}, {counted}, {runtimes}"


# What follows runs in the processes of the pool.


def _end_when_interrupted():
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback; the command itself says that it was interrupted


def _check(options):
    """`(name, origin of the weights, lines)` of the model; what is wrong with all files is found before the first."""
    from export import calibration, source

    said = []
    loaded = source.load(options.get("model"), options.get("weights"), options.get("labels"))
    calibration.gather(loaded, options.get("calibration_data"), options.get("eval_data"), say=said.append)
    return loaded.name, loaded.weights, said


def make(file, path, options):
    """Exports one file, and holds it against all targets of its format.

    Returns:
        `(Row, lines)`: the lines are what the export said.
    """
    from resnet_keras import cli

    with cli.held_stderr() as read:
        try:
            row = _made(file, path, options)
        except ImportError as error:
            row = Row(**vars(file), missing=str(error))
        except Exception as error:  # converters raise many kinds, and the other files are worth having
            row = Row(**vars(file), failure=" ".join(str(error).split()) or type(error).__name__)
        lines = [line for line in read().splitlines() if line.strip() and "━" not in line]
    return row, lines


def _made(file, path, options):
    from export import onnx, tflite

    export = {"tflite": tflite.export, "onnx": onnx.export}[file.format]
    record, report, failure = export(recipe=file.recipe, target=file.target, out=path, force=True, **options)
    return Row(
        **vars(file),
        file=path.name,
        top1_percent=report.top1_percent,
        float_top1_percent=report.float_top1_percent,
        agreement_percent=report.agreement_percent,
        drop_points=report.drop_points,
        drop_interval_points=report.drop_interval_points,
        size_bytes=record["size_bytes"],
        verdicts=tuple(_verdict(path, file, name, record) for name in CHECKED[file.format]),
        failure=failure,
    )


def _verdict(path, file, name, record):
    try:
        found = record["lint"]["problems"] if name == file.target else _problems(path, file, name)
    except ImportError as error:
        return Verdict(name, None, str(error))
    except ValueError as error:
        return Verdict(name, False, str(error))
    return Verdict(name, not found, found[0] if found else None)


def _problems(path, file, name):
    from export import lint, rules, tflite_file

    if file.format == "tflite":
        # What the rules refuse need not be compiled, which takes a process and most of the time.
        found = rules.problems(tflite_file.read(path)[1], targets.get(name))
        if found:
            return found
    return lint.lint(path, name).problems


def table(rows):
    """Header and lines for `cli.print_table`."""
    header = "format", "recipe", "made for", "top-1", "same answer", "drop, 95 %", "size", "p50", "gate", "taken by"
    return header, [
        (
            row.format,
            row.recipe,
            row.target,
            percent(row.top1_percent),
            percent(row.agreement_percent),
            drop(row),
            "-" if row.size_bytes is None else f"{row.size_bytes / 1024:,.0f} KiB",
            "-" if row.p50_ms is None else f"{row.p50_ms:.2f} ms",
            row.gate,
            _takers(row),
        )
        for row in rows
    ]


def percent(figure):
    """A figure of a table, `-` where there is none."""
    return "-" if figure is None else f"{figure:.2f} %"


def drop(row):
    """The drop of a row in points with its interval."""
    if row.drop_points is None:
        return "-"
    interval = row.drop_interval_points
    return f"{row.drop_points:+.2f}" + (f" ({interval[0]:+.2f} to {interval[1]:+.2f})" if interval else "")


def _takers(row):
    if not row.verdicts:
        return "-"
    takers = ", ".join(verdict.target for verdict in row.verdicts if verdict.takes) or "none"
    unknown = ", ".join(verdict.target for verdict in row.verdicts if verdict.takes is None)
    return f"{takers}; not installed: {unknown}" if unknown else takers


def parser():
    """The command line; importing nothing heavy keeps `--help` instant."""
    p = argparse.ArgumentParser(prog="python -m export.matrix", description=__doc__.split("\n")[0])
    p.add_argument("--model", help="run directory, .keras file or model name (default: the bundled ResNet-20)")
    p.add_argument("--weights", help="for a model name: imagenet or another published tag, a file, or random")
    p.add_argument("--calibration-data", metavar="DIR|NPZ", help="typical images that set the int8 ranges")
    p.add_argument("--eval-data", metavar="DIR|NPZ", help="other images, to verify the files with")
    p.add_argument("--labels", metavar="FILE", help="text file with one class name a line")
    p.add_argument("--out", metavar="DIR", help="keep all files there, those that fail as well (default: keep none)")
    p.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"about how long to time the files (default: {SECONDS:g})"
    )
    p.add_argument("--html", metavar="FILE", help="write the table as a page that needs no other file")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    from export import command, matrix_page, page
    from resnet_keras import cli

    command.say_default(args)
    as_json, html, out, seconds = (vars(args).pop(name) for name in ("json", "html", "out", "seconds"))
    if html is not None:
        page.claim(html)
    found = build(vars(args), out, seconds)
    if html is not None:
        matrix_page.write(html, found)
    if as_json:
        cli.print_result([], dataclasses.asdict(found), as_json=True)
    else:
        cli.print_table(*table(found.rows))
    if found.timed is not None:
        cli.say(found.timed)
    return cli.gate(found.failure())


if __name__ == "__main__":
    from resnet_keras import cli

    cli.run(main)
