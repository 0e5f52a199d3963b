"""A report as one HTML page that needs no other file, no script and no network."""

import base64
import collections
import html
import io
import os
import pathlib

import numpy as np

from export.page_style import STYLE

MOST_FLIPS, MOST_KINDS = 48, 12
PICTURE_PX = 96
# What fills a bar: more is exact for any eye; more is rare.
FULL_DB, SATURATED_PERCENT = 60.0, 5.0


def claim(path):
    """Checks, before any work is done, that the page can be written.

    Raises:
        ValueError: it is a directory.
        OSError: its directory does not exist or cannot be written.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"--html must name a file. Received a directory: {path}.")
    beside = _beside(path)
    beside.touch()
    beside.unlink()


def write(path, report, evidence, labels, name, failure, origin):
    """Writes the page, beside its place first.

    Args:
        path: the HTML file.
        report: a `verify.Report`.
        evidence: the `verify.Evidence` behind it.
        labels: the names of the classes.
        name: what the page is about, such as the name of the verified file.
        failure: why the file failed, or None.
        origin: where the images are from.
    """
    parts = [
        _head(report, name, failure, origin),
        _figures(report),
        _split(report.split),
        _layers(report),
        _flips(evidence, labels),
    ]
    title = html.escape(f"{'failed' if failure else 'verified'}: {name}")
    publish(path, title, filter(None, parts))


def publish(path, title, parts, more_style=""):
    """Writes parts of HTML as a page, beside its place first.

    Args:
        path: the HTML file.
        title: HTML already, as are the parts.
        parts: strings.
        more_style: CSS besides `page_style.STYLE`.
    """
    path = pathlib.Path(path)
    beside = _beside(path)
    beside.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}{more_style}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n",
        encoding="utf-8",
    )
    os.replace(beside, path)


def _beside(path):
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _head(report, name, failure, origin):
    verdict = (
        f'<div class="verdict failed"><b>Failed</b><p>{html.escape(failure)}</p></div>'
        if failure
        else '<div class="verdict passed"><b>Passed</b><p>The file answers as the float model does.</p></div>'
    )
    notes = [finding.sentence for finding in report.findings if finding.sentence not in (failure or "")]
    noted = "".join(f"<p>Also: {html.escape(note)}</p>" for note in notes)
    about = f"{report.images:,} images of {origin}, each through the float Keras model and through this file"
    return f'<h1>{html.escape(name)}</h1><p class="soft">{html.escape(about)}</p>{verdict}{noted}'


def _figures(report):
    figures = []
    if report.drop_points is not None:
        low, high = report.drop_interval_points
        figures = [
            ("float accuracy", f"{report.float_top1_percent:.2f} %", "top-1"),
            ("file accuracy", f"{report.top1_percent:.2f} %", "top-1"),
            ("drop", f"{report.drop_points:+.2f}", f"points; 95 %: {low:+.2f} to {high:+.2f}"),
        ]
    figures.append(("same answer", f"{report.agreement_percent:.2f} %", "of all images"))
    if report.drop_points is not None:
        figures += [
            ("right to wrong", f"{report.right_to_wrong:,}", "images"),
            ("wrong to right", f"{report.wrong_to_right:,}", "images"),
            ("wrong to wrong", f"{report.wrong_to_wrong:,}", "images, another answer"),
        ]
    if report.largest_difference is not None:
        figures += [
            ("divergence", f"{report.kl:.2g}", "mean KL(float, file), nats"),
            ("largest difference", f"{report.largest_difference:.3f}", "of a probability"),
        ]
    cells = (f'<div class="figure"><span>{a}</span><strong>{b}</strong><span>{c}</span></div>' for a, b, c in figures)
    return f'<div class="figures">{"".join(cells)}</div>'


def drawn_bar(share, kind=""):
    """A bar that is full at a share of 1."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<svg class="{kind}" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width:.2f}" height="12"/></svg>'
    )


def _table(header, rows):
    """A table from `(heading, class, heading, class, ...)` and rows that are HTML already."""
    cells = "".join(f'<th class="{kind}">{text}</th>' for text, kind in zip(header[::2], header[1::2], strict=True))
    return f'<div class="wide"><table><tr>{cells}</tr>{rows}</table></div>'


