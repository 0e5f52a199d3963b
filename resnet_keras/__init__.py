"""ResNets in Keras that train fast and export to proven files for phones, browsers, microcontrollers and NPUs."""

import importlib
import sys

__version__ = "0.1.0"

_HOME = {
    "models": (
        "ResNet8",
        "ResNet18",
        "ResNet20",
        "ResNet32",
        "ResNet34",
        "ResNet44",
        "ResNet50",
        "ResNet56",
        "ResNet101",
        "ResNet110",
        "ResNet152",
        "ResNet1001",
        "ResNet1202",
        "build",
        "list_models",
    ),
    "layers": ("BasicBlock", "BatchNormalization", "Bottleneck", "ChannelPadding", "Stem"),
    "pixels": ("PixelNormalization",),
    "preprocessing": ("Preprocess", "preprocess_input"),
    "imagenet": ("decode_predictions",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    """Imports a public name on first use, so that `import resnet_keras` is instant and loads no backend."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'resnet_keras' has no attribute {name!r}")
    return getattr(importlib.import_module(f"resnet_keras.{_MODULE_OF[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])


if "keras" in sys.modules:  # already paid for: register the layers, so that keras.models.load_model finds them
    importlib.import_module("resnet_keras.layers")
