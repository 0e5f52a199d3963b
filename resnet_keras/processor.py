"""The processor of this machine, as far as the system tells. Imports nothing heavy."""

import pathlib
import platform

INFO = pathlib.Path("/proc/cpuinfo")  # of Linux alone


def name():
    """What its maker calls it, or else its architecture, such as `"x86_64"`."""
    return _entry("model name") or platform.processor() or platform.machine()


def features():
    """The instruction sets beyond its architecture, in Linux's words; an empty set where the system does not tell."""
    return set((_entry("flags") or _entry("Features")).split())  # x86-64, Arm


def _entry(key):
    """What is said of the first core, or an empty string."""
    lines = INFO.read_text().splitlines() if INFO.exists() else []
    entries = (line.partition(":") for line in lines)
    return next((value.strip() for found, _, value in entries if found.strip() == key), "")
