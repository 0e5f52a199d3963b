"""All files of one model in one table: each figure is that of its file, and none is left out in silence."""

import html
import json
import os
import re

import numpy as np
import pytest
from trained import briefly_trained

from export import lint, matrix, matrix_page, onnx, onnx_targets, recipes, targets, tflite
from resnet_keras import cli, data

FEW = (
    matrix.File("tflite", "float32", "app"),
    matrix.File("tflite", "int8", "micro"),
    matrix.File("onnx", "int8", "tensorrt"),
)
SHAPE = (16, 16, 3)


def run(arguments, capfd):
    """`(exit status, stdout, stderr)` of the command, in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: matrix.main([str(a) for a in arguments]))
    return stopped.value.code, *capfd.readouterr()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Arguments that name a small model and its images."""
    directory = tmp_path_factory.mktemp("inputs")
    model, _ = briefly_trained(directory, input_shape=SHAPE)
    sample = data.load("fashion_mnist_sample")
    np.savez(directory / "typical.npz", images=sample.train.images[:40, :16, :16])
    np.savez(directory / "judging.npz", images=sample.test.images[:60, :16, :16], labels=sample.test.labels[:60])
    named = {"--calibration-data": "typical.npz", "--eval-data": "judging.npz"}
    return ["--model", model, *(part for option, name in named.items() for part in (option, directory / name))]


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """The command with a few files: `(exit status, what it printed, its directory)`."""
    directory = tmp_path_factory.mktemp("whole")
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "FILES", FEW)
        patch.setattr("builtins.print", lambda *texts, **_: printed.append(" ".join(map(str, texts))))
        arguments = [
            *inputs,
            "--out",
            directory / "files",
            "--html",
            directory / "x.html",
            "--seconds",
            "0.1",
            "--json",
        ]
        status = matrix.main([str(a) for a in arguments])
    return status, json.loads(next(text for text in printed if text.startswith("{"))), directory


class TestWhole:
    def test_a_row_a_file_with_the_figures_of_its_record(self, whole):
        status, found, directory = whole
        assert found["model"] == "mine"
        assert [(row["format"], row["recipe"], row["target"]) for row in found["rows"]] == [
            (file.format, file.recipe, file.target) for file in FEW
        ]
        for row in found["rows"]:
            path = directory / "files" / row["file"]
            record = json.loads(path.with_suffix(".json").read_text())
            assert (record["recipe"], record["target"]) == (row["recipe"], row["target"])
            assert row["size_bytes"] == path.stat().st_size
            for name in ("top1_percent", "agreement_percent", "drop_points", "drop_interval_points"):
                assert row[name] == record["measured"][name], name
            assert record["measured"]["images"] == 60
            assert 0 < row["p50_ms"] <= row["p90_ms"]
        assert status == int(any(row["failure"] for row in found["rows"]))
        assert len(list((directory / "files").iterdir())) == 2 * len(FEW)

    def test_the_verdicts_are_those_of_lint(self, whole):
        _, found, directory = whole
        for row in found["rows"]:
            assert [verdict["target"] for verdict in row["verdicts"]] == list(matrix.CHECKED[row["format"]])
            for verdict in row["verdicts"]:
                problems = lint.lint(directory / "files" / row["file"], verdict["target"]).problems
                assert (verdict["takes"], verdict["reason"]) == (not problems, problems[0] if problems else None)
        takers = [{v["target"] for v in row["verdicts"] if v["takes"]} for row in found["rows"]]
        assert "app" in takers[0]
        assert "micro" not in takers[0]
        assert {"micro", "ethos-u55-128"} <= takers[1]
        assert "tensorrt" in takers[2]

    def test_the_page_has_it_all_and_needs_nothing(self, whole):
        _, found, directory = whole
        page = (directory / "x.html").read_text()
        assert not re.search(r"<script|<link|src=|url\(|https?:", page)
        assert "prefers-color-scheme: dark" in page
        text = html.unescape(re.sub("<[^>]+>", "|", page))
        for row in found["rows"]:
            assert f"|{row['format']} {row['recipe']} for {row['target']}|" in text
            assert f"|{row['p50_ms']:.2f} ms|" in text
            assert all(verdict["reason"] in text for verdict in row["verdicts"] if verdict["reason"])
        verdicts = [verdict["takes"] for row in found["rows"] for verdict in row["verdicts"]]
        assert (text.count("|takes it|"), text.count("|no|")) == (verdicts.count(True), verdicts.count(False))
        widths = [float(width) for width in re.findall('rect width="([0-9.]+)"', page)]
        assert len(widths) == 2 * len(FEW)
        assert max(widths[::2]) == max(widths[1::2]) == 100
        sizes = [row["size_bytes"] for row in found["rows"]]
        assert widths[::2] == pytest.approx([100 * size / max(sizes) for size in sizes], abs=0.01)

    def test_one_slow_file_leaves_the_bars_of_the_others(self, tmp_path):
        rows = tuple(matrix.Row(**vars(FEW[0]), file="x", p50_ms=ms) for ms in (1.0, 1.0, 2.0, 100.0))
        matrix_page.write(tmp_path / "x.html", matrix.Matrix("mine", "file", rows, "a machine"))
        page = (tmp_path / "x.html").read_text()
        assert re.findall('rect width="([0-9.]+)"', page)[1::2] == ["16.67", "16.67", "33.33", "100.00"]
        assert "on a machine; its bar is full from 6.00 ms on" in page

    def test_one_that_cannot_be_run_is_left_out_of_the_times(self, whole, tmp_path):
        directory = whole[2] / "files"
        good = directory / whole[1]["rows"][1]["file"]
        bad = tmp_path / "bad.tflite"
        bad.write_bytes(good.read_bytes()[:1000])
        rows = [matrix.Row(**vars(FEW[1]), file=path.name) for path in (bad, good)]
        (first, second), timed = matrix._timed(rows, [bad, good], seconds=0.01)
        assert (first.p50_ms, first.gate) == (None, "failed")
        assert "bad.tflite" in first.failure
        assert second.p50_ms > 0
        assert second.gate == "passed"
        assert "LiteRT" in timed


