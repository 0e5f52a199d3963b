"""Training images a second from JPEG files: this package beside Keras's own utility, in turns, in one run.

    python benchmarks/input_pipeline.py --json benchmarks/results/input_pipeline.json

Both read the same 500x375 files and give batches of 224 pixels with labels, cropped and mirrored at random. We decode
a random-resized crop; Keras's `image_dataset_from_directory` decodes and resizes whole images. What follows is, once,
the nearest that Keras's layers have to the same augmentation, `RandomZoom` (each image its own part, at its own aspect)
and `RandomFlip`; and once, for less work, `RandomCrop`, which cuts one window for a whole batch, and `RandomFlip`.

Rates per core are images by seconds of processor time, which other processes on the machine do not change.
"""

import argparse
import datetime
import os
import pathlib
import platform
import sys
import tempfile
import time

import numpy as np
from reporting import finish

from resnet_keras import cli, data, recipes, tfrecord

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from train_throughput import device_name

WIDTH, HEIGHT, QUALITY = 500, 375, 90
SIZE, RESIZED = 224, 256
OURS = "resnet_keras"
SAME, CHEAP = "image_dataset_from_directory, RandomZoom", "image_dataset_from_directory, RandomCrop"


def write_images(folder, count, classes=4):
    """JPEG files with the statistics of photographs: smooth shapes, texture, some noise; about 80 kB each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = np.zeros((HEIGHT, WIDTH, 3))
        for cells, strength in ((6, 60), (24, 30), (96, 15)):
            shape = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
            bands = [Image.fromarray(shape[..., band]).resize((WIDTH, HEIGHT), Image.BICUBIC) for band in range(3)]
            pixels += np.stack([np.asarray(band) for band in bands], axis=-1)
        pixels += 120 + rng.normal(0, 6, (HEIGHT, WIDTH, 1))
        path = folder / f"class{i % classes}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=QUALITY)


def ours(source, recipe, batches):
    """One epoch of `batches` batches: the files again and again."""
    from resnet_keras import pipeline

    dataset = data.load(source, known_unreadable=())
    split = dataset.train.take(np.resize(np.arange(len(dataset.train)), batches * recipe.batch_size))
    return pipeline.training_batches(split, recipe, len(dataset.class_names), seed=0, epoch=0)


def keras_utility(source, batch_size, batches, size, layer):
    import keras
    import tensorflow as tf

    dataset = keras.utils.image_dataset_from_directory(
        source, label_mode="categorical", image_size=(size, size), batch_size=batch_size, verbose=False
    )
    flip = keras.layers.RandomFlip("horizontal")
    dataset = dataset.map(
        lambda images, labels: (flip(layer(images, training=True), training=True), labels), tf.data.AUTOTUNE
    )
    return dataset.repeat().take(batches).prefetch(2)


def measure(sides, rounds):
    """Seconds of wall clock and of processor for one pass of each side, `(rounds, sides, 2)`."""
    seconds = []
    with cli.bar("measuring", rounds + 1, "rounds") as advance:
        for _ in range(rounds + 1):
            row = []
            for dataset in sides.values():
                wall, processor = time.perf_counter(), time.process_time()
                for _ in dataset:
                    pass
                row.append((time.perf_counter() - wall, time.process_time() - processor))
            seconds.append(row)
            advance(1)
    return np.array(seconds[1:])  # the first one reads the files into memory


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256, help="files")
    parser.add_argument("--batches", type=int, default=24, help="in a round")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path, help="write the result here")
    args = parser.parse_args()
    cli.import_keras()
    import keras
    import tensorflow as tf

    plain = recipes.Recipe(batch_size=args.batch_size, size=SIZE)
    zoom = (plain.crop_scale_min**0.5 - 1, 0.0)  # Keras states it as what is added to the sides that are seen
    with tempfile.TemporaryDirectory() as temporary:
        files, records = pathlib.Path(temporary) / "files", pathlib.Path(temporary) / "records"
        write_images(files, args.images)
        tfrecord.convert(files, records)
        sides = {
            OURS: ours(files, plain, args.batches),
            SAME: keras_utility(files, args.batch_size, args.batches, SIZE, keras.layers.RandomZoom(zoom, zoom)),
            CHEAP: keras_utility(files, args.batch_size, args.batches, RESIZED, keras.layers.RandomCrop(SIZE, SIZE)),
            "resnet_keras, TFRecord": ours(records, plain, args.batches),
            "resnet_keras, RandAugment": ours(files, plain.with_changes(rand_augment_ops=2), args.batches),
            "resnet_keras, CutMix": ours(files, plain.with_changes(mixup_alpha=0.1, cutmix_alpha=1.0), args.batches),
        }
        seconds = measure(sides, args.rounds)
    count = args.batches * args.batch_size
    wall, core = (count / np.median(seconds[:, :, i], axis=0) for i in (0, 1))
    ratios = {name: seconds[:, i, 1] / seconds[:, 0, 1] for i, name in ((1, SAME), (2, CHEAP))}
    result = {
        "images_per_second_per_core": dict(zip(sides, core.round(1).tolist(), strict=True)),
        "images_per_second": dict(zip(sides, wall.round(1).tolist(), strict=True)),
        "resnet_keras_times_as_fast_per_core_as": {name: round(float(np.median(r)), 3) for name, r in ratios.items()},
        "rounds_of_these": {name: r.round(3).tolist() for name, r in ratios.items()},
        "image": f"JPEG {WIDTH}x{HEIGHT}, quality {QUALITY}",
        "size": SIZE,
        "batch_size": args.batch_size,
        "images_a_round": count,
        "rounds": args.rounds,
        "device": device_name(),
        "cores": os.cpu_count(),
        "versions": {"keras": keras.version(), "tensorflow": tf.__version__, "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }
    rows = [(name, f"{rate:,.0f} images/s a core") for name, rate in zip(sides, core, strict=True)]
    rows += [(f"{OURS} / {name}", f"{np.median(r):.2f}") for name, r in ratios.items()]
    return finish([*rows, ("device", result["device"])], result, args.json)


if __name__ == "__main__":
    cli.run(main)
