"""A text attached to a model: a zip archive behind its bytes, where runtimes do not look."""

import io
import struct
import zipfile

FIRST_DATE = (1980, 1, 1, 0, 0, 0)
UNIX = 3


def attach(data, name, text):
    """`data` with `text` as a file behind it, in UTF-8.

    It is stored as it is, because MediaPipe reads no compressed one, with a fixed date and system, so that it is the
    same on every day and machine.
    """
    whole = io.BytesIO()
    whole.write(data)
    file = zipfile.ZipInfo(name, date_time=FIRST_DATE)
    file.create_system, file.external_attr = UNIX, 0o644 << 16
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(file, text.encode())
    return whole.getvalue()


def read(data, name):
    """The text of a file behind a model.

    Raises:
        ValueError: there is no such file, it is damaged or compressed, or it is not UTF-8.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            file = archive.getinfo(name)
            stored = file.compress_type == zipfile.ZIP_STORED
            text = archive.read(file).decode() if stored else None
    except KeyError as error:
        raise ValueError(f"The file names {name!r} but holds no such file.") from error
    # What zipfile raises for damaged archives.
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OSError, OverflowError, struct.error) as error:
        raise ValueError(f"The file's {name!r} cannot be read: {error}.") from error
    if not stored:
        raise ValueError(f"The file's {name!r} is compressed, which the format forbids.")
    return text
