"""From a recipe to a model in training: built, started from weights, partly frozen, spread over devices."""

import dataclasses
import pathlib

import keras

from resnet_keras import checkpoint, cli, graph, models, recipes, transfer
from resnet_keras import precision as precisions
from resnet_keras import weights as weight_files
from resnet_keras.preprocessing import Preprocess

SMALL_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe applied to a data set: what to build, from which weights, for which sizes.

    `recipe` has its sizes filled in, `train_shape` is the input shape while training, `preprocess` that of the finished
    model.
    """

    recipe: recipes.Recipe
    classes: int
    weights: weight_files.Weights | None
    train_shape: tuple[int | None, int | None, int]
    preprocess: Preprocess
    precision: str

    def model_to_train(self, used):
        """The model as it trains on the devices `used`; call it in their scope."""
        model = self._build(self.train_shape, self.recipe.stochastic_depth)
        _freeze(model, self.recipe.freeze_stages)
        _synchronize(model, used)
        return model

    def model_to_save(self):
        """The same network without what only training needs; call it outside the devices' scope."""
        return self._build((self.preprocess.height, self.preprocess.width, self.train_shape[-1]))

    def _build(self, input_shape, stochastic_depth=0.0):
        with precisions.policy(self.precision):
            model = models.build(
                self.recipe.model,
                weights=self.weights,
                version=(self.weights and self.weights.version) or "v1.5",
                classes=self.classes,
                input_shape=input_shape,
                width_multiplier=self.recipe.width_multiplier,
                zero_init_residual=self.recipe.zero_init_residual,
                stochastic_depth=stochastic_depth,
            )
        model.get_layer("preprocessing").preprocess = self.preprocess  # size and crop, which the builder cannot know
        return model


def plan(recipe, dataset, precision):
    """The `Plan` for `recipe` on `dataset`.

    Raises:
        ValueError: the weights do not fit the model.
    """
    found = None
    if recipe.weights is not None:
        path = pathlib.Path(recipe.weights)
        found = weight_files.find(str(path / checkpoint.MODEL) if path.is_dir() else recipe.weights, recipe.model)
    if hasattr(dataset.train, "images"):
        height, width, channels = dataset.train.images.shape[1:]
        preprocess = transfer.normalisation(found, channels) if found else Preprocess(crop_fraction=1.0)
        shape = height, width, channels
    else:
        preprocess = transfer.normalisation(found, 3) if found else Preprocess(crop_fraction=recipe.eval_crop_fraction)
        height = width = recipe.eval_size or preprocess.height
        recipe = dataclasses.replace(recipe, size=recipe.size or height, eval_size=height)
        # Trained and evaluated at two sizes, the network must take both.
        shape = (height, width, 3) if recipe.size == height else (None, None, 3)
    preprocess = dataclasses.replace(preprocess, height=height, width=width)
    return Plan(recipe, len(dataset.class_names), found, shape, preprocess, precision)


def check_batch(recipe, model, used):
    """Refuses a batch that the devices cannot share, and warns of one that batch norm learns little from.

    Raises:
        ValueError: the batch cannot be shared.
    """
    if recipe.batch_size % used.replicas:
        raise ValueError(
            f"The batch of {recipe.batch_size} images cannot be shared equally by {used.replicas} devices. Choose a "
            "--batch-size that can."
        )
    if recipe.batch_size < SMALL_BATCH and any("_bn" in v.path for v in model.trainable_variables):
        cli.say(
            f"warning: batch norm learns from only {recipe.batch_size} images at a time. Use a larger --batch-size, or "
            "freeze the layers of published weights with --set freeze_stages=5."
        )


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
