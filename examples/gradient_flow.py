"""How strongly each layer learns and answers in plain and in residual networks (arXiv:1512.03385, section 4.2).

    python examples/gradient_flow.py --quick     # up to 110 layers
    python examples/gradient_flow.py             # up to 1,202 layers: two minutes more

For networks of 20 to 1,202 layers at initialisation, and for trained ones: the norm of the loss's gradient for the
kernel of each layer. For trained ones also the response of each layer, the standard deviation of what its batch norm
gives (Figure 7). The trained networks are those of `degradation.py`: what is missing in --runs is trained first, in its
quick form. Writes gradient_flow.json and gradient_flow.png. Needs the tensorflow backend.
"""

import argparse
import json
import pathlib

import degradation
from degradation import KINDS, Run

from resnet_keras import checkpoint, cli, report

DEPTHS, QUICK_DEPTHS, TRAINED_DEPTHS = (20, 56, 110, 1001, 1202), (20, 56, 110), (20, 56)
IMAGES = 8  # in float64 a training step of 1,202 layers keeps 300 MB of activations for each
JSON, PNG = "gradient_flow.json", "gradient_flow.png"


def initial(kind, depth):
    """A network as it starts, in float64: the gradients of deep plain networks are too large for float32."""
    import keras

    from resnet_keras import models

    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float64")
    try:
        return models.build(f"resnet{depth}", plain=kind == "plain")
    finally:
        keras.config.set_dtype_policy("float32")


def trained(kind, depth, runs):
    """A network that `degradation.py` has trained in the directory `runs`, or that is trained there now, in float32."""
    import keras

    from resnet_keras import graph

    run = Run(kind, depth, seed=0)
    path = runs / str(run) / checkpoint.MODEL
    if not path.exists():
        try:
            degradation.prepare(runs, degradation.QUICK)
        except ValueError as error:  # it holds the full form, or a part of it
            raise ValueError(f"--runs lacks {run}. Train it with examples/degradation.py, or name others.") from error
        cli.say(f"training {run}")
        degradation.train(run, degradation.QUICK, *degradation.images(degradation.QUICK), path.parent)
    return graph.as_float32(keras.models.load_model(path, compile=False))


def weighted_layers(model):
    """The convolutions from the stem to the last block, without those of shortcuts, in order."""
    import keras

    from resnet_keras import graph

    return [
        layer
        for layer in graph.leaves(model)
        if isinstance(layer, keras.layers.Conv2D) and "shortcut" not in layer.name
    ]


def gradient_norms(model, images, labels):
    """The Euclidean norm of the gradient for each layer's kernel in a training step.

    Args:
        model: a model of this package.
        images: raw pixels, `(count, height, width, channels)`.
        labels: class indices, `(count,)`.
    """
    import keras
    import tensorflow as tf

    logits = keras.Model(model.input, model.get_layer("logits").output)
    kernels = [layer.kernel.value for layer in weighted_layers(model)]
    # Eagerly: compiling a step of a thousand layers takes longer than the few that are needed.
    with tf.GradientTape() as tape:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits(images, training=True))
    return [float(f"{float(tf.norm(gradient)):.4g}") for gradient in tape.gradient(loss, kernels)]


def responses(model, images):
    """The standard deviation of what each layer's batch norm gives for `images`, in inference."""
    import keras
    import numpy as np

    from resnet_keras import graph

    flat = graph.flatten(model)
    outputs = [flat.get_layer(layer.name.replace("_conv", "_bn")).output for layer in weighted_layers(model)]
    found = keras.Model(flat.input, outputs).predict_on_batch(images)
    return [float(f"{np.asarray(values, 'float64').std():.4g}") for values in found]


def measure(depths, runs):
    """One dictionary for each network."""
    from resnet_keras import data

    sample = data.load("fashion_mnist_sample").train
    batch = sample.take(data.balanced(sample.labels, IMAGES, seed=0))
    found = []

    def add(state, kind, depth, model):
        cli.say(f"{state} {kind} network of {depth:,} layers")
        answers = responses(model, batch.images) if state == "trained" else None
        norms = gradient_norms(model, batch.images, batch.labels)
        found.append({"state": state, "kind": kind, "depth": depth, "gradient_norms": norms, "responses": answers})

    for depth in TRAINED_DEPTHS:
        for kind in KINDS:
            add("trained", kind, depth, trained(kind, depth, runs))
    for depth in depths:
        for kind in KINDS:
            add("initial", kind, depth, initial(kind, depth))
    return found


def table(networks):
    """`(header, lines)`: the gradient of the first layer of the first block, of the last layer, and their ratio."""
    lines = []
    for network in networks:
        first, last = network["gradient_norms"][1], network["gradient_norms"][-1]
        answers = network["responses"]
        lines.append(
            [
                *(network["state"], network["kind"], f"{network['depth']:,}"),
                *(f"{value:.3g}" for value in (first, last, first / last)),
                "-" if answers is None else f"{sum(answers) / len(answers):.3f}",
            ]
        )
    return ["state", "network", "layers", "gradient, first", "last", "first / last", "mean response"], lines


def plot(networks, path):
    """Draws gradients at initialisation, gradients after training and responses, each over the place of the layer."""
    from matplotlib.figure import Figure

    panels = {
        "gradient norm at initialisation": ("initial", "gradient_norms"),
        "gradient norm after training": ("trained", "gradient_norms"),
        "response after training": ("trained", "responses"),
    }
    figure = Figure(figsize=(16, 5), dpi=100, layout="constrained")
    colours = {depth: f"C{i}" for i, depth in enumerate(sorted({n["depth"] for n in networks}))}
    for axes, (title, (state, what)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for network in networks:
            if network["state"] != state:
                continue
            values = network[what]
            axes.plot(
                [i / (len(values) - 1) for i in range(len(values))],
                values,
                "--" if network["kind"] == "plain" else "-",
                color=colours[network["depth"]],
                linewidth=1,
                label=f"{network['kind']}, {network['depth']:,} layers",
            )
        axes.set(title=title, xlabel="place of the layer, first to last")
        axes.set_yscale("linear" if what == "responses" else "log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    report.save_figure(figure, path)


def parser():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--quick", action="store_true", help="no networks of more than 110 layers")
    p.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/degradation-quick"), help="where trained networks lie"
    )
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/gradient_flow"), help="default: %(default)s")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    report.require_matplotlib()
    cli.import_keras()
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Gradients are taken with the tensorflow backend. Received: {keras.backend.backend()!r}. Set "
            "KERAS_BACKEND=tensorflow."
        )
    args.out.mkdir(parents=True, exist_ok=True)  # before minutes of work, if it cannot be made
    networks = measure(QUICK_DEPTHS if args.quick else DEPTHS, args.runs)
    trained = checkpoint.read_json(args.runs / degradation.CONDITIONS)
    found = {"images": IMAGES, "trained": trained, "networks": networks}
    checkpoint.write_text(args.out / JSON, json.dumps(found) + "\n")  # thousands of numbers: a line, not one for each
    plot(networks, args.out / PNG)
    cli.print_table(*table(networks))
    print(f"\nThe figures are in {args.out / JSON}, the curves in {args.out / PNG}.")
    return cli.GOOD


if __name__ == "__main__":
    cli.run(main)
