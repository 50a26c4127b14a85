"""`metrics.json` and the tables that people read from it. Imports no TensorFlow."""

import json
import math
from collections.abc import Sequence
from typing import Any

from longretriever_tf.errors import UserError
from longretriever_tf.files import write_text_atomically

COLUMNS = (
    ("all", "recall@50"),
    ("all", "recall@100"),
    ("all", "recall@500"),
    ("all", "ndcg@100"),
    ("novel", "recall@50"),
    ("novel", "recall@100"),
    ("novel", "recall@500"),
    ("within_category", "recall@20"),
    ("within_category_novel", "recall@20"),
)
"""The columns of a table by default; `metrics.json` holds many more."""

_HEADER_KEYS = ("data", "split", "seed", "command", "date")
_SHORT = {"within_category": "within", "within_category_novel": "within novel"}


def write_json(path: str, metrics: dict[str, Any]) -> None:
    """Writes `metrics` as readable JSON, whole or not at all.

    Args:
      path: of the file; its directory is made if need be.
      metrics: `{"split", "seed", "data", "command", "date", "models": {NAME: {"all": {"recall@100": ...},
        "novel": {...}, "within_category": {...}}}}`; more keys are welcome.

    Raises:
      UserError: a header key is missing, or the file cannot be written (an old one is then untouched).
      ValueError: a value is not finite, which JSON cannot hold.
    """
    _check_header(metrics)
    write_text_atomically(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def text_table(metrics: dict[str, Any], columns: Sequence[tuple[str, str]] = COLUMNS) -> str:
    """The table for a terminal: the header's facts, then a line per model, numbers right-aligned.

    Args:
      metrics: as `write_json` takes it.
      columns: (section, metric) pairs; a figure that a model lacks prints as "-".
    """
    _check_header(metrics)
    rows = _cells(metrics, columns)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    facts = [f"{key}: {metrics[key]}" for key in _HEADER_KEYS]
    return "\n".join([*facts, "", *_section_line(columns, widths), *lines]) + "\n"


def _cells(metrics: dict[str, Any], columns: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Header and one row per model, as text."""
    rows = [["model"] + [metric for _, metric in columns]]
    for name, sections in metrics["models"].items():
        rows.append([name] + [_number(sections.get(section, {}).get(metric)) for section, metric in columns])
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _section_line(columns: Sequence[tuple[str, str]], widths: list[int]) -> list[str]:
    """A line that names each section over its first column; a name may run over the columns of its own section."""
    line = " " * widths[0]
    position, previous = widths[0], ""
    for (section, metric), width in zip(columns, widths[1:], strict=True):
        if section != previous:
            line = line.ljust(position + 2 + max(0, width - len(metric))) + _SHORT.get(section, section)
        position, previous = position + 2 + width, section
    return [line.rstrip()]


def _check_header(metrics: dict[str, Any]) -> None:
    missing = [key for key in (*_HEADER_KEYS, "models") if key not in metrics]
    if missing:
        raise UserError(f"metrics without {', '.join(missing)}: a table names its data, split, seed, command and date")
