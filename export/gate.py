"""What a file passes before it takes its name: it answers as the model does, and its target refuses none of it."""

import contextlib
import dataclasses
import pathlib
import tempfile

PROOF_IMAGES = 8


def publish(out, data, twin, source, evaluation, begin, describe, *, max_drop, force, kept=()):
    """Proves a file beside its model, puts into it what was measured, and writes it with its record.

    Args:
        out: path of the file, with the suffix of its format.
        data: its bytes.
        twin: the bytes of the float file that it was made from, or None for a float file.
        source: the `source.Source`.
        evaluation: a `calibration.ImageSet`.
        begin: called with the path of the draft; gives the record as far as it is known.
        describe: called with the record and the bytes; gives those with labels and measured figures inside.
        max_drop: largest accepted drop in accuracy, in points, or None; see `verify.Report.failure`.
        force: write the file even if it fails.
        kept: names of layers that are meant to be in float.

    Returns:
        `(record, report, failure)`: the sidecar's content, a `verify.Report`, and why the file failed, or None. A file
        that failed is not written unless `force` is set.
    """
    from export import artifact, lint, verify

    with artifact.Draft(out, data) as draft, tempfile.TemporaryDirectory() as directory:
        if twin is not None:
            path = pathlib.Path(directory, f"float32{draft.path.suffix}")
            path.write_bytes(twin)
            twin = path
        report = verify.verify(draft.path, source, evaluation, twin)
        failure = None if source.weights == "random" else report.failure(max_drop)
        record = {**begin(draft.path), "measured": {**evaluation.record(), **dataclasses.asdict(report)}}
        if failure is None or force:
            with _unchanged_answers(draft, evaluation.images[:PROOF_IMAGES]):
                draft.amend(describe(record, draft.data))
            found = lint.lint(draft.path, record["target"], kept=kept)
            failure = failure or found.failure()
        if failure is None or force:
            record = draft.publish({**record, "lint": {"problems": found.problems, **found.facts}})
    return record, report, failure


@contextlib.contextmanager
def _unchanged_answers(draft, images):
    """Shows that what is done to a draft leaves the network as it is.

    What was measured on a file is known only after it was verified, so the file that is published is another one. That
    it computes the same is shown by running both: equal to the bit on a few images, as only the same network is.
    """
    import numpy as np

    from export.runtime import Runner
    from resnet_keras import cli

    with cli.held_stderr():  # LiteRT announces its delegate
        verified = Runner(draft.path).predict(images)
        yield
        published = Runner(draft.path).predict(images)
    if not np.array_equal(verified, published, equal_nan=True):
        raise ValueError("The file computes something else with its metadata than without.")
