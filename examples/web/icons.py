"""Draws the icons in `public/`: two layers and the shortcut around them, all inside the circle that a mask leaves.

python examples/web/icons.py
"""

import pathlib

from PIL import Image, ImageDraw

OUT = pathlib.Path(__file__).parent / "public"
GROUND, LAYER, SHORTCUT = "#3a48c4", "#ffffff", "#ffc857"
SIDE = 64  # of the drawing; the mask leaves a circle of four fifths of it
SPINE = (24, 10, 28, 54)  # left, top, right, bottom
LAYERS = ((14, 20, 38, 29), (14, 35, 38, 44))
ARC = (4, 12, 48, 52)  # box of the half ellipse from above the layers to below them
STROKE = 4
SMOOTH = 4  # drawn that much larger, then shrunk


def svg():
    layers = "".join(
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" rx="2"/>'
        for left, top, right, bottom in (SPINE, *LAYERS)
    )
    left, top, right, bottom = ARC
    middle, half = (left + right) / 2, STROKE / 2
    arc = (
        f"M{middle} {top + half}A{(right - left) / 2 - half} {(bottom - top) / 2 - half} 0 0 1 {middle} {bottom - half}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}">'
        f'<rect width="{SIDE}" height="{SIDE}" fill="{GROUND}"/>'
        f'<path d="{arc}" fill="none" stroke="{SHORTCUT}" stroke-width="{STROKE}"/>'
        f'<g fill="{LAYER}">{layers}</g></svg>\n'
    )


def png(side):
    scale = side * SMOOTH / SIDE
    image = Image.new("RGB", (side * SMOOTH, side * SMOOTH), GROUND)
    draw = ImageDraw.Draw(image)
    draw.arc([value * scale for value in ARC], -90, 90, fill=SHORTCUT, width=round(STROKE * scale))
    for box in (SPINE, *LAYERS):
        draw.rounded_rectangle([value * scale for value in box], radius=2 * scale, fill=LAYER)
    return image.resize((side, side), Image.Resampling.LANCZOS).quantize(32)


if __name__ == "__main__":
    (OUT / "icon.svg").write_text(svg())
    for side in (192, 512):
        png(side).save(OUT / f"icon-{side}.png", optimize=True)
