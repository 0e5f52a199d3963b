"""What is in a `.tflite` file of any origin, read without trusting it; and a model of ours as such a file.

Imports neither keras nor tensorflow.
"""

import dataclasses
import functools
import math
import pathlib

from export import child
from export import tflite_schema as schema
from export.flatbuffer import ALIGNMENT, Damaged, Table

LARGEST_FILE_BYTES = 2**31 - 1  # offsets in the format are 32 bits wide
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
    if data[4:8] != schema.MODEL_IDENTIFIER:
        raise ValueError(f"{path} is not a .tflite file.")
    try:
        return data, _model(Table.root(data, schema.MODEL_IDENTIFIER))
    except Damaged as error:
        raise ValueError(f"{path} is a damaged .tflite file: {error.how}.") from error


def packed(model):
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
    builder.Finish(model.Pack(builder), file_identifier=schema.MODEL_IDENTIFIER)
    return bytes(builder.Output())


@functools.cache
def _names():
    """`({code: op}, {code: type})` of the schema."""
    try:
        from ai_edge_litert import schema_py_generated as generated
    except ImportError as error:
        raise ImportError("LiteRT is missing. Install it with: pip install 'resnet-keras[lint]'.") from error
    kinds = generated.BuiltinOperator, generated.TensorType
    return tuple({code: name for name, code in vars(kind).items() if not name.startswith("_")} for kind in kinds)


def _model(root):
    field = schema.SubGraph
    buffers = [_stored_bytes(buffer) for buffer in root.tables(schema.Model.BUFFERS)]
    subgraphs = root.tables(schema.Model.SUBGRAPHS)
    if not subgraphs:
        raise Damaged("it holds no network")
    codes = [_code(code) for code in root.tables(schema.Model.OPERATOR_CODES)]
    graph = subgraphs[0]
    tensors = tuple(_tensor(i, table, buffers) for i, table in enumerate(graph.tables(field.TENSORS)))
    return Model(
        subgraphs=len(subgraphs),
        tensors=tensors,
        inputs=tuple(_item(tensors, i, "tensor") for i in graph.numbers(field.INPUTS, "i")),
        outputs=tuple(_item(tensors, i, "tensor") for i in graph.numbers(field.OUTPUTS, "i")),
        ops=tuple(_op(table, codes, tensors) for table in graph.tables(field.OPERATORS)),
        metadata={
            _text(entry, schema.Entry.NAME): _item(buffers, entry.number(schema.Entry.BUFFER, "I"), "buffer")
            for entry in root.tables(schema.Model.METADATA)
        },
    )


def _stored_bytes(buffer):
    return buffer.count_bytes(schema.Buffer.DATA) or buffer.number(schema.Buffer.SIZE, "Q")


def _item(items, index, what):
    if not 0 <= index < len(items):
        raise Damaged(f"it refers to {what} {index:,} and has {len(items):,}")
    return items[index]


def _text(table, field):
    """A text as it may be shown."""
    return child.printable(table.octets(field)[:LONGEST_NAME_BYTES].decode(errors="replace"))


def _code(table):
    field = schema.OperatorCode
    number = max(table.number(field.OLD_BUILTIN, "b"), table.number(field.BUILTIN, "i"))
    name = _names()[0].get(number, f"op {number}")
    return name, _text(table, field.CUSTOM) if name == CUSTOM else None, table.number(field.VERSION, "i", 1)


def _tensor(index, table, buffers):
    field, within = schema.Tensor, schema.Quantization
    quantization = table.table(field.QUANTIZATION)
    number, stored = table.number(field.TYPE, "b"), _item(buffers, table.number(field.BUFFER, "I"), "buffer")
    tensor = Tensor(
        index=index,
        name=_text(table, field.NAME) or f"tensor {index}",
        dtype=_names()[1].get(number, f"type {number}"),
        shape=table.numbers(field.SHAPE, "i"),
        signature=table.numbers(field.SIGNATURE, "i"),
        scales=quantization.numbers(within.SCALES, "f") if quantization else (),
        zero_points=quantization.numbers(within.ZERO_POINTS, "q") if quantization else (),
        axis=quantization.number(within.AXIS, "i") if quantization else 0,
        constant=stored > 0,
    )
    if len(tensor.shape) > MOST_DIMENSIONS:
        raise Damaged(f"tensor {tensor.name} has {len(tensor.shape):,} dimensions")
    dense = table.table(field.SPARSITY) is None
    if tensor.constant and dense and tensor.dtype in BITS:
        needed = (math.prod(tensor.shape) * BITS[tensor.dtype] + 7) // 8
        if stored != needed:
            raise Damaged(f"tensor {tensor.name} needs {needed:,} bytes and has {stored:,}")
    return tensor


def _op(table, codes, tensors):
    field = schema.Operator
    name, custom, version = _item(codes, table.number(field.CODE, "I"), "op code")
    return Op(
        name=name,
        custom=custom,
        version=version,
        # -1 stands for an input that is left out, such as a bias.
        inputs=tuple(None if i == -1 else _item(tensors, i, "tensor") for i in table.numbers(field.INPUTS, "i")),
        outputs=tuple(_item(tensors, i, "tensor") for i in table.numbers(field.OUTPUTS, "i")),
    )
