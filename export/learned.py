"""Ranges and steps that a network was trained with, in place of those that calibration finds.

A run directory of `export.compress` holds them beside the model, whose weights lie on the steps already; the files that
are made from it round as training did.
"""

import dataclasses
import json
import pathlib

import numpy as np

FILE = "quantization.json"
# Of a step; weights lie on a step but for the float32 arithmetic of folding scales into them.
OFF_THE_STEPS = 0.02
LIMIT = 127


@dataclasses.dataclass(frozen=True)
class Learned:
    """`ranges` is `{tensor: (low, high)}` for all activations, `steps` `{layer: steps}` of kernels with batch norm
    folded in, one for each output.
    """

    ranges: dict[str, tuple[float, float]]
    steps: dict[str, tuple[float, ...]]

    @classmethod
    def read(cls, directory):
        """What a run directory holds, or None where it holds nothing of the kind.

        Raises:
            ValueError: the file is damaged.
        """
        path = pathlib.Path(directory, FILE)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
            ranges = {name: (float(low), float(high)) for name, (low, high) in found["ranges"].items()}
            steps = {layer: tuple(map(float, steps)) for layer, steps in found["steps"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error}.") from error
        return cls(ranges, steps)

    def write(self, directory):
        """Writes it into a run directory, atomically."""
        from resnet_keras import checkpoint

        checkpoint.write_json(pathlib.Path(directory, FILE), dataclasses.asdict(self))

    def applied(self, data, floats, leave_first=False):
        """A `.tflite` file with these steps for its weights, in place of those that their largest values give.

        Args:
            data: a file with integer activations.
            floats: the float file that it was made from, with the same names.
            leave_first: leave the first convolution as it is.

        Raises:
            ValueError: see `integers`.
        """
        from tensorflow.lite.python import schema_py_generated as schema
        from tensorflow.lite.tools import flatbuffer_utils

        from export import tflite_file

        base, model = (flatbuffer_utils.convert_bytearray_to_object(bytearray(file)) for file in (floats, data))
        weighted = schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED

        def ops(file):
            """`{name of the result: tensors that go in}` of the layers that have weights."""
            (graph,) = file.subgraphs
            return {
                graph.tensors[op.outputs[0]].name: [graph.tensors[index] for index in op.inputs if index >= 0]
                for op in graph.operators
                if file.operatorCodes[op.opcodeIndex].builtinCode in weighted
            }

        # By their results: two layers with a bias of zeros share it in the float file, and have one each in the other.
        float_ops = ops(base)
        for result, (image, kernel, *biases) in list(ops(model).items())[leave_first:]:
            if kernel.type != schema.TensorType.INT8:  # kept in float
                continue
            exact, *exact_biases = (
                np.frombuffer(bytes(base.buffers[tensor.buffer].data), np.float32).reshape(tensor.shape)
                for tensor in float_ops[result][1:]
            )
            integers, steps = self.integers(kernel.name.decode().removesuffix("/kernel"), exact)
            if kernel.quantization.scale.size == 1:
                if np.ptp(steps):
                    continue  # the target takes one step a layer, which batch norm has spread
                steps = steps[:1]
            self._store(model, kernel, integers, steps)
            for bias, values in zip(biases, exact_biases, strict=True):
                scale = (steps.astype(np.float64) * float(image.quantization.scale[0])).astype(np.float32)
                dtype = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}[bias.type]
                limit = np.iinfo(np.int32).max
                rounded = np.clip(np.rint(values / scale.astype(np.float64)), -limit, limit).astype(dtype)
                self._store(model, bias, rounded, scale)
        return tflite_file.packed(model)

    @staticmethod
    def _store(model, tensor, integers, steps):
        tensor.quantization.scale, tensor.quantization.zeroPoint = steps, np.zeros(len(steps), np.int64)
        model.buffers[tensor.buffer].data = np.frombuffer(integers.tobytes(), np.uint8)

    def integers(self, layer, kernel):
        """The weights of a layer in its steps, int8.

        Args:
            layer: its name.
            kernel: float32, outputs first, as files have it.

        Returns:
            `(integers, steps)`. An output without weights takes the smallest step of the others: its bias is stored in
            that.

        Raises:
            ValueError: the weights are no multiples of the steps.
        """
        steps = np.asarray(self.steps[layer], np.float32)
        used = kernel.reshape(len(kernel), -1).any(axis=1) & (steps > 0)
        steps = np.where(used, steps, steps[used].min() if used.any() else np.float32(1)).astype(np.float32)
        exact = kernel / steps.reshape(-1, *[1] * (kernel.ndim - 1))
        integers = np.rint(exact)
        if np.abs(exact - integers).max(initial=0) > OFF_THE_STEPS or np.abs(integers).max(initial=0) > LIMIT:
            raise ValueError(
                f"The weights of {layer} are not those that {FILE} was made with. Run export.compress again."
            )
        return integers.astype(np.int8), steps


def complete(found, start, description):
    """The range of every tensor of a file that has one of its own.

    Args:
        found: `{layer: (low, high)}` of the layers whose results training rounds.
        start: `{tensor: (low, high)}` of plain int8, whose names are those of all tensors.
        description: of `twin.describe`.

    Raises:
        ValueError: a tensor of the file has no range.
    """
    moved = {at["name"] for at in description if "padding" in at["kind"] or at["kind"] == "max pooling"}
    fixed = ("probabilities", "image", "centred", "plane", "pixels")
    result = {name: start[name] if name in fixed else found.get(name) for name in start if name not in moved}
    if lacking := [name for name, limits in result.items() if limits is None]:
        raise ValueError(f"Training found no range for {lacking[0]}.")
    return result
