"""Columns of a Parquet or CSV table as ids, categorical text and seconds; each refuses what it cannot read.

CSV columns are read as text and typed here, so that a table means the same in both formats. Imports no TensorFlow.
"""

import csv
import gzip
import os
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from longretriever_tf import schema
from longretriever_tf.errors import UserError
from longretriever_tf.text import as_text

MAX_SECONDS = 100_000_000_000
"""Year 5138: larger integers are milliseconds or finer."""

_OFFSET = r"\d[T ].*(?:[Zz]|[+-]\d\d(?::?\d\d)?)\s*$"
"""A time of day that ends in Z, +02, +02:00 or +0200."""


class Coded(NamedTuple):
    """A column by its distinct values: `values[row]` is the column.

    Attributes:
      values: [K], int64 or str, sorted and unique.
      row: [N] int64.
    """

    values: np.ndarray
    row: np.ndarray


class Table:
    """The named columns of a file, kept with what an error message must say about them."""

    def __init__(self, flag: str, path: str, columns: dict[str, str]):
        """Reads the columns.

        Args:
          flag: the flag that named the file, such as `--events`.
          path: of a .parquet, .csv or .csv.gz file.
          columns: column name -> the flag that named it.

        Raises:
          UserError: no such file, another format, no rows, or columns missing.
        """
        self.source = f"{flag}={path}"
        self._flag_of = columns
        if not os.path.isfile(path):
            raise UserError(f"{self.source}: no such file")
        if not path.endswith((".parquet", ".csv", ".csv.gz")):
            raise UserError(f"{self.source}: expected a .parquet, .csv or .csv.gz file")
        if not os.path.getsize(path):
            raise UserError(f"{self.source}: the file is empty")
        try:
            self._data = self._read(path)
        except (pa.ArrowException, UnicodeDecodeError, gzip.BadGzipFile) as error:
            raise UserError(f"{self.source}: cannot be read: {error}") from error
        if not self._data.num_rows:
            raise UserError(f"{self.source}: no rows")

    def _read(self, path: str) -> pa.Table:
        names = list(self._flag_of)
        if path.endswith(".parquet"):
            self._check_present(pq.read_schema(path).names)
            return pq.read_table(path, columns=names)
        with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            self._check_present(next(csv.reader(file), []))
        return pa_csv.read_csv(
            path,
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],  # "NA" and "None" may be values
            ),
        )

    def _check_present(self, present: list[str]) -> None:
        missing = [f"{name!r} ({flag})" for name, flag in self._flag_of.items() if name not in present]
        if missing:
            raise UserError(f"{self.source}: no column {', '.join(missing)}; columns present: {', '.join(present)}")

    def __len__(self) -> int:
        return self._data.num_rows

    def fail(self, name: str, problem: str) -> UserError:
        """The error that says where the problem lies."""
        return UserError(f"{self.source}, column {name!r}: {problem}")

    def _column(self, name: str) -> pa.Array:
        """The column in one piece, plain values, NaN and empty text as null."""
        column = self._data.column(name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
            whole = pc.all(pc.equal(column, pc.floor(column))).as_py()
            largest = pc.max(pc.abs(column)).as_py() or 0
            if whole and largest < 2**53:  # integers that nulls turned into floats
                column = column.cast(pa.int64())
        if pa.types.is_large_string(column.type):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type):
            column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
        return column

    def ids(self, name: str) -> Coded:
        """Raw ids: int64 where all are integers, else text.

        Raises:
          UserError: missing ids, with their number.
        """
        column = self._column(name)
        if column.null_count:
            first = int(pc.index(pc.is_null(column), True).as_py()) + 1
            raise self.fail(name, f"{column.null_count} of {len(column)} rows have no id, the first is row {first}")
        coded = column.dictionary_encode()
        return _sorted(as_ids(coded.dictionary), coded.indices)

    def text(self, name: str) -> Coded:
        """Categorical values as text; missing ones are `schema.MISSING`."""
        column = self._column(name)
        coded = pc.fill_null(column.cast(pa.string()), schema.MISSING).dictionary_encode()
        return _sorted(as_text(coded.dictionary.to_pylist()), coded.indices)

    def weights(self, name: str) -> np.ndarray:
        """Positive weights, [N] float32.

        Raises:
          UserError: one that is missing, not a number, or not above 0.
        """
        column = self._column(name)
        values = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float64)
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise self.fail(
                name,
                f"{len(bad)} weights are not numbers above 0, the first is "
                f"{column[int(bad[0])].as_py()!r} in row {bad[0] + 1}",
            )
        return values.astype(np.float32)

    def seconds(self, name: str, now: float) -> np.ndarray:
        """Seconds since 1970 UTC, [N] int64, from integers or from dates and times (without a zone: UTC).

        Raises:
          UserError: a time that cannot be read, is negative, in milliseconds, or later than a day after `now`.
        """
        column = self._column(name)
        seconds, is_read = _seconds(column)

        def check(bad: np.ndarray, problem: str) -> None:
            rows = np.flatnonzero(bad)
            if len(rows):
                raise self.fail(
                    name,
                    f"{len(rows)} of {len(bad)} rows {problem}; the first is "
                    f"{_show(column[int(rows[0])])} in row {rows[0] + 1}",
                )

        check(
            ~is_read, "are not times (expected integer seconds since 1970 UTC, or ISO 8601 such as 2024-01-31 18:05:00)"
        )
        check(seconds < 0, "lie before 1970")
        check(seconds > MAX_SECONDS, "are too large: this looks like milliseconds (or finer), and seconds are expected")
        check(
            np.full(len(seconds), _are_dates(seconds)),
            "read as seconds in 1970, but look like dates written YYYYMMDD; write them as 2024-01-31",
        )
        check(seconds > now + schema.DAY_S, "lie in the future")
        return seconds


