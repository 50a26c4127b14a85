"""From rows and columns as a published file has them to those that the log needs. Imports no TensorFlow."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from longretriever_tf.config.formats import MadeColumn, TableFormat
from longretriever_tf.datasets.event_log.delimited import Unreadable
from longretriever_tf.datasets.event_log.plain import is_text

ROW, TIME = "\0row", "\0time"
"""Columns of a table's own: a row's number in its file, from 0, and the time by which the latest row counts."""

LEFT_OUT = b"num_left_out"
"""Of a table's metadata: how many rows were left out of it."""

_NO_FORMAT = TableFormat("")


def source_columns(columns: Mapping[str, str], table: TableFormat | None) -> dict[str, str]:
    """The columns to read of a file, with the words that an error says of each.

    Args:
      columns: that are wanted, with the flag that named each.
      table: the format, if there is one.
    """
    table = table or _NO_FORMAT
    wanted: dict[str, str] = {}
    for name, flag in columns.items():
        made = table.made.get(name)
        wanted.setdefault(made.source if made else name, flag)
    for name in [table.where[0]] if table.where else []:
        wanted.setdefault(name, "--format")
    for name in table.latest or []:
        wanted.setdefault(name, "--format")
    return wanted


def make_table(
    read: Mapping[str, pa.ChunkedArray], columns: Mapping[str, str], table: TableFormat, first_row: int
) -> dict[str, pa.ChunkedArray]:
    """The wanted columns, with `ROW` and, where the latest row counts, `TIME`.

    Args:
      read: the file's own columns, by name.
      columns: that are wanted.
      table: the format.
      first_row: the number of the first row in its file.

    Raises:
      Unreadable: a value that is not as the format says.
    """
    made = {name: _make(read, name, table.made.get(name)) for name in columns}
    num_rows = len(next(iter(read.values())))
    made[ROW] = pa.chunked_array([pa.array(np.arange(first_row, first_row + num_rows))])
    if table.latest:
        made[TIME] = _integers(read[table.latest[1]], table.latest[1])
    if table.where:
        text = _text(read[table.where[0]])
        kept = pc.is_in(text, pa.array(table.where[1], text.type)) if table.where[1] else _has_value(text)
        made = {name: column.filter(kept) for name, column in made.items()}
    if table.span:
        kept = _within(made[table.span[0]], *table.span[1:])
        made = {name: column.filter(kept) for name, column in made.items()}
    return made


def num_left_out(table: pa.Table) -> int:
    """Rows that the format does not count."""
    return int((table.schema.metadata or {}).get(LEFT_OUT, 0))


def rows_in_files(table: pa.Table) -> np.ndarray | None:
    """The number of each row in its file, from 0, [N] int64; None where no row may be left out."""
    return table.column(ROW).to_numpy() if ROW in table.column_names else None


def latest_rows(key: pa.ChunkedArray, time: pa.ChunkedArray) -> np.ndarray:
    """Positions, ascending, of the last row with the latest time of each key, [n] int64."""
    code = key.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    order = np.lexsort((np.arange(len(code)), time.to_numpy(), code))
    is_last = np.append(code[order][1:] != code[order][:-1], True) if len(order) else np.zeros(0, bool)
    return np.sort(order[is_last])


def _make(read: Mapping[str, pa.ChunkedArray], name: str, made: MadeColumn | None) -> pa.ChunkedArray:
    if made is None:
        return read[name]
    return MAKERS[made.how](read[made.source], made)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if is_text(column.type) else column.cast(pa.string())


def _has_value(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.and_(pc.is_valid(text), pc.not_equal(pc.fill_null(text, ""), ""))


def _within(seconds: pa.ChunkedArray, first: int, stop: int) -> pa.ChunkedArray:
    """Whether a time lies within the span; what is no number is kept, so that an error names its row."""
    numbers = pd.to_numeric(seconds.to_pandas(), errors="coerce")
    return pa.chunked_array([pa.array((numbers.isna() | ((numbers >= first) & (numbers < stop))).to_numpy(bool))])


def _integers(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise Unreadable(f"column {name!r} is no count of time: {' '.join(str(error).split())}") from error


def _element(column: pa.ChunkedArray, made: MadeColumn, at: int) -> pa.ChunkedArray:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        chosen = [value[at] if value else None for value in column.to_pylist()]
        return pa.chunked_array([pa.array(chosen, pa.string())])
    if not made.values:
        if pa.types.is_null(column.type):
            return column.cast(pa.string())
        raise Unreadable(f"column {made.source!r} holds {column.type}, and a list was expected")
    return pc.list_element(pc.split_pattern(_text(column), made.values[0]), at)


def _first(column: pa.ChunkedArray, made: MadeColumn) -> pa.ChunkedArray:
    return _element(column, made, 0)


def _last(column: pa.ChunkedArray, made: MadeColumn) -> pa.ChunkedArray:
    return _element(column, made, -1)


def _milliseconds(column: pa.ChunkedArray, made: MadeColumn) -> pa.ChunkedArray:
    return _integers(column, made.source).cast(pa.timestamp("ms"))


def _month_day(column: pa.ChunkedArray, made: MadeColumn) -> pa.ChunkedArray:
    """829, or 0829: the 29th of August of the year that is given."""
    numbers = _integers(column, made.source)
    padded = pc.utf8_lpad(numbers.cast(pa.string()), 4, "0")
    try:
        return pc.strptime(pc.binary_join_element_wise(made.values[0], padded, ""), "%Y%m%d", "s")
    except pa.ArrowInvalid as error:
        raise Unreadable(f"column {made.source!r} holds what is no month and day, such as 1111: {error}") from error


def _listed(column: pa.ChunkedArray, made: MadeColumn) -> pa.ChunkedArray:
    text = _text(column)
    return pc.if_else(pc.is_in(text, pa.array(made.values, text.type)), text, pa.scalar(None, text.type))


MAKERS: dict[str, Callable[[pa.ChunkedArray, MadeColumn], pa.ChunkedArray]] = {
    "first": _first,
    "last": _last,
    "milliseconds": _milliseconds,
    "month_day": _month_day,
    "listed": _listed,
}
"""How a column is made of another, by `MadeColumn.how`."""
