"""A picture that is made, not taken: whoever resizes it another way gets other pixels."""

import numpy as np

SMALLEST = 211, 317
# Sides of what is resized to, so that the picture shrinks: only then does it show whether a resize is antialiased.
SHRINKS = 2.3, 3.1
CELL = 6


def sides(resized_height, resized_width):
    """`(height, width)` of a picture that shrinks when it is resized to cover so many pixels: odd, wider than high."""
    least = (int(side * factor) for side, factor in zip((resized_height, resized_width), SHRINKS, strict=True))
    return tuple(max(one, other) | 1 for one, other in zip(least, SMALLEST, strict=True))


def picture(height, width):
    """Gradients, hard edges, fine lines and specks like writing: `uint8`, `(height, width, 3)`, alike everywhere."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (height + width - 2)], axis=-1)
    image[_inside(y, x, height // 2, width // 3, height // 4)] = 235, 60, 30
    image[_inside(y, x, height // 3, width * 3 // 4, height // 6)] = 20, 90, 200
    written = (y > height * 5 // 8) & (y < height * 7 // 8) & _specks(y, x)
    image[written] = 250, 245, 240
    lines = (x > width * 7 // 8) & (x % 3 == 0) | (y < height // 8) & ((x + y) % 2 == 0)
    image[lines] = 10, 12, 15
    return image.astype(np.uint8)


def _inside(y, x, centre_y, centre_x, radius):
    return (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2


def _specks(y, x):
    """Strokes two pixels wide in cells of `CELL`, in an order that follows no line."""
    row, column = y // CELL, x // CELL
    stroke = (row * 7919 + column * 104729 + row * column * 31) % 5
    upright = (stroke < 2) & (x % CELL // 2 == stroke)
    level = (stroke >= 2) & (stroke < 4) & (y % CELL // 2 == stroke - 2)
    return upright | level
