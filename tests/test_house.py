"""The rules of the house: who may import whom, and what must stay light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MAY_IMPORT_RESNET_KERAS = {"calibration.py", "compress.py", "source.py", "verify.py"}
LIGHT = (
    *("runtime", "backends", "artifact", "recipes", "targets", "onnx_targets", "bench", "footprint", "lint"),
    *("metadata", "matrix", "bundle", "bundle_index", "bundle_readme", "folder", "golden", "photo", "plain_kernels"),
    "templates",
)
COMMANDS = [
    *(f"resnet_keras.{name}" for name in ("train", "recipes", "evaluate", "tfrecord", "weights")),
    *(
        f"export.{name}"
        for name in ("tflite", "onnx", "verify", "bench", "doctor", "lint", "matrix", "compress", "serve")
    ),
]


def imported(path, with_the_module_only=False):
    """Top-level packages that a file imports, anywhere or only in its top-level statements."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if with_the_module_only else list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def loaded_after(code):
    """Top-level modules in a fresh process after `code`."""
    report = "; import sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_resnet_keras_never_imports_export():
    for path in (ROOT / "resnet_keras").rglob("*.py"):
        assert "export" not in imported(path), path


def test_few_export_modules_import_resnet_keras_with_themselves():
    importers = {
        p.name for p in (ROOT / "export").glob("*.py") if "resnet_keras" in imported(p, with_the_module_only=True)
    }
    assert importers <= MAY_IMPORT_RESNET_KERAS


@pytest.mark.parametrize("module", ["resnet_keras", *(f"export.{name}" for name in LIGHT)])
def test_light_modules_load_no_framework(module):
    assert not {"keras", "tensorflow", "jax", "torch"} & loaded_after(f"import {module}")


@pytest.mark.parametrize("module", COMMANDS)
def test_help_loads_no_framework(module):
    code = (
        "import contextlib, runpy, sys; sys.argv = ['x', '--help']\n"
        f"with contextlib.suppress(SystemExit): runpy.run_module('{module}', run_name='__main__')\n"
        "0"
    )
    assert not {"keras", "tensorflow", "jax", "torch"} & loaded_after(code)


def test_preprocess_is_defined_once():
    definitions = [
        path
        for folder in ("resnet_keras", "export", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if "class Preprocess" in path.read_text()
    ]
    assert [path.name for path in definitions] == ["preprocessing.py"]


def test_public_names_exist_and_are_documented():
    import resnet_keras

    for name in resnet_keras.__all__:
        assert getattr(resnet_keras, name).__doc__, name
    with pytest.raises(AttributeError, match="ResNet19"):
        resnet_keras.ResNet19  # noqa: B018


def test_a_saved_model_loads_after_the_two_imports(tmp_path):
    path = tmp_path / "x.keras"
    make = f"import resnet_keras; resnet_keras.ResNet8().save({str(path)!r})"
    subprocess.run([sys.executable, "-c", make], check=True, capture_output=True)
    load = f"import keras, resnet_keras; keras.models.load_model({str(path)!r})"
    subprocess.run([sys.executable, "-c", load], check=True, capture_output=True)


def test_the_bundle_is_small_and_licensed():
    files = [path for path in (ROOT / "resnet_keras" / "assets").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert "Zalando" in (ROOT / "resnet_keras" / "assets" / "LICENSE-fashion-mnist.txt").read_text()
