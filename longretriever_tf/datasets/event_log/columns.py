"""Columns of a table as ids, categorical text, weights and times; each refuses what it cannot read.

One rule for all formats: values are what they are as text, whatever type a format gave them, and whole numbers are
integers however they are written. Imports no TensorFlow.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text
from longretriever_tf.datasets.event_log.delimited import TextFormat
from longretriever_tf.datasets.event_log.plain import is_number, is_text, is_time
from longretriever_tf.datasets.event_log.tables import Parts, read_table
from longretriever_tf.datasets.event_log.times import Times, find_fault, read_times

_WHOLE = r"^-?(?:0|[1-9][0-9]*)(?:\.0+)?$"
_ROUNDED = r"^-?[0-9](?:\.[0-9]+)?[eE]\+[0-9]+$"
_EXACT = 2**53
"""From here on floats skip integers."""


class Coded(NamedTuple):
    """A column by its distinct values: `values[row]` is the column.

    Attributes:
      values: [K], int64 or objects of str, sorted and unique.
      row: [N] int64; -1 where the value is missing.
    """

    values: np.ndarray
    row: np.ndarray


class Spelling(NamedTuple):
    """How a part of a table writes a column: what decides whether several parts make one column.

    Attributes:
      type: of the Arrow column.
      is_empty: whether it has no value.
      is_whole: whether `LogTable.coded` makes integers of it.
      is_exact: whether each value is written as `coded` gives it back, 7 and not 7.0.
    """

    type: pa.DataType
    is_empty: bool
    is_whole: bool
    is_exact: bool


class LogTable:
    """The named columns of a table's files, kept with what an error message must say about them.

    Args:
      source: flag and path, such as `--events=a.csv`: for errors.
      parts: the columns.
    """

    def __init__(self, source: str, parts: Parts) -> None:
        self.source, self._parts = source, parts
        self._warned: set[str] = set()

    @classmethod
    def read(cls, flag: str, path: str, columns: dict[str, str], text: TextFormat | None = None) -> "LogTable":
        """Reads the columns.

        Args:
          flag: the flag that named the table, such as `--events`.
          path: of a file or a directory, a glob, or a URL.
          columns: column name -> the flag that named it.
          text: how the table is written if it is text.

        Raises:
          UserError: as `read_table`.
        """
        source = f"{flag}={path}"
        return cls(source, read_table(source, path, columns, text or TextFormat()))

    def __len__(self) -> int:
        return self._parts.data.num_rows

    @property
    def num_left_out(self) -> int:
        """Rows that a published format does not count."""
        return self._parts.num_left_out

    def fail(self, name: str, problem: str) -> UserError:
        """The error that says where the problem lies."""
        return UserError(f"{self.source}, column {name!r}: {problem}{self._parts.expects}")

    def row_words(self, row: int) -> str:
        """`row 3`, counted from 1 within its file, which is named where there are several."""
        return self._parts.row_words(row)

    def coded(self, name: str) -> Coded:
        """The column by its distinct values, missing ones as row -1: int64 if all are whole numbers, else text.

        Raises:
          UserError: numbers that were rounded to floats, so that they are no ids any more.
        """
        column = self._parts.data.column(name)
        if not (is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            column = _as_plain_text(column)
        coded = column.dictionary_encode().unify_dictionaries().combine_chunks()
        try:
            values = canonical_values(coded.dictionary)
        except ValueError as error:
            raise self.fail(name, str(error)) from error
        self._warn_of_spaces(name, values)
        values, inverse = np.unique(values, return_inverse=True)
        rows = pc.fill_null(coded.indices, -1).to_numpy()
        return Coded(values, np.append(inverse, -1)[rows])

    def spelling(self, name: str, coded: Coded) -> Spelling:
        """How this part of the table writes the column, which `coded` has made of it."""
        column = self._parts.data.column(name)
        is_whole = len(coded.values) > 0 and coded.values.dtype.kind != "O"
        is_exact = not pa.types.is_floating(column.type)
        if is_whole and is_text(column.type):
            is_exact = not pc.any(pc.match_substring_regex(column.unique(), r"\.0+$")).as_py()
        return Spelling(column.type, column.null_count == len(column), is_whole, is_exact)

    def _warn_of_spaces(self, name: str, values: np.ndarray) -> None:
        if values.dtype.kind != "O" or name in self._warned:
            return
        self._warned.add(name)
        loose = [value for value in values.tolist() if value != value.strip()]
        known = set(values.tolist()) if loose else set()
        twins = next((value for value in loose if value.strip() in known), None)
        if twins is not None:
            logging.warning(
                "%s, column %r: %d values begin or end with a space, and spaces count: %r and %r are two values",
                *(self.source, name, len(loose), twins, twins.strip()),
            )

    def ids(self, name: str) -> Coded:
        """Raw ids: int64 where all are whole numbers, else text.

        Raises:
          UserError: missing ids, with their number; times, which are no ids.
        """
        kind = self._parts.data.column(name).type
        if is_time(kind):
            raise self.fail(name, f"its values are of type {kind}, and a time is no id; write ids as text or integers")
        coded = self.coded(name)
        missing = np.flatnonzero(coded.row < 0)
        if len(missing):
            words = f"{len(missing)} of {len(coded.row)} rows have no id, the first is {self.row_words(missing[0])}"
            raise self.fail(name, words)
        return coded

    def text(self, name: str) -> Coded:
        """Categorical values as text; missing ones are `schema.MISSING`."""
        coded = self.coded(name)
        values, row = as_text(coded.values), coded.row
        if (row < 0).any():
            values, row = np.append(values, schema.MISSING), np.where(row < 0, len(values), row)
        values, inverse = np.unique(values, return_inverse=True)
        return Coded(values, inverse[row])

    def number_text(self, name: str) -> Coded:
        """Finite numbers as the shortest text that says each ("7" and 7 as "7.0"); missing ones are `schema.MISSING`.

        Raises:
          UserError: a value that is there and is no finite number.
        """
        column = self._parts.data.column(name)
        numbers = self._as_numbers(name) + 0.0  # no -0.0
        wrong = np.flatnonzero(~np.isfinite(numbers) & column.is_valid().to_numpy())
        if is_text(column.type):  # what NumPy and pandas write for a missing number
            wrong = wrong[[column[int(row)].as_py().strip().lower() != "nan" for row in wrong]]
        if len(wrong):
            raise self.fail(
                name,
                f"{len(wrong)} of {len(numbers)} values are no finite numbers, {self._first(name, wrong[0])}; "
                "--numeric_features expects numbers such as 1.5, and nothing where one is missing; a column of words "
                "is named by --item_features",
            )
        is_given = ~np.isnan(numbers)
        distinct, row = np.unique(numbers[is_given], return_inverse=True)
        coded = np.zeros(len(numbers), np.int64)
        coded[is_given] = row + 1
        values, inverse = np.unique(as_text([schema.MISSING, *map(repr, distinct.tolist())]), return_inverse=True)
        return Coded(values, inverse[coded])

    def weights(self, name: str) -> np.ndarray:
        """Positive weights, [N] float32.

        Raises:
          UserError: one that is missing, not a number, not above 0, or too large or small for float32.
        """
        values = self._as_numbers(name)
        fits = (values >= np.finfo(np.float32).tiny) & (values <= np.finfo(np.float32).max)
        bad = np.flatnonzero(~fits)
        if len(bad):
            raise self.fail(name, f"{len(bad)} weights are not numbers above 0, {self._first(name, bad[0])}")
        return values.astype(np.float32)

    def numbers(self, name: str) -> np.ndarray:
        """Finite numbers, [N] float64.

        Raises:
          UserError: one that is missing or no number.
        """
        values = self._as_numbers(name)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise self.fail(name, f"{len(bad)} of {len(values)} values are no numbers, {self._first(name, bad[0])}")
        return values

    def _as_numbers(self, name: str) -> np.ndarray:
        """The column as [N] float64, NaN where a value is none."""
        column = self._parts.data.column(name)
        if is_number(column.type):
            return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
        if is_text(column.type):
            return pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float64)
        return np.full(len(column), np.nan)

    def _first(self, name: str, row: int) -> str:
        value = self._parts.data.column(name)[int(row)].as_py()
        return f"the first is {value!r} in {self.row_words(row)}"

    def times(self, name: str, now: float) -> Times:
        """Times, from seconds since 1970 or from dates and times (without a zone: UTC), to the nanosecond.

        Raises:
          UserError: a time that cannot be read, is negative, in milliseconds, or later than a day after `now`.
        """
        column = self._parts.data.column(name)
        times = read_times(column)
        fault = find_fault(times, now)
        if fault:
            rows = np.flatnonzero(fault.rows)
            raise self.fail(
                name,
                f"{len(rows)} of {len(column)} rows {fault.problem}; the first is "
                f"{_show(column[int(rows[0])])} in {self.row_words(rows[0])}",
            )
        return times


def canonical_values(values: pa.Array) -> np.ndarray:
    """Distinct values as int64 where every one is a whole number ("7", 7.0, "7.0"; not "007"), else as text.

    Args:
      values: integers, floats or text, without nulls.

    Raises:
      ValueError: floats from 2^53 on, which have lost digits.
    """
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        if len(numbers) and np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all():
            exact = _EXACT if numbers.dtype == np.float64 else 2**24
            if np.abs(numbers).max() > exact:
                shown = numbers[np.abs(numbers).argmax()]
                raise ValueError(f"{shown} is a float beyond {exact}, where digits are lost; write integers or text")
            return numbers.astype(np.int64)
        return as_text(map(str, numbers))  # float32 as itself: .1, not .10000000149
    if is_text(values.type):
        if not len(values) or not pc.all(pc.match_substring_regex(values, _WHOLE)).as_py():
            if len(values) and pc.all(pc.match_substring_regex(values, _ROUNDED)).as_py():
                raise ValueError(f"{values[0].as_py()!r} is a rounded number, its digits are lost; write them all")
            return as_text(values.to_pylist())
        values = pc.replace_substring_regex(values, r"\.0+$", "")
    try:
        return values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # beyond int64
        return as_text(values.cast(pa.string()).to_pylist())


def _as_plain_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bools, decimals and times as pandas would write them."""
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "True", "False")
    texts = column.cast(pa.string())
    if pa.types.is_timestamp(column.type):
        texts = pc.replace_substring_regex(texts, r"\.0+(Z?)$", r"\1")
        texts = pc.replace_substring_regex(texts, r"Z$", "+00:00")
        if pc.all(pc.match_substring_regex(texts, " 00:00:00$")).as_py():
            texts = pc.replace_substring_regex(texts, " 00:00:00$", "")
    return texts


def _show(value: pa.Scalar) -> str:
    if isinstance(value, pa.TimestampScalar):
        return str(value.cast(pa.string()))
    return repr(value.as_py())
