"""Reads a `.tflite` file of any origin without trusting a single number in it. Imports neither keras nor tensorflow."""

import dataclasses
import functools
import math
import pathlib
import struct

LARGEST_FILE_BYTES = 2**31 - 1  # offsets in the format are 32 bits wide
# Each number and letter that is read counts one, each table a hundred. A ResNet-152 comes to less than a million; a
# hostile file, in which many tables share one long list, would otherwise keep the reader busy for days.
MOST_ITEMS = 10_000_000
ITEMS_PER_TABLE = 100
MOST_DIMENSIONS = 8
LONGEST_NAME_BYTES = 400  # of which is shown
CUSTOM = "CUSTOM"
BITS = {"INT4": 4, "INT2": 2, "INT8": 8, "UINT8": 8, "BOOL": 8, "INT16": 16, "UINT16": 16, "FLOAT16": 16}
BITS |= {"BFLOAT16": 16, "INT32": 32, "UINT32": 32, "FLOAT32": 32, "INT64": 64, "UINT64": 64, "FLOAT64": 64}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file.

    `dtype` is a name of the schema, such as `"INT8"`. `signature` is the shape with -1 for a dimension that is left
    open, or empty. `scales` and `zero_points` are empty for float, and have one number for each slice along `axis` in
    a tensor that is quantized per channel. `constant` says that the file holds its values.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int
    constant: bool


@dataclasses.dataclass(frozen=True)
class Op:
    """One operator: its name in the schema, `custom` its own name if it is not built in, and the tensors it joins."""

    name: str
    custom: str | None
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]

    @property
    def label(self):
        return self.custom if self.custom is not None else self.name


@dataclasses.dataclass(frozen=True)
class Model:
    """The first subgraph of a file and the sizes of its metadata: `{name: bytes}`."""

    subgraphs: int
    tensors: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    metadata: dict[str, int]


class Damaged(ValueError):
    """The file is not what its first bytes promise."""


def read(path):
    """The bytes of a `.tflite` file, and a `Model` of what is in it.

    Raises:
        ValueError: there is no such file, it is no `.tflite` file, or it is damaged.
        ImportError: LiteRT, whose names for ops and types are used, is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if path.stat().st_size > LARGEST_FILE_BYTES:
        raise ValueError(f"{path} has more than 2 GiB, which no .tflite file can.")
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError(f"{path} is not a .tflite file.")
    try:
        return data, _model(Table.root(data))
    except Damaged as error:
        raise ValueError(f"{path} is a damaged .tflite file: {error}.") from error


class Table:
    """A table of a flatbuffer, read field by field; each read is held against the end of the file."""

    def __init__(self, data, position, spent):
        self._data, self._position, self._spent = data, position, spent
        self._spend(ITEMS_PER_TABLE)
        self._fields = position - self._number("<i", position)
        self._size = self._number("<H", self._fields)

    @classmethod
    def root(cls, data):
        return cls(data, struct.unpack_from("<I", data)[0], [0])

    def number(self, field, kind, default=0):
        """The number in a field; `kind` is its letter in `struct`."""
        position = self._at(field)
        return default if position is None else self._number(f"<{kind}", position)

    def numbers(self, field, kind):
        """The vector of numbers in a field, empty where there is none."""
        start, count = self._vector(field, struct.calcsize(f"<{kind}"))
        return struct.unpack_from(f"<{count}{kind}", self._data, start)

    def text(self, field):
        start, count = self._vector(field, 1)
        return printable(self._data[start : start + min(count, LONGEST_NAME_BYTES)].decode(errors="replace"))

    def count_bytes(self, field):
        """The length of a vector of bytes, of which nothing is read."""
        return self._vector(field, 1, spend=False)[1]

    def table(self, field):
        position = self._at(field)
        return None if position is None else self._linked(position)

    def tables(self, field):
        """The vector of tables in a field, one after the other."""
        start, count = self._vector(field, 4)
        for i in range(count):
            yield self._linked(start + 4 * i)

    def _linked(self, position):
        return Table(self._data, position + self._number("<I", position), self._spent)

    def _at(self, field):
        slot = 4 + 2 * field
        offset = self._number("<H", self._fields + slot) if slot + 2 <= self._size else 0
        return self._position + offset if offset else None

    def _vector(self, field, item_bytes, spend=True):
        position = self._at(field)
        if position is None:
            return 0, 0
        start = position + self._number("<I", position)
        count = self._number("<I", start)
        if start + 4 + count * item_bytes > len(self._data):
            raise Damaged(f"a list of {count:,} items leads past its end")
        if spend:
            self._spend(count)
        return start + 4, count

    def _number(self, code, position):
        if not 0 <= position <= len(self._data) - struct.calcsize(code):
            raise Damaged("an offset leads out of it")
        return struct.unpack_from(code, self._data, position)[0]

    def _spend(self, count):
        self._spent[0] += count
        if self._spent[0] > MOST_ITEMS:
            raise Damaged(f"more than {MOST_ITEMS:,} items are listed in it")


def printable(text):
    """Foreign text as it may be shown in a terminal, which takes some letters for commands."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@functools.cache
