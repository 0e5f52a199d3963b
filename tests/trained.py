"""Small models that have seen a few steps of training."""

import keras

import resnet_keras
from resnet_keras import data


def briefly_trained(tmp_path, policy="float32", **arguments):
    """A ResNet-8 after a few steps, saved: batch-norm statistics are those of real images.

    It trains in float32, because processors emulate float16, and computes under `policy`.
    """
    keras.utils.set_random_seed(0)
    sample = data.load("fashion_mnist_sample").train
    trained = resnet_keras.ResNet8(**arguments)
    logits = keras.Model(trained.input, trained.get_layer("logits").output)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    logits.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, jit_compile=False)
    height, width = trained.input_shape[1:3]
    pixels = sample.images[:640, :height, :width, : trained.input_shape[3]]
    logits.fit(pixels, sample.labels[:640] % trained.output_shape[-1], batch_size=64, epochs=2, verbose=0)
    keras.config.set_dtype_policy(policy)
    model = resnet_keras.ResNet8(**arguments)
    keras.config.set_dtype_policy("float32")
    model.set_weights(trained.get_weights())
    path = tmp_path / "mine.keras"
    model.save(path)
    return path, pixels
