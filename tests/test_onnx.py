"""ONNX files: what is in them for each target, and that ONNX Runtime computes what Keras computes."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from mutation import estranged, mutated
from onnx import numpy_helper
from PIL import Image
from trained import briefly_trained

from export import (
    artifact,
    backends,
    calibration,
    conversion,
    doctor,
    lint,
    onnx_file,
    onnx_graph,
    onnx_targets,
    qdq,
    recipes,
    runtime,
    source,
    verify,
)
from export import onnx as onnx_export
from resnet_keras import cli, data, models, processor

LARGE = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
TARGETS = tuple(onnx_targets.TARGETS)
LOGITS_TOLERANCE = 1e-4  # sums in float32, in another order
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO takes bfloat16 by itself where the processor has it
PAIR = ("QuantizeLinear", "DequantizeLinear")


@pytest.fixture(scope="module")
def bundled():
    return source.load()


@pytest.fixture(scope="module")
def calibrated(bundled):
    return calibration.gather(bundled)[0].take(slice(50))


@pytest.fixture(scope="module")
def limits(bundled, calibrated):
    form = conversion.form(bundled)
    return conversion.observed(conversion.float_file(bundled, form), bundled, calibrated, "mse")


@pytest.fixture(scope="module")
def quantized(bundled, limits, tmp_path_factory):
    """`{target: path}` of the int8 files of the bundled model."""
    directory, paths = tmp_path_factory.mktemp("quantized"), {}
    for name, target in onnx_targets.TARGETS.items():
        network = onnx_graph.build(bundled, target, onnx_targets.OPSET)
        paths[name] = directory / f"{name}.onnx"
        paths[name].write_bytes(
            qdq.quantize(network, limits, target, recipes.get("int8")).SerializeToString(deterministic=True)
        )
    return paths


def settled(name, size=224, **arguments):
    """A model whose batch norm is no identity and whose logits stay of the order of 1, however deep it is."""
    keras.utils.set_random_seed(0)
    model = models.build(name, input_shape=(size, size, 3), **arguments)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        spread = {"gamma": (0.5, 0.8), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2), "bias": (-0.5, 0.5)}
        if weight.name in spread:
            weight.assign(rng.uniform(*spread[weight.name], weight.shape))
    return model


def loaded(model, tmp_path):
    path = tmp_path / f"{model.name}.keras"
    model.save(path)
    return source.load(str(path))


def logits_in_onnx_runtime(network, images):
    """What the classifier gives before the softmax: the tensor is called after the layer."""
    network.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


def check_float(model, tmp_path, layout="NCHW"):
    loaded_source = loaded(model, tmp_path)
    target = onnx_targets.get("ort-x86" if layout == "NCHW" else "ort-arm")
    network = onnx_graph.build(loaded_source, target, onnx_targets.OPSET)
    ops = [node.op_type for node in network.graph.node]
    assert ops.count("Transpose") == (0 if layout == "NCHW" else 1)
    assert not {"BatchNormalization", "Squeeze", "ReduceMean", "MatMul", "Identity"} & set(ops)
    height, width, channels = loaded_source.input_shape
    images = np.random.default_rng(1).integers(0, 256, (2, height, width, channels)).astype("float32")
    expected = keras.Model(model.input, model.get_layer("logits").output).predict_on_batch(images)
    order = (0, 3, 1, 2) if layout == "NCHW" else (0, 1, 2, 3)
    found = logits_in_onnx_runtime(network, images.transpose(order))
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=LOGITS_TOLERANCE * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(("name", "layout"), [("resnet18", "NCHW"), ("resnet50", "NHWC")])
def test_float_parity(name, layout, tmp_path):
    check_float(settled(name, size=64), tmp_path, layout)


def test_float_parity_of_odd_sizes_and_identity_shortcuts(tmp_path):
    check_float(settled("resnet8", size=33, shortcut="identity"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_every_depth_at_full_size(name, tmp_path):
    model = settled(name)
    check_float(model, tmp_path)
    check_float(model, tmp_path, "NHWC")


@pytest.mark.slow
def test_every_form_in_openvino(bundled, quantized, tmp_path):
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "float32.onnx"
    network = onnx_graph.build(bundled, onnx_targets.get("openvino"), onnx_targets.OPSET)
    path.write_bytes(network.SerializeToString())
    images = calibration.gather(bundled)[1].images[:200]
    for file, enough in ((path, 1.0), (quantized["openvino"], 0.98)):
        compiled = openvino.Core().compile_model(openvino.Core().read_model(file), "CPU", EXACT)
        scores = compiled(images.transpose(0, 3, 1, 2).astype("float32"))[compiled.output(0)]
        expected = bundled.reference.predict_on_batch(images)
        assert np.mean(scores.argmax(axis=1) == expected.argmax(axis=1)) >= enough
        if file == path:
            np.testing.assert_allclose(scores, expected, rtol=0, atol=LOGITS_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_whole_test_set(target, tmp_path, capsys):
    """Within 0.2 points of float on all 10,000 images, of which none chose anything."""
    test = data.load("fashion_mnist").test
    _, _, failure = onnx_export.export(target=target, out=tmp_path / "x.onnx")
    assert failure is None
    float_scores = source.load().reference.predict(test.images, batch_size=256, verbose=0)
    scores = runtime.Runner(tmp_path / "x.onnx").predict(test.images)
    top1, reference = (100 * np.mean(s.argmax(axis=1) == test.labels) for s in (scores, float_scores))
    agreement = 100 * np.mean(scores.argmax(axis=1) == float_scores.argmax(axis=1))
    with capsys.disabled():
        print(f"\n{target}: float {reference:.2f} %, int8 {top1:.2f} %, same answer {agreement:.2f} %", end="")
    assert reference - top1 <= 0.2


def test_the_same_arguments_give_the_same_bytes(bundled, quantized, limits):
    target = onnx_targets.get("ort-x86")
    again = qdq.quantize(onnx_graph.build(bundled, target, onnx_targets.OPSET), limits, target, recipes.get("int8"))
    assert again.SerializeToString(deterministic=True) == quantized["ort-x86"].read_bytes()


@pytest.mark.parametrize("target", TARGETS)
def test_int8_files_are_fit_for_their_target_and_answer_as_the_model(bundled, quantized, target):
    found = lint.lint(quantized[target], target)
    assert found.problems == ()
    assert found.float_tensors == () or onnx_targets.get(target).fuses_residual
    images = calibration.gather(bundled)[1].images[:400]
    answers = runtime.Runner(quantized[target]).predict(images).argmax(axis=1)
    assert np.mean(answers == bundled.reference.predict_on_batch(images).argmax(axis=1)) >= 0.98


@pytest.mark.parametrize("target", ["ort-x86", "ort-arm"])
def test_onnx_runtime_computes_no_convolution_in_float(quantized, target):
    facts = lint.lint(quantized[target], target).facts
    assert facts["float_convolutions"] == 0
    assert facts["optimised_ops"]["QLinearConv"] == 19
    assert facts["batches"] == [1, 3]


class TestExactSums:
    """uint8 times int8 without VNNI, where ONNX Runtime's usual kernels saturate."""

    @pytest.mark.parametrize(
        ("features", "asked"),
        [({"avx2"}, True), (set(), True), ({"avx2", "avx_vnni"}, False), ({"avx512_vnni"}, False)],
    )
    def test_are_asked_for_where_they_are_needed(self, features, asked, quantized, monkeypatch):
        said, path = [], quantized["ort-x86"]
        monkeypatch.setattr(processor, "features", lambda: features)
        options = onnxruntime.SessionOptions
        monkeypatch.setattr(options, "add_session_config_entry", lambda _, *entry: said.append(entry))
        backends.OnnxRuntime.session(path, str(path))
        assert said == [("session.x64quantprecision", "1")] * asked

    def test_do_not_depend_on_the_processor(self, bundled, quantized, monkeypatch):
        images = calibration.gather(bundled)[1].images[:20]
        here = runtime.Runner(quantized["ort-x86"]).predict(images)
        monkeypatch.setattr(processor, "features", set)
        np.testing.assert_array_equal(runtime.Runner(quantized["ort-x86"]).predict(images), here)


