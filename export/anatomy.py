"""The float network layer by layer: what each one gives, which weights it has after batch norm is folded in."""

import math

import numpy as np


class Anatomy:
    """The flat form of a Keras ResNet, under the names of its layers (`stage2_block1_conv2`).

    Args:
        model: the float32 model from raw pixels to probabilities, `Source.reference`.
    """

    def __init__(self, model):
        import keras

        from resnet_keras import graph

        self._outputs, self._inputs, self._networks, made_by = {}, {}, {}, {}

        def call(layer, *args, **kwargs):
            result = layer(*args, **kwargs)
            self._outputs[layer.name], made_by[id(result)] = result, layer.name
            self._inputs[layer.name] = made_by.get(id(args[0]))
            return result

        flat = graph.flatten(model)
        copy = graph.clone(flat, lambda layer: layer, call_function=call)
        self._image, self._layers = copy.input, {layer.name: layer for layer in flat.layers}
        first = next(name for name, layer in self._layers.items() if isinstance(layer, keras.layers.Conv2D))
        order = list(self._outputs)
        # Before the first convolution a file may hold other things under any name: it may centre the pixels or not.
        self.names = tuple(order[order.index(first) : -1])

    def shape(self, name):
        """The shape of what a layer gives for one image."""
        return tuple(self._outputs[name].shape[1:])

    def size(self, names):
        """How many values these layers give for one image."""
        return sum(math.prod(self.shape(name)) for name in names)

    def run(self, names, images):
        """`{name: what the layer gives}`, `(count, ...)`, for raw pixels."""
        import keras

        from resnet_keras import graph

        names = tuple(names)
        if names not in self._networks:  # compiling one takes longer than running it
            with graph.room_for(len(self._layers)):
                self._networks[names] = keras.Model(self._image, [self._outputs[name] for name in names])
        results = self._networks[names].predict_on_batch(np.asarray(images, np.float32))
        return dict(zip(names, results if isinstance(results, list) else [results], strict=True))

    def linear_start(self):
        """The first convolution with what follows it up to and without the first activation: `(names, activation)`."""
        import keras

        names = []
        for name in self.names:
            if isinstance(self._layers[name], keras.layers.Activation):
                return names, name
            names.append(name)
        return names, None

    def kernels(self):
        """`{layer: kernel}` of all convolutions and dense layers, outputs first, as a `.tflite` file stores them.

        `(outputs, height, width, inputs)`, or `(outputs, inputs)`. A batch norm behind a convolution is folded into it:
        each output's weights are multiplied by `gamma / sqrt(variance + epsilon)`.
        """
        import keras

        norms = {
            self._inputs[name]: layer
            for name, layer in self._layers.items()
            if isinstance(layer, keras.layers.BatchNormalization)
        }
        found = {}
        for name, layer in self._layers.items():
            if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
                kernel = np.moveaxis(np.asarray(layer.kernel, np.float64), -1, 0)
                if (norm := norms.get(name)) is not None:
                    gain = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
                    kernel = kernel * gain.reshape([-1] + [1] * (kernel.ndim - 1))
                found[name] = kernel
        return found
