"""Quiet tensorflow, no dtype policy that outlives a test, and the fixtures of `browser.py`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

pytest_plugins = ["browser"]


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")
