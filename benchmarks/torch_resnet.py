"""ResNet-50 v1 in PyTorch, for the benchmark alone: the stride of a bottleneck is in its first convolution."""

from torch import nn


def conv_bn(channels, filters, kernel, stride=1):
    return [nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(filters)]


class Bottleneck(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        first, second = conv_bn(channels, width, 1, stride), conv_bn(width, width, 3)
        self.branch = nn.Sequential(*first, nn.ReLU(True), *second, nn.ReLU(True), *conv_bn(width, 4 * width, 1))
        changes = stride != 1 or channels != 4 * width
        self.shortcut = nn.Sequential(*conv_bn(channels, 4 * width, 1, stride)) if changes else nn.Identity()
        self.relu = nn.ReLU(True)

    def forward(self, x):
        return self.relu(self.branch(x) + self.shortcut(x))


def resnet50_v1(classes):
    layers, channels = [*conv_bn(3, 64, 7, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)], 64
    for stage, (depth, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(depth):
            layers.append(Bottleneck(channels, width, 2 if stage and not block else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
