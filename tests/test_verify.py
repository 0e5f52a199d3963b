"""What verify says of sound files, of files that were spoilt in one way each, and of damaged ones."""

import dataclasses
import html.parser
import itertools
import json
import math
import re
import time

import coloured
import numpy as np
import pytest
import tensorflow as tf
from mutation import mutated
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from export import (
    artifact,
    calibration,
    child,
    comparison,
    conversion,
    execution,
    metadata,
    parts,
    source,
    tflite_file,
)
from export import verify as command
from export.verify import verify
from resnet_keras import cli
from resnet_keras.preprocessing import Preprocess


@dataclasses.dataclass
class Case:
    """A model, images that calibrate its files and judge them, its float32 file, and where to write others."""

    source: source.Source
    calibration: calibration.ImageSet
    evaluation: calibration.ImageSet
    twin: object
    directory: object

    def file(self, data, name="x.tflite"):
        path = self.directory / name
        path.write_bytes(data)
        return path

    def verify(self, data):
        return verify(self.file(data), self.source, self.evaluation, self.twin)


def case(loaded, calibrated, evaluation, directory):
    twin = directory / "float32.tflite"
    twin.write_bytes(conversion.convert(loaded, "float32"))
    return Case(loaded, calibrated, evaluation, twin, directory)


@pytest.fixture(scope="module")
def clothes(tmp_path_factory):
    """The bundled model, which was trained on grey images."""
    loaded = source.load()
    calibrated, evaluation = calibration.gather(loaded)
    return case(loaded, calibrated.take(slice(100)), evaluation.take(slice(250)), tmp_path_factory.mktemp("clothes"))


@pytest.fixture(scope="module")
def clothes_int8(clothes):
    return conversion.convert(clothes.source, "int8", "float32", clothes.calibration)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A small model that tells colours apart."""
    images = coloured.dataset()
    run = coloured.trained(images, tmp_path_factory.mktemp("run"))
    train, test = images.train, images.test
    return case(
        source.load(str(run)),
        calibration.ImageSet(train.images[:100], train.labels[:100], "coloured training"),
        calibration.ImageSet(test.images, test.labels, "coloured test"),
        tmp_path_factory.mktemp("colours"),
    )


@pytest.fixture(scope="module")
def colours_int8(colours):
    return conversion.convert(colours.source, "int8", "float32", colours.calibration)


def edited(data, edit):
    """The file after `edit(model, {name: tensor})` has changed it as objects."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    edit(model, {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors})
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def with_values(data, name, change, dtype=np.int8):
    """The file with the stored values of one constant changed."""

    def edit(model, tensors):
        tensor = tensors[name]
        buffer = model.buffers[tensor.buffer]
        values = np.frombuffer(bytes(buffer.data), dtype).reshape(tensor.shape)
        buffer.data = np.frombuffer(np.ascontiguousarray(change(values), dtype).tobytes(), np.uint8)

    return edited(data, edit)


class TestFigures:
    def test_the_interval_of_a_published_table(self):
        """1,144 people asked two questions, 132 and 107 of whom said yes to one alone: -0.004 to 0.048 (Agresti, An
        Introduction to Categorical Data Analysis, 2nd edition, section 8.1.2, without the half observations).
        """
        assert comparison.paired_interval_points(132, 107, 1144) == pytest.approx((-0.4, 4.8), abs=0.08)

    def test_the_interval_where_nothing_changes(self):
        # Two halves in 100: a variance of 0.01 / 100.
        assert comparison.paired_interval_points(0, 0, 98) == pytest.approx((-comparison.Z, comparison.Z))

    def test_the_interval_holds_the_truth_in_95_of_100_cases(self):
        count, lost, won = 60, 0.05, 0.02

        def probability(b, c):
            ways = math.comb(count, b) * math.comb(count - b, c)
            return ways * lost**b * won**c * (1 - lost - won) ** (count - b - c)

        held = 0.0
        for b, c in itertools.product(range(count + 1), repeat=2):
            low, high = comparison.paired_interval_points(b, c, count)
            if b + c <= count and low <= 100 * (lost - won) <= high:
                held += probability(b, c)
        assert 0.94 <= held <= 0.99

    def test_what_changes(self):
        reference = np.eye(3)[[0, 0, 1, 1, 2]]
        scores = np.eye(3)[[0, 1, 1, 0, 0]]
        found = comparison.compare(reference, scores, np.array([0, 0, 1, 0, 1]))
        assert (found.right_to_wrong, found.wrong_to_right, found.wrong_to_wrong) == (1, 1, 1)
        assert (found.drop_points, found.agreement_percent, found.largest_difference) == (0, 40, 1)
        assert comparison.compare(reference, scores).right_to_wrong is None

    def test_divergence(self):
        half = np.array([[0.5, 0.5]])
        expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
        assert comparison.mean_kl(half, np.array([[0.75, 0.25]])) == pytest.approx(expected)
        # A zero in steps of 1/256 is anything below 1/512, and the two then sum to 513/512.
        rounded = 0.5 * math.log(0.5 * 513 / 512) + 0.5 * math.log(0.5 * 513)
        assert comparison.mean_kl(half, np.array([[1.0, 0.0]]), step=1 / 256) == pytest.approx(rounded)
        assert comparison.mean_kl(half, half) == 0
        assert comparison.mean_kl(np.array([[1.0, 0.0]]), half) == pytest.approx(math.log(2))


