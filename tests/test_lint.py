"""What lint says about files of our own, of others, edited by hand and damaged."""

import dataclasses
import json
import subprocess
import sys
import time
import warnings

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from mutation import mutated
from tensorflow.lite.tools import flatbuffer_utils

from export import calibration, conversion, lint, source, targets, tflite_file, trial
from resnet_keras import cli

NPUS = ("ethos-u55-128", "ethos-u65-256", "ethos-u85-256")


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """`{name: path}`: the bundled model with int8 and float edges, in float32, and with one scale for its head."""
    directory = tmp_path_factory.mktemp("bundled")
    model = source.load()
    images = calibration.gather(model)[0].take(slice(30))
    files = {
        "int8": conversion.convert(model, "int8", "int8", images),
        "int8_float_edges": conversion.convert(model, "int8", "float32", images),
        "float32": conversion.convert(model, "float32"),
        "int8_per_tensor_dense": conversion.convert(model, "int8", "int8", images, "micro"),
    }
    for name, data in files.items():
        (directory / f"{name}.tflite").write_bytes(data)
    return {name: directory / f"{name}.tflite" for name in files}


def converted(network, edges="int8", flex=False):
    """A function of an image `(1, 8, 8, 3)` as the bytes of an int8 file."""
    concrete = tf.function(network, autograph=False).get_concrete_function(
        tf.TensorSpec((1, 8, 8, 3), tf.float32, name="image")
    )
    with cli.held_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
        kinds = tf.lite.OpsSet
        converter.target_spec.supported_ops = [kinds.TFLITE_BUILTINS_INT8]
        if flex:
            converter.target_spec.supported_ops = [kinds.TFLITE_BUILTINS, kinds.SELECT_TF_OPS]
            return converter.convert()
        rng = np.random.default_rng(0)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([rng.uniform(0, 255, (1, 8, 8, 3)).astype("f4")] for _ in range(4))
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(edges)
        return converter.convert()


def small(x, between=lambda x: x):
    rng = np.random.default_rng(1)
    x = tf.nn.relu(tf.nn.conv2d(x, rng.normal(size=(3, 3, 3, 4)).astype("f4"), 1, "SAME"))
    x = tf.nn.depthwise_conv2d(x, rng.normal(size=(3, 3, 4, 1)).astype("f4"), (1, 1, 1, 1), "SAME")
    x = tf.reduce_mean(between(x), (1, 2))
    return tf.nn.softmax(tf.matmul(x, rng.normal(size=(4, 5)).astype("f4") / 100))


@pytest.fixture(scope="module")
def tiny():
    """The bytes of a little int8 classifier with int8 edges."""
    return converted(small)


@pytest.fixture
def checked(tmp_path):
    """Lints bytes."""

    def check(data, target, **arguments):
        path = tmp_path / "x.tflite"
        path.write_bytes(data)
        return lint.lint(path, target, **arguments)

    return check


def edited(data, edit):
    """The file after `edit(model, graph)` has changed it as objects."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    edit(model, model.subgraphs[0])
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def operator(model, graph, name):
    """The first operator of that name, and its code."""
    code = getattr(schema.BuiltinOperator, name)
    (index,) = (i for i, entry in enumerate(model.operatorCodes) if entry.builtinCode == code)
    return next(op for op in graph.operators if op.opcodeIndex == index), model.operatorCodes[index]


def run(arguments, capsys):
    """`(exit status, stdout, stderr)` of the command, in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: lint.main([str(a) for a in arguments]))
    return stopped.value.code, *capsys.readouterr()


