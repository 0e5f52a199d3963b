"""Training throughput of ResNet-50: this package beside keras.applications and PyTorch, step by step in one run.

    python benchmarks/train_throughput.py --precision bfloat16 --json benchmarks/results/train_throughput.json

All sides train the same version of the network with SGD and Nesterov momentum, from float32 variables, on synthetic
images already on the device; the loss is computed from float32 logits. keras.applications has version 1 alone and
takes part in that. PyTorch takes part where it is installed: channels last, automatic mixed precision, compiled on a
GPU. They take turns, one step each, so that a drift of the machine hits all; a step ends when its device is done, and
the ratio is the median over the rounds. KERAS_BACKEND=jax measures on jax.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import time

import numpy as np
from reporting import finish

from resnet_keras import cli, processor

CLASSES = 1000


def keras_step(model, images, labels):
    """A callable that trains one step of a model that gives logits."""
    import keras

    from resnet_keras.optimization import jit_compile
    from resnet_keras.optimizers import SGD

    # Of this package where the network is, of Keras where that is.
    optimizer_class = SGD if model.name == "resnet_keras" else keras.optimizers.SGD
    model.compile(
        optimizer_class(1e-3, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile(),
    )
    images, labels = keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(labels)

    def run():
        model.train_on_batch(images, labels)
        wait_for_device(model)

    return run


def wait_for_device(model):
    """Returns when the update, not only the loss, is computed."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready([v.value for v in model.variables])
    elif on_gpu():
        import tensorflow as tf

        tf.test.experimental.sync_devices()


def our_model(shape, version):
    import keras

    import resnet_keras

    model = resnet_keras.ResNet50(input_shape=shape, classes=CLASSES, version=version, include_preprocessing=False)
    return keras.Model(model.input, model.get_layer("logits").output, name="resnet_keras")


def keras_model(shape):
    import keras

    model = keras.applications.ResNet50(
        weights=None, input_shape=shape, classes=CLASSES, classifier_activation=None, name="applications"
    )
    logits = keras.layers.Activation("linear", dtype="float32")(model.output)
    return keras.Model(model.input, logits, name="keras_applications")


def torch_step(images, labels, precision, version):
    import torch
    from torch import nn

    from resnet_keras.torch_reference import ResNet
    from resnet_keras.variants import VARIANTS

    device = "cuda" if on_gpu() else "cpu"
    network = ResNet(VARIANTS["resnet50"], CLASSES, version=version)
    model = network.to(device, memory_format=torch.channels_last).train()
    step = torch.compile(model) if device == "cuda" else model
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16")  # as Keras scales that precision's loss
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(device).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).to(device)
    dtype = getattr(torch, precision)

    def run():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=dtype, enabled=precision != "float32"):
            logits = step(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def torch_takes_part():
    """Whether PyTorch is installed and can use what Keras uses; says so where not."""
    if importlib.util.find_spec("torch") is None:
        cli.say("PyTorch is not installed and takes no part.")
        return False
    import torch

    if on_gpu() and not torch.cuda.is_available():
        cli.say("PyTorch cannot use the GPU and takes no part.")
        return False
    return True


def sides(size, batch_size, precision, version):
    """`{name: step}` for everything that is compared."""
    from resnet_keras import precision as precisions

    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, size, size, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, batch_size)
    shape = (size, size, 3)
    with precisions.policy(precision):
        steps = {"resnet_keras": keras_step(our_model(shape, version), images, labels)}
        if version == "v1":
            steps["keras.applications"] = keras_step(keras_model(shape), images, labels)
    if torch_takes_part():
        steps["torch"] = torch_step(images, labels, precision, version)
    return steps


def measure(steps, rounds, warmup_rounds=3):
    """Seconds of every step, an array of shape `(rounds, sides)`."""
    seconds = []
    with cli.bar("measuring", rounds + warmup_rounds, "rounds") as advance:
        for _ in range(rounds + warmup_rounds):
            row = []
            for step in steps.values():
                start = time.perf_counter()
                step()
                row.append(time.perf_counter() - start)
            seconds.append(row)
            advance(1)
    return np.array(seconds[warmup_rounds:])


def on_gpu():
    """Whether Keras computes on a GPU."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def device_name():
    """What computes: the accelerator's name, or the processor's with its cores."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        if jax.devices()[0].platform != "cpu":
            return jax.devices()[0].device_kind
    elif on_gpu():
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")[0]
        return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    extension = next((f" with {name}" for name in ("amx_bf16", "avx512_bf16") if name in processor.features()), "")
    return f"{processor.name()}{extension}, {os.cpu_count()} cores"


def versions(names):
    """`{distribution: version}` of those that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summary(args, names, seconds):
    import keras

    rates = args.batch_size / np.median(seconds, axis=0)
    ratios = np.median(seconds[:, 1:] / seconds[:, :1], axis=0)
    backend = keras.backend.backend()
    measured = ["resnet-keras", "keras", backend, *(["torch"] if "torch" in names else [])]
    return {
        "images_per_second": dict(zip(names, rates.round(2).tolist(), strict=True)),
        "resnet_keras_times_as_fast_as": dict(zip(names[1:], ratios.round(3).tolist(), strict=True)),
        "model": f"ResNet-50 {args.version}",
        "size": args.size,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "rounds": args.rounds,
        "device": device_name(),
        "backend": backend,
        "versions": versions(measured),
        "date": datetime.date.today().isoformat(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--version", default="v1", choices=["v1", "v1.5"], help="of the network, for all sides")
    parser.add_argument("--size", type=int, default=224, help="height and width of an image")
    parser.add_argument("--batch-size", type=int, default=16, help="images a step")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--rounds", type=int, default=15, help="measured steps of each side")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here")
    args = parser.parse_args()
    cli.import_keras()
    steps = sides(args.size, args.batch_size, args.precision, args.version)
    result = summary(args, list(steps), measure(steps, args.rounds))
    rows = [(name, f"{rate:.2f} images/s") for name, rate in result["images_per_second"].items()]
    rows += [(f"resnet_keras / {name}", f"{x:.2f}") for name, x in result["resnet_keras_times_as_fast_as"].items()]
    rows += [(name, result[name]) for name in ("model", "precision", "device")]
    return finish(rows, result, args.json)


if __name__ == "__main__":
    cli.run(main)