def _split(split):
    if not split:
        return ""
    largest = max(part.mean_difference for part in split) or 1.0
    rows = "".join(
        f"<tr><td>{part.name}</td>"
        f'<td class="number">{part.agreement_percent:.2f} %</td><td class="number">{part.mean_difference:.1e}</td>'
        f'<td class="bar">{drawn_bar(part.mean_difference / largest)}</td><td class="number">{part.kl:.1e}</td></tr>'
        for part in split
    )
    return (
        "<h2>Where the difference arises</h2>"
        '<p class="soft">From the float model to the file in three steps: the pixels as the file takes them, the same '
        "network in float32 in the runtime, and its quantized form.</p>"
        + _table(("step", "", "same answer", "number", "mean difference", "number", "", "", "KL, nats", "number"), rows)
    )


def _layers(report):
    observation = report.observation
    if observation is None or not observation.layers:
        why = html.escape(report.unseen or "No tensor of the file bears the name of a layer.")
        return f'<h2>Layer by layer</h2><p class="soft">{why}</p>'
    integer = [layer.saturated_percent for layer in observation.layers if layer.saturated_percent is not None]
    fullest = max(integer, default=0.0)
    rows = "".join(
        _layer_row(layer, layer is observation.worst, fullest, bool(integer)) for layer in observation.layers
    )
    left_out = f" {observation.left_out} layers bear no name of the model's and are left out." * bool(
        observation.left_out
    )
    header = ("layer", "", "dB", "number", "", "") + ("saturated", "number", "", "") * bool(integer)
    return (
        f'<h2>Layer by layer</h2><p class="soft">Signal to noise on {observation.images} images, and the share of '
        f"values that the range of integers cuts off. The worst layer is marked.{left_out}</p>" + _table(header, rows)
    )


def _layer_row(layer, is_worst, fullest, integer):
    snr = "none" if layer.snr_db is None else f"{layer.snr_db:.1f}"
    cells = f'<td class="number">{snr}</td><td class="bar">{drawn_bar((layer.snr_db or 0.0) / FULL_DB)}</td>'
    if integer:
        share = layer.saturated_percent
        text = "float" if share is None else f"{share:.2f} %"
        bar = drawn_bar((share or 0.0) / max(fullest, SATURATED_PERCENT), "bad")
        cells += f'<td class="number">{text}</td><td class="bar">{bar}</td>'
    return f'<tr{" class=worst" if is_worst else ""}><td class="name">{html.escape(layer.name)}</td>{cells}</tr>'


def _flips(evidence, labels):
    expected, answers = evidence.reference.argmax(axis=1), evidence.scores.argmax(axis=1)
    changed = np.flatnonzero(expected != answers)
    if not len(changed):
        return '<h2>Changed answers</h2><p class="soft">None.</p>'
    kinds = collections.Counter((expected[i], answers[i]) for i in changed).most_common(MOST_KINDS)
    most = kinds[0][1]
    rows = "".join(
        f"<tr><td>{html.escape(labels[was])}</td><td>{html.escape(labels[now])}</td>"
        f'<td class="number">{count:,}</td><td class="bar">{drawn_bar(count / most)}</td></tr>'
        for (was, now), count in kinds
    )
    # What was right and is wrong comes first; of these, what changed most.
    lost = np.zeros(len(changed), bool) if evidence.labels is None else (expected == evidence.labels)[changed]
    moved = np.abs(evidence.reference[changed] - evidence.scores[changed]).max(axis=1)
    shown = changed[np.lexsort((-moved, ~lost))][:MOST_FLIPS]
    cards = "".join(_flip(evidence, labels, i) for i in shown)
    limited = f" {len(shown)} are shown." if len(shown) < len(changed) else ""
    return (
        f'<h2>Changed answers</h2><p class="soft">{len(changed):,} of {len(answers):,} images.{limited}</p>'
        + _table(("float model", "", "file", "", "images", "number", "", ""), rows)
        + f'<div class="flips">{cards}</div>'
    )


def _flip(evidence, labels, i):
    truth = None if evidence.labels is None else int(evidence.labels[i])
    lines = "" if truth is None else f'<div class="truth">{html.escape(labels[truth])}</div>'
    for who, scores in (("float", evidence.reference[i]), ("file", evidence.scores[i])):
        answer = int(scores.argmax())
        lines += (
            f'<div class="answer{" right" if answer == truth else ""}"><em>{100 * scores[answer]:.1f} %</em>'
            f"<span>{who}</span> <strong>{html.escape(labels[answer])}</strong>{drawn_bar(scores[answer])}</div>"
        )
    image = evidence.images[i]
    small = ' class="small"' if max(image.shape[:2]) < PICTURE_PX else ""
    return f'<div class="flip"><img alt=""{small} src="data:image/png;base64,{_png(image)}"><div>{lines}</div></div>'


def _png(image):
    from PIL import Image

    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((2 * PICTURE_PX, 2 * PICTURE_PX))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode("ascii")
