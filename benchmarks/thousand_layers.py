"""A thousand layers, from the builder to an int8 file: time and peak memory of each step, and what must hold after it.

python benchmarks/thousand_layers.py --json benchmarks/results/thousand_layers.json      (a quarter of an hour)

The networks are built, trained for a few steps on the bundled images, saved, loaded, laid flat, and exported. The exit
status is 1 if building takes two minutes or more, if the loaded or the flat network gives other numbers than the
trained one, or if the float32 file differs from it by more than 1e-3. What int8 makes of so many layers after so little
training is recorded, and not judged.
"""

import argparse
import concurrent.futures
import datetime
import multiprocessing
import pathlib
import platform
import tempfile
import time

import numpy as np
from reporting import finish
from train_throughput import device_name, versions

from resnet_keras import cli

MODELS = "resnet1001", "resnet1202"
STEPS, BATCH = 40, 8  # after 40 steps 1.5 % of the moving statistics' initial values are left
IMAGES = 16  # that calibrate, and that are compared
MAX_BUILD_SECONDS, MAX_DIFFERENCE = 120, 1e-3


class Steps:
    """Runs one step after the other and records `{step: {"seconds", "processor_seconds", "peak_gb"}}`."""

    def __init__(self):
        self.record = {}

    def __call__(self, name, function, *args, **kwargs):
        cli.say(name)
        # Sets the peak back to what the process holds now.
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        start, processor = time.perf_counter(), time.process_time()
        result = function(*args, **kwargs)
        self.record[name] = {
            "seconds": round(time.perf_counter() - start, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
            "peak_gb": _peak_gb(),
        }
        return result


def _peak_gb():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(kilobytes * 1024 / 1e9, 2)


def compiled(model):
    """The model to its logits, ready to be trained."""
    import keras

    from resnet_keras import optimization
    from resnet_keras.optimizers import SGD

    logits = keras.Model(model.input, model.get_layer("logits").output)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    logits.compile(SGD(1e-4, momentum=0.9, nesterov=True), loss, jit_compile=optimization.jit_compile())
    return logits


def trained(name, path):
    """Builds, trains and saves a network; returns its record and what it answers for the images of `compared`."""
    cli.import_keras()
    import keras

    from resnet_keras import data, graph, models

    keras.utils.set_random_seed(0)
    images, labels = (getattr(data.load("fashion_mnist_sample").train, what) for what in ("images", "labels"))
    step = Steps()
    model = step("build", models.build, name)
    logits = compiled(model)

    def train(first, last):
        batches = [slice(i * BATCH, (i + 1) * BATCH) for i in range(first, last)]
        return [float(logits.train_on_batch(images[b], labels[b])) for b in batches]

    losses = step("first training step, with its compilation", train, 0, 1)
    losses += step(f"{STEPS - 1} training steps of {BATCH} images", train, 1, STEPS)
    answers = model.predict_on_batch(compared())
    step("save", model.save, path)
    loaded = step("load", keras.models.load_model, path)
    flat = step("flatten", graph.flatten, model)
    record = {
        "model": name,
        "parameters": graph.count_parameters(model)[0],
        "layers": len(flat.layers),
        "loss_first_and_last": [round(losses[0], 3), round(losses[-1], 3)],
        "loaded_gives_the_same": np.array_equal(loaded.predict_on_batch(compared()), answers),
        "flat_gives_the_same": np.array_equal(np.asarray(flat(compared())), np.asarray(model(compared()))),
        "steps": step.record,
    }
    return record, answers


def exported(path, answers):
    """Exports the network in `path`; returns the record. In a fresh process, as a user would."""
    from export import calibration, conversion
    from export import source as sources
    from resnet_keras import data

    sample, step = data.load("fashion_mnist_sample"), Steps()
    source = step("read for export", sources.load, str(path))
    chosen = calibration.from_split(sample.train, sample.name, "training", source, IMAGES)
    files = {
        "float32": step("export to float32", conversion.convert, source, "float32"),
        "int8": step("export to int8", conversion.convert, source, "int8", "float32", chosen),
    }
    record = {"steps": step.record}
    for kind, made in files.items():
        found = _run(made, compared())
        record[f"{kind}_bytes"] = len(made)
        record[f"{kind}_largest_difference"] = float(np.abs(found - answers).max())
        record[f"{kind}_same_answers"] = int((found.argmax(axis=1) == answers.argmax(axis=1)).sum())
    return record


def compared():
    """The test images on which networks and files are compared."""
    from resnet_keras import data

    test = data.load("fashion_mnist_sample").test
    return test.images[data.balanced(test.labels, IMAGES, seed=0)]


def measure(name):
    """The record of one network."""
    # A process for each half, so that neither inherits the other's memory.
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, f"{name}.keras")
        record, answers = _alone(trained, name, path)
        more = _alone(exported, path, answers)
    return {**record, **more, "steps": record["steps"] | more["steps"]}


def _alone(function, *arguments):
    """What a function returns in a process of its own; if the system ends that, it raises."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _run(made, images):
    from export.runtime import Runner

    with tempfile.TemporaryDirectory() as directory, cli.held_stderr():
        path = pathlib.Path(directory, "model.tflite")
        path.write_bytes(made)
        return Runner(path).predict(images)


def failure(results):
    """Why the results are not good enough, or None."""
    for result in results:
        name, build = result["model"], result["steps"]["build"]["seconds"]
        if build >= MAX_BUILD_SECONDS:
            return f"{name} was built in {build} s; expected less than {MAX_BUILD_SECONDS} s."
        if not (result["loaded_gives_the_same"] and result["flat_gives_the_same"]):
            return f"{name} gives other numbers after it was saved and loaded, or laid flat."
        if not result["float32_largest_difference"] <= MAX_DIFFERENCE:
            return f"{name} as a float32 file differs by {result['float32_largest_difference']:.2g}."
    return None


def rows(results):
    found = []
    for result in results:
        name = result["model"]
        for what, cost in result["steps"].items():
            spent = f"{cost['seconds']:.0f} s ({cost['processor_seconds']:.0f} s of processor time)"
            found.append((f"{name}: {what}", f"{spent}, {cost['peak_gb']} GB"))
        for kind in ("float32", "int8"):
            size, difference, same = (
                result[f"{kind}_{what}"] for what in ("bytes", "largest_difference", "same_answers")
            )
            answers = f"{same} of {IMAGES} answers the same, largest difference {difference:.2g}"
            found.append((f"{name}: {kind} file", f"{size / 1e6:.1f} MB, {answers}"))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="default: resnet1001 resnet1202")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here")
    args = parser.parse_args()
    results = [measure(name) for name in args.models]
    cli.import_keras()
    machine = {"device": device_name(), "versions": versions(["resnet-keras", "keras", "tensorflow", "ai-edge-litert"])}
    record = {"results": results, "system": platform.system(), **machine, "date": datetime.date.today().isoformat()}
    finish(rows(results), record, args.json)
    return cli.gate(failure(results))


if __name__ == "__main__":
    cli.run(main)
