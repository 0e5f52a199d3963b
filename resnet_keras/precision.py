"""Which number format to train in, and what the machine has."""

import contextlib

import keras

from resnet_keras import processor

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
CHOICES = ("auto", *POLICIES)


def resolve(precision):
    """`"auto"` becomes `"bfloat16"` where the processor or accelerator multiplies it natively, else `"float32"`.

    Raises:
        ValueError: `precision` is not in `CHOICES`.
    """
    if precision not in CHOICES:
        raise ValueError(f"Unknown precision. Received: {precision!r}. Expected one of: {', '.join(CHOICES)}.")
    if precision != "auto":
        return precision
    return "bfloat16" if _has_bfloat16() else "float32"


@contextlib.contextmanager
def policy(precision):
    """Layers made inside compute in `precision` and keep their variables in float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _has_bfloat16():
    capabilities = _gpu_capabilities()
    if capabilities is not None:
        return capabilities >= (8, 0)  # NVIDIA Ampere and later
    return bool(processor.features() & {"avx512_bf16", "amx_bf16", "bf16"})


def _gpu_capabilities():
    """Compute capability of the first GPU, `(99, 0)` for other accelerators, None without one."""
    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform == "cpu":
            return None
        major, _, minor = str(getattr(device, "compute_capability", "99.0")).partition(".")
        return int(major), int(minor or 0)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0)) if gpus else None
    return None
