"""The README of a bundle: what is in it, and how each language takes it."""

from export import artifact, bundle_index, golden, templates


def text(path, index, sections, runtime):
    """The page, in Markdown.

    Args:
        path: the folder of the bundle, with the records of the models.
        index: see `bundle_index.of`.
        sections: what each language's templates say of themselves.
        runtime: name and version of what proved the files.
    """
    number = templates.number
    return templates.filled(
        templates.SNIPPETS / templates.README,
        {
            "NAME": index["name"],
            "CLASSES": number(index["classes"]),
            "MODELS": "\n".join(_row(model, artifact.read_sidecar(path / model["file"])) for model in index["models"]),
            "STEPS": _steps(index),
            "COUNT": number(len(index["golden"]["pngs"])),
            "LANGUAGES": "\n\n".join(section.strip() for section in sections if section),
            "LEFT_OUT": "".join(f"\n\n{sentence}" for sentence in index["left_out"].values()),
            "RUNTIME": runtime,
            "FLOOR": f"{golden.FLOORS[index['models'][0]['recipe']]:.2g}",
        },
    )


def _row(model, record):
    top1, images = record["measured"]["top1_percent"], record["measured"]["images"]
    edges = " to ".join(model[side]["dtype"] for side in ("input", "output"))
    accuracy = f"{top1:.2f} % of {images:,}" if top1 is not None else "not known"
    size = f"{model['size_bytes'] / 1024:,.0f} KiB"
    cells = f"`{model['file']}`", model["target"], model["recipe"], edges, size, accuracy, f"{model['tolerance']:.2g}"
    return f"| {' | '.join(cells)} |"


def _steps(index):
    """The rule of `Preprocess.pixels` as a list."""
    rule = index["preprocess"]
    height, width = bundle_index.resized(rule)
    colours = "grey by ITU-R 601-2" if index["channels"] == 1 else "RGB"
    filters = {
        "nearest": "by the nearest pixel",
        "bilinear": "by a bilinear filter that widens as the image shrinks",
        "bicubic": "by a bicubic filter that widens as the image shrinks",
    }
    return "\n".join(
        (
            f"1. It is turned as its EXIF tag says, laid on white where it is transparent, and made {colours}.",
            f"2. It is resized in its own proportions, {filters[rule['interpolation']]}, until it just covers",
            f"   {width} x {height} pixels (width x height).",
            f"3. The centre {rule['width']} x {rule['height']} is cut out.",
        )
    )
