"""One device, several, or several hosts: where a run computes, and which part of each batch is whose.

On tensorflow `tf.distribute.MirroredStrategy` spans the devices of one host. On jax Keras's data parallelism spans
the devices of all hosts; each process learns its place from the variables that `keras.distribution.initialize` reads:
`KERAS_DISTRIBUTION_JOB_ADDRESSES`, `KERAS_DISTRIBUTION_NUM_PROCESSES` and `KERAS_DISTRIBUTION_PROCESS_ID`.
"""

import contextlib
import dataclasses
import os

import keras

PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"


@dataclasses.dataclass(frozen=True)
class Devices:
    """`replicas` devices, over all `processes`, of which this one is number `process`."""

    replicas: int = 1
    processes: int = 1
    process: int = 0

    @property
    def is_chief(self):
        """Whether this process is the one that writes the run directory and reports."""
        return self.process == 0

    @property
    def shard(self):
        """`(process, processes)`: which part of each batch this process makes."""
        return self.process, self.processes


def initialize(seed):
    """Joins the other processes of a run over several hosts, if there are any; call it before any computation.

    All processes start from the same `seed`.

    Raises:
        ValueError: several processes on a backend that cannot.
    """
    if int(os.environ.get(PROCESSES, "1")) < 2:
        return
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"{PROCESSES}={os.environ[PROCESSES]} asks for several processes, which Keras supports on jax alone. Set "
            f"KERAS_BACKEND=jax; the {keras.backend.backend()} backend trains on the devices of one host."
        )
    keras.utils.set_random_seed(seed)
    keras.distribution.initialize()


@contextlib.contextmanager
def scope(count):
    """Models made and trained inside are spread over `count` devices, a number or `"all"`. Yields `Devices`.

    Raises:
        ValueError: there are not so many devices.
    """
    make = {"tensorflow": _tensorflow, "jax": _jax}.get(keras.backend.backend(), _single)
    with make(count) as devices:
        yield devices


def _chosen(available, count):
    if count == "all":
        return available
    text = str(count)
    if not text.isdecimal() or not 1 <= int(text) <= len(available):
        raise ValueError(
            f"--devices must be 'all' or a number from 1 to {len(available)}, the devices that the "
            f"{keras.backend.backend()} backend has here. Received: {count}."
        )
    return available[: int(text)]


@contextlib.contextmanager
def _single(count):
    _chosen(["the only one"], count)
    yield Devices()


@contextlib.contextmanager
def _tensorflow(count):
    import tensorflow as tf

    available = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    chosen = [device.name for device in _chosen(available, count)]
    if len(chosen) == 1:
        yield Devices()
        return
    with tf.distribute.MirroredStrategy(chosen).scope():
        yield Devices(replicas=len(chosen))


@contextlib.contextmanager
def _jax(count):
    import jax

    processes = jax.process_count()
    if processes > 1 and str(count) not in ("all", str(jax.device_count())):
        raise ValueError(
            f"A run over {processes} processes uses all of their {jax.device_count()} devices. Received: --devices "
            f"{count}. Use --devices all."
        )
    chosen = _chosen(keras.distribution.list_devices(), count)
    before = keras.distribution.distribution()
    if len(chosen) > 1:
        # Each process makes its own part of a batch, so Keras must not cut it up again.
        parallel = keras.distribution.DataParallel(devices=chosen, auto_shard_dataset=False)
        keras.distribution.set_distribution(parallel)
    try:
        yield Devices(len(chosen), processes, jax.process_index())
    finally:
        keras.distribution.set_distribution(before)
