"""From the templates in `snippets/` to code that holds one file's own values. Imports nothing heavy.

`snippets/common/LANGUAGE` and `snippets/FORMAT/LANGUAGE` become the folder of the language. `@@NAME@@` stands for a
value. Two files are not copied: the text of `runtime.*` stands where `@@RUNTIME@@` does, and `README.md` is the
language's part of the bundle's own.
"""

import dataclasses
import pathlib
import re

SNIPPETS = pathlib.Path(__file__).with_name("snippets")
RUNTIME, README = "runtime", "README.md"


@dataclasses.dataclass(frozen=True)
class Language:
    """One row a language: its folder, its name in a sentence, and the file to begin with.

    `edges` are the dtypes of input and output that its runtime for `.tflite` files takes, all where it is empty. Those
    of ONNX files are float32 everywhere. `target` is one whose files it takes.
    """

    folder: str
    title: str
    entry: str
    edges: tuple[str, ...] = ()
    target: str = "app"

    def takes(self, record):
        """Whether it runs the file with this record."""
        dtypes = {edge["dtype"] for edge in record["inputs"] + record["outputs"]}
        return not self.edges or dtypes <= set(self.edges)


LANGUAGES = (
    Language("python", "Python", "classifier.py"),
    # LiteRT.js knows no int8, Android's CompiledModel no uint8.
    Language("javascript", "JavaScript", "classifier.js", edges=("float32", "uint8"), target="web"),
    Language("kotlin", "Kotlin", "Classifier.kt", edges=("float32", "int8")),
    Language("swift", "Swift", "Classifier.swift"),
    Language("cpp", "C++", "classifier.cc"),
)


def code(language, format, values):
    """`{file name: text}` of a language, with `README` for its part of the bundle's README.

    Args:
        language: a `Language`.
        format: `"tflite"` or `"onnx"`.
        values: `{placeholder: value}`.

    Raises:
        ValueError: a template has a placeholder without a value.
    """
    found = {}
    for folder in ("common", format):
        for path in sorted((SNIPPETS / folder / language.folder).glob("*")):
            if path.is_file():
                found[path.name] = path
    runtimes = [name for name in found if name.split(".")[0] == RUNTIME]
    for name in runtimes:
        values = {**values, "RUNTIME": filled(found.pop(name), values).strip()}
    return {name: filled(path, values) for name, path in found.items()}


def filled(path, values):
    """The text of a template with its values.

    Raises:
        ValueError: it has a placeholder without a value.
    """
    text = path.read_text(encoding="utf-8")
    unknown = sorted(set(re.findall(r"@@(\w*)@@", text)) - set(values))
    if unknown:
        raise ValueError(f"The template {path.name} has placeholders without a value: {', '.join(unknown)}.")
    return re.sub(r"@@(\w+)@@", lambda match: str(values[match[1]]), text)


def number(value):
    """A number as all five languages read it: `8`, `0.5`, `0.00001`."""
    import numpy as np

    return str(value) if isinstance(value, int) else np.format_float_positional(value, trim="0")
