"""An items table as it lies in a file, with the texts of its items; and the same with one more column.

Imports no TensorFlow.
"""

import os
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError, require
from longretriever_tf.common.files import explain_os_errors, first_line, open_aside
from longretriever_tf.common.text import as_text
from longretriever_tf.config.check import asks_clusters
from longretriever_tf.config.data import DataConfig
from longretriever_tf.datasets.event_log.columns import LogTable
from longretriever_tf.datasets.event_log.source import CONTEXT, one_value_each, open_table, text_format
from longretriever_tf.datasets.event_log.tables import read_column_names, read_table

_PARQUET, _CSV = (".parquet", ".pq"), (".csv",)


class ItemsFile(NamedTuple):
    """The table and its items.

    Attributes:
      table: as it was read, [N] rows.
      row: of each row of the table its item, [N].
      text: of each item, [V] of str; "" where nothing is written of it.
      old: name and values of the column that is its category so far, [V] of str; None for none.
    """

    table: pa.Table
    row: np.ndarray
    text: np.ndarray
    old: tuple[str, np.ndarray] | None


def read_items_file(data: DataConfig, max_text: int) -> ItemsFile:
    """Reads --items: all its columns, and the texts that --text_columns or --item_name_column name.

    Args:
      data: the flags of the data.
      max_text: characters of an item's text that are kept.

    Raises:
      UserError: the table cannot be read, lacks a column, or the flags name no text.
    """
    require(bool(data.items), "--items is missing: name the items table (.parquet, .csv, ...)")
    require(not data.format, f"--format={data.format}: name columns of a plain table instead; leave the flag out")
    columns = data.text_columns or tuple(filter(None, [data.item_name_column]))
    require(bool(columns), "no text to go by: name columns by --text_columns=title,description or --item_name_column")
    source, style = f"--items={data.items}", text_format("items", data)
    present = read_column_names(source, data.items, style)
    context = "" if asks_clusters(data.context) else data.context or (CONTEXT if CONTEXT in present else "")
    flags = dict.fromkeys(columns, "--text_columns" if data.text_columns else "--item_name_column")
    flags |= {context: "--context"} if context else {}
    table = open_table("items", data, {**flags, data.item_column: "--item_column"})
    items = table.ids(data.item_column)

    def values(name: str) -> np.ndarray:
        return one_value_each(table, name, data.item_column, items, must_agree=True)

    parts = zip(*(values(name).tolist() for name in columns), strict=True)
    joined = (" | ".join(" ".join(part.split()) for part in item if part != schema.MISSING) for item in parts)
    text = as_text(line[:max_text].strip() for line in joined)
    require(bool((text != "").any()), f"{source}: {', '.join(columns)} hold no text at all")
    return ItemsFile(
        _read_whole(source, data, table, present), items.row, text, (context, values(context)) if context else None
    )


def _read_whole(source: str, data: DataConfig, table: LogTable, present: list[str]) -> pa.Table:
    """All columns; those of one Parquet file as they are, lists among them."""
    if data.items.lower().endswith(_PARQUET) and os.path.isfile(data.items):
        return pq.ParquetFile(data.items).read()
    whole = read_table(source, data.items, dict.fromkeys(present, "--items"), text_format("items", data)).data
    require(whole.num_rows == len(table), f"{source} has changed while it was read: run the command again")
    return whole


def require_output_kind(path: str) -> None:
    """Refuses an output that is neither Parquet nor CSV.

    Raises:
      UserError: names the endings.
    """
    if not path.lower().endswith((*_PARQUET, *_CSV)):
        raise UserError(f"--output={path}: expected a name that ends in .parquet or .csv")


def require_new_column(items: ItemsFile, column: str) -> None:
    """Refuses a column that the table has already.

    Raises:
      UserError: names it.
    """
    names = [name.strip() for name in items.table.column_names]
    if column in names:
        raise UserError(
            f"--column={column}: the items table has a column of that name already; name another, or start from the "
            "table without it"
        )


def write_items_file(items: ItemsFile, column: str, values: np.ndarray, path: str) -> None:
    """Writes the table with one more column, whole or not at all.

    Args:
      items: as it was read.
      column: the new column's name.
      values: of each item, [V] of str.
      path: .parquet or .csv.

    Raises:
      UserError: the disk does not allow it; or CSV cannot hold one of the columns.
    """
    made = items.table.append_column(column, pa.array(values[items.row].tolist(), pa.string()))
    with explain_os_errors(f"cannot write {path!r}"), open_aside(path) as aside:
        if path.lower().endswith(_PARQUET):
            pq.write_table(made, aside)
            return
        try:
            pa_csv.write_csv(made, aside)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(
                f"--output={path}: CSV cannot hold this table ({first_line(error)}); name a .parquet"
            ) from error
