"""What a caller may put into a `Request`: lists and numbers of whatever library, as plain Python ones, checked.

A value that is not what the field holds is refused here, where the caller's own line is in the traceback, and never
cast: a bool is no number, 3.7 no count, a number no id that was text. Every check raises UserError, naming the first
value at fault. Imports no TensorFlow.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError

LATEST_S = 100_000_000_000
"""Year 5138: larger times are milliseconds or finer. The exports' own limit, too."""

_MAX_WEIGHT = 1e9
_DATES = 'seconds since 1970: int(when.timestamp()), or column.astype("datetime64[s]").astype("int64")'


def as_list(name: str, values: Any) -> Sequence[Any]:
    """Values of a list, tuple, numpy array, pandas column or another sequence as a list or tuple of Python's own."""
    if isinstance(values, np.ndarray | np.generic) and values.dtype.kind in "mM":
        raise UserError(f"`{name}` holds dates; give {_DATES}")
    if isinstance(values, list | tuple):
        return (
            [each.item() if isinstance(each, np.generic) else each for each in values] if _has_numpy(values) else values
        )
    for convert in ("tolist", "to_list", "to_pylist"):  # numpy and pandas; polars; pyarrow
        if hasattr(values, convert):
            plain = getattr(values, convert)()
            break
    else:
        if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
            raise UserError(f"`{name}` is {_short(values)}; give a list, even of one")
        plain = list(values)
    if not isinstance(plain, list) or any(isinstance(each, list) for each in plain):
        raise UserError(f"`{name}` must be a list of single values; received {_short(plain)}")
    return plain


def check_ids(name: str, values: Sequence[Any]) -> None:
    """All whole numbers of 64 bits, or all text, as the log has them."""
    kinds = set(map(type, values))
    if kinds <= {int}:
        _check_range(name, values, -(2**63), 2**63 - 1)
        return
    if all(issubclass(kind, str) for kind in kinds):
        return
    wrong = [each for each in values if type(each) is not int and not isinstance(each, str)]
    if not wrong:
        raise UserError(f"`{name}` holds numbers and text; give ids of one kind, as in the log")
    raise UserError(
        f"`{name}` holds {_short(wrong[0])}, which is no item id; give whole numbers or text, as in the log (of whole "
        'floats: column.astype("int64"); leave missing ones out)'
    )


def check_times(name: str, values: Sequence[Any], least: int | None = None) -> None:
    """Whole seconds."""
    if wrong := [each for each in values if type(each) is not int]:
        raise UserError(f"`{name}` holds {_short(wrong[0])}; give whole {_DATES}")
    for each in values and (max(values), min(values)):
        if each > LATEST_S:
            raise UserError(f"`{name}` holds {each}, which is milliseconds or finer; give seconds: {each} // 1000")
        if each < (-LATEST_S if least is None else least):
            raise UserError(f"`{name}` holds {each}; give seconds since 1970 as a positive number")


def check_weights(name: str, values: Sequence[Any]) -> None:
    """Numbers from 0 to 1e9."""
    for each in values:
        if not _is_number(each) or not 0 <= each <= _MAX_WEIGHT:
            raise UserError(f"`{name}` holds {_short(each)}; give numbers from 0 to {_MAX_WEIGHT:g}")


def check_texts(name: str, values: Sequence[Any]) -> None:
    """Names."""
    for each in values:
        if not isinstance(each, str):
            raise UserError(f"`{name}` holds {_short(each)}; give text")


def as_count(name: str, value: Any, bits: int) -> int:
    """A whole number of so many bits, from Python's own or numpy's."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) is not int:
        raise UserError(f"`{name}` is {_short(value)}; give one whole number")
    _check_range(name, [value], -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return value


def as_log_probability(name: str, value: Any) -> float:
    """A finite number of at most 0, from Python's own or numpy's."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if not _is_number(value) or value > 0:
        raise UserError(f"`{name}` is {_short(value)}; give one number of at most 0, the logarithm of a probability")
    return float(value)


def check_threshold(asked: Sequence[tuple[int | None, float | None]], inputs: Collection[str]) -> None:
    """Refuses what an export of before there was a threshold would read as something else.

    Args:
      asked: `num_interests` and `interest_threshold` of each request.
      inputs: of the signature.
    """
    if "num_interests" not in inputs or "interest_threshold" in inputs:
        return
    for num, threshold in asked:
        if num == 0 or threshold is not None:
            odd = f"interest_threshold={threshold:g}" if threshold is not None else "num_interests=0"
            raise UserError(f"`{odd}`: this export knows no threshold; set num_interests above 0, or export again")


def as_positive(name: str, value: Any) -> float:
    """A finite number above 0, from Python's own or numpy's."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if not _is_number(value) or not 0 < value <= _MAX_WEIGHT:
        raise UserError(f"`{name}` is {_short(value)}; give one number above 0 and up to {_MAX_WEIGHT:g}")
    return float(value)


def as_rewards(name: str, rewards: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Trials and successes by category, as Python's own numbers."""
    check_texts(name, list(rewards))
    made = {}
    for category, given in rewards.items():
        pair = as_list(name, given)
        if len(pair) != 2 or not all(map(_is_number, pair)) or not 0 <= pair[1] <= pair[0] <= _MAX_WEIGHT:
            raise UserError(
                f"`{name}` holds {category!r}: {_short(given)}; give (trials, successes), numbers from 0 to "
                f"{_MAX_WEIGHT:g}, successes no more than trials: count a success only where its trial is counted"
            )
        if not category and pair[0]:
            raise UserError(f"`{name}` holds {_short(given)} for {category!r}, which is padding; name its category")
        made[category] = (float(pair[0]), float(pair[1]))
    return made


def check_bandit(asked: Sequence[tuple[str | None, Mapping[str, Any]]], inputs: Collection[str]) -> None:
    """Refuses what an export of before there was a bandit would answer as if nothing had been asked.

    Args:
      asked: `bandit` and `rewards` of each request.
      inputs: of the signature.
    """
    if "bandit" in inputs:
        return
    for bandit, rewards in asked:
        if bandit not in (None, "", "none") or any(rewards):  # "" pads
            odd = f"bandit={bandit}" if bandit else f"rewards={dict(rewards)}"
            raise UserError(f"`{odd}`: this export knows no bandit; leave it out, or export again")


def check_fits(name: str, array: np.ndarray, wanted: Any) -> None:
    """Whole numbers that the model's type can hold: numpy would wrap the others."""
    limits = np.iinfo(wanted)
    if array.size:
        _check_range(name, [int(array.max()), int(array.min())], limits.min, limits.max)


def _check_range(name: str, values: Sequence[int], least: int, most: int) -> None:
    for each in values and (max(values), min(values)):
        if not least <= each <= most:
            raise UserError(f"`{name}` holds {each}; give a number from {least} to {most}")


def _has_numpy(values: Sequence[Any]) -> bool:
    return any(issubclass(kind, np.generic) for kind in set(map(type, values)))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"
