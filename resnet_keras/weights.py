"""Weights for a model: a published tag or a file in any usual layout, used completely or refused.

python -m resnet_keras.weights                                       # the published weights
python -m resnet_keras.weights --check a1_in1k --model resnet50      # download, import, compare with the source
"""

import argparse
import dataclasses
import pathlib

import numpy as np

from resnet_keras import cli, layouts, published, tensors, variants
from resnet_keras.preprocessing import Preprocess


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights on their way into a model.

    `tensors` are float32 arrays in Keras's axis order under the names of the file, `layout` the naming, `version` that
    of the network (None where the file does not say), `preprocess` what the network expects before its stem, `labels`
    the class names where they are known. `origin` is what the user named.
    """

    origin: str
    path: pathlib.Path
    tensors: dict[str, np.ndarray]
    layout: layouts.Layout
    version: str | None
    preprocess: Preprocess
    labels: tuple[str, ...] | None = None

    def tensor(self, name):
        """The value of a variable of ours, or None."""
        return self.tensors.get(self.layout.key(name))

    @property
    def classes(self):
        """How many classes the classifier has, or None where there is none."""
        kernel = self.tensor("logits/kernel")
        return None if kernel is None else kernel.shape[-1]

    @property
    def channels(self):
        """How many input channels the stem has; 3 where the file lacks it, which `transfer.fill` then says."""
        kernel = self.tensor("stem_conv/kernel")
        return 3 if kernel is None else kernel.shape[2]


def find(weights, model=None):
    """Finds, downloads if need be, and reads weights.

    Args:
        weights: a tag of `published.names()`, the path of a file, or a `Weights` value, which is returned.
        model: name of the model, which a tag needs.

    Returns:
        A `Weights` value.

    Raises:
        ValueError: there is no such tag, or the file is damaged or in no known layout.
        FileNotFoundError: there is no such file.
        ConnectionError: the file cannot be downloaded.
        ImportError: the package that reads it is missing.
    """
    if isinstance(weights, Weights):
        return weights
    if is_tag(weights):
        return _from_tag(str(weights), model)
    path = pathlib.Path(weights)
    raw = tensors.read(path)
    layout = layouts.detect(raw)
    if layout is None:
        raise ValueError(
            f"{path} is in no layout known here ({', '.join(each.name for each in layouts.LAYOUTS)}). "
            f"Its tensors begin with: {some(raw)}."
        )
    marks = {name: raw.pop(name) for name in list(raw) if name.endswith(("/version", "/preprocess"))}
    return Weights(str(path), path, layout.convert(raw), layout, **_marked(marks, layout))


def is_tag(weights):
    """Whether this is meant as a tag: it has no suffix, and there is no such file."""
    path = pathlib.Path(weights)
    return not path.suffix and not path.exists()


def _from_tag(tag, model):
    from resnet_keras import download, imagenet

    row = published.find(tag, model)
    found = find(download.fetch(row.tag, model))
    return dataclasses.replace(found, origin=row.tag, preprocess=row.preprocess, labels=imagenet.class_names())


def _marked(marks, layout):
    """What files of this package say of their network besides its variables."""
    from resnet_keras import pixels

    version, preprocess = layout.version, layout.preprocess
    for name, value in marks.items():
        if name.endswith("/version"):
            version = f"v{float(value):g}"
        else:
            preprocess = pixels.decoded(value)
    return {"version": version, "preprocess": preprocess}


def some(names, count=4):
    """The first few of many names, for a message."""
    names = sorted(names)
    if len(names) <= count:
        return ", ".join(names) or "nothing"
    return f"{', '.join(names[:count])} and {len(names) - count} more"


def parser():
    """The command line; importing neither keras nor a backend keeps `--help` instant."""
    p = argparse.ArgumentParser(
        prog="python -m resnet_keras.weights", description="List published weights, or check that an import is exact."
    )
    p.add_argument("--check", metavar="TAG|FILE", help="import, and compare the logits with those of the source")
    p.add_argument(
        "--model", choices=variants.VARIANTS, metavar="NAME", help="the model; a tag needs it, a file tells it"
    )
    p.add_argument("--reference", metavar="FILE.npz", help="stored logits to compare with where the source is missing")
    p.add_argument("--record", metavar="FILE.npz", help="store the source's logits for such a comparison")
    p.add_argument("--json", action="store_true", help="print a machine-readable result")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    if args.check is None:
        return _list(args.json)
    cli.import_keras()
    from resnet_keras import certificate

    result = certificate.check(args.check, args.model, reference=args.reference, record=args.record)
    cli.print_result(result.rows(), result.to_dict(), args.json)
    return cli.gate(result.failure())


def _list(as_json):
    records = [
        {
            "weights": row.tag,
            "model": model,
            "top1_percent": top1,
            "megabytes": round(_size_bytes(variants.VARIANTS[model]) / 1e6),
            "version": row.version,
            "licence": row.licence,
            "source": row.source,
        }
        for row in published.PUBLISHED.values()
        for model, top1 in row.top1_percent.items()
    ]
    if as_json:
        cli.print_result([], {"default": published.DEFAULT, "weights": records}, as_json=True)
        return cli.GOOD
    cells = [[str(value) for value in record.values()] for record in records]
    header = ["weights", "model", "top-1 %", "MB", "version", "licence", "published by"]
    cli.print_table(header, cells)
    print(f"\nweights={published.DEFAULT_ALIAS!r} is {published.DEFAULT}.")
    return cli.GOOD


def _size_bytes(row):
    return 4 * (row.trainable_parameters + row.moving_statistics)


if __name__ == "__main__":
    cli.run(main)
