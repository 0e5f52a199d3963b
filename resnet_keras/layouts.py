"""How others name the weights of a ResNet: for each variable of ours, the tensor of theirs.

Our names are those of layers and variables, `stage2_block1_conv2/kernel`. A layout turns such a name into the name in
the file, and the tensor there into the value of the variable.
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np

from resnet_keras.preprocessing import Preprocess
from resnet_keras.variants import VARIANTS

_BLOCK = re.compile(r"stage(?P<stage>\d+)_block(?P<block>\d+)_(?P<role>.+)")
_TORCH_KINDS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Mean and standard deviation of ImageNet's pixels, as PyTorch's tools have them.
IMAGENET = Preprocess(
    mean=tuple(255 * v for v in (0.485, 0.456, 0.406)), std=tuple(255 * v for v in (0.229, 0.224, 0.225))
)
# Caffe's means, red first; keras.applications subtracts them blue first and divides by nothing.
CAFFE = Preprocess(mean=(123.68, 116.779, 103.939), std=1.0)
# What keras.applications has over our epsilon of 1e-5.
_KERAS_EXTRA_EPSILON = 1.001e-5 - 1e-5


def _torchvision_key(name):
    layer, kind = name.split("/")
    found = _BLOCK.fullmatch(layer)
    if found:
        role = found["role"].replace("shortcut_conv", "downsample.0").replace("shortcut_bn", "downsample.1")
        prefix = f"layer{found['stage']}.{int(found['block']) - 1}.{role}"
    else:
        prefix = {"stem_conv": "conv1", "stem_bn": "bn1", "logits": "fc"}[layer]
    return f"{prefix}.{_TORCH_KINDS[kind]}"


def _huggingface_key(name):
    layer, kind = name.split("/")
    part = "convolution" if "conv" in layer else "normalization"
    found = _BLOCK.fullmatch(layer)
    if found:
        inner = "shortcut" if "shortcut" in layer else f"layer.{int(layer[-1]) - 1}"
        stage, block = int(found["stage"]) - 1, int(found["block"]) - 1
        prefix = f"resnet.encoder.stages.{stage}.layers.{block}.{inner}.{part}"
    else:
        prefix = "classifier.1" if layer == "logits" else f"resnet.embedder.embedder.{part}"
    return f"{prefix}.{_TORCH_KINDS[kind]}"


def _keras_key(name):
    layer, kind = name.split("/")
    found = _BLOCK.fullmatch(layer)
    if found is None:
        theirs = {"stem_conv": "conv1_conv", "stem_bn": "conv1_bn", "logits": "predictions"}[layer]
        return f"{theirs}/{kind}"
    role = found["role"]
    number, part = ("0", role.removeprefix("shortcut_")) if role.startswith("shortcut") else (role[-1], role[:-1])
    return f"conv{int(found['stage']) + 1}_block{found['block']}_{number}_{part}/{kind}"


def _own_key(name):
    return name


def _from_torch(tensors):
    """Kernels HWIO from OIHW, the classifier's IO from OI; without the counters that no computation reads."""
    kept = {key: tensor for key, tensor in tensors.items() if not key.endswith(".num_batches_tracked")}
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}
    return {key: np.transpose(tensor, axes.get(tensor.ndim)) for key, tensor in kept.items()}


def _from_keras(tensors):
    """Without the biases of convolutions, which the batch norm behind each subtracts, and with our epsilon."""
    converted = dict(tensors)
    for key, tensor in tensors.items():
        if key.endswith("_conv/bias"):
            mean = key.replace("_conv/bias", "_bn/moving_mean")
            if mean in tensors and tensors[mean].shape == tensor.shape:
                converted[mean] = tensors[mean] - tensor
                del converted[key]
        elif key.endswith("/moving_variance"):
            converted[key] = tensor + np.float32(_KERAS_EXTRA_EPSILON)
    return converted


def _as_they_are(tensors):
    return tensors


@dataclasses.dataclass(frozen=True)
class Layout:
    """One naming.

    `key` gives the name in the file for a name of ours; `convert` turns all tensors of a file into values in our axis
    order, under the file's names. `version` is that of every network in this layout, None where the file says it, and
    `preprocess` the normalisation that files in it expect. `bgr` says that the stem reads blue first.
    """

    name: str
    key: Callable[[str], str]
    convert: Callable[[dict], dict]
    version: str | None
    preprocess: Preprocess
    bgr: bool = False


TORCHVISION = Layout("torchvision and timm", _torchvision_key, _from_torch, "v1.5", IMAGENET)
HUGGINGFACE = Layout("Hugging Face transformers", _huggingface_key, _from_torch, "v1.5", IMAGENET)
KERAS = Layout("keras.applications", _keras_key, _from_keras, "v1", CAFFE, bgr=True)
OWN = Layout("resnet_keras", _own_key, _as_they_are, None, Preprocess())
LAYOUTS = (TORCHVISION, HUGGINGFACE, KERAS, OWN)


def detect(tensors):
    """The layout in which most of the tensors have their names, or None."""
    ours = {name for row in VARIANTS.values() for name in variable_names(row)}
    known = {layout: sum(layout.key(name) in tensors for name in ours) for layout in LAYOUTS}
    best = max(LAYOUTS, key=known.get)
    return best if known[best] else None


def variable_names(row):
    """Our names of all variables of a network with classifier, in order; `row` is a row of `variants.VARIANTS`."""
    layers = ["stem_conv", "stem_bn"]
    convolutions = 3 if row.block == "bottleneck" else 2
    for stage, depth in enumerate(row.depths, 1):
        for block in range(1, depth + 1):
            prefix = f"stage{stage}_block{block}"
            layers += [f"{prefix}_{part}{i}" for i in range(1, convolutions + 1) for part in ("conv", "bn")]
            reshapes = stage > 1 or row.block == "bottleneck"
            if block == 1 and reshapes and row.shortcut == "projection":
                layers += [f"{prefix}_shortcut_conv", f"{prefix}_shortcut_bn"]
    kinds = {"conv": ("kernel",), "bn": ("gamma", "beta", "moving_mean", "moving_variance")}
    names = [f"{layer}/{kind}" for layer in layers for kind in kinds["bn" if "_bn" in layer else "conv"]]
    return [*names, "logits/kernel", "logits/bias"]


def identify(tensors, layout):
    """The name of the model whose tensors these are, or None."""
    for row in VARIANTS.values():
        if {layout.key(name) for name in variable_names(row)} == set(tensors):
            return row.name
    return None