class TestSoundFiles:
    def test_int8(self, clothes, clothes_int8):
        report = clothes.verify(clothes_int8)
        assert report.failure() is None
        assert report.findings == ()
        assert report.seen.is_faithful
        names = [layer.name for layer in report.observation.layers]
        assert {"stem_relu", "stage1_block1_relu1", "stage2_block1_pad1", "stage3_block3_out", "pool", "logits"} <= set(
            names
        )
        assert report.observation.left_out == 0
        # 8 bits are 256 steps; a ReLU network uses few of them for most of its values.
        assert all(20 < layer.snr_db < 50 for layer in report.observation.layers)
        assert report.observation.worst.snr_db == min(layer.snr_db for layer in report.observation.layers)
        assert report.observation.fullest.saturated_percent < 0.1
        assert all(weights.error < 0.02 for weights in report.observation.weights[1:])

    def test_the_difference_is_quantization(self, clothes, clothes_int8):
        preprocessing, converted, quantized = clothes.verify(clothes_int8).split
        assert [part.name for part in (preprocessing, converted, quantized)] == [
            "preprocessing",
            "conversion",
            "quantization",
        ]
        assert (preprocessing.mean_difference, preprocessing.kl) == (0, 0)
        assert converted.mean_difference < 1e-6  # another order of summation in float32
        assert 1e-4 < quantized.mean_difference < 1e-2
        assert quantized.kl > 100 * converted.kl

    @pytest.mark.parametrize(("recipe", "lowest_db"), [("float32", 80), ("float16", 45)])
    def test_float(self, clothes, recipe, lowest_db):
        report = clothes.verify(conversion.convert(clothes.source, recipe))
        assert report.failure(0) is None
        assert report.findings == ()
        assert report.observation.worst.snr_db > lowest_db  # 24 bits, or weights of 11
        assert {layer.saturated_percent for layer in report.observation.layers} == {None}

    @pytest.mark.parametrize(("io", "target"), [("int8", "app"), ("int8", "ethos-u85-256"), ("uint8", "web")])
    def test_integer_edges(self, clothes, io, target):
        report = clothes.verify(conversion.convert(clothes.source, "int8", io, clothes.calibration, target))
        assert report.failure() is None
        assert report.findings == ()
        assert report.observation.worst.snr_db > 20

    def test_colours(self, colours, colours_int8):
        report = colours.verify(colours_int8)
        assert report.failure() is None
        assert report.findings == ()
        assert report.seen.order == (0, 1, 2)

    def test_the_output_has_steps(self, clothes, clothes_int8):
        _, model = tflite_file.read(clothes.file(clothes_int8))
        assert command.output_step(model) == 1 / 256
        _, model = tflite_file.read(clothes.twin)
        assert command.output_step(model) == 0

    def test_a_foreign_file_shows_no_layers_and_that_is_said(self, colours, capsys):
        path = foreign(colours.source.reference, colours.directory / "foreign.tflite", lambda x: x)
        report = verify(path, colours.source, colours.evaluation)
        assert report.failure(0) is None
        assert ("layers", "none can be matched by name") in command.rows(report, "file")


