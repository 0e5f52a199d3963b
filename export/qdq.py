"""An int8 ONNX graph: a float graph with QuantizeLinear and DequantizeLinear where a tensor is rounded.

Runtimes compute what lies between two such pairs in integers (ONNX Runtime's "QDQ" form, which TensorRT, QNN and
OpenVINO read as well). The scheme is that of Jacob et al. (arXiv:1712.05877): weights symmetric with a scale for each
output channel, activations with one scale and one zero point, biases in steps of both scales.
"""

import numpy as np

from export.onnx_graph import WEIGHTED

SAME_SCALE = {"MaxPool", "Pad", "Flatten", "Transpose"}  # these move values and make no new ones
WEIGHT_LIMIT = 127


def quantize(model, limits, target, recipe, learned=None):
    """Inserts the pairs into a float graph.

    Args:
        model: a `ModelProto` from `onnx_graph.build`; it is changed.
        limits: `{tensor: (low, high)}` of activations, as `conversion.observed` gives them.
        target: an `onnx_targets.OnnxTarget`.
        recipe: a `recipes.Recipe` with integer activations.
        learned: the `learned.Learned` on whose steps the weights lie, or None.

    Returns:
        The model.
    """
    return _Quantizer(model, limits, target, recipe, learned).run()


class _Quantizer:
    def __init__(self, model, limits, target, recipe, learned):
        self.model, self.graph, self.target, self.learned = model, model.graph, target, learned
        self.dtype = np.dtype(target.stored(recipe))
        self.limits = dict(limits)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.scales = {}  # of the activations that are rounded
        self.nodes = []

    def run(self):
        nodes = list(self.graph.node)
        chosen = {name for node in nodes for name in self._rounded(node)}
        (image,), (answer,) = self.graph.input, self.graph.output
        if self.target.quantizes_edges:
            chosen |= {image.name, answer.name}
            self.limits[answer.name] = 0.0, 1.0
        elif not any(node.op_type == "Sub" for node in nodes):
            chosen.add(image.name)
        if image.name in chosen:
            self._pair(image.name, self._parameters(image.name))
        for node in nodes:
            node.input[:] = [self._read(name, node, place) for place, name in enumerate(node.input)]
            (result,) = node.output
            self.nodes.append(node)
            if result == answer.name and result in chosen:
                node.output[0] = node.name = f"{result}/float"
                self._pair(node.output[0], self._parameters(result), result)
            elif result in chosen:
                self._pair(result, self._parameters(result))
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.graph.node for name in node.input}
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name not in used]:
            self.graph.initializer.remove(tensor)
        return self.model

    def _rounded(self, node):
        """The results of a node that are rounded: where `.tflite` files have a tensor, with its range."""
        (name,) = node.output
        if node.op_type in SAME_SCALE:
            return [name] if self.target.quantizes_edges or node.op_type != "Transpose" else []
        users = [user for user in self.graph.node if name in user.input]
        if self.target.fuses_residual and node.op_type == "Conv" and any(user.op_type == "Add" for user in users):
            return []
        rounded = name in self.limits and name not in {edge.name for edge in self.graph.output}
        return [name] if rounded else []

    def _parameters(self, name):
        """`(scale, zero point)` of an activation."""
        maker = self.makers.get(name)
        if maker is not None and maker.op_type in SAME_SCALE:
            return self.scales[maker.input[0].removesuffix("/rounded")]
        low, high = self.limits[name]
        info = np.iinfo(self.dtype)
        if self.target.symmetric:
            return np.float32(max(-low, high) / info.max), self.dtype.type(0)
        scale = np.float32((high - low) / (info.max - info.min))
        return scale, self.dtype.type(np.clip(np.rint(info.min - low / scale), info.min, info.max))

    def _pair(self, name, parameters, result=None):
        """Rounds the tensor `name`; what is read afterwards is `result`."""
        from onnx import helper

        self.scales[name] = parameters
        where = f"{name}/scale", f"{name}/zero_point"
        for constant, value in zip(where, parameters, strict=True):
            self._constant(constant, value)
        for op, source, made in (
            ("QuantizeLinear", name, f"{name}/integer"),
            ("DequantizeLinear", f"{name}/integer", result or f"{name}/rounded"),
        ):
            self.nodes.append(helper.make_node(op, [source, *where], [made], name=made))

    def _read(self, name, node, place):
        """What a node reads in place of `name`."""
        if name in self.scales:
            return f"{name}/rounded"
        if node.op_type in WEIGHTED and place == 1:
            return self._weights(name, node)
        if node.op_type in WEIGHTED and place == 2 and self.target.quantizes_bias:
            return self._bias(name, node)
        if node.op_type == "Sub" and place == 1 and self.target.quantizes_edges:
            return self._mean(name)
        return name

    def _weights(self, name, node):
        values = self._values(name)
        each = self.target.per_channel == "everywhere" or node.op_type == "Conv"
        if self.learned is not None:
            integers, steps = self.learned.integers(name.removesuffix("/kernel"), values)
            return self._dequantized(name, integers, steps if each else steps[0])
        largest = np.abs(values).reshape(len(values), -1).max(axis=1) if each else np.abs(values).max()
        scale = (np.where(largest > 0, largest, 1.0) / WEIGHT_LIMIT).astype(np.float32)
        steps = values / scale.reshape(-1, *[1] * (values.ndim - 1))
        return self._dequantized(name, np.clip(np.rint(steps), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8), scale)

    def _bias(self, name, node):
        """In steps of the weights' scale times the activation's, which is how sums are kept."""
        weights = self._values(f"{node.input[1].removesuffix('/rounded')}/scale")
        activation, _ = self.scales[node.input[0].removesuffix("/rounded")]
        scale = (weights * activation).astype(np.float32)
        info = np.iinfo(np.int32)
        steps = np.clip(np.rint(self._values(name).astype(np.float64) / scale), info.min, info.max)
        return self._dequantized(name, steps.astype(np.int32), scale)

    def _mean(self, name):
        """What is subtracted from the pixels, in the same type as they are."""
        values = self._values(name)
        scale = np.float32((float(values.max()) or 1.0) / np.iinfo(self.dtype).max)
        for constant, value in (
            (f"{name}/integer", np.rint(values / scale).astype(self.dtype)),
            (f"{name}/scale", scale),
            (f"{name}/zero_point", self.dtype.type(0)),
        ):
            self._constant(constant, value)
        return self._node(name, [f"{name}/integer", f"{name}/scale", f"{name}/zero_point"])

    def _dequantized(self, name, integers, scale):
        names = [f"{name}/integer", f"{name}/scale", f"{name}/zero_point"]
        for constant, value in zip(names, (integers, scale, np.zeros(np.shape(scale), integers.dtype)), strict=True):
            self._constant(constant, value)
        return self._node(name, names, **({"axis": 0} if np.ndim(scale) else {}))

    def _node(self, name, inputs, **attributes):
        from onnx import helper

        made = f"{name}/rounded"
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [made], name=made, **attributes))
        return made

    def _values(self, name):
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name])

    def _constant(self, name, value):
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.asarray(value), name)
        self.graph.initializer.append(tensor)
        self.constants[name] = self.graph.initializer[-1]
