"""Golden files: arrays from outside references, packed; rewritten only on demand, with the difference shown."""

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


def update(path, arrays, accept):
    """Prints how far `arrays` are from what is stored, and stores them if `accept` is set."""
    if path.exists():
        stored = unpack(path)
        differences = [np.abs(stored[key] - value).max() for key, value in arrays.items() if key in stored]
        print(f"{len(differences)} of {len(arrays)} arrays stored; largest difference {max(differences):.2e}")
    if accept:
        # One array for all: an archive spends some hundred bytes on each member.
        index = json.dumps({key: value.shape for key, value in arrays.items()}, separators=(",", ":"))
        values = np.concatenate([value.ravel() for value in arrays.values()]).astype(np.float32)
        np.savez_compressed(path, index=index, values=values)
        print(f"wrote {path.name}, {path.stat().st_size:,} bytes")