def test_tensorrt_is_symmetric_and_fuses_the_sums(quantized):
    """Read from the file with onnx alone."""
    graph = onnx.load(quantized["tensorrt"]).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zero_points = [constants[node.input[2]] for node in graph.node if node.op_type in PAIR]
    assert len(zero_points) > 40
    assert not any(value.any() for value in zero_points)
    assert {value.dtype.name for value in zero_points} == {"int8"}
    makers = {name: node for node in graph.node for name in node.output}
    sums = [node for node in graph.node if node.op_type == "Add"]
    assert len(sums) == 9
    assert all("Conv" in {makers[name].op_type for name in node.input} for node in sums)


def test_qnn_has_fixed_shapes_and_small_integers(quantized):
    model = onnx.shape_inference.infer_shapes(onnx.load(quantized["qnn"]))
    made = {name for node in model.graph.node for name in node.output}
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    assert made <= {v.name for v in values}
    for value in values:
        kind = value.type.tensor_type
        assert all(side.HasField("dim_value") and side.dim_value > 0 for side in kind.shape.dim)
        assert kind.elem_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) or "bias" in value.name
    assert [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim] == [1, 32, 32, 3]


def test_16_bits_for_qnn(tmp_path):
    out = tmp_path / "x.onnx"
    record, _, failure = onnx_export.export(recipe="int16x8", target="qnn", out=out)
    assert failure is None
    assert record["measured"]["agreement_percent"] > 99.5
    model = onnx.load(out)
    dtypes = {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("out/zero_point")}
    assert dtypes == {onnx.TensorProto.UINT16}
    with pytest.raises(ValueError, match="16-bit"):
        onnx_export.export(recipe="int16x8", target="ort-x86", out=out)


