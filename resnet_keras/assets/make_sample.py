"""Makes `fashion_mnist_sample.npz`: real images, balanced over the classes, training and test strictly apart.

    python -m resnet_keras.assets.make_sample

The training images serve the demo and, 200 of them, calibration; the test images serve verification alone.
"""

import numpy as np

from resnet_keras import data

TRAIN_IMAGES, TEST_IMAGES, SEED = 3000, 2800, 1


def main():
    full = data.load("fashion_mnist")
    arrays = {}
    for part, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        split = getattr(full, part)
        chosen = split.take(data.balanced(split.labels, count, SEED))
        arrays[f"{part}_images"] = chosen.images[:, 2:-2, 2:-2, 0]  # the 28x28 grey image that rgb32 was made from
        arrays[f"{part}_labels"] = chosen.labels.astype(np.uint8)
    np.savez_compressed(data.ASSETS / "fashion_mnist_sample.npz", **arrays)


if __name__ == "__main__":
    main()