class TestBundled:
    @pytest.mark.parametrize("target", NPUS)
    def test_all_of_it_runs_on_the_npu(self, bundled, target):
        found = lint.lint(bundled["int8"], target)
        assert found.failure() is None
        assert found.facts["ran"].startswith("ethos-u-vela")
        assert (found.facts["cpu_operators"], found.facts["npu_percent"]) == (0, 100)
        clock_mhz = 500 if "u55" in target else 1000
        assert found.facts["inference_ms"] == pytest.approx(found.facts["cycles"] / clock_mhz / 1000)
        assert 0.1 < found.facts["inference_ms"] < 3
        assert 30 < found.facts["sram_kib"] < 100
        stored = found.facts["dram_kib"] + found.facts["flash_kib"]
        assert stored > found.facts["compressed_weights_bytes"] / 1024 > 200

    def test_the_table_is_what_the_model_is(self, bundled, capsys):
        code, stdout, stderr = run([bundled["int8"], "--target", "app"], capsys)
        assert (code, stderr) == (0, "")
        rows = [tuple(line.split("  ", 1)) for line in stdout.splitlines()]
        rows = [(what, figure.strip()) for what, figure in rows]
        assert ("op", "CONV_2D v3  x19") in rows
        assert ("op", "ADD v2  x9") in rows
        assert ("per-channel weights", "CONV_2D x19, axis 0") in rows
        assert ("float tensors inside", "0") in rows
        assert ("input", "image int8 [1, 32, 32, 3], scale 1, zero point 0") in rows
        assert ("problem", "none") in rows
        assert run([bundled["int8"], "--json"], capsys)[1].count('"scales"') == 20

    def test_micro_gives_what_litert_gives(self, bundled):
        found = lint.lint(bundled["int8_per_tensor_dense"], "micro")
        assert found.failure() is None
        assert 2 * 32 * 32 * 16 < found.facts["arena_bytes"] < 150_000
        interpreter = Interpreter(model_path=str(bundled["int8_per_tensor_dense"]))
        interpreter.allocate_tensors()
        ramp = np.resize(np.arange(256) - 128, (1, 32, 32, 3)).astype(np.int8)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], ramp)
        interpreter.invoke()
        expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        assert expected.max() > 50
        np.testing.assert_allclose(found.facts["output"], expected, atol=3)  # steps of 1/256

    @pytest.mark.parametrize("target", ["micro", "edgetpu"])
    def test_a_classifier_with_a_scale_a_channel_is_refused_by_old_runtimes(self, bundled, target):
        (problem,) = lint.lint(bundled["int8"], target).problems
        assert "FULLY_CONNECTED" in problem
        assert "one for the whole tensor" in problem
        assert lint.lint(bundled["int8_per_tensor_dense"], target).failure() is None

    def test_vivante_wants_one_scale_everywhere(self, bundled):
        (problem,) = lint.lint(bundled["int8_per_tensor_dense"], "vivante").problems
        assert "CONV_2D" in problem
        assert "18 more" in problem

    @pytest.mark.parametrize(("target", "takes"), [("web", "float32 or uint8"), ("mediapipe", "float32 or uint8")])
    def test_other_edges(self, bundled, target, takes):
        sentences = [p for p in lint.lint(bundled["int8"], target).problems if "TFLITE_METADATA" not in p]
        assert sentences == [
            f"The input 'image' is int8; {target} takes {takes}.",
            f"The output 'probabilities' is int8; {target} takes {takes}.",
        ]

    @pytest.mark.parametrize("name", ["float32", "int8_float_edges"])
    def test_float_edges_are_for_apps(self, bundled, name):
        assert lint.lint(bundled[name], "app").failure() is None
        assert lint.lint(bundled[name], "web").failure() is None
        (problem,) = lint.lint(bundled[name], "mediapipe").problems
        assert "TFLITE_METADATA" in problem

    def test_metadata_is_seen(self, bundled, checked):
        def add(model, graph):
            buffer, entry = schema.BufferT(), schema.MetadataT()
            buffer.data, entry.name, entry.buffer = list(b"labels"), "TFLITE_METADATA", len(model.buffers)
            model.buffers.append(buffer)
            model.metadata.append(entry)

        assert checked(edited(bundled["float32"].read_bytes(), add), "mediapipe").failure() is None

    @pytest.mark.parametrize("target", NPUS)
    def test_float_edges_stay_on_the_cpu_beside_an_npu(self, bundled, target):
        found = lint.lint(bundled["int8_float_edges"], target)
        assert found.facts["cpu_operators"] == 2
        for op in ("QUANTIZE", "DEQUANTIZE"):
            assert any(p.startswith(f"{op} (") and "float" in p for p in found.problems)
            assert any("Vela leaves" in p and f" {op} " in p and "to the CPU" in p for p in found.problems)

    @pytest.mark.parametrize("target", ["ethos-u55-128", "micro", "edgetpu", "vivante"])
    def test_float32_is_not_for_integers(self, bundled, target, capsys):
        code, stdout, stderr = run([bundled["float32"], "--target", target, "--json"], capsys)
        found = json.loads(stdout)
        assert code == 1
        assert stderr.startswith(f"failed: float32.tflite is not fit for {target}: ")
        assert len(found["float_tensors"]) > 50
        assert any("CONV_2D" in p and "18 more" in p and "float" in p for p in found["problems"])
        if target == "ethos-u55-128":
            assert found["facts"]["npu_percent"] == 0


