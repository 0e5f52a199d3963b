"""The end of every benchmark: a table for people, and the record as JSON where it is wanted."""

import json

from resnet_keras import cli


def finish(rows, record, path):
    """Prints `(what, figure)` rows and writes the record to `path`, or nowhere if that is None.

    Returns:
        The exit status.
    """
    cli.print_result(rows, record)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
    return cli.GOOD
