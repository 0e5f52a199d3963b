"""Reads weight files of every kind into plain arrays; nothing in a file is ever executed."""

import pathlib

import numpy as np

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
# Where training scripts put the weights among other things.
_NESTED = ("state_dict", "model", "model_state_dict")


def read(path):
    """All tensors of a file by the names that they have there, float32.

    Args:
        path: a `.safetensors`, `.pth`, `.pt`, `.bin`, `.weights.h5`, `.keras` or `.h5` file. Names in Keras's files are
            `layer/variable`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the package that reads this kind is missing.
        ValueError: the file is damaged, holds something else, or has values that are no numbers.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    tensors = _reader(path)(path)
    if not tensors:
        raise ValueError(f"{path} holds no tensors.")
    return {name: _float32(tensor, name, path) for name, tensor in tensors.items()}


def _reader(path):
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch
    readers = {".safetensors": _read_safetensors, ".keras": _read_keras, ".h5": _read_h5}
    if path.suffix not in readers:
        raise ValueError(
            f"Weights must be a .safetensors, .pth, .pt, .bin, .weights.h5, .keras or .h5 file. Received: {path}."
        )
    return readers[path.suffix]


def _float32(tensor, name, path):
    tensor = np.asarray(tensor)
    if tensor.dtype.kind in "iu":  # counters
        return tensor
    tensor = tensor.astype("float32")
    if not np.isfinite(tensor).all():
        raise ValueError(f"{path}: {name} holds values that are not finite numbers. The file is damaged.")
    return tensor


def _read_safetensors(path):
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "Reading .safetensors files needs safetensors. Install it: pip install safetensors"
        ) from error
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # the package has an exception class of its own for each damage
        raise ValueError(f"{path} is not a whole .safetensors file: {error}.") from error


def _read_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Reading {path.name} needs PyTorch, which is not installed. Install it (pip install torch), or convert "
            "the file to .safetensors where it is."
        ) from error
    try:
        # Without weights_only a file could run any code while it is opened.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many kinds: damaged archives, refused pickles
        raise ValueError(
            f"{path} cannot be read as plain tensors, and nothing else in it is executed: it is damaged, or it holds "
            f"more than a state_dict. Save it again with torch.save(model.state_dict(), ...), or as .safetensors. "
            f"({type(error).__name__})"
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in _NESTED if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise ValueError(f"{path} holds no state_dict: expected a dictionary of tensors.")
    # DataParallel puts its own name before each.
    return {name.removeprefix("module."): _numpy(tensor) for name, tensor in content.items()}


def _numpy(tensor):
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _read_keras(path):
    import keras

    from resnet_keras import graph
    from resnet_keras.layers import ResidualBlock
    from resnet_keras.pixels import PixelNormalization

    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds for a damaged or foreign file
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path} cannot be loaded as a Keras model: {reason}") from error
    tensors = {}
    for layer in graph.leaves(model):
        tensors |= {
            f"{layer.name}/{variable.name}": keras.ops.convert_to_numpy(variable) for variable in layer.variables
        }
    for layer in model.layers:
        if isinstance(layer, (PixelNormalization, ResidualBlock)):  # what these two write into weight files
            marks = {}
            layer.save_own_variables(marks)
            tensors |= {f"{layer.name}/{name}": value for name, value in marks.items()}
    return tensors


def _read_h5(path):
    import h5py

    try:
        with h5py.File(path) as file:
            return _weights_h5(file) if path.name.endswith(".weights.h5") else _legacy_h5(file)
    except OSError as error:
        raise ValueError(f"{path} is not a whole HDF5 file: {error}.") from error


def _weights_h5(file):
    """Keras 3's form: groups counted by class, each with the layer's name and its variables by number."""
    import h5py

    tensors = {}

    def visit(_, group):
        layer = group.attrs.get("name") if isinstance(group, h5py.Group) else None
        if layer is not None:
            for key, value in group.items():
                tensors[f"{layer}/{_variable(layer, key)}"] = _h5_array(value)

    file.visititems(visit)
    return tensors


def _variable(layer, key):
    """The name of a layer's variable from its number in a `.weights.h5` file."""
    if not key.isdigit():
        return key
    batch_norm = ("gamma", "beta", "moving_mean", "moving_variance")
    names = batch_norm if "_bn" in layer else ("kernel", "bias")
    return names[int(key)] if int(key) < len(names) else key


def _legacy_h5(file):
    """Keras 2's form, which `model.save("x.h5")` still writes: a group a layer, with the names of its variables."""
    root = file.get("model_weights", file)
    tensors = {}
    for layer, group in root.items():
        for name in group.attrs.get("weight_names", ()):
            name = name.decode() if isinstance(name, bytes) else name
            variable = name.rpartition("/")[2].partition(":")[0]
            tensors[f"{layer}/{variable}"] = _h5_array(group[name])
    return tensors


def _h5_array(dataset):
    array = dataset[()]
    if dataset.attrs.get("dtype") == "bfloat16":  # which HDF5 keeps as 16 bits without a type
        import ml_dtypes

        array = np.asarray(array).view(ml_dtypes.bfloat16)
    return array
