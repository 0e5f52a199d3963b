"""Labels for a camera or a folder of photos on a Raspberry Pi, and how many frames a second it manages.

    python raspberry_pi.py bundle/ --camera
    python raspberry_pi.py bundle/ photos/

The folder is a bundle of `python -m export.tflite --int8 --bundle bundle/`; copy it to the Pi together with this file.
Nothing else is needed there but `pip install ai-edge-litert numpy pillow`. The camera is read through rpicam-vid, which
Raspberry Pi OS has, or through ffmpeg for one on USB. First of all the bundle's self-test shows that this machine
computes what the machine that exported the file computed.
"""

import argparse
import contextlib
import importlib.util
import io
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time

GOOD, FAILED, BAD_INPUT, MISSING = 0, 1, 2, 3
CODE = pathlib.Path("code", "python", "classifier.py")
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
RPICAM = ("--timeout", "0", "--nopreview", "--codec", "mjpeg", "--width", "640", "--height", "480", "--output", "-")
CAMERAS = {  # programs that write JPEG after JPEG to their standard output, the preferred one first
    "rpicam-vid": RPICAM,
    "libcamera-vid": RPICAM,  # its name before Raspberry Pi OS of 2023
    "ffmpeg": ("-loglevel", "error", "-f", "v4l2", "-i", "/dev/video0", "-c:v", "mjpeg", "-f", "mjpeg", "-"),
}
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PATIENCE_S = 10.0  # without a frame
CHUNK_BYTES = 1 << 16


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=pathlib.Path, help="folder made with --bundle")
    parser.add_argument("photos", nargs="?", type=pathlib.Path, help="a photo, or a folder of photos")
    parser.add_argument("--camera", action="store_true", help="classify what the camera sees, until Ctrl-C")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames of the camera")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="how many labels to print (default: 1)")
    args = parser.parse_args(arguments)
    if args.camera == (args.photos is not None):
        parser.error("Name a photo or a folder, or give --camera.")
    try:
        classifier = loaded(args.bundle)
        print(f"self-test passed, largest difference {classifier.self_test():.1e}", file=sys.stderr)
        frames = seen(args.frames) if args.camera else read(args.photos)
        return classify(classifier, frames, args.top)
    except ImportError as error:
        print(f"{error.name} is missing. Install it with: pip install ai-edge-litert numpy pillow", file=sys.stderr)
        return MISSING
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (OSError, ValueError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED


def loaded(bundle):
    """The `Classifier` of a bundle's own code.

    Raises:
        FileNotFoundError: the folder is no bundle with Python code.
        ValueError: its model was changed.
    """
    if not (bundle / CODE).is_file():
        raise FileNotFoundError(f"{bundle} is no bundle: it has no {CODE}. Make one with --bundle.")
    spec = importlib.util.spec_from_file_location("classifier", bundle / CODE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Classifier(bundle)


def classify(classifier, frames, top):
    """Prints the labels of each frame, and at the end the speed.

    Args:
        classifier: a bundle's `Classifier`.
        frames: pairs of a name and what `Classifier.pixels` takes.
        top: how many labels of each.

    Returns:
        The exit status: `FAILED` if no frame could be read.
    """
    from PIL import Image

    preparing_ms, running_ms, started = [], [], time.perf_counter()
    with contextlib.suppress(KeyboardInterrupt):
        for name, frame in frames:
            began = time.perf_counter()
            try:
                pixels = classifier.pixels(frame)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                print(f"{name}: not read: {error}", file=sys.stderr)
                continue
            prepared = time.perf_counter()
            probabilities = classifier.probabilities(pixels)
            preparing_ms.append(1000 * (prepared - began))
            running_ms.append(1000 * (time.perf_counter() - prepared))
            best = (-probabilities).argsort(kind="stable")[:top]
            print(f"{name}: " + ", ".join(f"{classifier.labels[i]} {100 * probabilities[i]:.1f} %" for i in best))
    if not running_ms:
        print("failed: no frame could be read", file=sys.stderr)
        return FAILED
    rate = len(running_ms) / (time.perf_counter() - started)
    print(
        f"{len(running_ms)} frames, {rate:.1f} a second; of each, decoding and resizing "
        f"{statistics.median(preparing_ms):.1f} ms, network {statistics.median(running_ms):.1f} ms (median)",
        file=sys.stderr,
    )
    return GOOD


def read(photos):
    """`(path, path)` of a photo, or of each photo in a folder and those below it."""
    if photos.is_dir():
        found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    else:
        found = [photos] if photos.is_file() else []
    if not found:
        raise FileNotFoundError(f"There is no image at {photos}. Known are: {', '.join(sorted(SUFFIXES))}.")
    return ((path, path) for path in found)


def seen(count=None):
    """`("frame N", JPEG)` of the camera, the newest each time, so that a slow network does not fall behind.

    Args:
        count: how many; None for no end.

    Raises:
        FileNotFoundError: no program is there to read a camera with.
        OSError: the camera gives nothing.
    """
    program = next(filter(shutil.which, CAMERAS), None)
    if program is None:
        raise FileNotFoundError(f"No camera can be read: install one of {', '.join(CAMERAS)}.")
    with subprocess.Popen([program, *CAMERAS[program]], stdout=subprocess.PIPE) as camera:
        try:
            newest = _Newest(camera.stdout)
            number = 0
            while count is None or number < count:
                frame = newest.take()
                if frame is None:
                    raise OSError(f"{program} gave no picture. Is a camera connected, and no other program using it?")
                number += 1
                yield f"frame {number}", io.BytesIO(frame)
        finally:
            camera.terminate()


class _Newest:
    """The last whole JPEG of a stream, which a thread reads without end."""

    def __init__(self, stream):
        self._stream, self._frame, self._ended = stream, None, False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def take(self):
        """A frame that was not taken before, or None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended, PATIENCE_S)
            frame, self._frame = self._frame, None
            return frame

    def _read(self):
        held = b""
        while chunk := self._stream.read1(CHUNK_BYTES):
            held += chunk
            # In the data of a JPEG its end mark is never found: each 0xff there is followed by 0.
            while (end := held.find(JPEG_END)) >= 0:
                start, frame, held = held.find(JPEG_START), held[: end + 2], held[end + 2 :]
                if 0 <= start < end:
                    self._put(frame[start:])
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _put(self, frame):
        with self._changed:
            self._frame = frame
            self._changed.notify()


if __name__ == "__main__":
    sys.exit(main())