def foreign(network, path, prepare):
    """A float file under another converter's names, whose input has to be prepared by the inverse of `prepare`."""
    signature = tf.TensorSpec((1, *network.input_shape[1:]), tf.float32, name="image")
    concrete = tf.function(lambda image: network(prepare(image), training=False)).get_concrete_function(signature)
    frozen = convert_variables_to_constants_v2(concrete)
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())
    return path


class TestSabotage:
    @pytest.mark.parametrize(
        ("recipe", "mean"), [("float32", 160.0), ("int8", 96.0), ("int8", (128.0, 128.0, 64.0)), ("int16x8", 96.0)]
    )
    def test_a_wrong_mean(self, colours, recipe, mean):
        wrong = dataclasses.replace(colours.source, mean=mean)
        report = colours.verify(conversion.convert(wrong, recipe, None, colours.calibration))
        assert "normalises its pixels with a mean of" in report.failure()
        assert "where the model has 128" in report.failure()
        inside = 128.0 - np.array(report.seen.shifts)
        assert inside == pytest.approx(np.broadcast_to(mean, 3), abs=2)
        preprocessing, _, quantized = report.split
        assert preprocessing.mean_difference > 3 * quantized.mean_difference

    def test_a_wrong_mean_of_the_bundled_model(self, clothes):
        wrong = dataclasses.replace(clothes.source, mean=96.0)
        report = clothes.verify(conversion.convert(wrong, "int8", "float32", clothes.calibration))
        assert "a mean of 96 where the model has 128" in report.failure()
        assert "standard deviation" not in report.failure()

    def test_a_wrong_standard_deviation(self, clothes, clothes_int8):
        def halve(model, tensors):
            for name in ("stem_conv/kernel", "stem_conv/bias"):
                quantization = tensors[name].quantization
                quantization.scale = [scale / 2 for scale in quantization.scale]

        def restore(values):  # the bias does not depend on the deviation
            return values * 2

        data = with_values(edited(clothes_int8, halve), "stem_conv/bias", restore, np.int32)
        found = re.search(r"with a standard deviation of (\d+) where the model has 128", clothes.verify(data).failure())
        assert int(found[1]) == pytest.approx(256, rel=0.01)

    def test_swapped_channels(self, colours, colours_int8):
        data = with_values(colours_int8, "stem_conv/kernel", lambda kernel: kernel[..., ::-1])
        report = colours.verify(data)
        assert "The accuracy drops by" in report.failure()
        assert "in another order than the model: blue, green, red" in report.failure()
        assert report.split[0].agreement_percent < 80 < report.split[2].agreement_percent

    @pytest.mark.parametrize("name", ["stem_conv", "stage2_block1_conv1", "stage3_block3_conv2", "logits"])
    def test_the_weights_of_one_layer_are_lost(self, clothes, clothes_int8, name):
        report = clothes.verify(with_values(clothes_int8, f"{name}/kernel", np.zeros_like))
        assert f"All weights of {name} are 0" in report.failure(100)

    def test_lost_weights_that_the_file_does_not_show(self, clothes, clothes_int8):
        def hide(model, tensors):
            for name, tensor in tensors.items():
                if name.endswith("/kernel"):
                    tensor.name = f"w{tensor.buffer}"

        data = edited(with_values(clothes_int8, "stage2_block2_conv1/kernel", np.zeros_like), hide)
        report = clothes.verify(data)
        assert "stage2_block2_relu1 gives the same values in the file whatever the image is" in report.failure()

    def test_the_weights_of_one_layer_are_others(self, clothes, clothes_int8):
        data = with_values(clothes_int8, "stage2_block2_conv1/kernel", lambda kernel: kernel[::-1])
        assert "The weights of stage2_block2_conv1 are not the model's" in clothes.verify(data).failure()

    def test_the_bias_of_one_layer_is_lost(self, clothes, clothes_int8):
        data = with_values(clothes_int8, "stage1_block3_conv1/bias", lambda bias: bias - 2**16, np.int32)
        assert "Most is lost at stage1_block3_relu1" in clothes.verify(data).failure(-100)

    def test_the_weights_of_another_model(self, clothes):
        stranger = dataclasses.replace(source.load("resnet20", "random"), labels=clothes.source.labels)
        report = clothes.verify(conversion.convert(stranger, "float32"))
        assert "of another model or of another checkpoint" in report.failure()

    def test_calibration_on_black_images(self, clothes):
        black = dataclasses.replace(clothes.calibration, images=np.zeros_like(clothes.calibration.images))
        report = clothes.verify(conversion.convert(clothes.source, "int8", "float32", black))
        assert "layers are too narrow, first that of stage1_block1" in report.failure()
        assert "Calibrate with images like those of the app" in report.failure()

    def test_a_file_for_bgr_under_foreign_names(self, colours):
        path = foreign(colours.source.reference, colours.directory / "bgr.tflite", lambda x: x[..., ::-1])
        report = verify(path, colours.source, colours.evaluation)
        assert "The file wants raw BGR pixels, 0 to 255" in report.failure()

    def test_no_numbers(self, colours):
        data = with_values(colours.twin.read_bytes(), "logits/bias", lambda bias: bias * np.nan, np.float32)
        report = colours.verify(data)
        assert report.failure(100) == "The file gives values that are not numbers."
        assert (report.kl, report.largest_difference) == (None, None)


