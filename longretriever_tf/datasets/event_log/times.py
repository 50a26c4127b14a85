"""Times of a column as seconds and what lies within a second, and what is wrong with them. Imports no TensorFlow."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from longretriever_tf.common import schema
from longretriever_tf.datasets.event_log.plain import is_text

MAX_SECONDS = 100_000_000_000
"""Year 5138: larger integers are milliseconds or finer."""

_SECOND_NS = 1_000_000_000
_PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": _SECOND_NS}
_FINER = (
    (10**14, "milliseconds", "1,000"),
    (10**17, "microseconds", "1,000,000"),
    (2**63 - 1, "nanoseconds", "1,000,000,000"),
)
"""Largest value, name, and divisor of what counts finer than seconds, of today's times."""

_LAYOUTS = ("%Y%m%d", "%Y%m%d%H%M%S", "%Y%m%d%H%M", "%Y%m%d%H", "%Y%m")
_WORDS = {"%Y": "YYYY", "%m": "MM", "%d": "DD", "%H": "HH", "%M": "MM", "%S": "SS"}
_LIMITS = {"%m": (1, 12), "%d": (1, 31), "%H": (0, 23), "%M": (0, 59), "%S": (0, 60)}

_OFFSET = r"\d[T ].*(?:[Zz]|[+-]\d\d(?::?\d\d)?)\s*$"
"""A time of day that ends in Z, +02, +02:00 or +0200."""


class Times(NamedTuple):
    """Times as they could be read.

    Attributes:
      second: since 1970 UTC, [N] int64; 0 where none could be read.
      nanosecond: how far within the second, [N] int64.
      is_read: [N] bool.
      are_numbers: whether they were numbers, so that their unit is a guess.
    """

    second: np.ndarray
    nanosecond: np.ndarray
    is_read: np.ndarray
    are_numbers: bool


class Fault(NamedTuple):
    """What is wrong with some rows: which ones, [N] bool, and the rest of a sentence about them."""

    rows: np.ndarray
    problem: str


def read_times(column: pa.ChunkedArray) -> Times:
    """Reads a plain column of numbers, of timestamps or dates, or of text that holds either."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        return _of_counts(column.cast(pa.int64()), _PER_SECOND[kind.unit])
    if pa.types.is_date(kind):
        return _of_counts(column.cast(pa.timestamp("s")).cast(pa.int64()), 1)
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        nothing = np.zeros(len(column), np.int64)
        return Times(nothing, nothing, nothing != 0, False)
    if is_text(kind):
        column = pc.utf8_trim_whitespace(column)
    for number in (pa.int64(), pa.float64()):
        try:
            counts = column.cast(number)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        return _of_counts(counts, 1, True) if number == pa.int64() else _of_floats(_floats(counts))
    return (
        _of_texts(column.to_pandas()) if is_text(kind) else _of_floats(_floats(column.cast(pa.float64(), safe=False)))
    )


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.float64, copy=False)  # nulls are NaN


def _of_counts(column: pa.ChunkedArray, per_second: int, are_numbers: bool = False) -> Times:
    is_read = column.is_valid().to_numpy()
    counts = pc.fill_null(column, 0).to_numpy()
    second = counts // per_second
    return Times(second, (counts - second * per_second) * (_SECOND_NS // per_second), is_read, are_numbers)


def _of_floats(numbers: np.ndarray) -> Times:
    is_read = np.isfinite(numbers)
    numbers = np.where(is_read, numbers, 0).clip(-(2.0**62), 2.0**62)
    second = np.floor(numbers)
    nanosecond = np.minimum(np.round((numbers - second) * _SECOND_NS), _SECOND_NS - 1)
    return Times(second.astype(np.int64), nanosecond.astype(np.int64), is_read, True)


def _of_texts(values: pd.Series) -> Times:
    """Numbers if most are, so that one bad row is named, not all the others; else ISO 8601."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    if np.isfinite(numbers).mean() > 0.5:
        return _of_floats(numbers)
    second, nanosecond = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    is_read = np.zeros(len(values), bool)
    # With and without an offset apart: pandas 2 lends one row's offset to the next.
    has_offset = values.str.contains(_OFFSET, na=False).to_numpy(bool)
    for rows in (has_offset, ~has_offset):
        if rows.any():
            times = pd.to_datetime(values[rows], utc=True, errors="coerce", format="ISO8601").dt.tz_localize(None)
            is_read[rows] = times.notna().to_numpy(bool)
            exact = times.fillna(pd.Timestamp(0)).to_numpy()
            whole = exact.astype("datetime64[s]")
            second[rows] = whole.astype(np.int64)
            nanosecond[rows] = (exact - whole).astype("timedelta64[ns]").astype(np.int64)
    return Times(second, nanosecond, is_read, False)