class TestOneFile:
    """In this process, where parts of it can be replaced."""

    def test_a_missing_package_is_said(self, tmp_path, monkeypatch):
        def export(**_):
            raise ImportError("onnx is missing.")

        monkeypatch.setattr(onnx, "export", export)
        row, _ = matrix.make(FEW[2], tmp_path / "x.onnx", {})
        assert (row.missing, row.failure, row.gate) == ("onnx is missing.", None, "not installed")
        assert "not installed" in matrix.table([row])[1][0]

    def test_a_failing_converter_fails_its_file_alone(self, tmp_path, monkeypatch):
        def export(**_):
            os.write(2, b"skipped 2 unreadable images\n")
            raise RuntimeError("no such\n op")

        monkeypatch.setattr(tflite, "export", export)
        row, lines = matrix.make(FEW[0], tmp_path / "x.tflite", {})
        assert (row.failure, row.gate, row.size_bytes) == ("no such op", "failed", None)
        assert lines == ["skipped 2 unreadable images"]

    def test_a_missing_compiler_is_neither_yes_nor_no(self, whole, monkeypatch):
        def missing(*_):
            raise ImportError("Vela is missing.")

        path = whole[2] / "files" / whole[1]["rows"][1]["file"]
        monkeypatch.setattr(lint, "lint", missing)
        record = {"lint": {"problems": ()}}
        verdicts = tuple(matrix._verdict(path, FEW[1], name, record) for name in ("micro", "ethos-u55-128", "vivante"))
        assert [verdict.takes for verdict in verdicts] == [True, None, False]  # no compiler is needed to refuse
        row = matrix.Row(**vars(FEW[1]), file="x.tflite", verdicts=verdicts)
        assert matrix.table([row])[1][0][-1] == "micro; not installed: ethos-u55-128"


def some(**changes):
    rows = (matrix.Row(**vars(FEW[0]), file="a.tflite"), matrix.Row(**vars(FEW[2]), **changes))
    return matrix.Matrix("mine", "file", rows, None)


