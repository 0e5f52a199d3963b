"""What a `.tflite` file says about itself: written, read, harmless to the model, and taken by MediaPipe."""

import io
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import venv
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as litert_schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import encode, packer
from flatbuffers.table import Table

from export import artifact, attachment, description, flatbuffer, metadata, tflite
from resnet_keras import data

TEXTS = {"name": "x", "description": "What it is.", "version": "1", "author": "Ä. Ö.", "licence": "MIT"}


def classifier(classes=4, channels=3):
    """A `.tflite` of one dense layer, converted by nothing of this package."""
    import tensorflow as tf

    kernel = np.random.default_rng(0).normal(size=(16 * channels, classes)).astype(np.float32)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((1, 4, 4, channels), tf.float32)])
    def call(image):
        return tf.nn.softmax(tf.reshape(image / 255, (1, 16 * channels)) @ kernel)

    return tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()]).convert()


@pytest.fixture(scope="module")
def plain():
    return classifier()


@pytest.fixture(scope="module")
def labelled(plain):
    return metadata.write(plain, labels=["Äpfel", "柿", "a b", "🍐"], **TEXTS)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """`{edge: path}` of the bundled model, as the command writes it for MediaPipe."""
    directory = tmp_path_factory.mktemp("bundled")
    paths = {}
    for recipe, io_type in (("float32", "float32"), ("int8", "float32"), ("int8", "uint8")):
        name = f"{recipe}-{io_type}"
        paths[name] = directory / f"{name}.tflite"
        _, _, failure = tflite.export(recipe=recipe, target="mediapipe", io=io_type, out=paths[name])
        assert failure is None
    return paths


def outputs(model, images):
    """What LiteRT gives for float images, by a loop of its own."""
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    feed, fetch = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    answers = []
    for image in images:
        interpreter.set_tensor(feed["index"], image[None].astype(feed["dtype"]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(fetch["index"])[0])
    return np.stack(answers)


class TestRoundTrip:
    def test_everything_comes_back(self, labelled):
        assert metadata.read(labelled) == metadata.Metadata(
            **TEXTS,
            labels=("Äpfel", "柿", "a b", "🍐"),
            mean=0.0,
            std=1.0,
            inputs=(edge_names(labelled)[0],),
            outputs=(edge_names(labelled)[1],),
            min_parser_version="1.0.0",
        )

    def test_a_thousand_classes_and_no_texts(self):
        labels = [f"class, with a comma {i}" for i in range(1000)]
        found = metadata.read(metadata.write(classifier(1000), name=None, description=None, labels=labels))
        assert found.labels == tuple(labels)
        assert (found.name, found.description, found.version, found.author, found.licence) == (None,) * 5

    def test_another_normalisation(self, plain):
        found = metadata.read(metadata.write(plain, labels=list("abcd"), mean=127.5, std=0.5, **TEXTS))
        assert (found.mean, found.std) == (127.5, 0.5)

    def test_the_same_bytes(self, plain, labelled):
        assert metadata.write(plain, labels=["Äpfel", "柿", "a b", "🍐"], **TEXTS) == labelled

    def test_line_ends_of_other_writers(self, plain):
        assert metadata.read(with_labels_file(plain, "a\r\nb\nc\nd\n")).labels == ("a", "b", "c", "d")


def with_labels_file(plain, text):
    """`plain` with a label file that `write` would not write."""
    whole = metadata.write(plain, labels=list("abcd"), **TEXTS)
    model = whole[: whole.rindex(b"PK\3\4")]
    return attachment.attach(model, "labels.txt", text)


def edge_names(model):
    interpreter = Interpreter(model_content=model)
    return interpreter.get_input_details()[0]["name"], interpreter.get_output_details()[0]["name"]


class TestFile:
    def test_the_archive_is_plain(self, labelled):
        with zipfile.ZipFile(io.BytesIO(labelled)) as archive:
            (file,) = archive.infolist()
            assert archive.read(file) == "Äpfel\n柿\na b\n🍐".encode()
        assert (file.filename, file.date_time) == ("labels.txt", (1980, 1, 1, 0, 0, 0))
        assert file.compress_type == zipfile.ZIP_STORED
        # Readers that do not search for the start of an archive need positions that count from the start of the file.
        directory = struct.unpack_from("<I", labelled, labelled.rindex(b"PK\5\6") + 16)[0]
        assert labelled[directory:].startswith(b"PK\1\2")
        assert labelled[struct.unpack_from("<I", labelled, directory + 42)[0] :].startswith(b"PK\3\4")

    def test_the_model_is_untouched(self, plain, labelled):
        place = labelled.index(plain)
        assert place % flatbuffer.ALIGNMENT == 0
        images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3))
        expected = outputs(plain, images)
        assert len(np.unique(expected.argmax(axis=1))) > 1
        np.testing.assert_array_equal(outputs(labelled, images), expected)

    def test_what_the_schema_classes_of_litert_see(self, plain, labelled):
        old, new = (litert_schema.ModelT.InitFromObj(litert_schema.Model.GetRootAs(m)) for m in (plain, labelled))
        assert [entry.name for entry in new.metadata] == [*(entry.name for entry in old.metadata), b"TFLITE_METADATA"]
        assert [m.buffer for m in new.metadata][-1] == len(new.buffers) - 1 == len(old.buffers)
        for one, other in zip(old.buffers, new.buffers[:-1], strict=True):
            np.testing.assert_array_equal(one.data, other.data)
        assert (new.version, new.description) == (old.version, old.description)
        assert [code.builtinCode for code in new.operatorCodes] == [code.builtinCode for code in old.operatorCodes]
        assert [len(graph.operators) for graph in new.subgraphs] == [len(graph.operators) for graph in old.subgraphs]

    def test_fields_by_their_slots(self, labelled):
        """Walks the metadata with flatbuffers' own reader and with the numbers of the public schema."""
        root = raw_metadata(labelled)
        graph = follow(root, 3, 0)
        image, probabilities = follow(graph, 2, 0), follow(graph, 3, 0)
        assert (string(root, 0), string(root, 5), string(root, 7)) == (b"x", b"MIT", b"1.0.0")
        content = follow(image, 3)
        assert (number(content, 0), number(follow(content, 1), 0)) == (2, 1)  # an image, RGB
        unit = follow(image, 4, 0)
        assert number(unit, 0) == 1
        assert [floats(follow(unit, 1), slot) for slot in (0, 1)] == [[0.0], [1.0]]
        assert [floats(follow(image, 5), slot) for slot in (0, 1)] == [[255.0], [0.0]]
        assert [floats(follow(probabilities, 5), slot) for slot in (0, 1)] == [[1.0], [0.0]]
        assert number(follow(probabilities, 3), 0) == 1  # a feature
        file = follow(probabilities, 6, 0)
        assert (string(file, 0), number(file, 2)) == (b"labels.txt", 2)

    @pytest.mark.parametrize(("channels", "colour"), [(1, 2), (3, 1), (4, 0)])
    def test_colours(self, channels, colour):
        model = metadata.write(classifier(channels=channels), labels=list("abcd"), **TEXTS)
        properties = follow(follow(follow(follow(raw_metadata(model), 3, 0), 2, 0), 3), 1)
        assert number(properties, 0) == colour


