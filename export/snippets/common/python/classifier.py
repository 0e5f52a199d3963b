"""@@NAME@@: an image in, the likeliest classes out. Written by resnet_keras together with @@FILE@@.

python classifier.py photo.jpg ...     prints the five likeliest classes of each image
python classifier.py --self-test       shows that this machine computes what the exporter computed

Needs @@PACKAGE@@, numpy and Pillow, and Python 3.9 or later.
"""

import argparse
import hashlib
import pathlib
import sys

import numpy as np
@@IMPORT@@
from PIL import Image, ImageOps

BUNDLE = pathlib.Path(__file__).resolve().parents[2]

MODEL, SHA256 = "@@FILE@@", "@@SHA256@@"
LABELS = "@@LABELS@@"
INPUT_TYPE, INPUT_SCALE, INPUT_ZERO_POINT = "@@INPUT_TYPE@@", @@INPUT_SCALE@@, @@INPUT_ZERO_POINT@@
OUTPUT_SCALE, OUTPUT_ZERO_POINT = @@OUTPUT_SCALE@@, @@OUTPUT_ZERO_POINT@@

# The image is resized, keeping its proportions, until it just covers the resized size; of that the centre is taken.
HEIGHT, WIDTH, CHANNELS = @@HEIGHT@@, @@WIDTH@@, @@CHANNELS@@
RESIZED_HEIGHT, RESIZED_WIDTH = @@RESIZED_HEIGHT@@, @@RESIZED_WIDTH@@
INTERPOLATION = Image.Resampling["@@INTERPOLATION@@".upper()]

GOLDEN_IMAGES, GOLDEN_COUNT, EXPECTED, TOLERANCE = "@@GOLDEN_IMAGES@@", @@GOLDEN_COUNT@@, "@@EXPECTED@@", @@TOLERANCE@@
PHOTO, PHOTO_HEIGHT, PHOTO_WIDTH = "@@PHOTO@@", @@PHOTO_HEIGHT@@, @@PHOTO_WIDTH@@
PHOTO_PIXELS, PHOTO_TOLERANCE = "@@PHOTO_PIXELS@@", @@PHOTO_TOLERANCE@@

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # Pillow knows others, which start programs


