"""Reads the packed arrays of a golden file."""

import json
import math

import numpy as np


def unpack(path):
    """`{name: array}` from the members `index`, a JSON object of shapes, and `values`, all numbers in that order."""
    with np.load(path) as archive:
        shapes, values = json.loads(str(archive["index"])), archive["values"]
    arrays, start = {}, 0
    for name, shape in shapes.items():
        arrays[name] = values[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    return arrays
