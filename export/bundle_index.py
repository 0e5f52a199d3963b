"""What `bundle.json` says, and what of it the code in a bundle holds. Imports neither keras nor tensorflow."""

import re

from export import photo, templates

FORMAT_VERSION = 1
LABELS = "labels.txt"
IMAGES, PHOTO, PHOTO_RAW, PHOTO_PIXELS = (
    f"golden/{name}" for name in ("images.u8", "photo.png", "photo.u8", "photo_pixels.u8")
)
PHOTO_TOLERANCE = 2  # levels of a pixel: the same filter, rounded otherwise
RUNTIMES = {  # its package for Python, and how that is imported
    "tflite": ("ai-edge-litert", "from ai_edge_litert.interpreter import Interpreter"),
    "onnx": ("onnxruntime", "import onnxruntime"),
}


def plain(name):
    """A name that no file system and no programming language has to escape."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def of(source, records, proof):
    """The content of `bundle.json`.

    Args:
        source: a `source.Source`.
        records: the record of each of its files.
        proof: a `golden.Golden` of them.
    """
    models = [_model(*pair) for pair in zip(records, proof.tolerances, strict=True)]
    code, left_out = {}, {}
    for language in templates.LANGUAGES:
        taken = next((m for m, record in zip(models, records, strict=True) if language.takes(record)), None)
        if taken is None:
            left_out[language.folder] = _left_out(language, records)
        else:
            code[language.folder] = {"model": taken["file"], "entry": f"code/{language.folder}/{language.entry}"}
    height, width = photo.sides(*resized(source.preprocess.to_dict()))
    return {
        "format": FORMAT_VERSION,
        "name": plain(source.name),
        "channels": source.input_shape[-1],
        "classes": len(source.labels),
        "labels": LABELS,
        "preprocess": source.preprocess.to_dict(),
        "models": models,
        "golden": {
            "images": IMAGES,
            "pngs": [f"golden/{k:02}.png" for k in range(len(proof.images))],
            "labels": None if proof.labels is None else proof.labels.tolist(),
            "photo": {
                "png": PHOTO,
                "raw": PHOTO_RAW,
                "height": height,
                "width": width,
                "pixels": PHOTO_PIXELS,
                "tolerance_levels": PHOTO_TOLERANCE,
            },
        },
        "code": code,
        "left_out": left_out,
    }


def resized(preprocess):
    """`(height, width)` that an image is resized to cover, as `Preprocess.pixels` does."""
    return tuple(round(preprocess[side] / preprocess["crop_fraction"]) for side in ("height", "width"))


def _model(record, tolerance):
    stem = record["file"].rpartition(".")[0]
    return {
        "file": f"models/{record['file']}",
        "record": f"models/{stem}.json",
        **{key: record[key] for key in ("target", "recipe", "sha256", "size_bytes")},
        "input": record["inputs"][0],
        "output": record["outputs"][0],
        "expected": f"golden/{stem}.f32",
        "tolerance": tolerance,
    }


def _left_out(language, records):
    """One sentence on why no file is for a language."""
    found = sorted({edge["dtype"] for record in records for edge in record["inputs"] + record["outputs"]})
    return (
        f"{language.title} is left out: its runtime takes {' or '.join(language.edges)} at the edges, and the files "
        f"here have {' and '.join(found)}. Add {language.target} to --target."
    )


def values(index, language, format, version):
    """`{placeholder: text}` for the code of a language.

    Args:
        index: see `of`.
        language: the folder of a language in `index["code"]`.
        format: `"tflite"` or `"onnx"`.
        version: of the runtime that gave the expected probabilities.
    """
    model = next(m for m in index["models"] if m["file"] == index["code"][language]["model"])
    rule, proof, number = index["preprocess"], index["golden"], templates.number
    shape = (rule["height"], rule["width"], index["channels"])
    resized_height, resized_width = resized(rule)
    channels_first = tuple(model["input"]["shape"][1:]) != shape
    input_scale, input_zero_point = _pixel_scale(model["input"])
    output_scale, output_zero_point = _scale(model["output"])
    package, imported = RUNTIMES[format]
    return {
        "NAME": index["name"],
        "FILE": model["file"],
        "SHA256": model["sha256"],
        "INPUT_NAME": model["input"]["name"],
        "INPUT_TYPE": model["input"]["dtype"],
        "INPUT_SCALE": number(input_scale),
        "INPUT_ZERO_POINT": number(input_zero_point),
        "OUTPUT_NAME": model["output"]["name"],
        "OUTPUT_TYPE": model["output"]["dtype"],
        "OUTPUT_SCALE": number(output_scale),
        "OUTPUT_ZERO_POINT": number(output_zero_point),
        **{name: number(side) for name, side in zip(("HEIGHT", "WIDTH", "CHANNELS"), shape, strict=True)},
        "CLASSES": number(index["classes"]),
        "CHANNELS_FIRST": "true" if channels_first else "false",
        "LAYOUT": "NCHW" if channels_first else "NHWC",
        "CROP_FRACTION": number(float(rule["crop_fraction"])),
        "RESIZED_HEIGHT": number(resized_height),
        "RESIZED_WIDTH": number(resized_width),
        "INTERPOLATION": rule["interpolation"],
        "LABELS": index["labels"],
        "GOLDEN_IMAGES": proof["images"],
        "GOLDEN_COUNT": number(len(proof["pngs"])),
        "EXPECTED": model["expected"],
        "TOLERANCE": number(model["tolerance"]),
        "PHOTO": proof["photo"]["raw"],
        "PHOTO_HEIGHT": number(proof["photo"]["height"]),
        "PHOTO_WIDTH": number(proof["photo"]["width"]),
        "PHOTO_PIXELS": proof["photo"]["pixels"],
        "PHOTO_TOLERANCE": number(proof["photo"]["tolerance_levels"]),
        "RUNTIME_VERSION": version,
        "PACKAGE": package,
        "IMPORT": imported,
    }


def _scale(edge):
    return (1.0, 0) if edge["scale"] is None else (edge["scale"], edge["zero_point"])


def _pixel_scale(edge):
    """As `runtime.quantized`: where a step is a pixel, the byte is the pixel, whatever the zero point says."""
    eight_bits = {"uint8": 0, "int8": -128}
    if edge["dtype"] in eight_bits and edge["scale"] in (1.0, None):
        return 1.0, eight_bits[edge["dtype"]]
    return _scale(edge)