class TestOthers:
    """Files that no command of this package writes."""

    def test_the_little_classifier_is_good(self, tiny, checked):
        for target in ("app", *NPUS):
            found = checked(tiny, target)
            assert found.problems == ()
        assert [(entry["op"], entry["axis"], entry["scales"]) for entry in found.per_channel] == [
            ("CONV_2D", 0, 4),
            ("DEPTHWISE_CONV_2D", 3, 4),
            ("FULLY_CONNECTED", 0, 5),
        ]

    def test_flex(self, checked):
        found = checked(converted(lambda x: small(tf.math.sinh(x / 300)), flex=True), "app")
        assert any("FlexSinh" in p and "TensorFlow" in p for p in found.problems)
        assert any(p.startswith("LiteRT refuses the file") for p in found.problems)

    def test_transpose(self, checked):
        found = checked(converted(lambda x: small(x, lambda y: tf.transpose(y, (0, 2, 1, 3)))), "app")
        assert any(p.startswith("TRANSPOSE (") for p in found.problems)

    def test_an_integer_op_that_only_vela_can_place(self, checked):
        found = checked(converted(lambda x: small(x, lambda y: tf.gather(y, (0, 2, 1, 3), axis=1))), "ethos-u55-128")
        assert found.facts["cpu_operators"] == 1
        (problem,) = [p for p in found.problems if "Vela" in p]
        assert "leaves GATHER" in problem

    def test_an_op_that_micro_does_not_know(self, tiny, checked):
        def edit(model, graph):
            _, code = operator(model, graph, "MEAN")
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.LOCAL_RESPONSE_NORMALIZATION

        problems = checked(edited(tiny, edit), "micro").problems
        assert any("TFLite Micro refuses" in p and "LOCAL_RESPONSE_NORMALIZATION" in p for p in problems)


def _rename(model, graph, name, custom):
    _, code = operator(model, graph, name)
    code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM, schema.BuiltinOperator.CUSTOM
    code.customCode = custom


def _unknown(model, graph):
    operator(model, graph, "MEAN")[1].builtinCode = 999


def _version(model, graph):
    operator(model, graph, "CONV_2D")[1].version = 6


def _tensor(model, graph, name, place=1):
    return graph.tensors[operator(model, graph, name)[0].inputs[place]]


def _axis(model, graph):
    _tensor(model, graph, "DEPTHWISE_CONV_2D").quantization.quantizedDimension = 0


def _zero_point(model, graph):
    _tensor(model, graph, "CONV_2D").quantization.zeroPoint = [0, 0, 3, 0]


def _nan(model, graph):
    _tensor(model, graph, "MEAN", 0).quantization.scale = [float("nan")]


def _count(model, graph):
    quantization = _tensor(model, graph, "CONV_2D").quantization
    quantization.scale, quantization.zeroPoint = quantization.scale[:3], [0, 0, 0]


def _activation(model, graph):
    quantization = _tensor(model, graph, "MEAN", 0).quantization
    quantization.scale, quantization.zeroPoint = [1.0, 2.0, 3.0, 4.0], [0] * 4


def _open_batch(model, graph):
    graph.tensors[graph.inputs[0]].shapeSignature = [-1, 8, 8, 3]


def _batch(model, graph):
    graph.tensors[graph.inputs[0]].shape = [4, 8, 8, 3]


def _empty(model, graph):
    _tensor(model, graph, "MEAN", 0).shape = [1, 0, 8, 4]


def _type(dtype):
    def edit(model, graph):
        _tensor(model, graph, "MEAN", 0).type = getattr(schema.TensorType, dtype)

    return edit


def _unscaled(model, graph):
    graph.tensors[graph.outputs[0]].quantization = None


def _graphs(model, graph):
    model.subgraphs.append(model.subgraphs[0])


def _outputs(model, graph):
    graph.outputs = [*graph.outputs, graph.inputs[0]]


def _no_ops(model, graph):
    graph.operators = []


def _zero_points(model, graph):
    _tensor(model, graph, "CONV_2D").quantization.zeroPoint = [0]


def _flex(model, graph):
    _rename(model, graph, "MEAN", b"FlexMean")


def _custom(model, graph):
    _rename(model, graph, "MEAN", b"Mine\x1b[2J")


