"""The folder for the app: complete, true, and with code that tells a good bundle from a bad one."""

import ast
import base64
import contextlib
import hashlib
import importlib.util
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import types

import numpy as np
import PIL
import pytest
from browser import TIME_LIMIT_S, WEB_APP, unavailable
from PIL import Image
from trained import briefly_trained

from export import bundle, bundle_index, calibration, folder, golden, onnx, photo, plain_kernels, templates, tflite
from export.runtime import Runner
from resnet_keras import data, folders
from resnet_keras.preprocessing import Preprocess

QUICK = {"calibration_images": 40}
ORDER_SINCE = 13  # Pillow resizes tall images in another order

# The modules that code in a bundle may import: those of the standard library, and these.
ALONE = """
import runpy, sys
allowed = {*sys.stdlib_module_names, "ai_edge_litert", "onnxruntime", "numpy", "PIL"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ImportError(f"blocked: {name}")
sys.meta_path.insert(0, Blocker())
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

PIXELS = """
import fs from "node:fs";
const [module, directory] = process.argv.slice(1);
const { preprocess } = await import(module);
for (const { name, width, height, rule } of JSON.parse(fs.readFileSync(`${directory}/cases.json`))) {
  const data = fs.readFileSync(`${directory}/${name}.rgba`);
  fs.writeFileSync(`${directory}/${name}.found`, preprocess({ data, width, height }, rule));
}
"""

PAGES = """<!doctype html>
<body></body>
<script type="module">
  const results = {};
  const first = `/${new URLSearchParams(location.search).get("bundle")}`;
  const [{ decode }, png, raw] = await Promise.all([
    import(`${first}/code/javascript/classifier.js`),
    fetch(`${first}/golden/photo.png`).then((response) => response.blob()),
    fetch(`${first}/golden/photo.u8`).then((response) => response.arrayBuffer()),
  ]);
  const shown = (await decode(png)).data.filter((_, k) => k % 4 !== 3);
  results.decodes = shown.length === raw.byteLength && new Uint8Array(raw).every((value, k) => value === shown[k]);
  for (const name of new URLSearchParams(location.search).getAll("bundle")) {
    const frame = document.createElement("iframe");
    frame.src = `/${name}/code/javascript/self_test.html`;
    document.body.append(frame);
    while (!/^(passed|failed)/.test((results[name] = frame.contentDocument?.querySelector("p")?.textContent ?? ""))) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    frame.remove();
  }
  await fetch("/answer", { method: "POST", body: JSON.stringify(results) });
</script>
"""

ONNXRUNTIME_WEB = "1.30.0"
ONNXRUNTIME_WEB_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Few images that verify, so that each export takes seconds."""
    test = data.load("fashion_mnist_sample").test
    chosen = data.balanced(test.labels, 60, 0)
    path = tmp_path_factory.mktemp("judges") / "judges.npz"
    np.savez(path, images=test.images[chosen], labels=test.labels[chosen])
    return path


@pytest.fixture(scope="module")
def made(judges, tmp_path_factory):
    """Writes a bundle of the bundled model."""

    def write(**options):
        path = tmp_path_factory.mktemp("made") / "bundle"
        _, _, failure = bundle.write(path, eval_data=judges, **QUICK, **options)
        assert failure is None
        return path

    return write


@pytest.fixture(scope="module")
def plain(judges, tmp_path_factory):
    """By the command; float edges, so that every language takes the first file. Leaves what it printed beside it."""
    path = tmp_path_factory.mktemp("plain") / "bundle"
    command = ["--bundle", str(path), "--target", "app,web", "--eval-data", str(judges), "--json"]
    with (path.parent / "printed.json").open("w") as printed, contextlib.redirect_stdout(printed):
        assert tflite.main([*command, "--calibration-images", str(QUICK["calibration_images"])]) == 0
    return path


@pytest.fixture(scope="module")
def signed(made):
    return made(targets=["app"], io="int8")


@pytest.fixture(scope="module")
def unsigned(made):
    return made(targets=["web"], io="uint8")


