"""Files of both formats in their runtimes: pixels in, probabilities out; and what it costs."""

import json
import pathlib
import re
import subprocess
import sys
import time
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto
from onnx import helper as onnx_helper
from tensorflow.lite.tools import flatbuffer_utils

from export import bench, footprint, runtime, tflite_file
from resnet_keras import cli

SIDES = (8, 6, 3)  # no two alike: an exchange of any two shows
RNG = np.random.default_rng(0)
FILTERS = RNG.normal(size=(3, 3, 3, 4)).astype("f4") / 9
HEAD = RNG.normal(size=(4, 5)).astype("f4") / 100
PIXELS = RNG.integers(0, 256, (3, *SIDES), np.uint8)


def network(x, between=lambda x: x):
    x = tf.nn.relu(tf.nn.conv2d(x, FILTERS, 1, "SAME"))
    return tf.nn.softmax(tf.matmul(tf.reduce_mean(between(x), (1, 2)), HEAD))


def converted(function, edges=None, shape=(1, *SIDES)):
    """A function of an image as the bytes of a `.tflite` file: float, or in integers with edges of that dtype."""
    spec = tf.TensorSpec(shape, tf.float32, name="image")
    concrete = tf.function(function, autograph=False).get_concrete_function(spec)
    with cli.held_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
        if edges is not None:
            kinds = tf.lite.OpsSet
            wide = kinds.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            converter.target_spec.supported_ops = [wide if edges == "int16" else kinds.TFLITE_BUILTINS_INT8]
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            # From 0 to 255, in each image: one step of the input is one pixel.
            ramp = np.resize(np.arange(256, dtype="f4"), (256, *SIDES))
            ramp[:, 0, 0, 0] = 255
            converter.representative_dataset = lambda: ([image[None]] for image in ramp)
            converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(edges)
        return converter.convert()


