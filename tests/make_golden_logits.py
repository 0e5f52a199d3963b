"""Makes golden_logits.npz: what timm and transformers answer with the weights of synthetic.py.

pip install torch timm transformers, then: python tests/make_golden_logits.py [--accept]
"""

import pathlib
import sys

import golden
import numpy as np
import synthetic
import timm
import torch
from transformers.models.resnet.configuration_resnet import ResNetConfig
from transformers.models.resnet.modeling_resnet import ResNetForImageClassification

from resnet_keras import certificate

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCKS = {"resnet18": ("basic", [2, 2, 2, 2]), "resnet50": ("bottleneck", [3, 4, 6, 3])}


def transformers_network(name):
    block, depths = BLOCKS[name]
    widths = [64, 128, 256, 512] if block == "basic" else [256, 512, 1024, 2048]
    return ResNetForImageClassification(
        ResNetConfig(layer_type=block, depths=depths, hidden_sizes=widths, num_labels=synthetic.CLASSES)
    )


def logits(network):
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    state = {name: torch.as_tensor(value) for name, value in synthetic.state_dict(shapes).items()}
    network.load_state_dict(state)
    pixels = torch.from_numpy(certificate.fixed_pixels(synthetic.SIZE) / 255)
    x = ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        answer = network.eval()(x.contiguous())
    return np.asarray(getattr(answer, "logits", answer))


if __name__ == "__main__":
    arrays = {}
    for depth in (18, 34, 50, 101, 152):
        network = timm.create_model(f"resnet{depth}", num_classes=synthetic.CLASSES)
        arrays[f"timm/resnet{depth}"] = logits(network)
    for name in BLOCKS:
        arrays[f"transformers/{name}"] = logits(transformers_network(name))
    golden.update(pathlib.Path(__file__).with_name("golden_logits.npz"), arrays, accept="--accept" in sys.argv)