class TestLabels:
    def with_labels(self, case, data, labels):
        return metadata.write(data, name="x", description="", labels=labels)

    def test_those_in_the_file(self, colours, colours_int8):
        good = colours.verify(self.with_labels(colours, colours_int8, ["blue", "green", "red"]))
        assert good.failure() is None
        bad = colours.verify(self.with_labels(colours, colours_int8, ["green", "blue", "red"]))
        assert "labels in the file's metadata are not those of the model in their order" in bad.failure()
        assert "class 0 is 'green' there and 'blue' in the model" in bad.failure()

    def test_those_in_the_record(self, colours, colours_int8):
        path = colours.file(colours_int8, "recorded.tflite")
        record = {"labels": ["blue", "red", "green"], "sha256": artifact.sha256(colours_int8)}
        artifact.sidecar_path(path).write_text(json.dumps(record))
        report = verify(path, colours.source, colours.evaluation)
        assert "labels in the file's record" in report.failure()
        # The record of another file says nothing about this one.
        artifact.sidecar_path(path).write_text(json.dumps({**record, "sha256": "0"}))
        assert verify(path, colours.source, colours.evaluation).failure() is None

    def test_another_order_of_the_evaluation(self, colours, colours_int8):
        moved = dataclasses.replace(colours.evaluation, labels=(colours.evaluation.labels + 1) % 3)
        report = verify(colours.file(colours_int8), colours.source, moved)
        assert "what is labelled 'blue' the float model calls 'red'" in report.failure()

    def test_shuffled_over_the_images(self, colours, colours_int8):
        labels = np.random.default_rng(0).permutation(colours.evaluation.labels)
        shuffled = dataclasses.replace(colours.evaluation, labels=labels)
        report = verify(colours.file(colours_int8), colours.source, shuffled)
        assert "The labels do not belong to the images" in report.failure()

    def test_hard_images_are_no_mistake(self, colours, colours_int8):
        """Half of the labels wrong: far below what the model promises, and far above chance."""
        labels = colours.evaluation.labels.copy()
        labels[::2] = np.random.default_rng(0).permutation(labels[::2])
        hard = dataclasses.replace(colours.evaluation, labels=labels)
        assert verify(colours.file(colours_int8), colours.source, hard).failure() is None

    def test_metadata_that_normalise_twice(self, colours, colours_int8):
        data = metadata.write(
            colours_int8, name="x", description="", labels=colours.source.labels, mean=127.5, std=127.5
        )
        assert "tells apps to normalise with mean '127.5' and std '127.5'" in colours.verify(data).failure()


@pytest.fixture
def few_images(clothes, monkeypatch, tmp_path):
    """The command on four images, with the model and its float32 file made once: `run(data) -> (status, out, err)`."""
    images = clothes.evaluation.take(slice(4))
    np.savez(tmp_path / "images.npz", images=images.images, labels=images.labels)
    monkeypatch.setattr(source, "load", lambda *_: clothes.source)
    monkeypatch.setattr(conversion, "convert", lambda *_: clothes.twin.read_bytes())

    def run(data, capsys, *options):
        path = tmp_path / "x.tflite"
        path.write_bytes(data)
        with pytest.raises(SystemExit) as stopped:
            cli.run(lambda: command.main([str(path), "--data", str(tmp_path / "images.npz"), *options]))
        return stopped.value.code, *capsys.readouterr()

    return run


