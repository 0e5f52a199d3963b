"""The same networks in PyTorch, under torchvision's names: the outside reference of certificates and benchmarks.

Needs PyTorch, and is imported by nothing that does not.
"""

import torch
from torch import nn

from resnet_keras import layouts


class Block(nn.Module):
    """A basic block or a bottleneck: `convolutions` is a list of `(filters, kernel size, stride)`."""

    def __init__(self, channels, convolutions):
        super().__init__()
        stride = max(stride for _, _, stride in convolutions)
        self.count, inputs = len(convolutions), channels
        for i, (filters, kernel, step) in enumerate(convolutions, 1):
            setattr(self, f"conv{i}", nn.Conv2d(inputs, filters, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(filters))
            inputs = filters
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or channels != inputs:
            self.downsample = nn.Sequential(nn.Conv2d(channels, inputs, 1, stride, bias=False), nn.BatchNorm2d(inputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.count + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            if i < self.count:
                x = self.relu(x)
        return self.relu(x + shortcut)


class ResNet(nn.Module):
    """The network of a row of `variants.VARIANTS` with projection shortcuts, from normalised pixels to logits.

    Input shape: `(batch, channels, height, width)`.
    Output shape: `(batch, classes)`.
    """

    def __init__(self, row, classes=1000, channels=3, version="v1.5"):
        super().__init__()
        kernel, stride = (7, 2) if row.stem == "imagenet" else (3, 1)
        width = row.widths[0]
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if row.stem == "imagenet" else nn.Identity()
        self.stages = [f"layer{i}" for i in range(1, len(row.depths) + 1)]
        for i, (stage, depth, filters) in enumerate(zip(self.stages, row.depths, row.widths, strict=True)):
            blocks = []
            for j in range(depth):
                convolutions = _convolutions(row.block, filters, 2 if i and not j else 1, version)
                blocks.append(Block(width, convolutions))
                width = convolutions[-1][0]
            setattr(self, stage, nn.Sequential(*blocks))
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.fc(x.mean((2, 3)))


def _convolutions(block, filters, stride, version):
    if block == "basic":
        return [(filters, 3, stride), (filters, 3, 1)]
    first, second = (stride, 1) if version == "v1" else (1, stride)
    return [(filters, 1, first), (filters, 3, second), (4 * filters, 1, 1)]


def logits(weights, row, pixels):
    """The network's logits in PyTorch.

    Args:
        weights: a `weights.Weights` value in a PyTorch layout.
        row: the row of the model in `variants.VARIANTS`.
        pixels: raw pixels, `(batch, height, width, channels)`.

    Returns:
        A float32 array, `(batch, classes)`.
    """
    network = ResNet(row, weights.classes, weights.channels).eval()
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}
    state = {}
    for name in layouts.variable_names(row):
        tensor = torch.from_numpy(weights.tensor(name).copy())
        state[layouts.TORCHVISION.key(name)] = tensor.permute(axes.get(tensor.ndim, (0,))).contiguous()
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    network.load_state_dict(state | counters)
    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (weights.preprocess.mean, weights.preprocess.std))
    x = (torch.from_numpy(pixels).float() - mean) / std
    with torch.inference_mode():
        return network(x.permute(0, 3, 1, 2).contiguous()).numpy()
