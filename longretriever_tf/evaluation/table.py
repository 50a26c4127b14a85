"""`metrics.json` and the tables that people read from it. Imports no TensorFlow."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import write_text_atomically
from longretriever_tf.common.text_table import render_table, wrap_command

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
"""What models are compared by; `metrics.json` holds many more."""

SHOWN = (*COLUMNS, ("untouched_novel", "recall@100"))
"""The columns of a table by default. The last holds the lists of novel items against categories that the user had never
seen."""

_HEADER_KEYS = ("data", "split", "seed", "command", "date")
_MAX_COMPARED = 3  # the run as served, at its best, and by the paper's requests; variants come after
_SERVED, _EVERY = "longretriever, as served", "longretriever"
_SHORT = {"within_category": "within", "within_category_novel": "within novel", "untouched_novel": "untouched"}


def write_json(path: str, metrics: dict[str, Any]) -> None:
    """Writes `metrics` as readable JSON, whole or not at all.

    Args:
      path: of the file; its directory is made if need be.
      metrics: `{"split", "seed", "data", "command", "date", "models": {NAME: {"all": {"recall@100": ...},
        "novel": {...}, "within_category": {...}}}}`; more keys are welcome, `differences` among them
        (`differences.differences_to_best`).

    Raises:
      UserError: a header key is missing, or the file cannot be written (an old one is then untouched).
      ValueError: a value is not finite, which JSON cannot hold.
    """
    _check_header(metrics)
    write_text_atomically(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def text_table(metrics: dict[str, Any], columns: Sequence[tuple[str, str]] = SHOWN) -> str:
    """The table for a terminal: the header's facts, a line per model, and the differences to the best baseline.

    No line of it but a long fact is wider than the terminal (`text_table.terminal_width`); `metrics.json` has it all.

    Args:
      metrics: as `write_json` takes it.
      columns: (section, metric) pairs; a metric that a model lacks prints as "-".
    """
    _check_header(metrics)
    rows = [
        [
            row_label(name, metrics["models"]),
            *(_number(sections.get(section, {}).get(metric)) for section, metric in columns),
        ]
        for name, sections in metrics["models"].items()
        if not (name == _EVERY and sections == metrics["models"].get(_SERVED))
    ]
    groups = ["", *(_SHORT.get(section, section) for section, _ in columns)]
    facts = [wrap_command(f"{key}: {metrics[key]}") for key in _HEADER_KEYS]
    lines = [*facts, "", *render_table(["model", *(metric for _, metric in columns)], rows, groups)]
    lines += _difference_lines(metrics.get("differences") or {}, columns)
    for name, one in (metrics.get("lists") or {}).items():
        lines += ["", *(f"{name}: {note}" for note in one["notes"])] if one["notes"] else []
    return "\n".join(lines) + "\n"


def row_label(name: str, models: Collection[str]) -> str:
    """What a row is called: beside the run as served, the run itself says that it searches every category."""
    return f"{name}, every category" if name == _EVERY and _SERVED in models else name


def _difference_lines(differences: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[str]:
    """A row per metric: the best baseline, and what each way of asking the run differs from it by."""
    shown = list(differences)[:_MAX_COMPARED]
    keys = [
        (section, metric)
        for section, metric in columns
        if any(metric in differences[m].get(section, {}) for m in shown)
    ]
    if not keys:
        return []
    rows = []
    for section, metric in keys:
        row = [differences[model].get(section, {}).get(metric) for model in shown]
        best = next(one["baseline"] for one in row if one)
        rows.append([f"{_SHORT.get(section, section)} {metric}", best, *map(_difference, row)])
    lines = ["", "difference to the best baseline [95% interval: paired bootstrap over users]"]
    labels = [row_label(name, differences) for name in shown]
    lines += render_table(["", "best baseline", *labels], rows)
    if len(differences) > len(shown):
        lines.append(f"{len(differences) - len(shown)} more under `differences` in the written file")
    return lines


def _difference(difference: Mapping[str, float] | None) -> str:
    return "-" if not difference else "{mean:+.4f} [{low:.4f}, {high:.4f}]".format(**difference)


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _check_header(metrics: dict[str, Any]) -> None:
    missing = [key for key in (*_HEADER_KEYS, "models") if key not in metrics]
    if missing:
        raise UserError(f"metrics without {', '.join(missing)}: a table names its data, split, seed, command and date")
