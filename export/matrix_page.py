"""A `matrix.Matrix` as one HTML page that needs no other file, no script and no network."""

import html
import statistics

from export import matrix, page

# Wider than a report, which has pictures; the word of a verdict says what its colour does.
OWN_STYLE = """
main { max-width: 1320px; }
caption { text-align: left; color: var(--soft); font-size: 13px; padding: 6px 10px; }
td.bar { width: 10%; min-width: 70px; }
tr.worst th { background: var(--badbg); }
tbody th { color: var(--ink); white-space: nowrap; }
thead th { vertical-align: bottom; }
.yes { color: var(--good); }
.no { color: var(--bad); }
.unknown { color: var(--soft); font-style: italic; }
li { max-width: 100ch; overflow-wrap: anywhere; }
"""
FULL_TIMES = 4  # the median: one file that is a hundred times slower would leave no bar of the others
VERDICTS = {True: ("yes", "takes it"), False: ("no", "no"), None: ("unknown", "not installed")}


def write(path, found):
    """Writes the page, beside its place first.

    Args:
        path: the HTML file.
        found: a `matrix.Matrix`.
    """
    title = html.escape(f"{found.model}: every recipe and format")
    formats = dict.fromkeys(row.format for row in found.rows)
    parts = [_head(found, title), _figures(found)]
    parts += [_targets(name, [row for row in found.rows if row.format == name]) for name in formats]
    page.publish(path, title, parts, OWN_STYLE)


def _head(found, title):
    floats = {row.float_top1_percent for row in found.rows} - {None}
    about = f"{found.weights} weights" + "".join(f"; the float model is right in {top1:.2f} %" for top1 in floats)
    failed = [row for row in found.rows if row.failure]
    missing = [row for row in found.rows if row.missing]
    kind, word = ("failed", "Failed") if failed else ("passed", "Passed")
    passed = len(found.rows) - len(failed) - len(missing)
    lines = [f"{passed} of {len(found.rows)} files passed their gates."]
    lines += [f"{row.label}: {row.failure or row.missing}" for row in (*failed, *missing)]
    told = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return (
        f'<h1>{title}</h1><p class="soft">{html.escape(about)}</p><div class="verdict {kind}"><b>{word}</b>{told}</div>'
    )


def _table(caption, header, rows):
    """A table from `(heading, attributes)` and rows that are HTML already."""
    cells = "".join(f'<th scope="col"{attributes}>{html.escape(text)}</th>' for text, attributes in header)
    return (
        f'<div class="wide"><table><caption>{html.escape(caption)}</caption><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _bar(figure, full):
    share = figure / full if figure is not None and full else 0.0
    return f'<td class="bar">{page.drawn_bar(share)}</td>'


def _number(text):
    return f'<td class="number">{html.escape(text)}</td>'


def _figures(found):
    largest = max((row.size_bytes or 0 for row in found.rows), default=0)
    times = [row.p50_ms for row in found.rows if row.p50_ms is not None]
    full_ms = min(max(times), FULL_TIMES * statistics.median(times)) if times else 0.0
    header = [("file", ""), *((name, ' class="number"') for name in ("top-1", "same answer", "drop, 95 %"))]
    header += [*((name, ' colspan="2"') for name in ("size", "p50")), ("gate", "")]
    shown = []
    for row in found.rows:
        *_, size, p50, gate, _ = matrix.table([row])[1][0]
        shown.append(
            f'<tr{" class=worst" if row.failure else ""}><th scope="row">{html.escape(row.label)}</th>'
            + "".join(map(_number, (matrix.percent(row.top1_percent), matrix.percent(row.agreement_percent))))
            + "".join(map(_number, (matrix.drop(row), size)))
            + _bar(row.size_bytes, largest)
            + _number(p50)
            + _bar(row.p50_ms, full_ms)
            + f"<td>{gate}</td></tr>"
        )
    caption = "Drop in points of top-1 with its 95 % interval; p50 is the median time of one image"
    if times:
        caption += f" on {found.timed}; its bar is full from {full_ms:.2f} ms on"
    return "<h2>Figures</h2>" + _table(caption, header, shown)


def _targets(name, rows):
    columns = matrix.CHECKED[name]
    shown, reasons = [], {}
    for row in rows:
        verdicts = {verdict.target: verdict for verdict in row.verdicts}
        cells = ""
        for target in columns:
            verdict = verdicts.get(target)
            kind, word = ("soft", "no file") if verdict is None else VERDICTS[verdict.takes]
            cells += f'<td class="{kind}">{word}</td>'
            if verdict is not None and verdict.reason:
                reasons.setdefault((target, verdict.reason), []).append(f"{row.recipe} for {row.target}")
        shown.append(f'<tr><th scope="row">{html.escape(f"{row.recipe} for {row.target}")}</th>{cells}</tr>')
    listed = "".join(
        f"<li><b>{html.escape(target)}</b>: {html.escape(reason)} "
        f'<span class="soft">({html.escape(", ".join(who))})</span></li>'
        for (target, reason), who in reasons.items()
    )
    caption = f"Which target takes which .{name} file"
    if name == "tflite":
        caption += "; one member stands for its Ethos-U series"
    why = f"<details><summary>Why not</summary><ul>{listed}</ul></details>" if listed else ""
    return (
        f"<h2>Who takes which .{name} file</h2>"
        + _table(caption, [("file", ""), *((column, "") for column in columns)], shown)
        + why
    )