@pytest.fixture(scope="module")
def in_onnx(made):
    return made(format="onnx", targets=["ort-x86"])


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Grey, not square, channels last in ONNX, named with what has to be escaped."""
    directory = tmp_path_factory.mktemp("odd")
    path, pixels = briefly_trained(directory, input_shape=(24, 32, 1), classes=4)
    path = path.rename(directory / 'möbius "1" model.keras')
    (directory / "names.txt").write_text('a "quoted" one\nback\\slash, $dollar\n<b>&amp;\nμ @@NAME@@', encoding="utf-8")
    np.savez(directory / "pixels.npz", images=pixels[:60])
    options = {"labels": directory / "names.txt", "calibration_data": directory / "pixels.npz", "max_drop": 100}
    assert bundle.write(directory / "bundle", str(path), format="onnx", targets=["ort-arm"], **options)[2] is None
    return directory / "bundle"


def index_of(path):
    return json.loads((path / "bundle.json").read_text())


def run_python(path, *arguments):
    """The bundle's Python code where nothing but the runtime, numpy and Pillow can be imported."""
    command = [sys.executable, "-c", ALONE, str(path / "code/python/classifier.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def classifier_of(path):
    spec = importlib.util.spec_from_file_location("classifier", path / "code/python/classifier.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files_in(path):
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


DAMAGES = {
    # What the self-test says first, and how a bundle is spoilt.
    "model": ("Model: ", lambda path: flip(path / index_of(path)["models"][0]["file"])),
    "expected": ("Answers: ", lambda path: lower(path / index_of(path)["models"][0]["expected"])),
    "photo": ("Preprocessing: ", lambda path: flip(path / "golden/photo_pixels.u8")),
    "images": ("Answers: ", lambda path: blacken(path / "golden/images.u8")),
}


def flip(file):
    """Changes one byte in the middle, by half of its range."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x80
    file.write_bytes(content)


def lower(file):
    """The highest probability of the last image is twice the tolerance lower."""
    tolerance = next(m["tolerance"] for m in index_of(file.parents[1])["models"] if m["expected"].endswith(file.name))
    values = np.fromfile(file, "<f4")
    values[-len(values) // 10 :][values[-len(values) // 10 :].argmax()] -= 2 * tolerance
    values.tofile(file)


def blacken(file):
    file.write_bytes(bytes(file.stat().st_size))


def spoilt(path, damage, directory):
    copy = shutil.copytree(path, directory / damage)
    DAMAGES[damage][1](copy)
    return copy


class TestContent:
    @pytest.mark.parametrize("name", ["plain", "signed", "unsigned", "in_onnx", "odd"])
    def test_every_file_is_listed_and_intact(self, name, request):
        path = request.getfixturevalue(name)
        assert folder.changed(path) is None
        lines = (path / "SHA256SUMS").read_text().splitlines()
        assert {line.split("  ")[1] for line in lines} == files_in(path) - {"SHA256SUMS"}
        done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=path, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout

    def test_is_complete(self, plain, in_onnx):
        common = {"README.md", "bundle.json", "SHA256SUMS", "labels.txt", "golden/images.u8", "golden/photo.png"}
        common |= {"golden/photo.u8", "golden/photo_pixels.u8", *(f"golden/{k:02}.png" for k in range(10))}
        scripts = "classifier.js", "pixels.js", "self_test.js", "self_test.html", "package.json"
        common |= {f"code/javascript/{name}" for name in scripts}
        for path, stems, suffix in (
            (plain, ("resnet20_int8", "resnet20_int8_web"), "tflite"),
            (in_onnx, ("resnet20_int8",), "onnx"),
        ):
            found = files_in(path)
            assert common <= found
            for stem in stems:
                assert {f"models/{stem}.{suffix}", f"models/{stem}.json", f"golden/{stem}.f32"} <= found
            entries = {language.folder: f"code/{language.folder}/{language.entry}" for language in templates.LANGUAGES}
            assert {name: row["entry"] for name, row in index_of(path)["code"].items()} == entries
            assert set(entries.values()) <= found
            assert not [name for name in found if "runtime" in name or name.endswith("/README.md")]

    @pytest.mark.parametrize("name", ["plain", "signed", "unsigned", "in_onnx", "odd"])
    def test_the_index_is_true(self, name, request):
        path = request.getfixturevalue(name)
        index = index_of(path)
        rule, proof = Preprocess(**index["preprocess"]), index["golden"]
        shape = (len(proof["pngs"]), rule.height, rule.width, index["channels"])
        images = np.fromfile(path / proof["images"], np.uint8).reshape(shape)
        for model in index["models"]:
            content = (path / model["file"]).read_bytes()
            assert (model["sha256"], model["size_bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
            record = json.loads((path / model["record"]).read_text())
            assert [model[key] for key in ("target", "recipe", "sha256")] == [
                record[key] for key in ("target", "recipe", "sha256")
            ]
            runner = Runner(path / model["file"])
            assert ([model["input"]], [model["output"]]) == (runner.inputs, runner.outputs)
            expected = np.fromfile(path / model["expected"], "<f4").reshape(shape[0], index["classes"])
            np.testing.assert_array_equal(runner.predict(images), expected)
            assert model["tolerance"] >= 1 / 256
        for png, image in zip(proof["pngs"], images, strict=True):
            np.testing.assert_array_equal(folders.read_image(path / png, index["channels"]), image)
        seen = proof["photo"]
        raw = np.fromfile(path / seen["raw"], np.uint8).reshape(seen["height"], seen["width"], 3)
        np.testing.assert_array_equal(folders.read_image(path / seen["png"]), raw)
        pixels = rule.pixels(folders.read_image(path / seen["png"], index["channels"]))
        assert (path / seen["pixels"]).read_bytes() == pixels.tobytes()
        labels = (path / index["labels"]).read_bytes()
        assert labels.decode().split("\n") == record["labels"]

    def test_golden_images_are_of_every_class_and_clear(self, plain, in_onnx):
        for path in (plain, in_onnx):
            index = index_of(path)
            assert sorted(index["golden"]["labels"]) == list(range(10))
            for model in index["models"]:
                expected = np.fromfile(path / model["expected"], "<f4").reshape(10, 10)
                assert expected.argmax(axis=1).tolist() == index["golden"]["labels"]
                second, first = np.sort(expected)[:, -2:].T
                assert min(first - second) > 2 * model["tolerance"]

    def test_the_photo_tells_one_resize_from_another(self):
        for rule in (Preprocess(32, 32, 1.0), Preprocess(224, 224, 0.875), Preprocess(160, 224, 0.95, "bicubic")):
            image = photo.picture(*photo.sides(*bundle_index.resized(rule.to_dict())))
            others = {
                name: Preprocess(rule.height, rule.width, rule.crop_fraction, name)
                for name in ("nearest", "bilinear", "bicubic")
                if name != rule.interpolation
            }
            found = rule.pixels(image).astype(int)
            squeezed = np.asarray(Image.fromarray(image).resize((rule.width, rule.height), Image.Resampling.BILINEAR))
            for other in (*(o.pixels(image) for o in others.values()), squeezed, found[..., ::-1], found[:, ::-1]):
                assert np.abs(found - other).max() > 4 * bundle_index.PHOTO_TOLERANCE

    def test_the_same_bytes_again(self, signed, made):
        again = made(targets=["app"], io="int8")
        for name in files_in(signed) - {"models/resnet20_int8.json", "SHA256SUMS"}:
            assert (again / name).read_bytes() == (signed / name).read_bytes(), name

    def test_no_value_is_left_to_fill_in(self, plain, in_onnx):
        for path in (plain, in_onnx):
            for file in [path / "README.md", *(path / "code").rglob("*.*")]:
                assert "@@" not in file.read_text(), file


class TestGolden:
    """Pixels that say the answer and how sure it is: 195 is class 1, with 95 %."""

    @staticmethod
    def chosen(monkeypatch, values, labels, tolerance=0.1):
        def probabilities(images):
            values = images.reshape(-1).astype(int)
            sure = (values % 100 / 100)[:, None]
            return np.where(np.arange(2) == values[:, None] // 100, sure, 1 - sure)

        monkeypatch.setattr(golden, "answers", lambda path, images, recipe: (probabilities(images), tolerance))
        model = types.SimpleNamespace(reference=types.SimpleNamespace(predict_on_batch=probabilities))
        images = np.array(values, np.uint8).reshape(-1, 1, 1, 1)
        labels = None if labels is None else np.array(labels)
        found = golden.choose(model, calibration.ImageSet(images, labels, "x"), ["x"], "int8")
        return sorted(found.images.reshape(-1).tolist())

    def test_unclear_and_wrong_answers_are_passed_over(self, monkeypatch):
        clear, unclear, wrong = [95] * 7 + [195] * 7, [58] * 9 + [158] * 9, [99] * 9
        labels = [0] * 7 + [1] * 7 + [0] * 9 + [1] * 9 + [1] * 9
        assert self.chosen(monkeypatch, clear + unclear + wrong, labels) == [95] * 5 + [195] * 5
        assert self.chosen(monkeypatch, clear + unclear, None) == [95] * 5 + [195] * 5

    def test_where_few_are_clear_others_fill_up(self, monkeypatch):
        assert self.chosen(monkeypatch, [95, 195, *[58] * 9], [0, 1, *[0] * 9]) == [58] * 8 + [95, 195]
        assert self.chosen(monkeypatch, [58, 158], [0, 1]) == [58, 158]

    def test_the_tolerance_is_twice_what_two_kernels_differ_by(self, plain):
        index = index_of(plain)
        images = np.fromfile(plain / index["golden"]["images"], np.uint8).reshape(10, 32, 32, 3)
        path = plain / index["models"][0]["file"]
        difference = np.abs(Runner(path).predict(images) - plain_kernels.PlainRunner(path).predict(images)).max()
        assert difference > 0
        assert index["models"][0]["tolerance"] == max(1 / 256, 2 * difference)
        assert golden.answers(path, images, "int8")[1] == index["models"][0]["tolerance"]


class TestPython:
    @pytest.mark.parametrize("name", ["plain", "signed", "in_onnx", "odd"])
    def test_self_test_with_nothing_but_the_runtime(self, name, request):
        done = run_python(request.getfixturevalue(name), "--self-test")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("passed: 10 images, largest difference 0.0e+00")

    def test_the_blocker_blocks(self, plain, tmp_path):
        copy = shutil.copytree(plain, tmp_path / "copy")
        code = copy / "code/python/classifier.py"
        code.write_text("import export.runtime\n" + code.read_text())
        assert "blocked: export" in run_python(copy, "--self-test").stderr

    @pytest.mark.parametrize("name", ["plain", "in_onnx"])
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_what_is_spoilt_fails(self, name, damage, request, tmp_path):
        copy = spoilt(request.getfixturevalue(name), damage, tmp_path)
        done = run_python(copy, "--self-test")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"failed: {DAMAGES[damage][0]}")

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("Resampling.NEAREST", 'Resampling["bilinear".upper()]'),
            (".crop((0, 0, WIDTH, HEIGHT))", ".crop((left, top, left + WIDTH, top + HEIGHT))"),
            ('.convert("L").convert("RGB")', '.convert("L" if CHANNELS == 1 else "RGB")'),
            ("reducing_gap=1.0)", "INTERPOLATION)"),
        ],
    )
    def test_wrong_preprocessing_fails(self, plain, wrong, right, tmp_path):
        copy = shutil.copytree(plain, tmp_path / "copy")
        code = copy / "code/python/classifier.py"
        assert right in code.read_text()
        code.write_text(code.read_text().replace(right, wrong))
        done = run_python(copy, "--self-test")
        assert (done.returncode, "failed: Preprocessing: " in done.stderr) == (1, True)

    def test_answers_are_those_of_the_exporter(self, plain, tmp_path):
        done = run_python(plain, str(plain / "golden/00.png"))
        index = index_of(plain)
        best = (plain / "labels.txt").read_text().split("\n")[index["golden"]["labels"][0]]
        probability = np.fromfile(plain / index["models"][0]["expected"], "<f4")[:10].max()
        assert done.stdout.splitlines()[1] == f"  {100 * probability:6.2f} %  {best}"
        assert "failed: [Errno 2] No such file" in run_python(plain, str(tmp_path / "none.png")).stderr
        assert run_python(plain).returncode == 2

    @pytest.mark.parametrize("name", ["plain", "odd"])
    def test_images_are_read_as_for_training(self, name, request, tmp_path):
        path = request.getfixturevalue(name)
        classifier, index = classifier_of(path).Classifier(path), index_of(path)
        rule = Preprocess(**index["preprocess"])
        rgba = np.random.default_rng(0).integers(0, 256, (57, 91, 4), dtype=np.uint8)
        turned = Image.Exif()
        turned[0x0112] = 6
        pictures = {
            "alpha.png": (Image.fromarray(rgba), {}),
            "turned.jpg": (Image.fromarray(rgba).convert("RGB"), {"exif": turned}),
            "palette.gif": (Image.fromarray(rgba[..., :3]).quantize(), {}),
            "deep.png": (Image.fromarray(rgba[..., 0].astype(np.uint16) * 257), {}),
            "grey.png": (Image.fromarray(rgba[..., 0]), {}),
            "print.jpg": (Image.fromarray(rgba).convert("CMYK"), {}),
        }
        for file, (picture, options) in pictures.items():
            picture.save(tmp_path / file, **options)
            expected = rule.pixels(folders.read_image(tmp_path / file, index["channels"]))
            np.testing.assert_array_equal(classifier.pixels(tmp_path / file), expected, file)
            np.testing.assert_array_equal(classifier.pixels(io.BytesIO((tmp_path / file).read_bytes())), expected)

    @pytest.mark.parametrize(("flags", "asked"), [("avx2 fma", True), ("avx2 avx512_vnni", False)])
    def test_exact_sums_are_asked_for_without_vnni(self, flags, asked, in_onnx, monkeypatch):
        classifier, said = classifier_of(in_onnx), []
        (model,) = (in_onnx / "models").glob("*.onnx")
        options = classifier.onnxruntime.SessionOptions
        monkeypatch.setattr(options, "add_session_config_entry", lambda _, *entry: said.append(entry))
        monkeypatch.setattr(classifier.pathlib.Path, "read_text", lambda _: flags)
        classifier.Runtime(model.read_bytes())
        assert said == [("session.x64quantprecision", "1")] * asked

    def test_old_pythons_can_read_it(self, plain, in_onnx):
        for path in (plain, in_onnx):
            ast.parse((path / "code/python/classifier.py").read_text(), feature_version=(3, 9))


class TestJavaScript:
    def test_pixels_are_those_of_pillow(self, plain, tmp_path):
        """Up and down, wide and tall, grey and RGB, opaque and not: to the bit."""
        node = shutil.which("node") or unavailable("Node is missing. On Debian: apt-get install nodejs")
        rng, cases = np.random.default_rng(0), []
        for name in range(150):
            width, height, to_height, to_width = (int(side) for side in rng.integers(1, 200, 4))
            if name % 5 == 1:  # tall, and shrunk
                width, height, to_height, to_width = 50, 190, 30, 20
            rule = Preprocess(
                to_height, to_width, rng.choice([1.0, 0.875, 0.6]), ("nearest", "bilinear", "bicubic")[name % 3]
            )
            channels = int(rng.choice([1, 3]))
            resized_height, resized_width = bundle_index.resized(rule.to_dict())
            if name % 5 == 0:  # unchanged in one direction or in both
                width, height = resized_width, int(rng.choice([height, resized_height]))
            scale = max(resized_height / height, resized_width / width)
            if scale < 1 and height > 2 * width and int(PIL.__version__.split(".")[0]) < ORDER_SINCE:
                continue
            rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
            rgba[..., 3] |= 255 * (name % 2)
            Image.fromarray(rgba).save(tmp_path / "case.png")
            (tmp_path / f"{name}.rgba").write_bytes(rgba.tobytes())
            expected = rule.pixels(folders.read_image(tmp_path / "case.png", channels))
            sizes = {"height": to_height, "width": to_width, "channels": channels, "interpolation": rule.interpolation}
            sizes |= {"resizedHeight": resized_height, "resizedWidth": resized_width}
            cases.append(({"name": name, "width": width, "height": height, "rule": sizes}, expected))
        (tmp_path / "cases.json").write_text(json.dumps([case for case, _ in cases]))
        command = [node, "--input-type=module", "-e", PIXELS, str(plain / "code/javascript/pixels.js"), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for case, expected in cases:
            assert (tmp_path / f"{case['name']}.found").read_bytes() == expected.tobytes(), case

    def test_the_page_tells_good_from_bad(self, plain, unsigned, site, answer_of, tmp_path):
        bundles = {"plain": plain, "unsigned": unsigned}
        bundles |= {damage: spoilt(plain, damage, tmp_path) for damage in DAMAGES}
        bundles["resize"] = shutil.copytree(plain, tmp_path / "resize")
        pixels = bundles["resize"] / "code/javascript/pixels.js"
        assert "Math.max(scale, 1)" in pixels.read_text()
        pixels.write_text(pixels.read_text().replace("Math.max(scale, 1)", "1"))  # what a canvas does
        answers = self.answers(bundles, site, site / "node_modules", answer_of)
        assert all(answers[name].startswith("passed: 10 images, ") for name in ("plain", "unsigned")), answers
        for damage, (complaint, _) in DAMAGES.items():
            assert answers[damage].startswith(f"failed: {complaint}"), answers
        assert answers["resize"].startswith("failed: Preprocessing: "), answers
        assert answers["decodes"] is True

    def test_the_page_of_onnx_runtime(self, in_onnx, odd, onnxruntime_web, site, answer_of, tmp_path):
        bundles = {"onnx": in_onnx, "odd": odd, "spoilt": spoilt(in_onnx, "expected", tmp_path)}
        answers = self.answers(bundles, site, onnxruntime_web, answer_of)
        assert all(answers[name].startswith("passed: 10 images, ") for name in ("onnx", "odd")), answers
        assert answers["spoilt"].startswith("failed: Answers: "), answers

    @staticmethod
    def answers(bundles, site, node_modules, answer_of):
        """`{name: what the self-test's page of each bundle says}`."""
        for name, path in bundles.items():
            shutil.copytree(path, site / name)
            (site / name / "code/javascript/node_modules").symlink_to(node_modules)
        (site / "pages.html").write_text(PAGES)
        return answer_of("pages.html?" + "&".join(f"bundle={name}" for name in bundles))

    def test_the_versions_are_those_tested_here(self, plain, in_onnx):
        tested = json.loads((WEB_APP / "package.json").read_text())["dependencies"]["@litertjs/core"]
        for path, name, version in (
            (plain, "@litertjs/core", tested),
            (in_onnx, "onnxruntime-web", ONNXRUNTIME_WEB),
        ):
            package = json.loads((path / "code/javascript/package.json").read_text())
            assert package["dependencies"] == {name: version}


@pytest.fixture(scope="module")
def onnxruntime_web(tmp_path_factory):
    """`node_modules` with what a page needs of ONNX Runtime Web, of one version and with one content."""
    directory = tmp_path_factory.mktemp("onnxruntime_web")
    npm = shutil.which("npm") or unavailable("npm is missing. On Debian: apt-get install npm")
    command = [npm, "pack", "--silent", f"onnxruntime-web@{ONNXRUNTIME_WEB}"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    if done.returncode:
        unavailable(f"ONNX Runtime Web cannot be fetched here: {done.stderr.strip()[:300]}")
    (archive,) = directory.glob("*.tgz")
    assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == ONNXRUNTIME_WEB_SHA512
    target = directory / "onnxruntime-web/dist"
    target.mkdir(parents=True)
    with tarfile.open(archive) as packed:
        for name in ("ort.min.mjs", "ort-wasm-simd-threaded.jsep.mjs", "ort-wasm-simd-threaded.jsep.wasm"):
            (target / name).write_bytes(packed.extractfile(f"package/dist/{name}").read())
    return directory


class TestLanguages:
    def test_what_takes_no_file_is_left_out_and_told(self, signed, unsigned):
        for path, missing, sentence in (
            (
                signed,
                "javascript",
                "JavaScript is left out: its runtime takes float32 or uint8 at the edges, and the "
                "files here have int8. Add web to --target.",
            ),
            (
                unsigned,
                "kotlin",
                "Kotlin is left out: its runtime takes float32 or int8 at the edges, and the files "
                "here have uint8. Add app to --target.",
            ),
        ):
            index = index_of(path)
            assert index["left_out"] == {missing: sentence}
            assert set(index["code"]) == {language.folder for language in templates.LANGUAGES} - {missing}
            assert not (path / "code" / missing).exists()
            assert sentence in (path / "README.md").read_text()

    def test_the_first_file_that_a_runtime_takes(self):
        def record(dtype):
            return {"inputs": [{"dtype": dtype}], "outputs": [{"dtype": dtype}]}

        taken = {
            language.folder: [dtype for dtype in ("float32", "int8", "uint8", "int16") if language.takes(record(dtype))]
            for language in templates.LANGUAGES
        }
        everything = ["float32", "int8", "uint8", "int16"]
        assert taken == {
            "python": everything,
            "javascript": ["float32", "uint8"],
            "kotlin": ["float32", "int8"],
            "swift": everything,
            "cpp": everything,
        }

    def test_a_placeholder_without_a_value_is_refused(self, tmp_path):
        (tmp_path / "x").write_text("@@NAME@@ @@NOBODY@@")
        with pytest.raises(ValueError, match="x has placeholders without a value: NOBODY"):
            templates.filled(tmp_path / "x", {"NAME": "a"})

    def test_numbers_are_plain_decimals(self):
        assert [templates.number(n) for n in (1e-5, 1 / 256, 1.0, -128)] == ["0.00001", "0.00390625", "1.0", "-128"]


class TestOddModels:
    def test_names_are_plain_and_labels_are_kept(self, odd):
        index = index_of(odd)
        assert (index["name"], index["channels"]) == ("m_bius__1__model", 1)
        assert index["models"][0]["file"] == "models/m_bius__1__model_int8_ort-arm.onnx"
        labels = (odd / "labels.txt").read_bytes().decode().split("\n")
        assert labels == ['a "quoted" one', "back\\slash, $dollar", "<b>&amp;", "μ @@NAME@@"]
        assert (index["golden"]["labels"], classifier_of(odd).Classifier(odd).labels) == (None, labels)

    def test_random_weights(self, tmp_path):
        """They are drawn once, for all files."""
        index, _, failure = bundle.write(tmp_path / "x", "resnet8", "random", recipe="float32", targets=["app", "web"])
        one, other = ((tmp_path / "x" / model["file"]).read_bytes() for model in index["models"])
        assert one == other
        assert (failure, len(index["golden"]["pngs"])) == (None, 10)
        assert 1e-5 <= index["models"][0]["tolerance"] < 1e-4
        assert run_python(tmp_path / "x", "--self-test").returncode == 0


class TestWriting:
    def test_past_the_gate_nothing_is_written(self, judges, tmp_path, capsys):
        command = ["--bundle", str(tmp_path / "x"), "--eval-data", str(judges), "--max-drop=-101", "--force"]
        assert tflite.main(command) == 1
        assert list(tmp_path.iterdir()) == []
        assert "nothing was written" in capsys.readouterr().err

    def test_the_command_tells_what_it_wrote(self, plain):
        told = json.loads((plain.parent / "printed.json").read_text())
        assert (told["bundle"], told["index"]) == (str(plain), index_of(plain))
        assert [record["target"] for record in told["records"]] == ["app", "web"]

    def test_only_an_untouched_bundle_is_replaced(self, signed, judges, tmp_path):
        path = shutil.copytree(signed, tmp_path / "x")
        (path / "code/python/__pycache__").mkdir()
        (path / "code/python/__pycache__/classifier.cpython-313.pyc").write_bytes(b"compiled")  # its code was imported
        assert folder.claim(path) == path
        for touch, seen in (
            (lambda: (path / "mine.txt").write_text("x"), "mine.txt"),
            (lambda: (path / "labels.txt").unlink(), "labels.txt"),
            (lambda: flip(path / "golden/03.png"), "golden/03.png"),
            (lambda: (path / "SHA256SUMS").write_bytes(b"\xff"), "README.md"),
            (lambda: (path / "SHA256SUMS").write_text("\n" + (path / "SHA256SUMS").read_text()), "README.md"),
        ):
            touch()
            with pytest.raises(ValueError, match=f"not as this command left it, see {seen}"):
                bundle.write(path, eval_data=judges)
            shutil.rmtree(path)
            shutil.copytree(signed, path)
        (path / "mine.txt").write_text("x")
        with folder.Draft(folder.claim(path, force=True)) as draft:
            (draft.path / "bundle.json").write_text("{}")
            draft.publish()
        assert files_in(tmp_path) == {"x/bundle.json", "x/SHA256SUMS"}
        assert folder.claim(path) == path

    @pytest.mark.parametrize("option", ["--text", "--binary"])
    def test_other_folders_with_sums_are_not_replaced(self, tmp_path, option):
        (tmp_path / "thesis.txt").write_text("years")
        sums = subprocess.run(["sha256sum", option, "thesis.txt"], cwd=tmp_path, capture_output=True, check=True).stdout
        (tmp_path / "SHA256SUMS").write_bytes(sums)
        with pytest.raises(ValueError, match="not as this command left it"):
            folder.claim(tmp_path)

    def test_places_that_are_refused(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("x")
        with pytest.raises(ValueError, match="must name a folder"):
            folder.claim(tmp_path / "file")
        (tmp_path / "home/work").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "home/work")
        for path in (".", "..", tmp_path):
            with pytest.raises(ValueError, match="Received one that holds"):
                folder.claim(path, force=True)

    @pytest.mark.parametrize(
        ("command", "complaint"),
        [
            (["--target", "app,edge"], "Unknown target. Received: 'edge'"),
            (["--target", "app,app"], "must name each target once. Received: app,app"),
            (["--target", "app,micro", "--io", "uint8"], "app takes float32 or int8"),
            (["--target", "app,edgetpu", "--float32"], "edgetpu computes in integers"),
            (["--calibration-sweep"], "leave --bundle out"),
        ],
    )
    def test_what_is_wrong_is_said_at_once(self, command, complaint, tmp_path, monkeypatch):
        monkeypatch.setattr("export.source.load", None)  # nothing is loaded for it
        with pytest.raises(ValueError, match=complaint):
            tflite.main(["--bundle", str(tmp_path / "x"), *command])
        assert list(tmp_path.iterdir()) == []

    def test_several_targets_need_a_bundle(self, tmp_path):
        for main, names in ((tflite.main, "app,web"), (onnx.main, "ort-x86,qnn")):
            with pytest.raises(ValueError, match="--target takes several names only together with --bundle"):
                main(["--target", names])
            with pytest.raises(SystemExit):
                main(["--bundle", str(tmp_path / "x"), "--out", str(tmp_path / "y")])

    def test_the_package_has_every_template(self):
        root = pathlib.Path(__file__).parent.parent
        patterns = re.search(r'^export = (\["snippets.*\])$', (root / "pyproject.toml").read_text(), re.MULTILINE)[1]
        packed = {path for pattern in ast.literal_eval(patterns) for path in (root / "export").glob(pattern)}
        assert {path for path in templates.SNIPPETS.rglob("*") if path.is_file()} <= packed
