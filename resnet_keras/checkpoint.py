"""The run directory: `model.keras`, `card.json` (what it is, how it was made, what was measured), `history.jsonl`."""

import json
import os
import pathlib

MODEL, CARD, HISTORY = "model.keras", "card.json", "history.jsonl"


def save_model(directory, model):
    """Writes the model beside its place and renames it, so that a file under the final name is always whole."""
    directory = pathlib.Path(directory)
    partial = directory / "partial.keras"
    model.save(partial)
    os.replace(partial, directory / MODEL)


def save_card(directory, card):
    """Writes the card, atomically."""
    write_text(pathlib.Path(directory) / CARD, json.dumps(card, indent=2) + "\n")


def load_card(directory):
    """The card of a run directory.

    Raises:
        ValueError: the directory has no card, or it is not JSON.
    """
    path = pathlib.Path(directory) / CARD
    if not path.is_file():
        raise ValueError(f"{directory} is not a run directory: it has no {CARD}.")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(card, dict):
        raise ValueError(f"{path} must hold a JSON object. Received: {type(card).__name__}.")
    return card


def append_history(directory, row):
    """Adds one epoch's figures to the history."""
    with open(pathlib.Path(directory) / HISTORY, "a") as file:
        file.write(json.dumps(row) + "\n")


def write_text(path, text):
    """Writes a text file beside its place and renames it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
