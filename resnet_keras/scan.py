"""Decodes every image of a data set once, before training meets the one that it cannot read.

JPEG data is decoded by the decoder that training uses, at an eighth of its size, which still reads every byte of it;
all other formats by Pillow. Sizes are checked in the header first, so that nothing huge is ever unpacked.
"""

import concurrent.futures
import io
import os
import warnings

from resnet_keras import cli, folders

MAX_SIDE = 16_384
MAX_PIXELS = 178_956_970  # where Pillow, too, takes an image for a decompression bomb
CHUNK = 64
NO_TENSORFLOW = "Images in files are read with tensorflow. Install it with: pip install 'resnet-keras[export]'."


def known(split, unreadable):
    """`{index: reason}` of the examples that an earlier scan named, by names or by `(name, reason)` pairs."""
    reasons = dict((entry, "found by an earlier scan") if isinstance(entry, str) else entry for entry in unreadable)
    if not reasons:
        return {}
    names = ((index, split.name(index)) for index in range(len(split)))
    return {index: reasons[name] for index, name in names if name in reasons}


def decode_all(split):
    """`{index: reason}` of the examples of an `encoded.EncodedSplit` that cannot be read.

    Raises:
        ImportError: tensorflow or Pillow is missing.
    """
    from PIL import Image

    reasons = {}

    def check(start):
        found = {i: reason_against(split, i, decode_jpeg) for i in range(start, min(start + CHUNK, len(split)))}
        return len(found), {i: reason for i, reason in found.items() if reason is not None}

    decode_jpeg = jpeg_decoder()
    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    bar = cli.bar("checking images", len(split), "images")
    with threads, bar as advance, cli.held_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for count, found in threads.map(check, range(0, len(split), CHUNK)):
            reasons.update(found)
            advance(count)
    return reasons


def jpeg_decoder():
    """A callable that decodes JPEG bytes as training does, or raises ValueError.

    Raises:
        ImportError: tensorflow is missing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with cli.held_stderr():
            import tensorflow as tf
    except ImportError as error:
        raise ImportError(NO_TENSORFLOW) from error

    def decode(encoded):
        try:
            with tf.device("CPU"):
                tf.io.decode_jpeg(encoded, channels=3, ratio=8)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(str(error)) from error

    return decode


def reason_against(split, index, decode_jpeg):
    """Why example `index` cannot be used, in a few words, or None."""
    from PIL import Image

    try:
        encoded = split.encoded(index)
    except PermissionError:
        return "no permission to read it"
    except OSError as error:
        return error.strerror or "cannot be read"
    if not encoded:
        return "an empty file"
    try:
        with Image.open(io.BytesIO(encoded), formats=folders.FORMATS) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        return f"more than {MAX_PIXELS:,} pixels"
    except (OSError, ValueError, SyntaxError, EOFError):  # what Pillow raises on bad headers
        return "not an image"
    if max(width, height) > MAX_SIDE:
        return f"{width:,} x {height:,} pixels, above {MAX_SIDE:,}"
    if width * height > MAX_PIXELS:
        return f"{width:,} x {height:,} pixels, above {MAX_PIXELS:,} in all"
    if is_jpeg(encoded):
        return _damage(decode_jpeg, encoded)
    return "damaged" if folders.read_image(io.BytesIO(encoded)) is None else None


def is_jpeg(encoded):
    return encoded[:3] == b"\xff\xd8\xff"


def _damage(decode_jpeg, encoded):
    try:
        decode_jpeg(encoded)
    except ValueError:
        return "truncated or damaged"
    return None