class Classifier:
    """Classifies images, one at a time.

    Args:
        bundle_dir: the folder above `models`, `golden` and `@@LABELS@@`; default: that of this file.

    Raises:
        ValueError: the model is not the one that this code was written for.
        OSError: a file is missing.
    """

    def __init__(self, bundle_dir=None):
        self._bundle = pathlib.Path(bundle_dir or BUNDLE)
        model = (self._bundle / MODEL).read_bytes()
        if (found := hashlib.sha256(model).hexdigest()) != SHA256:
            raise ValueError(
                f"Model: {MODEL} has the SHA-256 {found}, not {SHA256}. It was changed or is of another export: "
                "copy the whole bundle again."
            )
        self.labels = (self._bundle / LABELS).read_text(encoding="utf-8").split("\n")
        self._runtime = Runtime(model)

    def classify(self, image, k=5):
        """The `k` likeliest classes as `[(label, probability)]`, the likeliest first.

        Args:
            image: a path, a binary file object or a `PIL.Image.Image`.
        """
        probabilities = self.probabilities(self.pixels(image))
        order = np.argsort(-probabilities, kind="stable")[:k]
        return [(self.labels[i], float(probabilities[i])) for i in order]

    def pixels(self, image):
        """What the model takes of an image: `uint8`, `(HEIGHT, WIDTH, CHANNELS)`, raw, for it normalises inside.

        Args:
            image: a path, a binary file object or a `PIL.Image.Image`.
        """
        if not isinstance(image, Image.Image):
            with Image.open(image, formats=FORMATS) as opened:
                return self.pixels(opened)
        picture = flattened(ImageOps.exif_transpose(image)).convert("L" if CHANNELS == 1 else "RGB")
        scale = max(RESIZED_WIDTH / picture.width, RESIZED_HEIGHT / picture.height)
        width = max(RESIZED_WIDTH, round(picture.width * scale))
        height = max(RESIZED_HEIGHT, round(picture.height * scale))
        left, top = (width - WIDTH) // 2, (height - HEIGHT) // 2
        resized = picture.resize((width, height), INTERPOLATION).crop((left, top, left + WIDTH, top + HEIGHT))
        return np.asarray(resized).reshape(HEIGHT, WIDTH, CHANNELS)

    def probabilities(self, pixels):
        """One probability a class, `float32`, of what `pixels` gives."""
        values = np.rint(pixels / INPUT_SCALE + INPUT_ZERO_POINT)
        if np.dtype(INPUT_TYPE).kind in "iu":
            values = values.clip(np.iinfo(INPUT_TYPE).min, np.iinfo(INPUT_TYPE).max)
        output = self._runtime.run(values[None].astype(INPUT_TYPE))[0]
        return (output.astype(np.float32) - OUTPUT_ZERO_POINT) * np.float32(OUTPUT_SCALE)

    def self_test(self):
        """Shows that this machine computes what the exporter computed; the file itself was checked when it was loaded.

        Returns:
            The largest difference of a probability, of `TOLERANCE`.

        Raises:
            ValueError: says what differs, how much, and what to do.
        """
        self._check_preprocessing()
        images = self._golden(GOLDEN_IMAGES, "uint8", (GOLDEN_COUNT, HEIGHT, WIDTH, CHANNELS))
        expected = self._golden(EXPECTED, "<f4", (GOLDEN_COUNT, len(self.labels)))
        found = np.stack([self.probabilities(image) for image in images])
        differences = np.abs(found - expected).max(axis=1)
        for k in range(GOLDEN_COUNT):
            answer, right = found[k].argmax(), expected[k].argmax()
            if answer != right or not differences[k] <= TOLERANCE:
                raise ValueError(
                    f"Answers: golden image {k} is {self.labels[answer]} here and {self.labels[right]} where the file "
                    f"was made; a probability differs by {differences[k]:.2g}, and {TOLERANCE:.2g} is allowed. "
                    "Install @@PACKAGE@@ @@RUNTIME_VERSION@@, which made them, to see whether the runtime is the cause."
                )
        return float(differences.max())

    def _check_preprocessing(self):
        photo = self._golden(PHOTO, "uint8", (PHOTO_HEIGHT, PHOTO_WIDTH, 3))
        expected = self._golden(PHOTO_PIXELS, "uint8", (HEIGHT, WIDTH, CHANNELS))
        difference = np.abs(self.pixels(Image.fromarray(photo)) - expected.astype(int)).max()
        if difference > PHOTO_TOLERANCE:
            raise ValueError(
                f"Preprocessing: the pixels of {PHOTO} differ by up to {difference} levels from {PHOTO_PIXELS}, more "
                f"than {PHOTO_TOLERANCE}. Use `Classifier.pixels` as it is, and no other resizing."
            )

    def _golden(self, file, dtype, shape):
        return np.fromfile(self._bundle / file, dtype).reshape(shape)


def flattened(picture):
    """The picture as it is shown: transparent parts over white, and of 16 bits of grey the upper 8."""
    if picture.mode.startswith("I"):
        return Image.fromarray(np.minimum(np.asarray(picture) >> 8, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    shown = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)


@@RUNTIME@@


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    parser.add_argument("--self-test", action="store_true", help="compare this machine with the one that exported")
    args = parser.parse_args()
    if bool(args.images) == args.self_test:
        parser.error("Name one image or more, or --self-test alone.")
    try:
        classifier = Classifier()
        if args.self_test:
            difference = classifier.self_test()
            print(f"passed: {GOLDEN_COUNT} images, largest difference {difference:.1e}, allowed {TOLERANCE:.1e}")
        for image in args.images:
            print(image)
            for label, probability in classifier.classify(image):
                print(f"  {100 * probability:6.2f} %  {label}")
    except (OSError, ValueError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