class TestCommand:
    def test_json(self, few_images, clothes_int8, capsys):
        code, stdout, _ = few_images(clothes_int8, capsys, "--json")
        assert code == 0
        result = json.loads(stdout)
        assert result["images"] == 4
        assert result["observation"]["layers"][0]["name"] == "stem_relu"
        assert [part["name"] for part in result["split"]] == ["preprocessing", "conversion", "quantization"]

    def test_table(self, few_images, clothes_int8, capsys):
        code, stdout, _ = few_images(clothes_int8, capsys)
        assert code == 0
        for what in ("95 % interval", "right to wrong", "KL divergence", "quantization alone", "worst layer"):
            assert what in stdout

    def test_no_numbers_is_json_still(self, few_images, clothes, capsys):
        data = with_values(clothes.twin.read_bytes(), "logits/bias", lambda bias: bias * np.nan, np.float32)
        code, stdout, stderr = few_images(data, capsys, "--json")
        assert code == 1
        assert "not numbers" in stderr
        json.loads(stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))

    def test_the_record_prepares_images_otherwise(self, few_images, clothes, clothes_int8, capsys, tmp_path):
        record = {"sha256": artifact.sha256(clothes_int8)}
        for crop in (0.5, 1e-9, "all"):
            record["preprocess"] = {**clothes.source.preprocess.to_dict(), "crop_fraction": crop}
            (tmp_path / "x.json").write_text(json.dumps(record))
            code, stdout, stderr = few_images(clothes_int8, capsys, "--json")
            assert code == 1
            assert "The file's record has apps prepare images otherwise than the model: crop_fraction" in stderr
            assert (json.loads(stdout)["split"][0]["mean_difference"] > 0) == (crop == 0.5)

    def test_another_model_is_refused(self, few_images, colours_int8, capsys):
        code, stdout, stderr = few_images(colours_int8, capsys)
        assert (code, stdout) == (2, "")
        assert "the model has 10" in stderr

    def test_a_page(self, few_images, clothes, clothes_int8, capsys, tmp_path, monkeypatch):
        labels = tuple(f"<script>alert('{label}')</script>" for label in clothes.source.labels)
        monkeypatch.setattr(source, "load", lambda *_: dataclasses.replace(clothes.source, labels=labels))
        broken = with_values(clothes_int8, "logits/kernel", lambda kernel: kernel[::-1])
        code, _, _ = few_images(broken, capsys, "--html", str(tmp_path / "page.html"))
        assert code == 1
        text = (tmp_path / "page.html").read_text()
        page = Page(text)
        assert page.open == []
        assert not {"script", "link", "iframe"} & page.tags
        assert page.sources
        assert all(src.startswith("data:image/png;base64,") for src in page.sources)
        assert "http" not in text
        for words in ("stage3_block3_out", "Failed", "The weights of logits", "quantization", "<td>&lt;script&gt;"):
            assert words in text
        assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npz", "page.html", "x.tflite"]

    def test_a_page_that_cannot_be_written(self, few_images, clothes_int8, capsys, tmp_path):
        for place in (tmp_path, tmp_path / "none" / "page.html"):
            code, stdout, stderr = few_images(clothes_int8, capsys, "--html", str(place))
            assert (code, stdout, stderr.count("\n")) == (2, "", 1)


