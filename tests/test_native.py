"""The C++, Kotlin and Swift code of a bundle: what of it can be proven without a phone."""

import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL
import pytest
from browser import unavailable
from PIL import Image
from trained import briefly_trained

from export import bundle, templates
from export.runtime import Runner
from resnet_keras.preprocessing import INTERPOLATIONS, Preprocess

HERE = pathlib.Path(__file__).parent
COMMON = templates.SNIPPETS / "common"
HEIGHT_FIRST_SINCE = 13  # of Pillow, for tall images


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, check=False, **options)


def compiled(*command):
    """Warnings are errors where they are the snippets' own."""
    done = run("g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *command)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module", autouse=True)
def compiler():
    if sys.platform != "linux":
        pytest.skip("The runtimes are linked as they are on Linux.")
    if shutil.which("g++") is None:
        unavailable("There is no g++. On Debian: apt-get install g++")


@pytest.fixture(scope="module")
def cases():
    """Random images and rules: the input of `pixels_main.*`, and Pillow's word on each."""
    rng, given, expected = np.random.default_rng(0), [], []
    while len(expected) < 900:
        height, width, *wanted = map(int, rng.integers(1, 90, 4))
        if len(expected) % 5 == 0:  # unchanged in one direction or both
            height, width = wanted[0], int(rng.choice([width, wanted[1]]))
        if height > width and int(PIL.__version__.split(".")[0]) < HEIGHT_FIRST_SINCE:
            continue
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if len(expected) % 2:  # hard edges, at which bicubic overshoots
            image = np.where(image < 128, 0, 255).astype(np.uint8)
        channels, kind = int(rng.choice([1, 3])), len(expected) % 3
        preprocess = Preprocess(*wanted, float(rng.choice([1, 0.875, 0.5, rng.uniform(0.2, 1)])), INTERPOLATIONS[kind])
        resized = [round(side / preprocess.crop_fraction) for side in wanted]
        given += [np.array([height, width, *wanted, channels, *resized, kind], "<i4").tobytes(), image.tobytes()]
        seen = image if channels == 3 else np.asarray(Image.fromarray(image).convert("L"))[..., None]
        expected.append(preprocess.pixels(seen).tobytes())
    return b"".join(given), expected


