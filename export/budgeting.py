"""Which layers of an int8 file stay in float, where int8 alone changes too many answers: the fewest, the worst first.

They are chosen on the calibration images. The images that judge the file have no part in it.
"""

import numpy as np

from export import conversion, recipes, targets
from export.comparison import mean_kl
from export.runtime import probabilities

RANKING_IMAGES = 32


def check(points, recipe, target):
    """Refuses a budget where it cannot be spent.

    Args:
        points: the budget, or None.
        recipe, target: names.

    Raises:
        ValueError: it is no share in percent, or no op of the file may be in float.
    """
    if points is None:
        return
    if not 0 <= points <= 100:
        raise ValueError(f"A budget is a number of points from 0 to 100. Received: --budget {points:g}.")
    if recipes.get(recipe).activations != "int8" or targets.get(target).integer_only:
        takers = [name for name, row in targets.TARGETS.items() if not row.integer_only]
        raise ValueError(
            f"--budget keeps layers of an --int8 file in float, which takes --target {' or '.join(takers)}. "
            f"Received: --{recipe} --target {target}."
        )


def spend(points, base, form, limits, images, learned=None):
    """The layers to keep.

    Each layer alone is quantized, and ranked by how far that moves the answers: the mean Kullback-Leibler divergence
    of the probabilities from those of the float file. Of that ranking the shortest head is found, by bisection, with
    which at most `points` percent of the answers change.

    Args:
        points: the largest accepted share of changed answers, in percent.
        base, form, limits: a `conversion.float_file`, its form, and the ranges of its activations.
        images: raw pixels, `(count, height, width, channels)`.
        learned: as in `conversion.integer_file`.

    Returns:
        Names of activations as `conversion.integer_file` takes them; none where int8 alone is good enough; all where
        nothing is.
    """
    from resnet_keras import cli

    layers = _weighted(base)
    expected = probabilities(base, images)

    def changed_percent(kept):
        answers = probabilities(conversion.integer_file(base, form, limits, kept, learned), images).argmax(axis=1)
        return 100 * np.mean(answers != expected.argmax(axis=1))

    if changed_percent(()) <= points:
        return ()
    few, divergences = slice(RANKING_IMAGES), {}
    with cli.bar("ranking the layers", len(layers), "layers") as advance:
        for layer in layers:
            rest = [other for other in layers if other != layer]
            alone = conversion.integer_file(base, form, limits, rest, learned)
            divergences[layer] = mean_kl(expected[few], probabilities(alone, images[few]), recipes.OUTPUT_STEP)
            advance(1)
    ranked = sorted(layers, key=divergences.get, reverse=True)
    enough, too_few = len(ranked), 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if changed_percent(ranked[:middle]) <= points:
            enough = middle
        else:
            too_few = middle
    return tuple(ranked[:enough])


def _weighted(base):
    """The outputs of the convolutions and the fully connected layer, in their order."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(base))
    (graph,) = model.subgraphs
    kinds = schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED
    ops = [op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode in kinds]
    return [graph.tensors[op.outputs[0]].name.decode() for op in ops]
