"""Where the ops of a file run: all of them on an NPU, and on a microcontroller to the bit as in LiteRT."""

import dataclasses

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from trained import briefly_trained

from export import calibration, conversion, lint, source
from resnet_keras import data

NPUS = ("ethos-u55-128", "ethos-u65-256", "ethos-u85-256")
SMALL = ("resnet8", "resnet20", "resnet56")
LARGE = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
IMAGENET_MEAN = (123.675, 116.28, 103.53)


def linted(model, target, images, directory):
    path = directory / f"{model.name}_{target}.tflite"
    path.write_bytes(conversion.convert(model, "int8", None, images, target))
    return lint.lint(path, target)


def check(model, images, directory, capsys):
    """Nothing is left to the processor, in float, or beyond the ops that frozen compilers know."""
    for target in (*NPUS, "edgetpu"):
        found = linted(model, target, images, directory)
        assert found.problems == ()
        assert found.float_tensors == ()
        assert "TRANSPOSE" not in {op["op"] for op in found.ops}
        if target in NPUS:
            assert found.facts["cpu_operators"] == 0
            assert found.facts["npu_operators"] > 10
            with capsys.disabled():
                facts = found.facts
                print(f"\n{model.name} {target}: {facts['inference_ms']:.3f} ms, {facts['sram_kib']:,.0f} KiB", end="")


def random_source(name):
    model = source.load(name, "random")
    images = calibration.gather(model, count=4)[0]
    return model, images


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_every_depth_with_a_mean_for_each_channel(name, tmp_path, capsys):
    """As published weights have it: the pixels go through one more op or channel."""
    model, images = random_source(name)
    check(dataclasses.replace(model, mean=IMAGENET_MEAN), images, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_small_family(name, tmp_path, capsys):
    check(*random_source(name), tmp_path, capsys)


def test_one_small_network_on_one_npu(tmp_path):
    model, images = random_source("resnet8")
    found = linted(model, "ethos-u55-128", images, tmp_path)
    assert (found.problems, found.facts["cpu_operators"]) == ((), 0)


@pytest.mark.parametrize(("recipe", "steps"), [("int8", 0), ("int16x8", 1)])
def test_micro_computes_what_the_reference_kernels_do(tmp_path, recipe, steps):
    """With 16 bits the two have tables of their own for the softmax."""
    from tflite_micro import runtime

    model = source.load(str(briefly_trained(tmp_path)[0]))
    sample = data.load("fashion_mnist_sample")
    images = calibration.ImageSet(sample.train.images[:50], None, "training")
    path = tmp_path / "x.tflite"
    path.write_bytes(conversion.convert(model, recipe, None, images, "micro"))
    reference = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    reference.allocate_tensors()
    feed, fetch = reference.get_input_details()[0], reference.get_output_details()[0]["index"]
    micro = runtime.Interpreter.from_file(str(path), arena_size=2**22)
    answers = set()
    for image in sample.test.images[:50]:
        scale, zero_point = feed["quantization"]
        stored = image - 128.0 if recipe == "int8" else np.rint(image / scale + zero_point)
        pixels = stored[None].astype(feed["dtype"])
        reference.set_tensor(feed["index"], pixels)
        reference.invoke()
        micro.set_input(pixels, 0)
        micro.invoke()
        np.testing.assert_allclose(micro.get_output(0), reference.get_tensor(fetch).astype(int), atol=steps, rtol=0)
        answers.add(int(micro.get_output(0).argmax()))
    assert len(answers) > 3
    found = lint.lint(path, "micro")
    assert found.problems == ()
    assert 0 < found.facts["arena_bytes"] < 2**22
