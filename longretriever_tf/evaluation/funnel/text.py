"""`funnel.json` as tables that people read: for a terminal and in Markdown. Imports no TensorFlow."""

import json
import os
from typing import Any

from longretriever_tf.common.files import write_text_atomically
from longretriever_tf.common.text_table import render_table, wrap_command, wrap_text
from longretriever_tf.evaluation.funnel.exposure import FunnelRow
from longretriever_tf.evaluation.funnel.paper_directions import (
    MEASURES,
    PAPER,
    ROWS,
    count_verdicts,
    evaluate_directions,
    explain_direction,
    state_direction,
)

_DETAILS = {
    "unique_share": "unique",
    "uer_of_unique": "exposed of unique",
    "owned_share": "owned",
    "owned_exposed": "exposed of owned",
    "novel_exposed": "exposed of novel",
    "page_conversion": "whole page converts",
}
_HEADER_KEYS = ("data", "split", "seed", "command", "date")


def stand_json(rows: dict[str, FunnelRow], others: list[str]) -> dict[str, Any]:
    """A stand's entry in `funnel.json`: metrics as [value, low, high], counts, and the paper's directions."""
    directions = evaluate_directions({name: row.differences for name, row in rows.items()})
    metrics = {name: row.metrics for name, row in rows.items()}
    return {
        "other_channels": others,
        "rows": {
            name: {
                "title": ROWS.get(name, name),
                "paper": PAPER.get(name),
                "figures": {metric: value and list(value) for metric, value in row.metrics.items()},
                "counts": row.counts,
                "ranker": row.ranker,
            }
            for name, row in rows.items()
        },
        "directions": [
            {
                **direction._asdict(),
                "here": direction.here and list(direction.here),
                "statement": state_direction(direction),
                "parts": explain_direction(direction, metrics),
            }
            for direction in directions
        ],
        "verdicts": count_verdicts(directions),
    }


def write_report(path: str, report: dict[str, Any]) -> None:
    """Writes the report as JSON to `path`, and as Markdown next to it (.md); each whole or not at all.

    Raises:
      UserError: the disk is full or the folder not writable.
    """
    write_text_atomically(path, json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_text_atomically(os.path.splitext(path)[0] + ".md", markdown_report(report))


def text_report(report: dict[str, Any]) -> str:
    """The report for a terminal: header, then per stand its table and the paper's directions."""
    lines = [wrap_command(f"{key}: {report[key]}") for key in _HEADER_KEYS]
    for name, stand in report["stands"].items():
        table = _cells(stand)
        lines += ["", *wrap_text(f"stand {name}: with {', '.join(stand['other_channels'])}")]
        lines += [*render_table(table[0], table[1:]), "", *wrap_text(_summary_line(stand))]
        for direction in stand["directions"]:
            lines += wrap_text(direction["statement"], indent="  ")
            lines += wrap_text(direction["parts"], indent="      ")
    return "\n".join(lines) + "\n"


def markdown_report(report: dict[str, Any]) -> str:
    """The same report in Markdown."""
    lines = [", ".join(f"{key} `{report[key]}`" for key in _HEADER_KEYS), "", report["protocol"]]
    for name, stand in report["stands"].items():
        table = _cells(stand)
        body = [table[0], ["---", *["---:"] * (len(table[0]) - 1)], *table[1:]]
        lines += ["", f"### Stand {name}: with {', '.join(stand['other_channels'])}", ""]
        lines += ["| " + " | ".join(row) + " |" for row in body]
        lines += ["", _summary_line(stand), ""]
        for direction in stand["directions"]:
            parts = f" ({direction['parts']})" if direction["parts"] else ""
            statement, _, verdict = direction["statement"].rpartition(": ")
            lines.append(f"- {statement}: **{verdict}**{parts}")
    return "\n".join(lines) + "\n"


def _summary_line(stand: dict[str, Any]) -> str:
    counts = stand["verdicts"]
    listed = ", ".join(f"{verdict}: {count}" for verdict, count in counts.items())
    return f"Of the paper's {len(stand['directions'])} directions {sum(counts.values())} were measured: {listed}."


def _cells(stand: dict[str, Any]) -> list[list[str]]:
    """Header and one row per test channel, in the order of the paper, then the others."""
    head = ["test channel"]
    for title in MEASURES.values():
        head += [title, f"{title}, paper"]
    rows = [head + list(_DETAILS.values())]
    known = [name for name in ROWS if name in stand["rows"]]
    for name in [*known, *(name for name in stand["rows"] if name not in ROWS)]:
        row = stand["rows"][name]
        metrics, paper = row["figures"], row["paper"] or {}
        cells = [row["title"]]
        for measure in MEASURES:
            cells += [_with_interval(metrics[measure]), _percent(paper.get(measure))]
        rows.append(cells + [_percent((metrics[detail] or [None])[0]) for detail in _DETAILS])
    return rows


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}%"


def _with_interval(value: list[float] | None) -> str:
    return "-" if value is None else f"{100 * value[0]:.2f}% [{100 * value[1]:.2f}, {100 * value[2]:.2f}]"
