"""What an exported file says about itself to people, from its record. Imports nothing heavy."""

import pathlib

from export import recipes


def of(record, data_name=None):
    """The texts that go into a file, as arguments of `metadata.write`.

    A licence and an author are stated where they are known: for the bundled model and for published weights.

    Args:
        record: the content of the sidecar, with `measured`.
        data_name: the data set that the model was trained on, or its path, of which only the last part is told.
    """
    trained, author, licence = _provenance(record["weights"], data_name)
    stored = f"{record['recipe']}: {recipes.RECIPES[record['recipe']].description}"
    return {
        "name": record["model"],
        "description": (
            f"{record['model']}, an image classifier with {len(record['labels'])} classes, {trained}. "
            f"Takes raw pixels, 0 to 255; normalisation is inside. Stored as {stored}. {_measured(record['measured'])}"
        ),
        "labels": record["labels"],
        "version": f"resnet_keras {record['versions']['resnet_keras']}",
        "author": author,
        "licence": licence,
    }


def _provenance(weights, data_name):
    from resnet_keras.published import PUBLISHED

    if weights == "bundled":
        # The weights are part of the package and have its licence; the images have their own.
        return "trained on Fashion-MNIST (images: MIT licence, Zalando SE)", "resnet_keras", "Apache-2.0"
    if weights == "random":
        return "with random weights: its answers mean nothing", None, None
    if weights in PUBLISHED:
        row = PUBLISHED[weights]
        return f"trained on ImageNet (published weights {row.tag}: {row.source})", row.source, row.licence
    trained = f"trained on {pathlib.Path(data_name).name}" if data_name else "with weights from a file"
    return trained, None, None


def _measured(measured):
    where = f"{measured['images']:,} images of {measured['origin']}"
    if measured["top1_percent"] is None:
        return f"It answers as the float model does to {measured['agreement_percent']:.2f} % of {where}."
    return (
        f"Top-1 accuracy of this file: {measured['top1_percent']:.2f} %, of the float model: "
        f"{measured['float_top1_percent']:.2f} %, on {where}."
    )
