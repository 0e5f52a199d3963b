"""What happens between two steps: the bar moves, the loss is looked at, checkpoints are written, signals are heard."""

import contextlib
import math
import signal
import time

import keras
import numpy as np

from resnet_keras import checkpoint, cli

CHECK_SECONDS = 2.0
RUNAWAY_FACTOR = 20.0  # times the loss of the first step, or times 1 where a run starts from good weights


class Watch(keras.callbacks.CallbackList):
    """Stands in for `fit`'s callbacks, and knows how far the run has come.

    Keras's own list of callbacks turns the metrics into Python numbers after each step, which makes an accelerator wait
    for the host. This one lets it run ahead, and looks at the collected losses every two seconds.

    Args:
        loop: the `loop.Loop` that is watched.
        checkpoint_minutes: time between two checkpoints within an epoch.
    """

    def __init__(self, loop, checkpoint_minutes):
        super().__init__(add_history=True, model=loop.logits)
        self.loop = loop
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.step, self.epoch, self.epoch_step = 0, 0, 0
        self.first_loss, self.seconds_before = None, 0.0
        self.advance = lambda count, note=None: None
        self.asked_to_leave = None
        self._pending, self._metrics = [], {}
        self._before = 0, {}  # steps and metrics of this epoch that an earlier process took
        self._started = self._saved = self._checked = time.monotonic()

    def position(self):
        """Where the run is, for a checkpoint."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "epoch_step": self.epoch_step,
            "first_loss": self.first_loss,
            "metrics": self._metrics,
            "seconds": self.seconds(),
        }

    def go_to(self, position):
        """Goes on from a checkpoint's position."""
        self.step, self.epoch, self.epoch_step = (position[name] for name in ("step", "epoch", "epoch_step"))
        self.first_loss, self.seconds_before = position["first_loss"], position["seconds"]
        self._metrics = position["metrics"]
        self._before = self.epoch_step, self._metrics

    def seconds(self):
        """Seconds that the run has taken so far, interruptions left out."""
        return self.seconds_before + time.monotonic() - self._started

    def next_epoch(self):
        self.epoch, self.epoch_step = self.epoch + 1, 0
        self._before = 0, {}

    def on_epoch_begin(self, epoch, logs=None):
        pass

    def on_train_batch_begin(self, batch, logs=None):
        pass

    def on_train_batch_end(self, batch, logs=None):
        self.step, self.epoch_step = self.step + 1, self.epoch_step + 1
        self._pending.append((self.step, logs))
        self.advance(self.loop.recipe.batch_size)
        now = time.monotonic()
        if now - self._checked > CHECK_SECONDS or self.asked_to_leave or self.step == 1:
            self.check()
        if now - self._saved > self.checkpoint_seconds:
            self.save()
        self.leave_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        pass

    def check(self):
        """Looks at the losses since the last look.

        Returns:
            The metrics of the epoch so far, means over its steps, as `{name: float}`.

        Raises:
            ValueError: a loss is not a number, or far above that of the first step.
        """
        for step, logs in self._pending:
            loss = float(np.asarray(logs["loss"]))
            self.first_loss = loss if self.first_loss is None else self.first_loss
            if not math.isfinite(loss) or loss > RUNAWAY_FACTOR * max(1.0, self.first_loss):
                kind = "runs away" if math.isfinite(loss) else "is no longer a number"
                self.stop(
                    f"The loss {kind} at step {step}, in epoch {self.epoch + 1}: {loss:.4g} after "
                    f"{self.first_loss:.4g} in the first step."
                )
        if self._pending:
            newest = {name: float(np.asarray(value)) for name, value in self._pending[-1][1].items()}
            steps, before = self._before
            share = steps / self.epoch_step
            self._metrics = {k: share * before[k] + (1 - share) * v if steps else v for k, v in newest.items()}
        self._pending.clear()
        self._checked = time.monotonic()
        return self._metrics

    def stop(self, reason):
        """Ends a run that has gone wrong.

        Raises:
            ValueError: always, with the reason, the last good checkpoint, and what to do.
        """
        good = checkpoint.checkpoints(self.loop.out)
        kept = f"The last good checkpoint is {good[-1]}." if good else "There is no checkpoint yet."
        raise ValueError(f"{reason} {kept} Start again with a lower peak_learning_rate, or in float32.")

    def save(self):
        """Writes a checkpoint, of a state whose loss is known to be sound."""
        self.check()
        path = self.loop.save()
        self._saved = time.monotonic()
        return path

    @contextlib.contextmanager
    def signals(self):
        """Inside, SIGTERM and the first Ctrl-C ask the run to stop after the step that is being taken."""
        before = {}

        def ask(number, frame):
            self.asked_to_leave = signal.Signals(number)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

        with contextlib.suppress(ValueError):  # only the main thread may listen
            before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave_if_asked(self):
        """Writes a checkpoint and leaves, if the process was asked to stop.

        Raises:
            cli.Terminated: it was.
        """
        if self.asked_to_leave is None:
            return
        name = self.asked_to_leave.name
        path = self.save()
        kept = f" Wrote {path}." if path else ""
        raise cli.Terminated(f"{name} after step {self.step}.{kept}", 128 + self.asked_to_leave)
