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
