"""Flatbuffer tables by slot: what the TFLite model and its metadata need, read with bounds and written as values.

The slots follow the public schemas of both formats, `schema.fbs` (file identifier `TFL3`) and `metadata_schema.fbs`
(`M001`). Imports neither keras nor tensorflow.
"""

import struct

MODEL_IDENTIFIER, METADATA_IDENTIFIER = b"TFL3", b"M001"
ALIGNMENT = 16  # of the weights: what the format promises to a runtime that uses a file where it lies
HONEST_READS = 16


class Model:
    VERSION, SUBGRAPHS, BUFFERS, METADATA = 0, 2, 4, 6


class SubGraph:
    TENSORS, INPUTS, OUTPUTS = 0, 1, 2


class Tensor:
    SHAPE, NAME = 0, 3


class Buffer:
    DATA, OFFSET = 0, 1


class Entry:
    NAME, BUFFER = 0, 1


class ModelMetadata:
    NAME, DESCRIPTION, VERSION, SUBGRAPHS, AUTHOR, LICENCE, MIN_PARSER_VERSION = 0, 1, 2, 3, 4, 5, 7


class SubGraphMetadata:
    INPUTS, OUTPUTS = 2, 3


class TensorMetadata:
    NAME, DESCRIPTION, CONTENT, PROCESS_UNITS, STATS, FILES = 0, 1, 3, 4, 5, 6


class Content:
    TYPE, PROPERTIES = 0, 1
    FEATURE, IMAGE = 1, 2


class ImageProperties:
    COLOUR_SPACE = 0
    RGB, GREY = 1, 2


class ProcessUnit:
    TYPE, OPTIONS = 0, 1
    NORMALIZATION = 1


class Normalization:
    MEAN, STD = 0, 1


class Stats:
    MAX, MIN = 0, 1


class File:
    NAME, DESCRIPTION, TYPE = 0, 1, 2
    TENSOR_AXIS_LABELS = 2


class Table:
    """One table of a flatbuffer in `data`, of which nothing is believed: every access outside raises ValueError."""

    def __init__(self, data, position, allowance=None):
        self.data, self.position = data, position
        # An honest file refers to each of its bytes about once. In a hostile one, many tables share a long text.
        self._allowance = [HONEST_READS * len(data)] if allowance is None else allowance
        self._slots = position - _number(data, "<i", position)
        self._slots_end = self._slots + _number(data, "<H", self._slots)

    @classmethod
    def root(cls, data, identifier):
        """The root table.

        Raises:
            ValueError: `data` is not a flatbuffer with that file identifier.
        """
        if bytes(data[4:8]) != identifier:
            raise ValueError(f"The file identifier must be {identifier!r}. Received: {bytes(data[4:8])!r}.")
        return cls(data, _number(data, "<I", 0))

    @property
    def fields(self):
        """How many slots the table may have filled."""
        return (self._slots_end - self._slots) // 2 - 2

    def place(self, slot):
        """Position of a field, or None where it has its default."""
        entry = self._slots + 4 + 2 * slot
        offset = _number(self.data, "<H", entry) if entry + 2 <= self._slots_end else 0
        return self.position + offset if offset else None

    def target(self, slot):
        """Position of what a field refers to, or None."""
        place = self.place(slot)
        return None if place is None else place + _number(self.data, "<I", place)

    def integer(self, slot, kind="<I"):
        place = self.place(slot)
        return 0 if place is None else _number(self.data, kind, place)

    def table(self, slot):
        target = self.target(slot)
        return None if target is None else Table(self.data, target, self._allowance)

    def tables(self, slot):
        start, count = self._vector(slot, width=4)
        places = range(start, start + 4 * count, 4)
        return [Table(self.data, place + _number(self.data, "<I", place), self._allowance) for place in places]

    def numbers(self, slot, kind):
        """A vector of numbers; `kind` is the letter of one in `struct`: `"i"` or `"f"`."""
        start, count = self._vector(slot, width=struct.calcsize(kind))
        return struct.unpack_from(f"<{count}{kind}", self.data, start)

    def octets(self, slot):
        start, count = self._vector(slot, width=1)
        return bytes(self.data[start : start + count])

    def text(self, slot):
        """A string, or None where there is none."""
        if self.place(slot) is None:
            return None
        try:
            return self.octets(slot).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"The file has a text that is not UTF-8, near byte {self.position}.") from error

    def _vector(self, slot, width):
        target = self.target(slot)
        if target is None:
            return 0, 0
        count = _number(self.data, "<I", target)
        if target + 4 + width * count > len(self.data):
            raise ValueError(f"The file is damaged: what begins at byte {target} does not end in it.")
        self._allowance[0] -= width * count
        if self._allowance[0] < 0:
            raise ValueError("The file is damaged: its tables share more than there is.")
        return target + 4, count


def _number(data, kind, position):
    # struct counts negative positions from the end.
    if position < 0 or position + struct.calcsize(kind) > len(data):
        raise ValueError(f"The file is damaged: it refers to byte {position} of {len(data)}.")
    return struct.unpack_from(kind, data, position)[0]


def packed_model(model):
    """The bytes of a model in the form that the schema's own Python classes give it, its weights aligned.

    Those classes promise weights no place at all, and a copy packed with nothing else has them at multiples of 4.

    Args:
        model: a `ModelT` of TensorFlow Lite's `schema_py_generated`.
    """
    import flatbuffers

    class Aligned(flatbuffers.Builder):
        def CreateNumpyVector(self, x):
            self.Prep(ALIGNMENT if x.itemsize == 1 else x.itemsize, x.nbytes)
            return super().CreateNumpyVector(x)

    builder = Aligned(2**20)
    builder.Finish(model.Pack(builder), file_identifier=MODEL_IDENTIFIER)
    return bytes(builder.Output())


class Octet(int):
    """A number of one byte."""


class Word(int):
    """An unsigned number of four bytes."""


class Placed(int):
    """Something that the builder holds already, by its offset there."""


def pack(builder, value):
    """Writes a value and all that it holds.

    Args:
        builder: a `flatbuffers.Builder`.
        value: a table is a `{slot: value}`, where None stands for no value; `Octet` and `Word` are its numbers. A list
            of values is a vector of references, a tuple one of float32; `str`, `bytes` and `Placed` are what they are.

    Returns:
        Its offset in the builder.
    """
    if isinstance(value, Placed):
        return value
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, bytes):
        builder.Prep(ALIGNMENT, len(value))
        return builder.CreateByteVector(value)
    if isinstance(value, dict):
        return _packed_table(builder, value)
    items = value if isinstance(value, tuple) else [pack(builder, item) for item in value]
    prepend = builder.PrependFloat32 if isinstance(value, tuple) else builder.PrependUOffsetTRelative
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        prepend(item)
    return builder.EndVector()


def _packed_table(builder, slots):
    slots = {slot: value for slot, value in slots.items() if value is not None}
    numbers = {slot: value for slot, value in slots.items() if isinstance(value, Octet | Word)}
    offsets = {slot: pack(builder, value) for slot, value in slots.items() if slot not in numbers}
    builder.StartObject(max(slots, default=-1) + 1)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in numbers.items():
        prepend = builder.PrependUint8Slot if isinstance(number, Octet) else builder.PrependUint32Slot
        prepend(slot, number, 0)
    return builder.EndObject()