class TestPixels:
    """Equal to Pillow to the bit."""

    def check(self, cases, *command):
        given, expected = cases
        done = run(*command, input=given)
        assert done.returncode == 0, done.stderr.decode()
        ends = np.cumsum([0, *map(len, expected)])
        assert len(done.stdout) == ends[-1]
        different = [k for k, pixels in enumerate(expected) if done.stdout[ends[k] : ends[k + 1]] != pixels]
        assert different == []

    def test_cpp(self, cases, tmp_path):
        compiled("-I", COMMON / "cpp", HERE / "pixels_main.cc", "-o", tmp_path / "main")
        self.check(cases, tmp_path / "main")
        hashes = run(tmp_path / "main", "sha256").stdout.decode().split()
        assert hashes == [hashlib.sha256(bytes(range(size))).hexdigest() for size in range(200)]

    @pytest.mark.slow
    def test_kotlin(self, cases, tmp_path):
        if shutil.which("kotlinc") is None:
            pytest.skip("There is no kotlinc. It is in the npm package kotlin-compiler.")
        sources, jar = (COMMON / "kotlin" / "Pixels.kt", HERE / "pixels_main.kt"), tmp_path / "main.jar"
        done = run("kotlinc", "-Werror", *sources, "-include-runtime", "-d", jar)
        assert done.returncode == 0, done.stderr.decode()
        self.check(cases, "java", "-jar", jar)

    @pytest.mark.slow
    def test_swift(self, cases, tmp_path):
        if shutil.which("swiftc") is None:
            pytest.skip("There is no swiftc. It is in Debian 13's package swiftlang.")
        sources = COMMON / "swift" / "Pixels.swift", HERE / "pixels_main.swift"
        done = run("swiftc", "-O", "-parse-as-library", *sources, "-o", tmp_path / "main")
        assert done.returncode == 0, done.stderr.decode()
        self.check(cases, tmp_path / "main")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Of a small grey network that is not square: with int8 edges for LiteRT, channels first for ONNX Runtime."""
    directory = tmp_path_factory.mktemp("bundles")
    path, pixels = briefly_trained(directory, input_shape=(24, 32, 1), classes=4)
    np.savez(directory / "pixels.npz", images=pixels[:60])
    options = {"calibration_data": directory / "pixels.npz", "max_drop": 100}
    for name, more in {"tflite": {"io": "int8"}, "onnx": {"format": "onnx"}}.items():
        assert bundle.write(directory / name, str(path), **options, **more)[2] is None
    return directory


def model_of(folder):
    (path,) = (folder / "models").glob(f"*.{folder.name}")
    return path


def linked(format, directory):
    """What g++ is told to link the classifier: headers, and the library that the Python package brings."""
    package = {"tflite": "ai_edge_litert", "onnx": "onnxruntime"}[format]
    root = pathlib.Path(importlib.util.find_spec(package).origin).parent
    if format == "tflite":
        library, headers = root / "libLiteRt.so", os.environ.get("LITERT_INCLUDE", directory)
        (directory / "litert" / "c").mkdir(parents=True)
        for name in ("common", "compiled_model", "environment", "model", "options", "tensor_buffer"):
            shutil.copy(HERE / "litert_c_api.h", directory / "litert" / "c" / f"litert_{name}.h")
    else:
        debian = pathlib.Path("/usr/include/onnxruntime")
        headers = os.environ.get("ORT_INCLUDE", debian if debian.is_dir() else HERE)
        library = directory / "libonnxruntime.so.1"  # the name that it is looked for by
        library.symlink_to(*(root / "capi").glob("libonnxruntime.so.*"))
    return "-isystem", headers, library, f"-Wl,-rpath,{library.parent}"


@pytest.mark.parametrize(("flags", "asked"), [("avx2 fma", True), ("avx2 avx512_vnni", False)])
def test_exact_sums_are_asked_for_without_vnni(flags, asked, bundles, tmp_path):
    """Under an empty name, which ONNX Runtime refuses, so that asking shows."""
    folder = shutil.copytree(bundles / "onnx", tmp_path / "copy")
    (tmp_path / "cpuinfo").write_text(flags)
    network = folder / "code/cpp/network.h"
    code = network.read_text().replace("/proc/cpuinfo", str(tmp_path / "cpuinfo"))
    network.write_text(code.replace("session.x64quantprecision", ""))
    compiled(folder / "code/cpp/classifier.cc", *linked("onnx", tmp_path), "-o", tmp_path / "classifier")
    done = run(tmp_path / "classifier", "--self-test", folder)
    assert ("key is empty" in done.stderr.decode()) == (done.returncode != 0) == asked


@pytest.fixture(scope="module", params=["tflite", "onnx"])
def built(request, bundles, tmp_path_factory):
    """A bundle and its C++ code, compiled: `(folder, program)`."""
    folder, directory = bundles / request.param, tmp_path_factory.mktemp("built")
    compiled(folder / "code/cpp/classifier.cc", *linked(request.param, directory), "-o", directory / "classifier")
    return folder, directory / "classifier"


class TestClassifier:
    """The C++ code in the real runtimes."""

    def test_passes_its_self_test(self, built):
        folder, program = built
        done = run(program, "--self-test", cwd=folder)
        assert done.returncode == 0, done.stderr.decode()
        assert b"self-test passed: 10 images" in done.stdout

    @pytest.mark.parametrize(("name", "part"), [(None, "model file"), ("golden/photo_pixels.u8", "preprocessing")])
    def test_a_changed_byte_fails_it(self, built, tmp_path, name, part):
        folder, program = built
        shutil.copytree(folder, tmp_path / "copy")
        path = tmp_path / "copy" / (name or model_of(folder).relative_to(folder))
        data = bytearray(path.read_bytes())
        data[-1] ^= 0x40
        path.write_bytes(data)
        done = run(program, "--self-test", tmp_path / "copy")
        assert (done.returncode, done.stdout) == (1, b"")
        assert f"Self-test of the {part} failed" in done.stderr.decode()

    @pytest.mark.parametrize(("tolerances", "status"), [(0.5, 0), (1.5, 1), (np.nan, 1)])
    def test_a_probability_past_the_tolerance_fails_it(self, built, tmp_path, tolerances, status):
        folder, program = built
        shutil.copytree(folder, tmp_path / "copy")
        (model,) = json.loads((folder / "bundle.json").read_text())["models"]
        expected = np.fromfile(folder / model["expected"], "<f4").reshape(10, -1)
        expected[9, expected[9].argmin()] += tolerances * model["tolerance"]  # the first answer stays
        expected.tofile(tmp_path / "copy" / model["expected"])
        done = run(program, "--self-test", tmp_path / "copy")
        assert done.returncode == status
        assert ("Self-test of the probabilities failed at golden image 9" in done.stderr.decode()) == (status == 1)

    def test_names_a_photo_as_python_does(self, built, tmp_path):
        folder, program = built
        photo = Image.open(folder / "golden/photo.png")
        photo.save(tmp_path / "photo.ppm")
        done = run(program, tmp_path / "photo.ppm", folder)
        assert done.returncode == 0, done.stderr.decode()
        pixels = Preprocess(24, 32, 1.0).pixels(np.asarray(photo.convert("L"))[..., None])
        (expected,) = Runner(model_of(folder)).predict(pixels[None])
        labels = (folder / "labels.txt").read_text().split("\n")
        found = [re.fullmatch(r" *([\d.]+) %  (.*)", line).groups() for line in done.stdout.decode().splitlines()]
        order = np.argsort(-expected, kind="stable")
        assert [label for _, label in found] == [labels[k] for k in order]
        assert [float(percent) for percent, _ in found] == pytest.approx(100 * expected[order], abs=0.006)

    def test_says_what_is_wrong_with_its_input(self, built, tmp_path):
        folder, program = built
        (tmp_path / "short.ppm").write_bytes(b"P6 # a comment\n9 9\n255\n123")
        for arguments, status, complaint in [
            ((), 2, b"usage"),
            (("photo.ppm", tmp_path), 1, b"Name the folder of the bundle"),
            (("no.ppm", folder), 1, b"There is no file no.ppm"),
            ((folder / "golden/photo.png", folder), 1, b"is not a binary PPM file"),
            ((tmp_path / "short.ppm", folder), 1, b"ends too early"),
        ]:
            done = run(program, *arguments)
            assert (done.returncode, done.stdout) == (status, b"")
            assert complaint in done.stderr


@pytest.mark.parametrize("format", ["tflite", "onnx"])
@pytest.mark.parametrize("language", ["kotlin", "swift"])
def test_the_code_holds_the_values_of_its_model(bundles, format, language):
    folder = bundles / format
    code = "".join(path.read_text() for path in (folder / "code" / language).iterdir())
    model = model_of(folder)
    for value in (f"models/{model.name}", hashlib.sha256(model.read_bytes()).hexdigest(), f"golden/{model.stem}.f32"):
        assert f'"{value}"' in code
    for path in re.findall(r'"((?:models|golden)/[^"]*|labels.txt)"', code):
        assert (folder / path).is_file()
    assert "@@" not in code
    assert f"## {language.title()}" in (folder / "README.md").read_text()