@pytest.mark.parametrize(
    ("edit", "target", "words"),
    [
        (_flex, "app", "Flex op FlexMean"),
        (_custom, "app", "Custom op Mine?[2J"),
        (_unknown, "app", "op 999"),
        (_version, "edgetpu", "CONV_2D is version 6; edgetpu is held to 3"),
        (lambda *_: None, "edgetpu", "DEPTHWISE_CONV_2D ("),
        (_axis, "app", "axis 0; its axis is 3"),
        (_zero_point, "app", "zero points other than 0"),
        (_nan, "app", "not a positive number"),
        (_count, "app", "3 scales along axis 0"),
        (_activation, "app", "which only weights may have"),
        (_open_batch, "web", "'image' has the open or empty shape [-1, 8, 8, 3]"),
        (_batch, "web", "the batch of a deployed file is 1"),
        (_empty, "app", "[1, 0, 8, 4]"),
        (_type("FLOAT32"), "app", "MEAN ("),
        (_type("FLOAT32"), "app", "There are float32 tensors inside"),
        (_type("FLOAT16"), "micro", "There are float16 tensors inside"),
        (_type("INT64"), "app", "There are INT64 tensors"),
        (_type("STRING"), "app", "There are STRING tensors"),
        (_unscaled, "app", "without a scale"),
        (_graphs, "app", "one subgraph; the file has 2"),
        (_outputs, "app", "one output; the file has 2"),
        (_no_ops, "app", "no op in the file"),
        (_zero_points, "app", "4 scales and 1 zero points"),
    ],
)
def test_each_rule(tiny, tmp_path, monkeypatch, edit, target, words):
    monkeypatch.setattr(trial, "run", lambda *_: ({"ran": ""}, []))  # what the runtimes say of it is not the question
    image = tiny if target not in ("web", "mediapipe") else converted(small, "uint8")
    path = tmp_path / "x.tflite"
    path.write_bytes(edited(image, edit))
    found = lint.lint(path, target)
    assert any(words in p for p in found.problems), found.problems
    assert all(figure.isprintable() for _, figure in found.rows())
    path.write_bytes(image)
    if target in ("app", "web"):
        assert lint.lint(path, target).problems == ()