def onnx_file(path, first="NCHW", batch=1, dtype="float", sides=SIDES):
    """The same network, its input in that order, saved."""
    height, width, channels = sides
    order = {"N": batch, "C": channels, "H": height, "W": width}
    nodes, at = [], "image"

    def node(op, *more, **attributes):
        nonlocal at
        nodes.append(onnx_helper.make_node(op, [at, *more], [f"{op}{len(nodes)}"], **attributes))
        at = nodes[-1].output[0]

    if dtype == "uint8":
        node("Cast", to=TensorProto.FLOAT)
    if first == "NHWC":
        node("Transpose", perm=[0, 3, 1, 2])
    node("Conv", "filters", pads=[1, 1, 1, 1])
    node("Relu")
    node("GlobalAveragePool")
    node("Flatten")
    node("MatMul", "head")
    node("Softmax")
    nodes[-1].output[0] = "probabilities"
    kind = {"float": TensorProto.FLOAT, "uint8": TensorProto.UINT8}[dtype]
    graph = onnx_helper.make_graph(
        nodes,
        "network",
        [onnx_helper.make_tensor_value_info("image", kind, [order[letter] for letter in first])],
        [onnx_helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 5])],
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(FILTERS.transpose(3, 2, 0, 1)), "filters"),
            onnx.numpy_helper.from_array(HEAD, "head"),
        ],
    )
    # The versions that the oldest supported runtime knows.
    model = onnx_helper.make_model(graph, opset_imports=[onnx_helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def edited(data, edit):
    """The file after `edit(graph)` has changed it as objects."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    edit(model.subgraphs[0])
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def declaring(data, zero_point, scale=None):
    """The same integers in the file, which says something else of its input's quantization."""

    def edit(graph):
        quantization = graph.tensors[graph.inputs[0]].quantization
        quantization.zeroPoint = [zero_point]
        quantization.scale = quantization.scale if scale is None else [scale]

    return edited(data, edit)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`{name: path}` of the network in float32, int8, uint8 and int16, with an op too many, and in ONNX."""
    directory = tmp_path_factory.mktemp("files")
    data = {"float32": converted(network)} | {io: converted(network, io) for io in ("int8", "uint8", "int16")}
    data["pooled"] = converted(lambda x: network(x, lambda y: tf.nn.max_pool2d(y, 1, 2, "VALID")))
    data["nothing"] = converted(lambda x: tf.reduce_prod(x, (1, 2)))
    for name, content in data.items():
        (directory / f"{name}.tflite").write_bytes(content)
    paths = {name: directory / f"{name}.tflite" for name in data}
    return {**paths, "onnx": onnx_file(directory / "x.onnx")}


@pytest.fixture(scope="module")
def expected():
    return network(PIXELS.astype("f4")).numpy()


def run(arguments, capsys):
    """`(exit status, stdout, stderr)` of the command, in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: bench.main([str(a) for a in arguments]))
    return stopped.value.code, *capsys.readouterr()


class TestRunner:
    @pytest.mark.parametrize("name", ["float32", "int8", "uint8", "int16"])
    def test_tflite(self, files, expected, name):
        runner = runtime.Runner(files[name], threads=1)
        assert runner.image_shape == SIDES
        assert runner.runtime.startswith("LiteRT 2.")
        assert [edge["dtype"] for edge in runner.inputs + runner.outputs] == [name, name]
        found = runner.predict(PIXELS)
        assert found.dtype == np.float32
        # Integers of 8 bits: an output scale of 1/256 and as much again for what is lost inside.
        np.testing.assert_allclose(found, expected, atol={"float32": 1e-6, "int16": 1e-3}.get(name, 2 / 256))

    @pytest.mark.parametrize("dtype", ["float", "uint8"])
    @pytest.mark.parametrize("batch", [1, "n"])
    @pytest.mark.parametrize("first", ["NCHW", "NHWC"])
    def test_onnx(self, tmp_path, expected, first, batch, dtype):
        runner = runtime.Runner(onnx_file(tmp_path / "x.onnx", first, batch, dtype), threads=1)
        assert runner.image_shape == SIDES
        assert runner.runtime == f"ONNX Runtime {onnxruntime.__version__}"
        open_or_one = -1 if batch == "n" else 1
        assert runner.inputs == [
            {
                "name": "image",
                "dtype": {"float": "float32"}.get(dtype, dtype),
                "shape": [open_or_one, *({"NCHW": (3, 8, 6), "NHWC": (8, 6, 3)}[first])],
                "scale": None,
                "zero_point": None,
            }
        ]
        assert (runner.outputs[0]["name"], runner.outputs[0]["shape"]) == ("probabilities", [open_or_one, 5])
        np.testing.assert_allclose(runner.predict(PIXELS), expected, atol=1e-6)

    @pytest.mark.parametrize("name", ["float32", "onnx"])
    def test_threads(self, files, name):
        code = (
            "import os, sys; from export.runtime import Runner; runner = Runner(sys.argv[1], 1)\n"
            "count = lambda: len(os.listdir('/proc/self/task'))\n"
            "before = count(); more = Runner(sys.argv[1], 4); more.load(__import__('numpy').zeros(more.image_shape))\n"
            "more.invoke(); print(count() - before)"
        )
        done = subprocess.run([sys.executable, "-c", code, files[name]], capture_output=True, text=True, check=True)
        assert int(done.stdout) == 3  # and the one that asks

    @pytest.mark.parametrize("name", ["float32", "onnx"])
    def test_images_of_another_size(self, files, name):
        with pytest.raises(ValueError, match=r"takes images of shape \(8, 6, 3\). Received: \(6, 8, 3\)"):
            runtime.Runner(files[name]).predict(PIXELS.transpose(0, 2, 1, 3))

    @pytest.mark.parametrize(("dtype", "zero_point"), [("int8", -128), ("int8", -5), ("uint8", 0), ("uint8", 123)])
    def test_a_step_of_one_takes_the_pixel_whatever_the_zero_point(self, files, tmp_path, dtype, zero_point):
        path = tmp_path / "x.tflite"
        path.write_bytes(declaring(files[dtype].read_bytes(), zero_point))
        runner = runtime.Runner(path)
        assert (runner.inputs[0]["scale"], runner.inputs[0]["zero_point"]) == (1, zero_point)
        stored = PIXELS if dtype == "uint8" else (PIXELS.astype(np.int16) - 128).astype(np.int8)
        np.testing.assert_array_equal(runner.predict(PIXELS), raw(path, stored))

    @pytest.mark.parametrize(("scale", "zero_point"), [(0.5, -128), (2.0, 3), (0.999, 100)])
    def test_any_other_step_takes_the_pixel_by_the_scale(self, files, tmp_path, scale, zero_point):
        path = tmp_path / "x.tflite"
        path.write_bytes(declaring(files["int8"].read_bytes(), zero_point, scale))
        stored = np.clip(np.rint(PIXELS / np.float64(np.float32(scale)) + zero_point), -128, 127).astype(np.int8)
        np.testing.assert_array_equal(runtime.Runner(path).predict(PIXELS), raw(path, stored))

    def test_int16_has_its_scale(self, files):
        edge = runtime.Runner(files["int16"]).inputs[0]
        assert runtime.quantized(np.array([0, 1, 255]), edge).tolist() == [
            round(pixel / edge["scale"]) for pixel in (0, 1, 255)
        ]
        assert edge["scale"] == pytest.approx(255 / 32767)
        wide = runtime.quantized(np.array([0, 255]), {**edge, "scale": 1.0, "zero_point": 0})
        assert wide.tolist() == [0, 255]

    @pytest.mark.parametrize(
        ("function", "shape", "words"),
        [
            (network, (1, None, None, 3), "leaves its image or class count open"),
            (network, (8, *SIDES), "takes 8 images at a time"),
            (lambda x: tf.nn.relu(x), (1, *SIDES), "not an image classifier"),
            (lambda x: (network(x), x + 1), (1, *SIDES), "not an image classifier"),
            (lambda x: tf.argmax(x[:, 0], 1), (1, *SIDES), "scale is not known"),
        ],
    )
    def test_no_classifier_of_one_image(self, tmp_path, capsys, function, shape, words):
        (tmp_path / "x.tflite").write_bytes(converted(function, shape=shape))
        refused(run([tmp_path / "x.tflite"], capsys), 2, "x.tflite", words)

    def test_an_open_batch_is_one(self, tmp_path, expected):
        (tmp_path / "x.tflite").write_bytes(converted(network, shape=(None, *SIDES)))
        runner = runtime.Runner(tmp_path / "x.tflite")
        assert runner.inputs[0]["shape"] == [-1, *SIDES]
        np.testing.assert_allclose(runner.predict(PIXELS), expected, atol=1e-6)

    def test_onnx_with_an_open_size(self, tmp_path, capsys):
        path = onnx_file(tmp_path / "x.onnx", sides=("h", "w", 3))
        refused(run([path], capsys), 2, "x.onnx", "[1, 3, -1, -1]", "fixed image size")

    def test_no_edges_at_all(self, files, tmp_path):
        for side in ("inputs", "outputs"):
            (tmp_path / "x.tflite").write_bytes(
                edited(files["float32"].read_bytes(), lambda graph, side=side: setattr(graph, side, []))
            )
            with pytest.raises(ValueError, match="not an image classifier"):
                runtime.Runner(tmp_path / "x.tflite")


def raw(path, stored):
    """The file's answers to integers, by a loop of its own."""
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (feed,), (fetch,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for image in stored:
        interpreter.set_tensor(feed["index"], image[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(fetch["index"])[0])
    scale, zero_point = fetch["quantization"]
    return (np.array(answers, np.float32) - zero_point) * np.float32(scale)


class TestDelegate:
    def test_all_part_and_nothing(self, files):
        assert runtime.Runner(files["float32"]).delegate == ("XNNPACK", 100)
        ops = [op.name for op in tflite_file.read(files["pooled"])[1].ops]
        assert ops.count("MAX_POOL_2D") == 1  # of one pixel, which XNNPACK leaves to LiteRT
        assert runtime.Runner(files["pooled"]).delegate == ("XNNPACK", pytest.approx(100 * (1 - 1 / len(ops))))
        assert runtime.Runner(files["nothing"]).delegate == (None, 0)

    def test_onnx_runtime_has_one_provider(self, files):
        assert runtime.Runner(files["onnx"]).delegate == ("CPUExecutionProvider", 100)

    def test_a_runtime_that_does_not_tell(self, files, monkeypatch):
        monkeypatch.delattr(Interpreter, "_get_ops_details")
        assert runtime.Runner(files["float32"]).delegate == ("XNNPACK", None)


class TestFootprint:
    def test_the_weights_are_in_it(self, files, tmp_path):
        weights = RNG.normal(size=(3, 2_000_000)).astype("f4")  # 24 MB
        path = tmp_path / "x.tflite"
        path.write_bytes(converted(lambda x: tf.nn.softmax(tf.matmul(tf.reduce_mean(x, (1, 2)), weights))))
        more_bytes = footprint.peak_bytes(path, 1) - footprint.peak_bytes(files["float32"], 1)
        # The weights once in the file and once packed by XNNPACK, and less than as much again of anything else.
        assert 24e6 < more_bytes < 4 * 24e6

    def test_it_is_not_that_of_the_process_that_asks(self, files):
        held = np.ones(50_000_000)  # 400 MB
        # Less than any process has with numpy and a runtime in it.
        assert 0 < footprint.peak_bytes(files["float32"], 1) < 20e6
        assert held.sum() == 50_000_000

    def test_a_system_that_does_not_tell(self, monkeypatch):
        monkeypatch.setattr(footprint.pathlib.Path, "exists", lambda path: False)
        assert footprint._resident_peak_bytes() > 100e6  # this process, with tensorflow
        monkeypatch.setitem(sys.modules, "resource", None)
        assert footprint._resident_peak_bytes() is None

    def test_a_runtime_that_hangs(self, files):
        with pytest.raises(ValueError, match=r"float32.tflite cannot be run: .* within 0.01 s"):
            footprint.peak_bytes(files["float32"], 1, time_limit_s=0.01)


class Clock:
    """A runner that takes a known time, and notes when it is called."""

    calls: list
    ends_s: list

    def __init__(self, path, threads):
        self.path, self.image_shape, self.delegate, self.runtime = str(path), SIDES, (None, 0.0), "none"

    def load(self, image):
        assert image.shape == SIDES

    def invoke(self):
        Clock.calls.append((self.path, time.perf_counter()))
        time.sleep({"slow": 0.008, "fast": 0.002}.get(pathlib.Path(self.path).name, 0.0))
        Clock.ends_s.append(time.perf_counter())


class TestMeasure:
    @pytest.fixture
    def clocks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(bench, "Runner", Clock)
        monkeypatch.setattr(footprint, "peak_bytes", lambda path, threads: len(pathlib.Path(path).name))
        Clock.calls, Clock.ends_s = [], []
        paths = [tmp_path / name for name in ("slow", "fast", "nothing")]
        for path in paths:
            path.write_bytes(b"x" * len(path.name) * 10)
        return [str(path) for path in paths]

    def test_each_figure_is_that_of_its_file(self, clocks):
        slow, fast, nothing = bench.measure(clocks, seconds=0.4, threads=1)
        assert 8 <= slow.p50_ms <= slow.p90_ms
        assert 2 <= fast.p50_ms < slow.p50_ms
        assert nothing.p50_ms < fast.p50_ms
        assert (slow.times_as_fast, fast.times_as_fast) == (1, slow.p50_ms / fast.p50_ms)
        assert [b.file for b in (slow, fast, nothing)] == clocks
        assert [(b.peak_memory_bytes, b.size_bytes) for b in (slow, fast, nothing)] == [(4, 40), (4, 40), (7, 70)]
        # 10 ms of work and three pauses make a round, and a busy machine makes it longer.
        assert 10 <= slow.rounds <= 25

    def test_a_pause_lets_the_threads_of_the_last_file_fall_asleep(self, clocks):
        bench.measure(clocks, seconds=0.001, threads=1)
        starts_s = [start_s for _, start_s in Clock.calls[1:]]
        assert all(start - end >= bench.PAUSE_S for start, end in zip(starts_s, Clock.ends_s[:-1], strict=True))

    def test_each_round_has_each_file_once_in_another_order(self, clocks, monkeypatch):
        monkeypatch.setattr(bench, "LEAST_ROUNDS", 30)
        rounds = bench.measure(clocks, seconds=0.001, threads=1)[0].rounds
        assert rounds == 30
        timed = [path for path, _ in Clock.calls[-3 * rounds :]]
        orders = [tuple(timed[k : k + 3]) for k in range(0, len(timed), 3)]
        assert all(sorted(order) == sorted(clocks) for order in orders)
        assert len(set(orders)) == 6
        assert all(len({order[place] for order in orders}) == 3 for place in range(3))


class TestCommand:
    def test_table(self, files, capfd):
        arguments = [files["float32"], files["pooled"], files["onnx"], "--seconds", "0.05", "--threads", "1"]
        code, out, err = run(arguments, capfd)
        assert code == 0
        header, *lines = out.splitlines()
        assert header.split() == ["file", "p50", "p90", "times", "as", "fast", "delegate", "peak", "memory", "size"]
        assert [line.split()[0] for line in lines] == [str(files[name]) for name in ("float32", "pooled", "onnx")]
        for line, delegate in zip(
            lines, ("XNNPACK, 100.0 %", "XNNPACK, 80.0 %", "CPUExecutionProvider, 100.0 %"), strict=True
        ):
            assert f"  {delegate} of ops  " in line
        assert all(" MiB" in line for line in lines)
        assert re.search(rf", 1 thread, \d+ rounds, LiteRT [\d.]+, ONNX Runtime {onnxruntime.__version__}$", err, re.M)
        assert "does not predict a phone, which has other kernels" in err
        assert "other delegates" in err
        assert re.search("^timing .*100%.*rounds/s", err, re.M)
        assert "XNNPACK" not in err  # which LiteRT announces by itself

    def test_json(self, files, capsys):
        code, out, _ = run([files["int8"], files["onnx"], "--seconds", "0.05", "--json"], capsys)
        first, second = json.loads(out)
        assert code == 0
        assert 0 < first["p50_ms"] <= first["p90_ms"]
        assert (first["times_as_fast"], first["rounds"]) == (1, second["rounds"])
        assert second["times_as_fast"] == pytest.approx(first["p50_ms"] / second["p50_ms"])
        assert first["peak_memory_bytes"] > 1e5
        assert first["size_bytes"] == files["int8"].stat().st_size
        assert (second["delegate"], second["delegated_percent"]) == ("CPUExecutionProvider", 100)

    def test_the_same_file_twice(self, files, capsys):
        code, out, _ = run([files["float32"], files["float32"], "--seconds", "0.05", "--json"], capsys)
        first, second = json.loads(out)
        assert code == 0
        assert {k for k in first if first[k] != second[k]} <= {"p50_ms", "p90_ms", "times_as_fast", "peak_memory_bytes"}

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--threads", 0), ("--threads", -1), ("--threads", 10**6)]
        + [("--seconds", value) for value in (0, -1, "nan", "inf")],
    )
    def test_senseless_options(self, files, capsys, option, value):
        refused(run([files["float32"], f"{option}={value}"], capsys), 2, option, f"Received: {value}")

    @pytest.mark.parametrize("name", ["none.tflite", "none.onnx", "."])
    def test_no_file(self, tmp_path, capsys, name):
        refused(run([tmp_path / name], capsys), 2, "There is no file", str(tmp_path / name))

    @pytest.mark.parametrize("name", ["x.tflite", "x.onnx", "x.txt"])
    @pytest.mark.parametrize("content", [b"", b"hello, world\n" * 9])
    def test_a_text(self, tmp_path, capsys, name, content):
        (tmp_path / name).write_bytes(content)
        words = "not an .onnx file" if name == "x.onnx" else "neither a .tflite file nor named as an .onnx file"
        refused(run([tmp_path / name], capsys), 2, name, words)

    @pytest.mark.parametrize("name", ["int8", "onnx"])
    def test_a_damaged_file_is_refused_whichever_it_is(self, files, tmp_path, capsys, name):
        whole = files[name].read_bytes()
        bad = tmp_path / f"bad{files[name].suffix}"
        bad.write_bytes(whole[: len(whole) // 2])
        runtime_name = "ONNX Runtime" if name == "onnx" else "LiteRT"
        refused(run([files["float32"], bad], capsys), 2, bad.name, f"that {runtime_name} can run")

    def test_a_crash_stays_where_it_is(self, files, tmp_path, capsys, monkeypatch):
        stand_in(tmp_path, monkeypatch, "ai_edge_litert/interpreter.py", "import os\nos.abort()\n")
        refused(run([files["float32"]], capsys), 2, "float32.tflite cannot be run", "crashed (SIGABRT)")

    @pytest.mark.parametrize(
        ("name", "package", "words"),
        [
            ("float32", "ai_edge_litert", "LiteRT is missing. Install it with: pip install 'resnet-keras[export]'"),
            ("onnx", "onnxruntime", "ONNX Runtime is missing. Install it with: pip install 'resnet-keras[onnx]'"),
        ],
    )
    def test_a_missing_package(self, files, tmp_path, capsys, monkeypatch, name, package, words):
        stand_in(tmp_path, monkeypatch, f"{package}/__init__.py", "raise ImportError\n")
        refused(run([files[name]], capsys), 3, words)

    def test_a_runtime_that_stumbles_later(self, files, tmp_path, capsys, monkeypatch):
        stand_in(
            tmp_path,
            monkeypatch,
            "sitecustomize.py",
            "from ai_edge_litert.interpreter import Interpreter\n"
            "def invoke(self): raise RuntimeError('no more registers')\n"
            "Interpreter.invoke = invoke\n",
        )
        refused(run([files["float32"]], capsys), 2, "float32.tflite cannot be run: no more registers")

    def test_neither_keras_nor_tensorflow_is_needed(self, files):
        code = (
            f"import sys; from export import bench; bench.main([{str(files['int8'])!r}, {str(files['onnx'])!r}, "
            "'--seconds', '0.01', '--json']); print(*{name.split('.')[0] for name in sys.modules})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not {"keras", "tensorflow", "onnx"} & set(done.stdout.splitlines()[-1].split())


def stand_in(directory, monkeypatch, path, content):
    """A module that other processes find before the installed one."""
    (directory / path).parent.mkdir(exist_ok=True)
    (directory / path).write_text(content)
    if path.count("/") and not path.endswith("__init__.py"):
        (directory / path).with_name("__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(directory))


def refused(result, status, *words):
    code, out, err = result
    assert (code, out) == (status, "")
    lines = [line for line in err.splitlines() if "━" not in line and line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert [word for word in words if word not in lines[0]] == [], lines[0]
