"""Makes `golden_blocks.npz`: residual blocks computed by PyTorch, forward and backward, for `test_golden_blocks.py`.

    python tests/make_golden_blocks.py            compares with the file, prints the largest difference
    python tests/make_golden_blocks.py --accept   writes the file

Needs PyTorch; the tests do not.
"""

import argparse
import pathlib

import torch
from golden import update
from torch import nn

FILE = pathlib.Path(__file__).parent / "golden_blocks.npz"
# name: kind, version, input channels, width, stride, height, width of the image
CASES = {
    "basic_identity_even": ("basic", "v1.5", 3, 3, 1, 4, 4),
    "basic_identity_odd": ("basic", "v1.5", 3, 3, 1, 5, 3),
    "basic_projection": ("basic", "v1.5", 2, 3, 1, 3, 4),
    "basic_stride_even": ("basic", "v1.5", 2, 3, 2, 4, 6),
    "basic_stride_odd": ("basic", "v1.5", 3, 3, 2, 5, 3),
    "bottleneck_identity_even": ("bottleneck", "v1.5", 8, 2, 1, 4, 4),
    "bottleneck_identity_odd": ("bottleneck", "v1.5", 8, 2, 1, 3, 5),
    "bottleneck_projection": ("bottleneck", "v1.5", 3, 2, 1, 3, 4),
    "bottleneck_stride_even": ("bottleneck", "v1.5", 3, 2, 2, 4, 6),
    "bottleneck_stride_odd": ("bottleneck", "v1.5", 8, 2, 2, 5, 3),
    "bottleneck_v1_stride_even": ("bottleneck", "v1", 3, 2, 2, 6, 4),
    "bottleneck_v1_stride_odd": ("bottleneck", "v1", 8, 2, 2, 3, 5),
}
BATCH = 2


class Block(nn.Module):
    """A residual block from its definition, with the parameter names that torchvision uses."""

    def __init__(self, kind, version, channels, width, stride):
        super().__init__()
        first, second = (stride, 1) if version == "v1" else (1, stride)
        if kind == "basic":
            plan, out = [(width, 3, stride), (width, 3, 1)], width
        else:
            plan, out = [(width, 1, first), (width, 3, second), (4 * width, 1, 1)], 4 * width
        self.depth, previous = len(plan), channels
        for i, (filters, kernel, step) in enumerate(plan, 1):
            setattr(self, f"conv{i}", nn.Conv2d(previous, filters, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1))
            previous = filters
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.depth else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def arrays_of(name, seed):
    """Everything that the test needs of one case: images are NHWC, kernels HWIO."""
    kind, version, channels, width, stride, height, image_width = CASES[name]
    torch.manual_seed(seed)
    block = Block(kind, version, channels, width, stride)
    with torch.no_grad():
        for key, value in block.state_dict().items():
            if key.endswith(("running_var", "weight")) and value.ndim == 1:
                value.uniform_(0.5, 1.5)
            elif key.endswith(("running_mean", "bias")):
                value.normal_(0, 0.3)
    x = torch.randn(BATCH, channels, height, image_width, requires_grad=True)
    found = {f"start/{key}": value.clone() for key, value in block.state_dict().items() if "num_batches" not in key}
    found |= {"x": x, "eval": block.eval()(x)}
    counts = _counted_by_norm(block)
    y = block.train()(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)).sum().backward()
    found |= {"train": y, "gradient/x": x.grad}
    found |= {f"gradient/{key}": value.grad for key, value in block.named_parameters()}
    for key, after in block.state_dict().items():
        if key.endswith("running_var"):
            # PyTorch tracks the variance divided by n - 1, Keras the one divided by n.
            n, kept = counts[key.rpartition(".")[0]], 0.9 * found[f"start/{key}"]
            after = kept + (after - kept) * (n - 1) / n
        if "running" in key:
            found[f"after/{key}"] = after
    return {f"{name}/{key}": _channels_last(value.detach().numpy(), key) for key, value in found.items()}


def _counted_by_norm(block):
    """Fills itself, on the next call of the block, with the number of values that each batch norm averages over."""
    counts = {}
    for name, module in block.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda module, _, y, name=name: counts.__setitem__(name, y.numel() // module.num_features)
            )
    return counts


def _channels_last(value, key):
    if value.ndim != 4:
        return value
    is_kernel = key.startswith(("start", "gradient/conv", "gradient/downsample"))
    return value.transpose(2, 3, 1, 0) if is_kernel else value.transpose(0, 2, 3, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--accept", action="store_true", help="write the file")
    args = parser.parse_args()
    arrays = {}
    for seed, name in enumerate(CASES):
        arrays |= arrays_of(name, seed)
    update(FILE, arrays, args.accept)


if __name__ == "__main__":
    main()