def as_ids(values: pa.Array) -> np.ndarray:
    """Ids as int64 where every one is an integer in its plain form ("7", not "007"), else as str."""
    try:
        numbers = values.cast(pa.int64())
        if pa.types.is_integer(values.type) or numbers.cast(pa.string()).equals(values.cast(pa.string())):
            return numbers.to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # some are no integers: text then
    return as_text(values.cast(pa.string()).to_pylist())


def _sorted(values: np.ndarray, indices: pa.Array) -> Coded:
    values, place = np.unique(values, return_inverse=True)
    return Coded(values, place[indices.to_numpy(zero_copy_only=False)].astype(np.int64))


def _seconds(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(seconds [N] int64, whether each could be read [N] bool)."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _from_times(pd.to_datetime(column.to_pandas(), utc=True, errors="coerce"))
    values = column.to_pandas()
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    is_number = np.isfinite(numbers)
    if is_number.mean() > 0.5 or not pa.types.is_string(column.type):  # one bad row is named, not all the others
        return np.floor(np.where(is_number, numbers, 0)).clip(-(2**62), 2**62).astype(np.int64), is_number
    return _from_texts(values)


def _from_texts(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Reads ISO 8601; texts with and without an offset apart, since pandas 2 lends one row's offset to the next."""
    seconds, is_read = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    has_offset = values.str.contains(_OFFSET, na=False).to_numpy(bool)
    for rows in (has_offset, ~has_offset):
        if rows.any():
            times = pd.to_datetime(values[rows], utc=True, errors="coerce", format="ISO8601")
            seconds[rows], is_read[rows] = _from_times(times)
    return seconds, is_read


def _from_times(times: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    is_read = times.notna().to_numpy(bool)
    plain = times.dt.tz_localize(None).to_numpy("datetime64[s]").astype(np.int64)
    return np.where(is_read, plain, 0), is_read


def _are_dates(seconds: np.ndarray) -> bool:
    """Whether every number reads as a date YYYYMMDD of 1900 to 2100."""
    year, month, day = seconds // 10_000, seconds // 100 % 100, seconds % 100
    is_date = (1900 <= year) & (year <= 2100) & (1 <= month) & (month <= 12) & (1 <= day) & (day <= 31)
    return bool(is_date.all())


def _show(value: pa.Scalar) -> str:
    if isinstance(value, pa.TimestampScalar):
        return str(value.cast(pa.string()))
    return repr(value.as_py())
