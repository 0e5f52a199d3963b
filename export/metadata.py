"""Labels, licence and normalisation inside the `.tflite`: the TFLite metadata format, version 1.

The description is a flatbuffer of its own (file identifier `M001`, laid out by `metadata_schema.fbs` of TensorFlow Lite
Support) in a buffer that the model lists as `TFLITE_METADATA`; the labels are a text file in a zip archive behind the
model. MediaPipe Tasks, ML Kit and Android Studio read it; every other runtime passes over it. Imports neither keras nor
tensorflow.
"""

import dataclasses
import math

from export import attachment, flatbuffer
from export import tflite_schema as schema
from export.flatbuffer import Damaged, Octet, Placed, Table, Word

ENTRY = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"
# Nothing that is written here came later than the first version of the schema.
MIN_PARSER_VERSION = "1.0.0"
PIXEL_RANGE, PROBABILITY_RANGE = (0.0, 255.0), (0.0, 1.0)
MAX_BYTES = 2**31 - 2**20  # where flatbuffers end, less what is added here


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says about itself; None, or no labels, where it does not.

    `inputs` and `outputs` are the names of the tensors. The consumer computes `(pixel - mean) / std` before the model:
    0 and 1 for a model that takes raw pixels; a tuple where a file has a number for each channel.
    """

    name: str | None
    description: str | None
    version: str | None
    author: str | None
    licence: str | None
    labels: tuple[str, ...]
    mean: float | tuple[float, ...] | None
    std: float | tuple[float, ...] | None
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    min_parser_version: str | None


def write(data, *, name, description, labels, mean=0.0, std=1.0, version=None, author=None, licence=None):
    """Adds metadata to an image classifier.

    The bytes of the model stay together as they are, behind a new root that refers into them; so nothing that it
    computes can change, and its weights keep their alignment.

    Args:
        data: a `.tflite` file with one input, `(1, height, width, channels)`, and one output, `(1, classes)`.
        name, description, version, author, licence: texts for people; None leaves one out.
        labels: one name a class, in the order of the output.
        mean, std: what the consumer normalises pixels with before the model, one number for all channels.

    Returns:
        The new file. The same arguments give the same bytes.

    Raises:
        ValueError: `data` is no such file or has metadata already, the labels do not fit it, or mean and std are no
            normalisation.
    """
    model = Table.root(data, schema.MODEL_IDENTIFIER)
    image, probabilities = _edges(model)
    if _entry(model) is not None:
        raise ValueError("The file has metadata already.")
    if len(data) > MAX_BYTES or any(buffer.number(schema.Buffer.OFFSET, "Q") > 1 for buffer in _buffers(model)):
        raise ValueError("The file is too large for metadata: its weights lie outside of the flatbuffer.")
    _check_labels(labels, probabilities.numbers(schema.Tensor.SHAPE, "i")[-1])
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise ValueError(f"Mean and std must be finite numbers, std above 0. Received: mean {mean}, std {std}.")
    root = schema.ModelMetadata
    content = {
        root.NAME: name,
        root.DESCRIPTION: description,
        root.VERSION: version,
        root.SUBGRAPHS: [
            {
                schema.SubGraphMetadata.INPUTS: [_described_image(image, mean, std)],
                schema.SubGraphMetadata.OUTPUTS: [_described_probabilities(probabilities)],
            }
        ],
        root.AUTHOR: author,
        root.LICENCE: licence,
        root.MIN_PARSER_VERSION: MIN_PARSER_VERSION,
    }
    return attachment.attach(_with_entry(data, model, _packed(content)), LABELS_FILE, "\n".join(labels))


def read(data):
    """The metadata of a `.tflite` file, its labels included, whoever wrote it.

    Returns:
        A `Metadata`.

    Raises:
        ValueError: it is not a `.tflite` file, has no metadata, or is damaged.
    """
    model = Table.root(data, schema.MODEL_IDENTIFIER)
    entry = _entry(model)
    if entry is None:
        raise ValueError("The file has no metadata.")
    buffers, index = _buffers(model), entry.number(schema.Entry.BUFFER, "I")
    if index >= len(buffers):
        raise Damaged(f"its metadata should be in buffer {index} of {len(buffers)}")
    root = Table.root(buffers[index].octets(schema.Buffer.DATA), schema.METADATA_IDENTIFIER)
    graphs = root.tables(schema.ModelMetadata.SUBGRAPHS)
    inputs = graphs[0].tables(schema.SubGraphMetadata.INPUTS) if graphs else []
    outputs = graphs[0].tables(schema.SubGraphMetadata.OUTPUTS) if graphs else []
    mean, std = _normalisation(inputs)
    return Metadata(
        name=root.text(schema.ModelMetadata.NAME),
        description=root.text(schema.ModelMetadata.DESCRIPTION),
        version=root.text(schema.ModelMetadata.VERSION),
        author=root.text(schema.ModelMetadata.AUTHOR),
        licence=root.text(schema.ModelMetadata.LICENCE),
        labels=_labels(data, outputs),
        mean=mean,
        std=std,
        inputs=tuple(tensor.text(schema.TensorMetadata.NAME) for tensor in inputs),
        outputs=tuple(tensor.text(schema.TensorMetadata.NAME) for tensor in outputs),
        min_parser_version=root.text(schema.ModelMetadata.MIN_PARSER_VERSION),
    )


def _edges(model):
    graphs = model.tables(schema.Model.SUBGRAPHS)
    if not graphs:
        raise ValueError("The file has no graph.")
    tensors = graphs[0].tables(schema.SubGraph.TENSORS)
    edges = [graphs[0].numbers(slot, "i") for slot in (schema.SubGraph.INPUTS, schema.SubGraph.OUTPUTS)]
    if [len(edge) for edge in edges] != [1, 1] or not all(0 <= edge[0] < len(tensors) for edge in edges):
        raise ValueError("The file is not an image classifier with one input and one output.")
    image, probabilities = (tensors[edge[0]] for edge in edges)
    ranks = [len(tensor.numbers(schema.Tensor.SHAPE, "i")) for tensor in (image, probabilities)]
    if ranks != [4, 2] or not all(tensor.text(schema.Tensor.NAME) for tensor in (image, probabilities)):
        raise ValueError("The file is not an image classifier: its input needs four sides, its output two, both names.")
    return image, probabilities


def _entry(model):
    entries = model.tables(schema.Model.METADATA)
    return next((entry for entry in entries if entry.text(schema.Entry.NAME) == ENTRY), None)


def _buffers(model):
    return model.tables(schema.Model.BUFFERS)


def _check_labels(labels, classes):
    if isinstance(labels, str) or len(labels) != classes:
        raise ValueError(f"The file needs one label for each of its {classes} classes. Received: {len(labels)}.")
    # A reader splits the file at line ends, and would then count more classes or fewer.
    odd = [label for label in labels if not label.strip() or {"\n", "\r"} & set(label)]
    if odd:
        raise ValueError(f"A label must be one line that is not empty. Received: {odd[0]!r}.")


def _described_image(tensor, mean, std):
    colour = {3: schema.ImageProperties.RGB, 1: schema.ImageProperties.GREY}
    channels = tensor.numbers(schema.Tensor.SHAPE, "i")[-1]
    normalisation = {schema.Normalization.MEAN: (float(mean),), schema.Normalization.STD: (float(std),)}
    return {
        schema.TensorMetadata.NAME: tensor.text(schema.Tensor.NAME),
        schema.TensorMetadata.DESCRIPTION: "Pixels of the image, 0 to 255.",
        schema.TensorMetadata.CONTENT: {
            schema.Content.TYPE: Octet(schema.Content.IMAGE),
            schema.Content.PROPERTIES: {schema.ImageProperties.COLOUR_SPACE: Octet(colour.get(channels, 0))},
        },
        schema.TensorMetadata.PROCESS_UNITS: [
            {
                schema.ProcessUnit.TYPE: Octet(schema.ProcessUnit.NORMALIZATION),
                schema.ProcessUnit.OPTIONS: normalisation,
            }
        ],
        schema.TensorMetadata.STATS: _range(*((value - mean) / std for value in PIXEL_RANGE)),
    }


def _described_probabilities(tensor):
    file = {
        schema.File.NAME: LABELS_FILE,
        schema.File.DESCRIPTION: "One class a line, in the order of the probabilities.",
        schema.File.TYPE: Octet(schema.File.TENSOR_AXIS_LABELS),
    }
    return {
        schema.TensorMetadata.NAME: tensor.text(schema.Tensor.NAME),
        schema.TensorMetadata.DESCRIPTION: "Probability of each class.",
        schema.TensorMetadata.CONTENT: {
            schema.Content.TYPE: Octet(schema.Content.FEATURE),
            schema.Content.PROPERTIES: {},
        },
        schema.TensorMetadata.STATS: _range(*PROBABILITY_RANGE),
        schema.TensorMetadata.FILES: [file],
    }


def _range(low, high):
    return {schema.Stats.MAX: (high,), schema.Stats.MIN: (low,)}


def _packed(content):
    import flatbuffers  # only here: an app that reads labels needs nothing but this package

    builder = flatbuffers.Builder(4096)
    builder.Finish(flatbuffer.pack(builder, content), file_identifier=schema.METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _with_entry(data, model, content):
    """The model with one more buffer and one more entry: a new root, in front of the old bytes as they are.

    References in a flatbuffer only ever point forward, so a root can be put in front but not behind. The old bytes
    enter as one vector that nothing refers to; a builder counts from the end, where they lie.
    """
    import flatbuffers

    builder = flatbuffers.Builder(len(data) + len(content) + 2**16)
    padded = bytes(data) + bytes(-len(data) % flatbuffer.ALIGNMENT)
    builder.Prep(flatbuffer.ALIGNMENT, 0)
    builder.CreateByteVector(padded)

    def held(position):
        return Placed(len(padded) - position)

    # Version is the only number among the fields of a model, in all versions of its schema.
    root = {slot: held(model.target(slot)) for slot in range(1, model.fields) if model.target(slot) is not None}
    root[schema.Model.VERSION] = Word(model.number(schema.Model.VERSION, "I"))
    buffers = [held(buffer.position) for buffer in _buffers(model)]
    entries = [held(entry.position) for entry in model.tables(schema.Model.METADATA)]
    entry = {schema.Entry.NAME: ENTRY, schema.Entry.BUFFER: Word(len(buffers))}
    root[schema.Model.BUFFERS] = [*buffers, {schema.Buffer.DATA: content}]
    root[schema.Model.METADATA] = [*entries, entry]
    builder.Finish(flatbuffer.pack(builder, root), file_identifier=schema.MODEL_IDENTIFIER)
    return bytes(builder.Output())


def _normalisation(inputs):
    units = [unit for tensor in inputs for unit in tensor.tables(schema.TensorMetadata.PROCESS_UNITS)]
    for unit in units:
        options = unit.table(schema.ProcessUnit.OPTIONS)
        if unit.number(schema.ProcessUnit.TYPE, "B") == schema.ProcessUnit.NORMALIZATION and options is not None:
            values = (options.numbers(slot, "f") for slot in (schema.Normalization.MEAN, schema.Normalization.STD))
            return tuple(value[0] if len(value) == 1 else value for value in values)
    return None, None


def _labels(data, outputs):
    files = [file for tensor in outputs for file in tensor.tables(schema.TensorMetadata.FILES)]
    for file in files:
        if file.number(schema.File.TYPE, "B") == schema.File.TENSOR_AXIS_LABELS:
            lines = attachment.read(data, file.text(schema.File.NAME)).removesuffix("\n").split("\n")
            return tuple(line.removesuffix("\r") for line in lines)
    return ()
