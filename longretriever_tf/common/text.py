"""Columns of text: NumPy arrays of Python strings, each as long as it is. Imports no TensorFlow.

An array of dtype `<U27000` holds every value at the width of the longest: one long title among 40,000 items takes 4 GB.
So text is held in arrays of dtype object, and NumPy's fixed-width arrays of str or bytes are read, never made.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_BYTES, _END = ".utf8", ".end"


def is_text(values: np.ndarray) -> bool:
    """Whether the array holds text (str or UTF-8 bytes, of any NumPy dtype) and not numbers."""
    return values.dtype.kind in "OUST"


def as_text(values: Iterable[Any]) -> np.ndarray:
    r"""The values as text, [N] object of str; bytes are read as UTF-8, numbers written out, equal values shared.

    >>> as_text([b"t\xc3\xa9", "tea", 7])
    array(['té', 'tea', '7'], dtype=object)
    """
    items = values.tolist() if isinstance(values, np.ndarray) else list(values)
    known = {item: item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in set(items)}
    column = np.empty(len(items), object)
    column[:] = [known[item] for item in items]
    return column


def as_raw_ids(values: np.ndarray) -> np.ndarray:
    """Ids in one of the two kinds there are: int64, or text as of `as_text`; [N]."""
    return as_text(values) if is_text(values) else values.astype(np.int64)


def code_text(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in order, [K], and the row among them of each value, [N] int64: `np.unique` of text, hashed.

    >>> code_text(as_text(["tea", "milk", "tea"]))
    (array(['milk', 'tea'], dtype=object), array([1, 0, 1]))
    """
    column = as_text(values)
    distinct = as_text(sorted(set(column.tolist())))
    return distinct, find_rows(distinct, column)


def find_rows(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The row of each wanted value among known, distinct ones of the same kind, -1 where absent; [n] int64.

    >>> find_rows(as_text(["tea", "milk"]), as_text(["milk", "rum"])).tolist()
    [1, -1]
    """
    if is_text(known):  # Python's strings are hashed faster than NumPy compares them
        row_of = dict(zip(known.tolist(), range(len(known)), strict=True))
        return np.fromiter((row_of.get(value, -1) for value in wanted.tolist()), np.int64, len(wanted))
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(known, kind="stable")
    row = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    return np.where(known[row] == wanted, row, -1)


def pack_text(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays in a form that .npz holds without pickles: text as the UTF-8 bytes of all its values and their ends.

    >>> sorted(pack_text({"name": as_text(["té", ""]), "size": np.array([3])}))
    ['name.end', 'name.utf8', 'size']
    """
    packed: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        if values.ndim != 1 or not is_text(values):
            packed[name] = values
            continue
        encoded = [value.encode("utf-8") for value in as_text(values).tolist()]
        packed[name + _BYTES] = np.frombuffer(b"".join(encoded), np.uint8)
        packed[name + _END] = np.cumsum([len(value) for value in encoded], dtype=np.int64)
    return packed


def unpack_text(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `pack_text` packed; arrays of fixed-width text, which older files hold, become text as well.

    >>> unpack_text(pack_text({"name": as_text(["té", "", "tea"])}))["name"]
    array(['té', '', 'tea'], dtype=object)
    """
    arrays = {}
    for name, values in packed.items():
        if name.endswith(_END) and (stem := name.removesuffix(_END)) + _BYTES in packed:
            whole, end = packed[stem + _BYTES].tobytes(), values.tolist()
            arrays[stem] = as_text(whole[low:high] for low, high in zip([0, *end], end, strict=False))
        elif not (name.endswith(_BYTES) and name.removesuffix(_BYTES) + _END in packed):
            arrays[name] = as_text(values) if is_text(values) and values.ndim == 1 else values
    return arrays