def test_ranges_are_those_of_the_tflite_file(quantized, limits):
    """Scale and zero point of each tensor follow from the one range."""
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(quantized["ort-x86"]).graph.initializer}
    shared = [name for name in limits if f"{name}/scale" in constants and "pool" not in name]
    assert len(shared) >= 25
    for name in shared:
        if "shortcut" in name:  # moved values keep the scale that they came with
            continue
        low, high = limits[name]
        assert constants[f"{name}/scale"] == np.float32((high - low) / 255)
        assert constants[f"{name}/zero_point"] == np.rint(-low * 255 / (high - low))


class TestCommand:
    def test_a_file_with_its_record(self, tmp_path, capsys):
        path, _ = briefly_trained(tmp_path)
        labels, out = tmp_path / "labels.txt", tmp_path / "x.onnx"
        labels.write_text("\n".join(f"thing {i}" for i in range(10)))
        arguments = ["--model", str(path), "--labels", str(labels), "--out", str(out), "--max-drop", "100"]
        images = tmp_path / "images.npz"
        bundle = calibration.gather(source.load())[0]
        np.savez(images, images=bundle.images, labels=bundle.labels)
        assert onnx_export.main([*arguments, "--calibration-data", str(images), "--json"]) == cli.GOOD
        record = json.loads(capsys.readouterr().out)
        assert record == artifact.read_sidecar(out)
        assert record["sha256"] == artifact.sha256(out.read_bytes())
        assert record["inputs"][0]["shape"] == [-1, 3, 32, 32]
        assert record["calibration"]["ranges"]["stem_relu"][0] == 0
        properties = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
        assert json.loads(properties["labels"])[3] == "thing 3"
        assert json.loads(properties["preprocess"]) == record["preprocess"]
        assert properties["calibration_sha256"] == record["calibration"]["sha256"]
        assert json.loads(properties["accuracy"])["images"] == record["measured"]["images"]

    def test_half_precision_is_half_the_size(self, tmp_path):
        sizes = {}
        for recipe in ("float32", "float16"):
            record, report, failure = onnx_export.export(recipe=recipe, out=tmp_path / f"{recipe}.onnx")
            assert failure is None
            assert report.agreement_percent > 99.8
            sizes[recipe] = record["size_bytes"]
        assert 0.48 < sizes["float16"] / sizes["float32"] < 0.55

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--target", "ort-x68"], "Did you mean 'ort-x86'"),
            (["--out", "model.tflite"], "must end in .onnx"),
            (["--int16x8"], "does not take 16-bit"),
            (["--calibration-method", "best"], "Unknown calibration method"),
            (["--calibration-data", "nowhere"], "nowhere"),
            (["--model", "resnet50"], "has no weights"),
        ],
    )
    def test_bad_input(self, arguments, said, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda: onnx_export.main(arguments))
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_gate_writes_nothing(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert onnx_export.main(["--max-drop=-101"]) == cli.GATE_FAILED
        assert list(tmp_path.iterdir()) == []

    def test_run_by_its_path_it_says_how(self):
        path = pathlib.Path(onnx_export.__file__)
        done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
        assert (done.returncode, "python -m export.onnx" in done.stderr) == (2, True)


class TestLint:
    """Each rule, on a good file that is spoilt for it."""

    def spoilt(self, quantized, tmp_path, target, change):
        model = onnx.load(quantized[target])
        change(model.graph)
        path = tmp_path / "spoilt.onnx"
        path.write_bytes(model.SerializeToString())
        return " ".join(lint.lint(path, target).problems)

    def test_a_zero_point_for_tensorrt(self, quantized, tmp_path):
        def change(graph):
            for tensor in graph.initializer:
                if tensor.name == "stem_relu/zero_point":
                    tensor.CopyFrom(numpy_helper.from_array(np.int8(3), tensor.name))

        assert "zero point 3" in self.spoilt(quantized, tmp_path, "tensorrt", change)

    def test_an_open_batch_for_qnn(self, quantized, tmp_path):
        def change(graph):
            for edge in (*graph.input, *graph.output):
                edge.type.tensor_type.shape.dim[0].dim_param = "batch"

        assert "fixed shapes" in self.spoilt(quantized, tmp_path, "qnn", change)

    def test_another_name(self, quantized, tmp_path):
        def change(graph):
            graph.input[0].name = "pixels"
            for node in graph.node:
                node.input[:] = ["pixels" if name == "image" else name for name in node.input]

        assert "'pixels'" in self.spoilt(quantized, tmp_path, "ort-x86", change)

    def test_a_layer_left_in_float(self, quantized, tmp_path):
        def change(graph):
            weights = next(node for node in graph.node if node.output[0] == "stage2_block2_conv1/kernel/rounded")
            integers, scale = (
                next(numpy_helper.to_array(t) for t in graph.initializer if t.name == name)
                for name in weights.input[:2]
            )
            values = integers * scale.reshape(-1, 1, 1, 1)
            graph.initializer.append(numpy_helper.from_array(values.astype("float32"), weights.output[0]))
            graph.node.remove(weights)

        assert "1 of the convolutions in float" in self.spoilt(quantized, tmp_path, "ort-x86", change)

    def test_files_for_another_target(self, quantized):
        assert any("int8 activations" in p for p in lint.lint(quantized["ort-arm"], "ort-x86").problems)
        assert any("reads a rounded convolution" in p for p in lint.lint(quantized["ort-arm"], "tensorrt").problems)
        assert any("Transpose" in p for p in lint.lint(quantized["ort-arm"], "openvino").problems)

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\x08" * 50])
    def test_damaged_files(self, content, tmp_path):
        path = tmp_path / "x.onnx"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not a valid \.onnx file"):
            onnx_file.read(path)


def test_verify_splits_the_difference_by_a_float_file_of_the_same_format(quantized, capsys):
    assert verify.main([str(quantized["ort-x86"]), "--json"]) == cli.GOOD
    report = json.loads(capsys.readouterr().out)
    assert report["agreement_percent"] > 99.5
    assert report["split"] is not None


@pytest.fixture(scope="module")
def tflite_layers(bundled, limits, tmp_path_factory):
    """`{layer: signal to noise}` of the int8 `.tflite` file with the same ranges."""
    path, form = tmp_path_factory.mktemp("tflite") / "x.tflite", conversion.form(bundled)
    path.write_bytes(conversion.integer_file(conversion.float_file(bundled, form), form, limits))
    return {layer.name: layer.snr_db for layer in verified(path, bundled).observation.layers}


def verified(path, source):
    return verify.verify(path, source, calibration.gather(source)[1])


@pytest.mark.parametrize("target", ["ort-x86", "qnn"])
def test_layers_are_as_noisy_as_in_the_tflite_file(quantized, bundled, tflite_layers, target):
    report = verified(quantized[target], bundled)
    assert report.unseen is None
    assert report.observation.left_out == 0
    assert report.seen.is_faithful
    own = {layer.name: layer.snr_db for layer in report.observation.layers}
    # A pad is a tensor there and part of the convolution here.
    shared = set(tflite_layers) & set(own)
    assert set(tflite_layers) - shared == {"stage2_block1_pad1", "stage3_block1_pad1"}
    # The two runtimes break ties in other ways: noise of 1/12 step**2 in each, so less than 3 dB between them.
    assert all(abs(own[name] - tflite_layers[name]) < 1.5 for name in shared)
    # 8 bits of a channel's largest weight are within 1 % of their norm; the stem has the deviation of pixels inside.
    assert len(report.observation.weights) == 20
    assert all(w.error < 0.02 for w in report.observation.weights if w.name != "stem_conv")


def test_layers_of_float_files_are_those_of_the_model(bundled, tmp_path):
    onnx_export.export(recipe="float16", out=str(tmp_path / "x.onnx"))
    observation = verified(tmp_path / "x.onnx", bundled).observation
    # Half precision has three bits more than int8, 18 dB, whose worst layer is at 27 dB; and it rounds weights alone.
    assert observation.worst.snr_db > 27 + 18
    assert len(observation.weights) == 20
    assert all(w.error < 2**-11 for w in observation.weights if w.name != "stem_conv")


def test_labels_in_the_file_are_held_against_the_model(quantized, bundled, tmp_path, capsys):
    model = onnx.load(quantized["ort-x86"])
    onnx.helper.set_model_props(model, {"labels": json.dumps(bundled.labels[::-1])})
    path = tmp_path / "reversed.onnx"
    path.write_bytes(model.SerializeToString())
    assert verify.main([str(path)]) == cli.GATE_FAILED
    assert "class 0 is" in capsys.readouterr().err


def status_of(command, arguments, capsys):
    """The exit status of a command on a file, after a look at what it printed."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: command.main([*arguments, "--json"]))
    stdout, stderr = capsys.readouterr()
    assert "Traceback" not in stderr
    assert stopped.value.code in (cli.GOOD, cli.GATE_FAILED, cli.BAD_INPUT)
    assert bool(stdout) == (stopped.value.code != cli.BAD_INPUT)
    return stopped.value.code


@pytest.mark.parametrize("count", [18, pytest.param(700, marks=pytest.mark.slow)])
def test_mutated_files(quantized, bundled, tmp_path, monkeypatch, capsys, count):
    images = calibration.gather(bundled)[1].take(slice(4))
    np.savez(tmp_path / "images.npz", images=images.images, labels=images.labels)
    monkeypatch.setattr(source, "load", lambda *_: bundled)
    monkeypatch.setattr(verify, "_twin", lambda *_: None)
    whole, path = quantized["ort-x86"].read_bytes(), tmp_path / "x.onnx"
    statuses = set()
    for content in (*mutated(whole, count // 3), *estranged(onnx.load_model_from_string(whole), count)):
        path.write_bytes(content)
        statuses.add(status_of(lint, [str(path), "--target", "ort-x86"], capsys))
        statuses.add(status_of(verify, [str(path), "--data", str(tmp_path / "images.npz")], capsys))
    assert statuses == {cli.GOOD, cli.GATE_FAILED, cli.BAD_INPUT}


def test_a_spoilt_file_fails_its_verification(quantized, tmp_path, capsys):
    model = onnx.load(quantized["ort-x86"])
    for tensor in model.graph.initializer:
        if tensor.name == "stage2_block2_conv1/kernel/integer":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    path = tmp_path / "spoilt.onnx"
    path.write_bytes(model.SerializeToString())
    assert verify.main([str(path), "--max-drop", "0.5"]) == cli.GATE_FAILED
    error = capsys.readouterr().err
    assert "drops" in error
    assert "stage2_block2_conv1" in error


def test_doctor_takes_the_file(quantized, bundled, tmp_path):
    images = calibration.gather(bundled)[1]
    folder = tmp_path / "photos"
    for index in range(60):
        directory = folder / bundled.labels[images.labels[index]].replace("/", "-")
        directory.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[index]).save(directory / f"{index}.png")
    found = doctor.diagnose(quantized["ort-x86"], str(folder), list(bundled.labels))
    assert found.failure() is None
    assert found.trials[0].top1_percent > 90
