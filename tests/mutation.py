"""Damaged files, for whatever reads files of others."""

import numpy as np


def mutated(whole, count, seed=0):
    """Copies of a file with other bytes, other offsets, a missing end, or a part over another part."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        data = bytearray(whole)
        if i % 4 == 0:
            for place in rng.integers(8, len(data), rng.integers(1, 8)):
                data[place] = rng.integers(256)
        elif i % 4 == 1:
            place = 4 * int(rng.integers(2, len(data) // 4 - 1))
            value = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(data), len(data) - 4])
            data[place : place + 4] = int(value).to_bytes(4, "little")
        elif i % 4 == 2:
            data = data[: rng.integers(8, len(data))]
        else:
            start, end = rng.integers(8, len(data) - 64, 2)
            data[start : start + 64] = data[end : end + 64]
        yield bytes(data)


def estranged(model, count, seed=0):
    """Copies of an ONNX model, as bytes, with one number, name, link or shape of its graph changed.

    Bytes at random hardly ever leave a message that can be read.
    """
    rng = np.random.default_rng(seed)
    strange = (0, 1, -1, 3, 127, 2**31, -(2**31), 2**62)
    for _ in range(count):
        changed = type(model)()
        changed.CopyFrom(model)
        graph = changed.graph
        node, tensor = (items[rng.integers(len(items))] for items in (graph.node, graph.initializer))
        names = [name for made in graph.node for name in (*made.input, *made.output)]
        edit = rng.integers(8)
        if edit == 0 and node.attribute:
            attribute = node.attribute[rng.integers(len(node.attribute))]
            attribute.i = int(rng.choice(strange))
            attribute.ints[:] = [int(rng.choice(strange)) for _ in attribute.ints]
        elif edit == 1:
            tensor.dims[:] = [int(rng.choice(strange)) for _ in tensor.dims]
        elif edit == 2 and tensor.raw_data:
            values = bytearray(tensor.raw_data)
            values[rng.integers(len(values))] ^= 1 << rng.integers(8)
            tensor.raw_data = bytes(values)
        elif edit == 3:
            node.input[rng.integers(len(node.input))] = names[rng.integers(len(names))]
        elif edit == 4:
            del node.input[-1]
        elif edit == 5:
            node.op_type = graph.node[rng.integers(len(graph.node))].op_type
        elif edit == 6:
            edges = (*graph.input, *graph.output)
            sides = edges[rng.integers(len(edges))].type.tensor_type.shape.dim
            sides[rng.integers(len(sides))].dim_value = int(rng.choice(strange))
        else:
            tensor.data_type = int(rng.integers(1, 24))
        yield changed.SerializeToString()
