"""From a trained network to a folder for the app in half a minute, offline.

    python examples/quickstart.py

Takes the bundled ResNet-20, classifies an image in Keras, makes an int8 file that is proven beside it, classifies the
image again with the file, and packs a bundle for apps and browsers. Everything lands in runs/quickstart. With a network
of yours: put its run directory, or the .keras file that you saved, in place of BUNDLED.
"""

import pathlib

from resnet_keras import cli

OUT = pathlib.Path("runs/quickstart")


def main():
    cli.import_keras()
    import keras

    from export import bundle, tflite
    from export.runtime import Runner
    from export.source import BUNDLED
    from resnet_keras import checkpoint, data

    network = keras.models.load_model(BUNDLED / checkpoint.MODEL)
    dataset = data.load("fashion_mnist_sample")
    image, truth = dataset.test.images[:1], dataset.class_names[dataset.test.labels[0]]

    record, _, failure = tflite.export(BUNDLED, recipe="int8", out=OUT / "fashion_int8.tflite")
    if failure:
        return cli.gate(failure)
    answers = {
        "in Keras": network.predict(image, verbose=0)[0],
        f"in LiteRT, {record['size_bytes'] / 1024:.0f} KiB of int8": Runner(OUT / record["file"]).predict(image)[0],
    }
    _, _, failure = bundle.write(OUT / "bundle", BUNDLED, targets=["app", "web"])

    print(f"the image is: {truth}")
    for where, probabilities in answers.items():
        print(f"{where}: {dataset.class_names[probabilities.argmax()]}, {100 * probabilities.max():.1f} %")
    print(f"{OUT / 'bundle'} is for the app; see it in a browser: python -m export.serve {OUT / 'bundle'}")
    return cli.gate(failure)


if __name__ == "__main__":
    cli.run(main)
