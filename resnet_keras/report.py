"""What a run shows of itself while it goes on: a plot of its curves and TensorBoard logs, where those are installed."""

import pathlib
import time

from resnet_keras import cli

CURVES, LOGS = "curves.png", "tensorboard"
PLOT_SECONDS = 30.0  # the least time between two plots of a run, which cost half a second each


class Report:
    """Draws `curves.png` and writes TensorBoard events into the run directory `out`, from the rows of the history.

    A context manager: on leaving, the last state is drawn. Needs matplotlib and tensorboard; what is missing is said
    once and left out.
    """

    def __init__(self, out, writes=True):
        self.out = pathlib.Path(out)
        self.writer = self.plot = None
        self._history, self._plotted = [], float("-inf")
        if writes:
            self._find_libraries()

    def _find_libraries(self):
        try:
            import matplotlib

            matplotlib.use("Agg")  # a picture needs no screen
            self.plot = plot
        except ImportError:
            cli.say(f"no {CURVES}: matplotlib is not installed (pip install 'resnet-keras[train]')")
        try:
            from tensorboard.summary import Writer

            with cli.held_stderr():
                self.writer = Writer(str(self.out / LOGS))
        except ImportError:
            cli.say("no TensorBoard logs: tensorboard is not installed (pip install 'resnet-keras[train]')")

    def __enter__(self):
        return self

    def __exit__(self, *stopped_by):
        if self.writer is not None:
            self.writer.close()
        if self._history:
            self._draw()

    def epoch(self, history):
        """Takes in the history, whose last row is new."""
        self._history, row = history, history[-1]
        if self.writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name.replace("val_", "validation/"), value, row["epoch"])
            self.writer.flush()
        if time.monotonic() - self._plotted > PLOT_SECONDS:
            self._draw()

    def _draw(self):
        if self.plot is not None:
            self.plot(self._history, self.out / CURVES)
            self._plotted = time.monotonic()


def plot(history, path):
    """Draws loss, error and learning rate over the epochs and writes the picture, atomically.

    Args:
        history: the rows of `history.jsonl`, at least one.
        path: where the PNG goes.
    """
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(12, 4), dpi=100, layout="constrained")
    loss, error, rate = figure.subplots(1, 3)
    loss.plot(epochs, [row["loss"] for row in history], label="training")
    loss.plot(epochs, [row["val_loss"] for row in history], label="validation")
    loss.set(title="Loss", xlabel="epoch")
    error.plot(epochs, [100 * (1 - row["accuracy"]) for row in history], label="training (augmented)")
    error.plot(epochs, [100 * (1 - row["val_accuracy"]) for row in history], label="validation")
    best = max(history, key=lambda row: row["val_accuracy"])
    error.plot(best["epoch"], 100 * (1 - best["val_accuracy"]), "o", label=f"best {100 * best['val_accuracy']:.2f} %")
    error.set(title="Error, %", xlabel="epoch", yscale="log")
    error.yaxis.set_major_formatter("{x:g}")
    error.yaxis.set_minor_formatter("{x:g}")
    rate.plot(epochs, [row["learning_rate"] for row in history])
    rate.set(title="Learning rate", xlabel="epoch")
    for axes in (loss, error):
        axes.legend()
    for axes in (loss, error, rate):
        axes.grid(alpha=0.3, which="both")
    save_figure(figure, path)


def require_matplotlib():
    """For what ends in a figure, before its long work begins.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "matplotlib is missing, which draws the figures. Install it with: pip install 'resnet-keras[train]'."
        ) from error


def save_figure(figure, path):
    """Writes a `matplotlib.figure.Figure` as PNG, atomically."""
    partial = path.with_name("partial.png")
    figure.savefig(partial)
    partial.replace(path)