class Page(html.parser.HTMLParser):
    """The tags of a page, those left open, and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.sources = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("img", "meta"):
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class TestIsolation:
    def test_a_process_that_crashes(self):
        done = child.run("timeit", ["-n1", "-r1", "import os; os.kill(os.getpid(), 11)"], 30)
        assert done == "crashed (SIGSEGV)"

    def test_a_process_that_hangs(self):
        start = time.monotonic()
        assert child.run("timeit", ["-s", "import time; time.sleep(60)"], 0.5) == "did not come to an end within 0.5 s"
        closed = "import os, time; os.close(1); os.close(2); time.sleep(60)"
        assert child.run("timeit", ["-s", closed], 0.5) == "did not come to an end within 0.5 s"
        assert time.monotonic() - start < 10

    def test_a_process_that_gives_signs_of_life_is_waited_for(self):
        said = []
        slow = "import time; [(print(i, flush=True), time.sleep(0.3)) for i in range(8)]"
        done = child.run("timeit", ["-n1", "-r1", slow], 2, said.append)
        assert done.returncode == 0
        assert [line.strip() for line in said[:8]] == [str(i) for i in range(8)]
        assert child.run("timeit", ["-s", "import time; time.sleep(60)"], 0.5, said.append) == (
            "gave no sign of life for 0.5 s"
        )

    def test_a_file_that_hangs(self, clothes):
        with pytest.raises(ValueError, match=r"float32.tflite cannot be run: the runtime gave no sign of life"):
            execution.predict(clothes.twin, clothes.evaluation.images, stall_limit_s=0.01)

    def test_a_file_that_crashes(self, clothes, monkeypatch):
        monkeypatch.setattr(child, "run", lambda *_: "crashed (SIGSEGV)")
        with pytest.raises(ValueError, match=r"cannot be run: the runtime crashed \(SIGSEGV\)"):
            verify(clothes.twin, clothes.source, clothes.evaluation)

    def test_every_image_is_counted(self, clothes):
        done = []
        scores = execution.predict(clothes.twin, clothes.evaluation.images[:50], done.append)
        assert (len(scores), sum(done)) == (50, 50)

    @pytest.mark.parametrize("content", [b"", b"no model", b"\0\0\0\0TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 99])
    def test_no_model(self, few_images, capsys, content):
        code, stdout, stderr = few_images(content, capsys)
        assert (code, stdout, stderr.count("\n")) == (2, "", 1)
        assert ".tflite file" in stderr

    def test_mutated_files(self, few_images, clothes, clothes_int8, capsys):
        whole = metadata.write(clothes_int8, name="x", description="", labels=clothes.source.labels)
        statuses = [status_of(data, few_images, capsys) for data in mutated(whole, 24)]
        assert {0, 2} <= set(statuses)

    @pytest.mark.slow
    def test_a_thousand_mutated_files(self, few_images, clothes, clothes_int8, capsys):
        whole = metadata.write(clothes_int8, name="x", description="", labels=clothes.source.labels)
        statuses = [status_of(data, few_images, capsys) for data in mutated(whole, 1000, seed=1)]
        assert {0, 1, 2} == set(statuses)


def status_of(data, run, capsys):
    """The exit status on a file, after a look at what was printed."""
    code, stdout, stderr = run(data, capsys, "--json")
    assert "Traceback" not in stderr
    assert code in (0, 1, 2)
    assert stderr.count("error: ") == (code == 2)
    assert stderr.count("failed: ") == (code == 1)
    assert bool(stdout) == (code != 2)
    if stdout:
        json.loads(stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    return code


def test_chance_is_told_from_a_gain_and_a_loss_from_both():
    """McNemar: (12 - 0)^2 / 12 is above 10.83, (10 - 0)^2 / 10 is below."""
    none, some, more = (np.arange(100) < count for count in (0, 10, 12))
    assert comparison.exceeds_chance(none, more)
    assert not comparison.exceeds_chance(none, some)
    assert not comparison.exceeds_chance(more, none)
    assert not comparison.exceeds_chance(none, none)


def test_the_steps_of_the_output_are_those_of_the_quantized_part_alone(colours):
    images, step = colours.evaluation.images[:60], 1 / 8  # coarse: some become 0
    reference = colours.source.reference.predict(images, verbose=0)
    rounded = np.round(reference / step) * step
    *others, quantized = parts.split(colours.twin, images, reference, rounded, None, step=step)
    assert quantized.kl == pytest.approx(comparison.mean_kl(reference, rounded, step), rel=1e-3)
    assert quantized.kl < comparison.mean_kl(reference, rounded) / 2
    assert max(part.kl for part in others) < 1e-9


def test_other_pixels_of_the_same_images_are_preprocessing(colours):
    """The first part is the float model alone, on pixels as the model's card and as the file's record prepares them."""
    images = colours.evaluation.images[:60]
    other = np.stack([Preprocess(32, 32, 0.5).pixels(image) for image in images])

    def predict(pixels):
        return colours.source.reference.predict(pixels, verbose=0)

    reference, scores = predict(images), predict(other)
    split = parts.split(colours.twin, images, reference, scores, predict, other)
    assert split[0].mean_difference == pytest.approx(np.abs(reference - scores).mean())
    assert max(split[1].mean_difference, split[2].mean_difference) < 1e-6
