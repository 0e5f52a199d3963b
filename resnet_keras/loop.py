"""The training loop: epoch after epoch, from wherever the last checkpoint stopped."""

import contextlib
import time

import keras
import numpy as np

from resnet_keras import checkpoint, cli, feed, optimization, report
from resnet_keras.watch import Watch


class Loop:
    """Trains a model and keeps its run directory.

    Each epoch is one call of `keras.Model.fit` over that epoch's batches, or over what is left of them, so that a run
    can stop and go on at any step. After each epoch the validation images are evaluated, a row goes into the history,
    and a checkpoint is written.

    Args:
        model: the model that is trained, from pixels to `probabilities`, made in the scope of `devices`.
        clean: the same network as it is saved, made outside that scope; it is given the trained weights.
        dataset: a `data.Dataset`.
        recipe: a `recipes.Recipe`.
        out: the run directory.
        seed: decides order and augmentation.
        devices: a `devices.Devices`.
        scales_loss: whether the loss is scaled dynamically, for float16.
        checkpoint_minutes: time between two checkpoints within an epoch.
    """

    def __init__(self, model, clean, dataset, recipe, out, *, seed, devices, scales_loss, checkpoint_minutes):
        self.model, self.clean, self.dataset, self.recipe, self.out = model, clean, dataset, recipe, out
        self.seed, self.devices = seed, devices
        self.classes = len(dataset.class_names)
        self.steps_per_epoch = feed.steps_per_epoch(dataset.train, recipe)
        self.optimizer = optimization.optimizer(recipe, model, recipe.epochs * self.steps_per_epoch, scales_loss)
        # Trained on logits: the loss then needs no logarithm of a rounded probability.
        self.logits = keras.Model(model.input, model.get_layer("logits").output)
        self.logits.compile(
            optimizer=self.optimizer,
            loss=optimization.loss(recipe),
            weighted_metrics=optimization.metrics(self.classes),
            jit_compile=optimization.jit_compile(),
            auto_scale_loss=False,
        )
        self.optimizer.build(self.logits.trainable_variables)
        self.watch = Watch(self, checkpoint_minutes)
        self.history = []
        self.best = None

    def resume(self):
        """Goes back to the newest checkpoint that is whole; without one the run starts at its beginning.

        Raises:
            ValueError: the checkpoints are of another model.
        """
        for path in reversed(checkpoint.checkpoints(self.out)):
            try:
                arrays, position = checkpoint.load_state(path)
            except ValueError as error:
                self._say(f"warning: {error} Going back to the one before.")
                continue
            for group, variables in self.groups().items():
                checkpoint.from_arrays(arrays, group, variables, path)
            self.watch.go_to(position)
            self.best = position["best"]
            self.history = checkpoint.read_history(self.out)[: position["epoch"]]
            self._say(f"resuming after step {position['step']} (epoch {position['epoch'] + 1})")
            return
        self._say("no checkpoint yet: starting from the beginning")

    def _say(self, text):
        if self.devices.is_chief:
            cli.say(text)

    def groups(self):
        """All that changes while the model trains, as `{group: variables}`; random states are among the model's."""
        model, seen = [], set()
        for variable in self.logits.variables:
            if id(variable) not in seen:
                seen.add(id(variable))
                model.append(variable)
        return {"model": model, "optimizer": self.optimizer.variables}

    def save(self):
        """Writes a checkpoint of this moment; returns its path, or None in a process that does not write.

        Raises:
            ValueError: something in it is not a number. The loss of a step says nothing yet of the update that follows.
        """
        if keras.backend.backend() == "jax":
            self.logits.jax_state_sync()  # within an epoch jax's newest values are not in the variables
        if not self.devices.is_chief:
            return None
        position, arrays = {**self.watch.position(), "best": self.best}, checkpoint.to_arrays(self.groups())
        spoilt = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if spoilt:
            self.watch.stop(f"After step {self.watch.step}, {spoilt[0]} holds values that are not numbers.")
        return checkpoint.save_state(self.out, arrays, position)

    def run(self):
        """Trains to the end of the last epoch.

        Raises:
            ValueError: the loss is no longer a number, or runs away.
            cli.Terminated: the process was asked to stop; a checkpoint is written.
        """
        total = self.recipe.epochs * self.steps_per_epoch * self.recipe.batch_size
        done = self.watch.step * self.recipe.batch_size
        bar = cli.bar("training", total, "images", done) if self.devices.is_chief else contextlib.nullcontext()
        with report.Report(self.out, self.devices.is_chief) as self.report, bar as advance, self.watch.signals():
            self.watch.advance = advance or (lambda count, note=None: None)
            for epoch in range(self.watch.epoch, self.recipe.epochs):
                self._epoch(epoch)

    def _epoch(self, epoch):
        started, first_step = time.perf_counter(), self.watch.epoch_step
        if first_step < self.steps_per_epoch:
            self.logits.fit(
                feed.training(
                    self.dataset.train, self.recipe, self.classes, self.seed, epoch, first_step, self.devices.shard
                ),
                initial_epoch=epoch,
                epochs=epoch + 1,
                shuffle=False,  # the order is that of the batches, and known without having made them
                verbose=0,
                callbacks=self.watch,
            )
        trained = self.watch.check()
        seconds = time.perf_counter() - started
        images = (self.steps_per_epoch - first_step) * self.recipe.batch_size
        row = {
            "epoch": epoch + 1,
            "loss": trained["loss"],
            "accuracy": trained["accuracy"],
            "learning_rate": optimization.learning_rate(self.optimizer),
            "images_per_second": images / seconds,
            "seconds": seconds,
        }
        with self.averaged():
            measured = self.evaluate(self.dataset.validation)
            row |= {"val_accuracy": measured["accuracy"], "val_loss": measured["cross_entropy"]}
            self._keep_best(row)
        self.watch.next_epoch()
        if self.devices.is_chief:
            self._record(row)
        self.save()
        self.watch.leave_if_asked()

    def _keep_best(self, row):
        if self.best is None or row["val_accuracy"] > self.best["val_accuracy"]:
            self.best = {"epoch": row["epoch"], "val_accuracy": row["val_accuracy"]}
            if self.devices.is_chief:
                checkpoint.save_model(self.out, self.trained(), checkpoint.BEST)

    def _record(self, row):
        row = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}
        self.history.append(row)
        checkpoint.write_history(self.out, self.history)
        self.report.epoch(self.history)
        self.watch.advance(0, f"epoch {row['epoch']}/{self.recipe.epochs}")
        cli.say(
            f"epoch {row['epoch']}/{self.recipe.epochs}: loss {row['loss']:.4f}, validation accuracy "
            f"{100 * row['val_accuracy']:.2f} %, {row['images_per_second']:,.0f} images/s"
        )

    @contextlib.contextmanager
    def averaged(self):
        """Inside, the weights are their moving average, where the recipe keeps one."""
        pairs = optimization.averages(self.optimizer)
        before = [keras.ops.convert_to_numpy(variable) for variable, _ in pairs]
        for variable, average in pairs:
            variable.assign(average)
        try:
            yield
        finally:
            for (variable, _), value in zip(pairs, before, strict=True):
                variable.assign(value)

    def evaluate(self, split):
        """Accuracy, cross-entropy and so on of `split`, every image counted once, as `{name: float}`."""
        batches = feed.evaluation(
            split,
            self.clean.get_layer("preprocessing").preprocess,
            self.classes,
            self.recipe.batch_size,
            self.devices.shard,
        )
        return {k: float(v) for k, v in self.logits.evaluate(batches, verbose=0, return_dict=True).items()}

    def trained(self):
        """The clean model with the weights of this moment."""
        self.clean.set_weights(self.model.get_weights())
        return self.clean