def raw_metadata(model):
    parsed = litert_schema.Model.GetRootAs(model)
    (index,) = (
        parsed.Metadata(i).Buffer() for i in range(parsed.MetadataLength()) if parsed.Metadata(i).Name()[:3] == b"TFL"
    )
    content = parsed.Buffers(index).DataAsNumpy().tobytes()
    assert content[4:8] == b"M001"
    return Table(bytearray(content), encode.Get(packer.uoffset, content, 0))


def follow(table, slot, item=None):
    """The table in a slot, or the one at a place in the vector there."""
    offset = table.Offset(4 + 2 * slot)
    if item is None:
        return Table(table.Bytes, table.Indirect(table.Pos + offset))
    assert table.VectorLen(offset) == 1
    return Table(table.Bytes, table.Indirect(table.Vector(offset) + 4 * item))


def string(table, slot):
    return table.String(table.Pos + table.Offset(4 + 2 * slot))


def number(table, slot):
    offset = table.Offset(4 + 2 * slot)
    return table.Bytes[table.Pos + offset] if offset else 0


def floats(table, slot):
    offset = table.Offset(4 + 2 * slot)
    return list(struct.unpack_from(f"<{table.VectorLen(offset)}f", table.Bytes, table.Vector(offset)))


class TestRefusals:
    @pytest.mark.parametrize(
        ("labels", "reason"),
        [
            (["a"], "one label for each of its 4 classes. Received: 1."),
            (["a", "b", "c", "d\ne"], "one line"),
            (["a", "b", "c", " "], "not empty"),
            ("abcd", "one label for each"),
        ],
    )
    def test_labels_that_do_not_fit(self, plain, labels, reason):
        with pytest.raises(ValueError, match=reason):
            metadata.write(plain, labels=labels, **TEXTS)

    @pytest.mark.parametrize("changes", [{"std": 0.0}, {"mean": float("nan")}, {"std": float("inf")}])
    def test_no_normalisation(self, plain, changes):
        with pytest.raises(ValueError, match="finite"):
            metadata.write(plain, labels=list("abcd"), **TEXTS, **changes)

    def test_metadata_twice(self, labelled):
        with pytest.raises(ValueError, match="already"):
            metadata.write(labelled, labels=list("abcd"), **TEXTS)

    def test_no_metadata(self, plain):
        with pytest.raises(ValueError, match="has no metadata"):
            metadata.read(plain)

    @pytest.mark.parametrize("bad", [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"PK\3\4" * 9, b"\xff\xff\xff\xffTFL3" * 9])
    def test_what_is_no_model(self, bad):
        for call in (lambda: metadata.read(bad), lambda: metadata.write(bad, labels=list("abcd"), **TEXTS)):
            with pytest.raises(ValueError, match=r"^The file .*\.$"):
                call()

    def test_labels_that_are_not_there(self, labelled):
        archive = labelled.rindex(b"PK\3\4")
        with pytest.raises(ValueError, match=r"labels\.txt' cannot be read"):
            metadata.read(labelled[:archive])
        with pytest.raises(ValueError, match=r"holds no such file"):
            metadata.read(labelled[:archive] + labelled[archive:].replace(b"labels.txt", b"lobels.txt"))

    def test_compressed_labels(self, labelled):
        whole = io.BytesIO(labelled[: labelled.rindex(b"PK\3\4")])
        with zipfile.ZipFile(whole, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("labels.txt", "a\nb\nc\nd")
        with pytest.raises(ValueError, match="compressed"):
            metadata.read(whole.getvalue())

    def test_cut_anywhere(self, labelled):
        for length in random.Random(0).sample(range(len(labelled)), 200):
            with pytest.raises(ValueError, match=r"^The file"):
                metadata.read(labelled[:length])

    def test_changed_anywhere(self, plain, labelled):
        """ValueError or a `Metadata`, nothing else; the places are those that the reader looks at."""
        generator, refused = random.Random(0), 0
        model = labelled.index(plain)
        places = [*range(model), *range(labelled.rindex(b"PK\3\4"), len(labelled))]
        for place in generator.sample(places, 200) + generator.sample(range(len(labelled)), 200):
            changed = bytearray(labelled)
            changed[place] ^= 1 << generator.randrange(8)
            changed[place - 1] = generator.randrange(256)
            try:
                found = metadata.read(bytes(changed))
            except ValueError as error:
                refused += 1
                assert re.fullmatch(r"[^\n]+\.", str(error))  # noqa: PT017
            else:
                assert isinstance(found, metadata.Metadata)
        assert 100 < refused < 400

    def test_a_text_that_thousands_of_tables_share(self, plain):
        """Small on disk, large where each text is read: a hundred thousand inputs with one long name."""
        import flatbuffers

        builder = flatbuffers.Builder(1024)
        name = flatbuffer.Placed(builder.CreateString("x" * 100_000))
        tensor = flatbuffer.Placed(flatbuffer.pack(builder, {0: name}))
        root = flatbuffer.pack(builder, {3: [{2: [tensor] * 100_000}]})
        builder.Finish(root, file_identifier=b"M001")
        whole = metadata._with_entry(plain, flatbuffer.Table.root(plain, b"TFL3"), bytes(builder.Output()))
        with pytest.raises(ValueError, match="items are listed"):
            metadata.read(whole)


class TestExport:
    def test_the_bundled_model_says_what_it_is(self, bundled):
        for name, path in bundled.items():
            # An integer input means the pixel minus 128, which is what a consumer that reads the metadata puts there.
            mean = 128.0 if name.endswith("uint8") else 0.0
            record = artifact.read_sidecar(path)
            found = metadata.read(path.read_bytes())
            assert found.labels == tuple(data.FASHION_CLASSES)
            assert f"of this file: {record['measured']['top1_percent']:.2f} %" in found.description
            assert "on 2,800 images" in found.description
            assert "Fashion-MNIST" in found.description
            assert (found.licence, found.mean, found.std) == ("Apache-2.0", mean, 1.0)
            assert (found.name, found.inputs, found.outputs) == ("resnet20", ("image",), ("probabilities",))
            assert record["sha256"] == artifact.sha256(path.read_bytes())
            assert record["size_bytes"] == path.stat().st_size
            assert {p.suffix for p in path.parent.iterdir()} == {".tflite", ".json"}

    def test_weights_lie_at_multiples_of_sixteen(self, bundled):
        for path in bundled.values():
            model = litert_schema.Model.GetRootAs(path.read_bytes())
            buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
            places = [b._tab.Vector(b._tab.Offset(4)) for b in buffers if b.DataLength()]
            assert len(places) > 40
            assert {place % 16 for place in places} == {0}

    def test_another_network_is_not_published(self, tmp_path, monkeypatch):
        original = metadata.write

        def corrupted(model, **texts):
            changed = bytearray(original(model, **texts))
            parsed = litert_schema.Model.GetRootAs(changed)
            buffers = [parsed.Buffers(i) for i in range(parsed.BuffersLength() - 1)]
            largest = max(buffers, key=lambda buffer: buffer.DataLength())
            place = largest._tab.Vector(largest._tab.Offset(4))
            changed[place : place + largest.DataLength()] = bytes(largest.DataLength())
            return bytes(changed)

        monkeypatch.setattr(metadata, "write", corrupted)
        test = data.load("fashion_mnist_sample").test
        np.savez(tmp_path / "few.npz", images=test.images[:20], labels=test.labels[:20])
        with pytest.raises(ValueError, match="something else with its metadata"):
            tflite.export(recipe="float32", eval_data=tmp_path / "few.npz", out=tmp_path / "x.tflite")
        assert [path.name for path in tmp_path.iterdir()] == ["few.npz"]

    def test_descriptions(self):
        measured = {"images": 1234, "origin": "photos", "top1_percent": None, "agreement_percent": 98.765}
        record = {
            "model": "resnet50",
            "weights": "a1_in1k",
            "recipe": "int8",
            "labels": ["a", "b"],
            "measured": measured,
            "versions": {"resnet_keras": "9"},
        }
        published = description.of(record)
        assert published["licence"] == "Apache-2.0"
        assert "arXiv:2110.00476" in published["author"]
        assert "98.77 % of 1,234 images of photos" in published["description"]
        own = description.of({**record, "weights": "file"}, "/home/me/flowers")
        assert (own["licence"], own["author"], own["version"]) == (None, None, "resnet_keras 9")
        assert "trained on flowers." in own["description"]
        assert "/home" not in json.dumps(own)
        assert "mean nothing" in description.of({**record, "weights": "random"})["description"]


def test_the_reader_loads_no_framework():
    code = "import sys, export.metadata; print({'keras', 'tensorflow', 'flatbuffers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


CONSUMER = """
import json, sys
import mediapipe, numpy
from mediapipe.tasks.python import BaseOptions, vision

options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]))
answers = []
with vision.ImageClassifier.create_from_options(options) as classifier:
    for image in numpy.load(sys.argv[2]):
        frame = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=numpy.ascontiguousarray(image))
        categories = classifier.classify(frame).classifications[0].categories
        answers.append([[each.index, each.category_name, each.score] for each in categories])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def classify(tmp_path_factory):
    """Runs MediaPipe in an environment of its own: it and tensorflow-model-optimization disagree about absl-py."""
    directory = tmp_path_factory.mktemp("mediapipe")
    venv.create(directory / "env", with_pip=True)
    python = directory / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "mediapipe"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mediapipe cannot be installed here: {done.stderr.strip()[-200:]}")

    def run(path, images):
        np.save(directory / "images.npy", images)
        command = [python, "-c", CONSUMER, path, directory / "images.npy"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
class TestMediaPipe:
    """The real consumer."""

    @pytest.mark.parametrize("name", ["float32-float32", "int8-float32", "int8-uint8"])
    def test_answers_are_those_of_litert(self, bundled, classify, name):
        images = data.load("fashion_mnist_sample").test.images[:300]
        done = classify(bundled[name], images)
        assert done.returncode == 0, done.stderr
        expected = outputs(bundled[name].read_bytes(), images).astype(np.float64)
        scores = np.zeros_like(expected)
        for row, answer in zip(scores, json.loads(done.stdout), strict=True):
            for index, label, score in answer:
                assert label == data.FASHION_CLASSES[index]
                row[index] = score
        if name.endswith("uint8"):
            expected /= 256  # the scale of a softmax
        np.testing.assert_array_equal(scores.argmax(axis=1), expected.argmax(axis=1))
        np.testing.assert_allclose(scores, expected, atol=1e-5)

    def test_without_metadata_it_refuses(self, bundled, classify, tmp_path):
        whole = bundled["float32-float32"].read_bytes()
        parsed = bytearray(whole)
        place = parsed.index(b"TFLITE_METADATA")
        parsed[place : place + 3] = b"XXX"
        path = pathlib.Path(tmp_path / "bare.tflite")
        path.write_bytes(parsed)
        done = classify(path, np.zeros((1, 32, 32, 3), np.uint8))
        assert done.returncode != 0
        assert "NormalizationOptions" in done.stderr