class TestBadInput:
    @pytest.mark.parametrize(
        "content", [b"", b"no model", b"TFL3", b"\0\0\0\0TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 99]
    )
    def test_no_model(self, tmp_path, content, capsys):
        (tmp_path / "x.tflite").write_bytes(content)
        code, stdout, stderr = run([tmp_path / "x.tflite"], capsys)
        assert (code, stdout, stderr.count("\n")) == (2, "", 1)
        assert ".tflite file" in stderr

    def test_no_file(self, tmp_path, capsys):
        for path in (tmp_path / "none.tflite", tmp_path, "/dev/zero"):
            code, _, stderr = run([path], capsys)
            assert code == 2
            assert str(path) in stderr

    def test_no_target(self, bundled, capsys):
        code, _, stderr = run([bundled["int8"], "--target", "ethos-u55-127"], capsys)
        assert code == 2
        assert "Did you mean 'ethos-u55-128'?" in stderr

    def test_configurations(self, bundled, capsys):
        code, _, stderr = run([bundled["int8"], "--target", "ethos-u55-128", "--memory-mode", "Nope"], capsys)
        assert code == 2
        assert "Memory_Mode.Nope" in stderr
        code, _, stderr = run([bundled["int8"], "--target", "app", "--system-config", "Nope"], capsys)
        assert code == 2
        assert "app is not compiled" in stderr
        deep = "--system-config", "Ethos_U55_Deep_Embedded", "--memory-mode", "Sram_Only"
        code, stdout, _ = run([bundled["int8"], "--target", "ethos-u55-128", *deep], capsys)
        assert code == 0
        assert "Ethos_U55_Deep_Embedded, Sram_Only" in stdout

    @pytest.mark.parametrize(
        ("module", "target"),
        [("ethosu", "ethos-u55-128"), ("tflite_micro", "micro"), ("ai_edge_litert", "app")],
    )
    def test_a_missing_package_is_status_3(self, bundled, monkeypatch, capsys, module, target):
        tflite_file._names.cache_clear()
        monkeypatch.setitem(sys.modules, module, None)
        code, stdout, stderr = run([bundled["int8"], "--target", target], capsys)
        assert (code, stdout) == (3, "")
        assert "pip install 'resnet-keras[lint]'" in stderr
        assert stderr.count("\n") == 1


class TestHostile:
    def test_a_truncated_file_is_refused_at_any_place(self, bundled, tmp_path, capsys):
        whole = bundled["int8"].read_bytes()
        for size in (9, 100, 5000, len(whole) // 2, len(whole) - 1):
            (tmp_path / "x.tflite").write_bytes(whole[:size])
            code, _, stderr = run([tmp_path / "x.tflite"], capsys)
            assert code == 2, size
            assert "damaged" in stderr

    def test_mutated_files(self, tiny, tmp_path, capsys):
        statuses = [status_of(data, tmp_path, capsys) for data in mutated(tiny, 200)]
        assert {0, 1, 2} <= set(statuses)

    @pytest.mark.slow
    def test_a_thousand_mutated_files(self, bundled, tiny, tmp_path, capsys):
        for whole in (tiny, bundled["int8"].read_bytes()):
            for data in mutated(whole, 500, seed=1):
                status_of(data, tmp_path, capsys)

    def test_a_list_that_many_tables_share(self, tmp_path):
        """5,000 tensors of one name of 5 MB: reading each would take minutes and all memory."""
        builder = flatbuffers.Builder(0)
        name = builder.CreateString("x" * 5_000_000)
        schema.TensorStart(builder)
        schema.TensorAddName(builder, name)
        tensor = schema.TensorEnd(builder)
        tensors = offsets(builder, [tensor] * 5000)
        schema.SubGraphStart(builder)
        schema.SubGraphAddTensors(builder, tensors)
        graphs = offsets(builder, [schema.SubGraphEnd(builder)])
        schema.BufferStart(builder)
        buffers = offsets(builder, [schema.BufferEnd(builder)])
        schema.ModelStart(builder)
        schema.ModelAddSubgraphs(builder, graphs)
        schema.ModelAddBuffers(builder, buffers)
        builder.Finish(schema.ModelEnd(builder), b"TFL3")
        (tmp_path / "x.tflite").write_bytes(builder.Output())
        start = time.monotonic()
        with pytest.raises(ValueError, match="items are listed"):
            tflite_file.read(tmp_path / "x.tflite")
        assert time.monotonic() - start < 10

    def test_a_runtime_that_crashes_is_a_finding(self, bundled):
        truncated = bundled["int8"].read_bytes()[:3000]
        _, (problem,) = trial.run(truncated, targets.get("ethos-u55-128"))
        assert problem == "Vela crashed (SIGSEGV)"

    def test_a_runtime_that_hangs_is_a_finding(self, tiny, checked):
        found = checked(tiny, "ethos-u55-128", time_limit_s=0.01)
        assert found.problems == ("Vela did not come to an end within 0.01 s",)
        assert [what for what, _ in found.rows()].count("problem") == 1

    @pytest.mark.parametrize(("target", "words"), [("app", "LiteRT refuses"), ("micro", "Failed to resize buffer")])
    def test_a_tensor_that_no_memory_holds(self, tiny, checked, target, words):
        def edit(model, graph):
            graph.tensors[graph.inputs[0]].shape = [1, 60_000, 60_000, 3]

        assert any(words in p for p in checked(edited(tiny, edit), target).problems)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
    @pytest.mark.parametrize(("gibibytes", "error"), [(1, ""), (9, "MemoryError")])
    def test_the_child_cannot_take_all_memory(self, gibibytes, error):
        code = f"from export import child; child.limit_memory(); bytearray({gibibytes} * 2**30)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "".join(done.stderr.split()[-1:]) == error


def offsets(builder, tables):
    builder.StartVector(4, len(tables), 4)
    for table in tables:
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()


def status_of(data, tmp_path, capsys):
    """The exit status on a file, for the target that its size picks, after a look at what was printed."""
    (tmp_path / "x.tflite").write_bytes(data)
    target = ("app", "micro", "ethos-u55-128")[sum(data[:64]) % 3]
    code, stdout, stderr = run([tmp_path / "x.tflite", "--target", target, "--json"], capsys)
    assert "Traceback" not in stderr
    assert code in (0, 1, 2)
    assert len(stderr.splitlines()) == (code != 0)
    assert bool(stdout) == (code != 2)
    if stdout:
        json.loads(stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    return code


def test_a_lint_is_immutable_and_light(bundled):
    code = (
        f"import sys; from export import lint; lint.main([{str(bundled['int8'])!r}, '--target', 'ethos-u55-128'])\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow", "ethosu"} & set(done.stdout.splitlines()[-1].split())
    with pytest.raises(dataclasses.FrozenInstanceError):
        lint.lint(bundled["int8"], "app").problems = ()
