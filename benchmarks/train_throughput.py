"""Training throughput of ResNet-50: this package beside keras.applications, step by step in one run.

    python benchmarks/train_throughput.py --precision bfloat16 --json benchmarks/results/train_throughput.json

Both sides are version 1 of the network, with the same optimizer, loss, shapes and synthetic images already in memory.
They take turns, one step each, so that a drift of the machine hits both; the ratio is the median over the rounds.
`--torch` adds the same network in PyTorch, channels last. KERAS_BACKEND=jax measures on jax.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import time

import numpy as np

from resnet_keras import cli

CLASSES = 1000


def keras_step(build, images, labels, precision):
    """A callable that trains one step and returns the loss, compiled and warm."""
    import keras

    from resnet_keras import precision as precisions
    from resnet_keras.train import jit_compile

    with precisions.policy(precision):
        model = build()
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(),
        jit_compile=jit_compile(),
    )
    return lambda: float(model.train_on_batch(images, labels))


def torch_step(images, labels, precision):
    import torch
    from torch import nn

    from resnet_keras.torch_reference import ResNet
    from resnet_keras.variants import VARIANTS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = ResNet(VARIANTS["resnet50"], CLASSES, version="v1")
    model = network.to(device, memory_format=torch.channels_last).train()
    step = torch.compile(model) if device == "cuda" else model
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(device).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).to(device)
    dtype = getattr(torch, precision)

    def run():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=dtype, enabled=precision != "float32"):
            loss = nn.functional.cross_entropy(step(x).float(), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def sides(size, batch_size, precision, with_torch):
    """`{name: step}` for everything that is compared."""
    import keras

    import resnet_keras

    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, size, size, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, batch_size)
    shape = {"weights": None, "input_shape": (size, size, 3), "classes": CLASSES}
    steps = {
        "resnet_keras": keras_step(
            lambda: resnet_keras.ResNet50(version="v1", include_preprocessing=False, **shape), images, labels, precision
        ),
        "keras.applications": keras_step(lambda: keras.applications.ResNet50(**shape), images, labels, precision),
    }
    if with_torch:
        steps["torch"] = torch_step(images, labels, precision)
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


def device_name():
    """What computes: the accelerator's name, or the processor's with its cores."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        if jax.devices()[0].platform != "cpu":
            return jax.devices()[0].device_kind
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--torch", action="store_true", help="measure PyTorch too")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here")
    args = parser.parse_args()
    cli.import_keras()
    import keras

    steps = sides(args.size, args.batch_size, args.precision, args.torch)
    seconds = measure(steps, args.rounds)
    rates = {name: args.batch_size / median for name, median in zip(steps, np.median(seconds, axis=0), strict=True)}
    ratios = {name: float(np.median(seconds[:, i] / seconds[:, 0])) for i, name in enumerate(steps) if i}
    result = {
        "images_per_second": {name: round(float(rate), 2) for name, rate in rates.items()},
        "resnet_keras_times_as_fast_as": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "model": "ResNet-50 v1",
        "size": args.size,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "rounds": args.rounds,
        "device": device_name(),
        "backend": keras.backend.backend(),
        "versions": {"keras": keras.version(), "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }
    rows = [(name, f"{rate:.2f} images/s") for name, rate in rates.items()]
    rows += [(f"resnet_keras / {name}", f"{ratio:.2f}") for name, ratio in ratios.items()]
    cli.print_result([*rows, ("device", result["device"]), ("precision", args.precision)], result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return cli.GOOD


if __name__ == "__main__":
    cli.run(main)