def _names():
    """`({code: op}, {code: type})` of the schema."""
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise ImportError("LiteRT is missing. Install it with: pip install 'resnet-keras[lint]'.") from error
    kinds = schema.BuiltinOperator, schema.TensorType
    return tuple({code: name for name, code in vars(kind).items() if not name.startswith("_")} for kind in kinds)


# The numbers of the fields below are those of the schema, in the order in which its tables declare them.


def _model(root):
    buffers = [buffer.count_bytes(0) or buffer.number(2, "Q") for buffer in root.tables(4)]  # large files: field 2
    subgraphs = list(root.tables(2))
    if not subgraphs:
        raise Damaged("it holds no network")
    codes = [_code(code) for code in root.tables(1)]
    graph = subgraphs[0]
    tensors = tuple(_tensor(i, table, buffers) for i, table in enumerate(graph.tables(0)))
    return Model(
        subgraphs=len(subgraphs),
        tensors=tensors,
        inputs=tuple(_item(tensors, i, "tensor") for i in graph.numbers(1, "i")),
        outputs=tuple(_item(tensors, i, "tensor") for i in graph.numbers(2, "i")),
        ops=tuple(_op(table, codes, tensors) for table in graph.tables(3)),
        metadata={entry.text(0): _item(buffers, entry.number(1, "I"), "buffer") for entry in root.tables(6)},
    )


def _item(items, index, what):
    if not 0 <= index < len(items):
        raise Damaged(f"it refers to {what} {index:,} and has {len(items):,}")
    return items[index]


def _code(table):
    # The first field is what older files have; a byte, it stops at 127.
    number = max(table.number(0, "b"), table.number(3, "i"))
    name = _names()[0].get(number, f"op {number}")
    return name, table.text(1) if name == CUSTOM else None, table.number(2, "i", 1)


def _tensor(index, table, buffers):
    quantization = table.table(4)
    number, stored = table.number(1, "b"), _item(buffers, table.number(2, "I"), "buffer")
    tensor = Tensor(
        index=index,
        name=table.text(3) or f"tensor {index}",
        dtype=_names()[1].get(number, f"type {number}"),
        shape=table.numbers(0, "i"),
        signature=table.numbers(7, "i"),
        scales=quantization.numbers(2, "f") if quantization else (),
        zero_points=quantization.numbers(3, "q") if quantization else (),
        axis=quantization.number(6, "i") if quantization else 0,
        constant=stored > 0,
    )
    if len(tensor.shape) > MOST_DIMENSIONS:
        raise Damaged(f"tensor {tensor.name} has {len(tensor.shape):,} dimensions")
    dense = table.table(6) is None
    if tensor.constant and dense and tensor.dtype in BITS:
        needed = (math.prod(tensor.shape) * BITS[tensor.dtype] + 7) // 8
        if stored != needed:
            raise Damaged(f"tensor {tensor.name} needs {needed:,} bytes and has {stored:,}")
    return tensor


def _op(table, codes, tensors):
    name, custom, version = _item(codes, table.number(0, "I"), "op code")
    return Op(
        name=name,
        custom=custom,
        version=version,
        # -1 stands for an input that is left out, such as a bias.
        inputs=tuple(None if i == -1 else _item(tensors, i, "tensor") for i in table.numbers(1, "i")),
        outputs=tuple(_item(tensors, i, "tensor") for i in table.numbers(2, "i")),
    )