class TestOutcome:
    @pytest.mark.parametrize(
        ("changes", "status", "word"),
        [
            ({"failure": "The accuracy <drops>."}, 1, "failed"),
            ({"missing": "onnx is missing."}, 0, "not installed"),
            ({"file": "b.onnx"}, 0, "passed"),
        ],
    )
    def test_status_table_and_page(self, monkeypatch, capfd, tmp_path, changes, status, word):
        monkeypatch.setattr(matrix, "build", lambda *_: some(**changes))
        code, out, err = run(["--model", "mine", "--html", tmp_path / "x.html"], capfd)
        assert code == status
        assert ("failed: 1 of 2 files: onnx int8 for tensorrt" in err) == (status == 1)
        first, second = out.splitlines()[1:]
        assert " passed " in first
        assert f" {word} " in second
        page = (tmp_path / "x.html").read_text()
        assert f"<td>{word}</td>" in page
        for reason in {"failure", "missing"} & changes.keys():
            assert html.escape(changes[reason]) in page

    def test_the_default_is_said(self, monkeypatch, capfd):
        monkeypatch.setattr(matrix, "build", lambda *_: some())
        assert "the bundled ResNet-20" in run([], capfd)[2]

    def test_nothing_measured_is_no_figure(self):
        cells = matrix.table([matrix.Row(**vars(FEW[0]))])[1][0]
        assert cells[3:8] == ("-",) * 5

    def test_where_nothing_can_be_made_the_status_says_so(self, monkeypatch):
        monkeypatch.setattr(matrix, "_rows", lambda *_: [matrix.Row(**vars(FEW[0]), missing="LiteRT is missing.")])
        monkeypatch.setattr(matrix, "_processes", lambda count: Pool())
        with pytest.raises(ImportError, match="LiteRT is missing"):
            matrix.build({}, files=FEW[:1])


class Pool:
    """One that does nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        return self

    def result(self):
        return "mine", "file", []


class TestBadInput:
    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
    def test_seconds(self, capfd, seconds):
        code, _, err = run(["--model", "x", f"--seconds={seconds}"], capfd)
        assert code == 2
        assert "--seconds must be a number above 0" in err

    def test_no_such_model(self, capfd, tmp_path):
        code, out, err = run(["--model", tmp_path / "none.keras"], capfd)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert err.startswith("error: There is no file")

    def test_out_is_a_file(self, capfd, tmp_path):
        (tmp_path / "x").touch()
        code, _, err = run(["--model", "x", "--out", tmp_path / "x"], capfd)
        assert code == 2
        assert "--out must name a directory" in err

    def test_a_page_that_cannot_be_written(self, capfd, tmp_path):
        assert run(["--model", "x", "--html", tmp_path / "no" / "x.html"], capfd)[0] == 2

    def test_a_foreign_file_stays(self, monkeypatch, tmp_path):
        monkeypatch.setattr(matrix, "_processes", lambda count: Pool())
        foreign = tmp_path / "mine_int8_micro.tflite"
        foreign.write_bytes(b"mine")
        with pytest.raises(ValueError, match="exists and was not written by this command"):
            matrix.build({}, tmp_path, files=FEW)
        assert foreign.read_bytes() == b"mine"


class TestList:
    def test_every_recipe_and_only_what_targets_take(self):
        assert len(set(matrix.FILES)) == len(matrix.FILES)
        for file in matrix.FILES:
            if file.format == "tflite":
                assert targets.get(file.target).edge(recipes.get(file.recipe))
            else:
                onnx_targets.get(file.target).check(recipes.get(file.recipe))
            assert file.target in matrix.CHECKED[file.format]
        assert {f.recipe for f in matrix.FILES if f.format == "tflite"} == recipes.RECIPES.keys()
        assert {f.target for f in matrix.FILES if f.format == "onnx"} == onnx_targets.TARGETS.keys()

    def test_one_member_stands_for_its_series(self):
        """The others differ from it in nothing but the size that is compiled for."""

        def kind(target):
            return {**vars(target), "name": target.name.rpartition("-")[0], "description": None}

        checked = [kind(targets.get(name)) for name in matrix.CHECKED["tflite"]]
        assert all(kind(target) in checked for target in targets.TARGETS.values() if target.name.startswith("ethos-u"))
        assert all(name in matrix.CHECKED["tflite"] for name in targets.TARGETS if not name.startswith("ethos-u"))
