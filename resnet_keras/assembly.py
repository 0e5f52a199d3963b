"""From a recipe to a model in training: built, started from weights, partly frozen, spread over devices."""

import dataclasses
import pathlib

import keras

from resnet_keras import checkpoint, cli, graph, models, precision, transfer
from resnet_keras import weights as weight_files
from resnet_keras.loop import Loop
from resnet_keras.preprocessing import Preprocess

SMALL_BATCH = 16


def loop(recipe, dataset, out, settings, used):
    """The `Loop` that trains `recipe` on `dataset`; call it in the scope of the devices `used`.

    Raises:
        ValueError: the batch cannot be shared by the devices, or the weights or the stages do not fit the model.
    """
    if recipe.batch_size % used.replicas:
        raise ValueError(
            f"The batch of {recipe.batch_size} images cannot be shared equally by {used.replicas} devices. Choose a "
            "--batch-size that can."
        )
    found = None
    if recipe.weights is not None:
        path = pathlib.Path(recipe.weights)
        found = weight_files.find(str(path / checkpoint.MODEL) if path.is_dir() else recipe.weights, recipe.model)
    recipe, train_shape, preprocess = _sizes(recipe, dataset, found)
    with precision.policy(settings.precision):
        model = _build(recipe, dataset, found, train_shape, preprocess, recipe.stochastic_depth)
        clean = _build(recipe, dataset, found, (preprocess.height, preprocess.width, train_shape[-1]), preprocess)
    _freeze(model, recipe.freeze_stages)
    _synchronize(model, used)
    if recipe.batch_size < SMALL_BATCH and any("_bn" in v.path for v in model.trainable_variables):
        cli.say(
            f"warning: batch norm learns from only {recipe.batch_size} images at a time. Use a larger --batch-size, or "
            "start from weights with --set freeze_stages=5."
        )
    return Loop(
        model,
        clean,
        dataset,
        recipe,
        out,
        seed=settings.seed,
        devices=used,
        scales_loss=settings.precision == "float16",
        checkpoint_minutes=settings.checkpoint_minutes,
    )


def _sizes(recipe, dataset, found):
    """`(recipe with its sizes filled in, input shape for training, Preprocess of the finished model)`."""
    preprocess = Preprocess(crop_fraction=1.0)
    if hasattr(dataset.train, "images"):
        height, width, channels = dataset.train.images.shape[1:]
        if found is not None:
            preprocess = transfer.normalisation(found, channels)
        return recipe, (height, width, channels), dataclasses.replace(preprocess, height=height, width=width)
    preprocess = Preprocess(crop_fraction=recipe.eval_crop_fraction)
    if found is not None:
        preprocess = transfer.normalisation(found, 3)
    eval_size = recipe.eval_size or preprocess.height
    recipe = dataclasses.replace(recipe, size=recipe.size or eval_size, eval_size=eval_size)
    preprocess = dataclasses.replace(preprocess, height=eval_size, width=eval_size)
    # Trained and evaluated at two sizes, the network must take both.
    side = eval_size if recipe.size == eval_size else None
    return recipe, (side, side, 3), preprocess


def _build(recipe, dataset, found, input_shape, preprocess, stochastic_depth=0.0):
    model = models.build(
        recipe.model,
        weights=found,
        version=(found and found.version) or "v1.5",
        classes=len(dataset.class_names),
        input_shape=input_shape,
        zero_init_residual=recipe.zero_init_residual,
        stochastic_depth=stochastic_depth,
    )
    model.get_layer("preprocessing").preprocess = preprocess  # size and crop, which the builder cannot know
    return model


def _freeze(model, stages):
    names = ["stem", *sorted({layer.name.split("_")[0] for layer in model.layers if layer.name.startswith("stage")})]
    if stages > len(names):
        raise ValueError(f"freeze_stages must be at most {len(names)}: {', '.join(names)}. Received: {stages}.")
    for layer in model.layers:
        if layer.name.split("_")[0] in names[:stages]:
            layer.trainable = False  # batch norm then stays in inference mode, too


def _synchronize(model, used):
    """Batch norm over the whole batch, as on one device; on jax it is so anyway."""
    if keras.backend.backend() == "tensorflow" and used.replicas > 1:
        for layer in graph.leaves(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
