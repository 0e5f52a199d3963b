"""Flatbuffers, field by field: read without trusting a single number in them, and written.

Imports neither keras nor tensorflow.
"""

import struct

ALIGNMENT = 16  # of the weights: what the format promises to a runtime that uses a file where it lies
# Each number and letter that is read counts one, each table a hundred. The model of a ResNet-152 comes to less than a
# million; a hostile file, in which many tables share one long list, would otherwise keep the reader busy for days.
MOST_ITEMS = 10_000_000
ITEMS_PER_TABLE = 100


class Damaged(ValueError):
    """A file is not what its first bytes promise; `how` ends the sentence "It is damaged: ..."."""

    def __init__(self, how):
        super().__init__(f"The file is damaged: {how}.")
        self.how = how


class Table:
    """A table of a flatbuffer; each read is held against the end of the file, and raises `Damaged` beyond it."""

    def __init__(self, data, position, spent):
        self._data, self.position, self._spent = data, position, spent
        self._spend(ITEMS_PER_TABLE)
        self._slots = position - self._number("<i", position)
        self._slots_end = self._slots + self._number("<H", self._slots)

    @classmethod
    def root(cls, data, identifier):
        """The root table.

        Raises:
            Damaged: `data` is not a flatbuffer with that file identifier.
        """
        found = bytes(data[4:8])
        if found != identifier:
            raise Damaged(f"its identifier is {found!r}, not {identifier!r}")
        return cls(data, struct.unpack_from("<I", data)[0], [0])

    @property
    def fields(self):
        """How many fields the table may have."""
        return (self._slots_end - self._slots) // 2 - 2

    def number(self, field, kind, default=0):
        """The number in a field; `kind` is its letter in `struct`."""
        position = self._place(field)
        return default if position is None else self._number(f"<{kind}", position)

    def numbers(self, field, kind):
        """The vector of numbers in a field, empty where there is none."""
        start, count = self._vector(field, struct.calcsize(f"<{kind}"))
        return struct.unpack_from(f"<{count}{kind}", self._data, start)

    def octets(self, field):
        """The vector of bytes in a field."""
        start, count = self._vector(field, 1)
        return bytes(self._data[start : start + count])

    def count_bytes(self, field):
        """The length of a vector of bytes, of which nothing is read."""
        return self._vector(field, 1, spend=False)[1]

    def text(self, field):
        """The text in a field, or None where there is none."""
        if self._place(field) is None:
            return None
        try:
            return self.octets(field).decode()
        except UnicodeDecodeError as error:
            raise Damaged(f"a text near byte {self.position} is not UTF-8") from error

    def table(self, field):
        """The table in a field, or None where there is none."""
        position = self.target(field)
        return None if position is None else Table(self._data, position, self._spent)

    def tables(self, field):
        """The vector of tables in a field, as a list."""
        start, count = self._vector(field, 4)
        places = range(start, start + 4 * count, 4)
        return [Table(self._data, place + self._number("<I", place), self._spent) for place in places]

    def target(self, field):
        """Position of what a field refers to, or None where there is none."""
        place = self._place(field)
        return None if place is None else place + self._number("<I", place)

    def _place(self, field):
        slot = self._slots + 4 + 2 * field
        offset = self._number("<H", slot) if slot + 2 <= self._slots_end else 0
        return self.position + offset if offset else None

    def _vector(self, field, item_bytes, spend=True):
        position = self.target(field)
        if position is None:
            return 0, 0
        count = self._number("<I", position)
        if position + 4 + count * item_bytes > len(self._data):
            raise Damaged(f"a list of {count:,} items leads past its end")
        if spend:
            self._spend(count)
        return position + 4, count

    def _number(self, code, position):
        if not 0 <= position <= len(self._data) - struct.calcsize(code):  # struct takes negative ones, from the end
            raise Damaged("an offset leads out of it")
        return struct.unpack_from(code, self._data, position)[0]

    def _spend(self, count):
        self._spent[0] += count
        if self._spent[0] > MOST_ITEMS:
            raise Damaged(f"more than {MOST_ITEMS:,} items are listed in it")


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
