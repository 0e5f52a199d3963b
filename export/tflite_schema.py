"""The numbers of the fields in a `.tflite` file and in its metadata, in the terms of their public schemas.

These are `schema.fbs` of TensorFlow Lite (file identifier `TFL3`) and `metadata_schema.fbs` of TensorFlow Lite Support
(`M001`). Only what this package reads or writes is listed.
"""

MODEL_IDENTIFIER, METADATA_IDENTIFIER = b"TFL3", b"M001"


class Model:
    VERSION, OPERATOR_CODES, SUBGRAPHS, BUFFERS, METADATA = 0, 1, 2, 4, 6


class OperatorCode:
    OLD_BUILTIN, CUSTOM, VERSION, BUILTIN = 0, 1, 2, 3  # the old one, of a byte, stops at 127


class SubGraph:
    TENSORS, INPUTS, OUTPUTS, OPERATORS = 0, 1, 2, 3


class Operator:
    CODE, INPUTS, OUTPUTS = 0, 1, 2


class Tensor:
    SHAPE, TYPE, BUFFER, NAME, QUANTIZATION, SPARSITY, SIGNATURE = 0, 1, 2, 3, 4, 6, 7


class Quantization:
    SCALES, ZERO_POINTS, AXIS = 2, 3, 6


class Buffer:
    DATA, OFFSET, SIZE = 0, 1, 2  # the last two of data that lie behind the flatbuffer


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
