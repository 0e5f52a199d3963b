"""How much of each layer of the float network is left in a file: signal to noise, saturation, weights."""

import dataclasses

import numpy as np

from export import execution, perception

MOST_IMAGES = 16
MOST_VALUES = 2**26  # of all layers and images together: 256 MiB in float32
ENOUGH_VALUES = 1000  # for a share of a percent to mean something
HIGHEST_DB = 144.5  # 24 bits, which is all that float32 has
COUNTED_OPS = {"CONV_2D", "FULLY_CONNECTED"}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of the float network beside the tensor of the file that bears its name.

    `snr_db` is `10 log10(sum float**2 / sum (float - file)**2)`, None where there is no such number.
    `saturated_percent` is the share of its `values` at the ends of the range of integers, the lower end not counted
    where it stands for 0, as after a ReLU; None in float. `constant` says that the file holds the same values for all
    images at all places, and the float network does not.
    """

    name: str
    snr_db: float | None
    saturated_percent: float | None
    values: int
    constant: bool


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of one layer in the file beside the model's own, batch norm folded in.

    `error` is the norm of their difference over the norm of the model's, None where the shapes differ; `zeroed` says
    that all of the file's are 0, and not all of the model's.
    """

    name: str
    error: float | None
    zeroed: bool


@dataclasses.dataclass(frozen=True)
class Observation:
    """All layers of the network that the file shows by name, in the network's order, seen on a number of images.

    `left_out` counts the convolutions and dense layers of the file whose results bear no name of the network's. `seen`
    is what the first layer makes of the pixels, None where it does not show that.
    """

    images: int
    seen: perception.Perception | None
    layers: tuple[Layer, ...]
    weights: tuple[Weights, ...]
    left_out: int

    @property
    def worst(self):
        """The layer with the lowest signal to noise, or None."""
        return min((x for x in self.layers if x.snr_db is not None), key=lambda x: x.snr_db, default=None)

    @property
    def fullest(self):
        """The layer with the largest saturated share of at least 1,000 values, or None."""
        counted = [x for x in self.layers if x.saturated_percent is not None and x.values >= ENOUGH_VALUES]
        return max(counted, key=lambda x: x.saturated_percent, default=None)


def observe(path, model, anatomy, images):
    """Runs a few images through the file and through the float network and compares them layer by layer.

    Args:
        path: a `.tflite` or `.onnx` file.
        model: the `tflite_file.Model` in it.
        anatomy: the `anatomy.Anatomy` of the float model.
        images: raw pixels, `(count, height, width, channels)`; as many are taken as memory allows, at most 16.

    Returns:
        An `Observation`.

    Raises:
        ValueError, ImportError: the file cannot be run.
    """
    tensors, kernels = _named(model), anatomy.kernels()
    names = [name for name in anatomy.names if name in tensors and _fits(tensors[name], anatomy.shape(name))]
    stored = {name: tensors[f"{name}/kernel"] for name in kernels if f"{name}/kernel" in tensors}
    count = int(np.clip(MOST_VALUES // max(anatomy.size(names), 1), 1, min(MOST_IMAGES, len(images))))
    images, probes = images[:count], perception.probes(images.shape[1:])
    wanted = [*(tensors[name] for name in names), *stored.values()]
    held = execution.tensors(path, np.concatenate([images, probes]), wanted) if wanted else {}
    names = [name for name in names if name in held]
    expected = anatomy.run(names, images) if names else {}
    linear, activation = anatomy.linear_start()
    first = next((name for name in (*linear, activation) if name in held), None)
    results = [op.outputs[0].name for op in model.ops if op.name in COUNTED_OPS and op.outputs]
    return Observation(
        images=count,
        seen=first and perception.perceive(anatomy, first, held[first].part(slice(count, None)), probes),
        layers=tuple(_layer(name, expected.pop(name), held.pop(name).part(slice(count))) for name in names),
        weights=tuple(_weights(n, kernels[n], held[t.name].real) for n, t in stored.items() if t.name in held),
        left_out=sum(name not in names for name in results),
    )


def _named(model):
    """`{name: tensor}`: for a name that several bear, the first that the file computes, else the first."""
    found = {}
    for tensor in (*(tensor for op in model.ops for tensor in op.outputs), *model.tensors):
        found.setdefault(tensor.name, tensor)
    return found


def _fits(tensor, shape):
    """Whether a tensor for one image holds what the float layer gives; sides of 1 may be kept or dropped."""
    return not tensor.constant and [s for s in tensor.shape if s != 1] == [s for s in shape if s != 1]


def _saturated(held):
    """Where the stored values lie at an end of their range, or None for float."""
    if held.limits is None:
        return None
    low, high = held.limits
    clipped = held.values == high
    return clipped if held.zero_points[0] == low else clipped | (held.values == low)


def _layer(name, expected, held):
    actual, clipped = held.real.reshape(expected.shape), _saturated(held)
    share = None if clipped is None else 100.0 * float(np.mean(clipped))
    constant = _is_constant(actual) and not _is_constant(expected)
    return Layer(name, _snr_db(expected, actual), share, actual.size, constant)


def _snr_db(expected, actual):
    signal = np.sum(np.square(expected, dtype=np.float64))
    with np.errstate(all="ignore"):  # a damaged file may hold anything
        noise = np.sum(np.square(actual.astype(np.float64) - expected))
    if not (np.isfinite(noise) and signal > 0):
        return None
    return min(HIGHEST_DB, float(10 * np.log10(signal / noise))) if noise > 0 else HIGHEST_DB


def _is_constant(values):
    """Whether each channel, the last axis, has one value for all images and places."""
    flat = values.reshape(-1, values.shape[-1])
    return len(flat) > 1 and bool((flat == flat[0]).all())


def _weights(name, expected, actual):
    error = None
    if expected.size == actual.size:
        with np.errstate(all="ignore"):
            difference = np.linalg.norm(actual.reshape(expected.shape) - expected) / np.linalg.norm(expected)
        error = float(difference) if np.isfinite(difference) else None
    return Weights(name, error, zeroed=bool(not actual.any() and expected.any()))
