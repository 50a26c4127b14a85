"""Columns of the items that hold numbers: what is in them, and which flag should name each. Imports no TensorFlow."""

import contextlib
from typing import Any

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.data import DataConfig
from longretriever_tf.data.number_bins import fit_edges
from longretriever_tf.datasets.event_log.source import item_columns, one_value_each, open_table, text_format
from longretriever_tf.datasets.event_log.tables import read_column_names
from longretriever_tf.datasets.log import LifelongLog

_FEW = 20
"""Up to so many different numbers are as good a category."""

_MOST_MISSING = 0.5


def number_statistics(log: LifelongLog, data: DataConfig) -> list[dict[str, Any]]:
    """A row for each column of numbers: those of --numeric_features, then others of the items table.

    Args:
      log: the log.
      data: the flags that it was read with; without an items table of its own no other column is looked at.

    Returns:
      By row: column, is_read, missing_share (of the items with an event), values (distinct ones), the quantiles min,
      p25, median, p75 and max, and `set`, what to do.
    """
    is_seen = np.zeros(len(log.items.item_id), bool)
    is_seen[log.item_row] = True
    rows = [_measure(name, column[is_seen], data, True) for name, column in log.items.numbers.items()]
    rows += [_measure(name, column, data, False) for name, column in _other_numbers(data).items()]
    return rows


def _measure(name: str, column: np.ndarray, data: DataConfig, is_read: bool) -> dict[str, Any]:
    numbers = column[~np.isnan(column)]
    row: dict[str, Any] = {
        "column": name,
        "is_read": is_read,
        "missing_share": 1 - len(numbers) / max(len(column), 1),
        "values": len(np.unique(numbers)),
    }
    if len(numbers):
        quantiles = np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]).tolist()
        row |= dict(zip(("min", "p25", "median", "p75", "max"), quantiles, strict=True))
    return row | {"set": _advise(name, numbers, row, data)}


def _advise(name: str, numbers: np.ndarray, row: dict[str, Any], data: DataConfig) -> str:
    """What to set for a column, in a few words."""
    if row["values"] < 2 and not (row["values"] and row["missing_share"]):
        return "says nothing: leave it out"
    if row["is_read"]:
        bins = len(fit_edges(numbers, data.numeric_bins)) + 1
        rare = ", mostly missing" if row["missing_share"] > _MOST_MISSING else ""
        return f"read, in {bins} bin{'s' if bins > 1 else ''}{rare}"
    if row["values"] == len(numbers) and (numbers == np.floor(numbers)).all():
        return "an id? leave it out"
    if name in data.item_features:
        return f"--numeric_features={name}, no more --item_features" if row["values"] > _FEW else "read, as a category"
    if row["missing_share"] > _MOST_MISSING:
        return "mostly missing"
    return f"--{'numeric' if row['values'] > _FEW else 'item'}_features={name}"


def _other_numbers(data: DataConfig) -> dict[str, np.ndarray]:
    """Columns of the items table that hold numbers alone and are not --numeric_features: [V] float64 by column."""
    if data.dataset != "event_log" or data.data or not data.items or data.format:
        return {}
    used = item_columns(data)
    found: dict[str, np.ndarray] = {}
    with contextlib.suppress(UserError):
        names = read_column_names(f"--items={data.items}", data.items, text_format("items", data))
        for name in dict.fromkeys(names):
            if name in used and name not in data.item_features:
                continue
            with contextlib.suppress(UserError):  # words, times, lists: no column of numbers
                table = open_table("items", data, {data.item_column: "--item_column", name: "--numeric_features"})
                texts = one_value_each(
                    table, name, data.item_column, table.ids(data.item_column), must_agree=True, is_number=True
                )
                numbers = np.array([np.nan if text == schema.MISSING else float(text) for text in texts])
                if not np.isnan(numbers).all():
                    found[name] = numbers
    return found