def find_fault(times: Times, now: float) -> Fault | None:
    """The first thing that is wrong with the times; None where nothing is.

    Args:
      times: as they were read.
      now: seconds UTC that no time may lie a day beyond.
    """
    faults = [
        Fault(
            ~times.is_read,
            "are not times (expected seconds since 1970 UTC, or ISO 8601 such as 2024-01-31 18:05:00)",
        ),
        Fault(times.second < 0, "lie before 1970; correct them or leave them out"),
        Fault(
            _stands_for_missing(times),
            "are the first second of 1970, which stands for a missing time: the others begin more than a year later, "
            "and requests ignore such events; correct them or leave them out",
        ),
        *(_unit_faults(times.second) if times.are_numbers else []),
        Fault(times.second > now + schema.DAY_S, "lie in the future; correct them or leave them out"),
    ]
    return next((fault for fault in faults if fault.rows.any()), None)


def _stands_for_missing(times: Times) -> np.ndarray:
    """Times of 0 far before all others, [N] bool: a log whose clock begins at 0 goes on from there."""
    is_zero = (times.second == 0) & (times.nanosecond == 0)
    later = times.second[~is_zero]
    return is_zero & (len(later) > 0 and bool(later.min() > 365 * schema.DAY_S))


def _unit_faults(numbers: np.ndarray) -> list[Fault]:
    """Dates written as numbers, and counts of what is finer than a second."""
    faults = []
    for layout in _LAYOUTS:
        fits = _fits(numbers, layout)
        # Numbers of day, hour and month layouts are also seconds of 1970 and of 2030 to 2036: then all rows must have
        # the layout, or the others must be seconds of this century.
        is_likely = fits.all() or layout in ("%Y%m%d%H%M%S", "%Y%m%d%H%M")
        if layout == "%Y%m%d" and not is_likely:
            is_likely = bool((numbers[~fits] >= 10**9).all())
        if is_likely:
            words = "".join(_WORDS[part] for part in _parts(layout))
            faults.append(Fault(fits, f"look like dates written {words}, not seconds; write them as 2024-01-31"))
    is_large = numbers > MAX_SECONDS
    if is_large.any():
        largest, name, divisor = next(unit for unit in _FINER if numbers[is_large][0] <= unit[0])
        rows = is_large & (numbers <= largest)
        cure = f"this looks like {name}, and seconds are expected: divide by {divisor}, or write timestamps"
        faults.append(Fault(rows, f"are too large: {cure}"))
    return faults


def _parts(layout: str) -> list[str]:
    return [layout[start : start + 2] for start in range(0, len(layout), 2)]


def _fits(numbers: np.ndarray, layout: str) -> np.ndarray:
    """Whether each number reads as such a date of 1970 to 2100, [N] bool."""
    size = 10 ** (2 * len(_parts(layout)[1:]))  # of a year
    fits = (numbers >= 1970 * size) & (numbers < 2101 * size)
    if not fits.any():  # seconds of today: nothing to take apart
        return fits
    rest = numbers
    for part in reversed(_parts(layout)[1:]):
        low, high = _LIMITS[part]
        fits &= (rest % 100 >= low) & (rest % 100 <= high)
        rest = rest // 100
    return fits
