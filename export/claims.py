"""What a file says about itself: in the record beside it, and in its metadata. Imports neither keras nor tensorflow."""

import dataclasses

from export import artifact, backends, metadata, onnx_file

LOWEST = {"INT8": -128, "UINT8": 0}


@dataclasses.dataclass(frozen=True)
class Claims:
    """`labels` is `{where they stand: names}`; `preprocess` the fields of a `Preprocess`, or None; `normalisation` the
    mean and deviation with which apps are told to prepare raw pixels, where that is not what the input means, or None.
    """

    labels: dict[str, tuple[str, ...]]
    preprocess: dict | None
    normalisation: tuple | None


def read(path, data, model):
    """The `Claims` of a file.

    A record that is not of this file (its hash is another's) counts for nothing, nor does what is damaged.

    Args:
        path: the file.
        data: its bytes.
        model: the `tflite_file.Model` of it.
    """
    record = artifact.read_sidecar(path)
    if not isinstance(record, dict) or record.get("sha256") != artifact.sha256(data):
        record = {}
    labels, normalisation = {}, None
    if isinstance(record.get("labels"), list) and record["labels"]:
        labels["record"] = tuple(map(str, record["labels"]))
    if backends.is_onnx(path):
        described, inside = None, onnx_file.labels(data)
    else:
        described = _metadata(data)
        inside = described.labels if described is not None else ()
    if inside:
        labels["metadata"] = inside
    if described is not None and described.mean is not None and (described.mean, described.std) != _meant(model):
        normalisation = (described.mean, described.std)
    preprocess = record.get("preprocess")
    return Claims(labels, preprocess if isinstance(preprocess, dict) else None, normalisation)


def _metadata(data):
    """The `metadata.Metadata` of a `.tflite` file, or None."""
    try:
        return metadata.read(data)
    except ValueError:  # none, or none that can be read
        return None


def _meant(model):
    """The mean and deviation that lead from a raw pixel to what the input tensor stands for.

    In an 8-bit tensor of scale 1 the byte is the pixel, and its zero point is the pixel that stands for 0.
    """
    image = model.inputs[0]
    if image.dtype in LOWEST and tuple(image.scales) == (1.0,):
        return float(image.zero_points[0] - LOWEST[image.dtype]), 1.0
    return 0.0, 1.0
