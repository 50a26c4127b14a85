"""Columns of a table by their names; one that is missing is answered with what is there. Imports no TensorFlow."""

import re
from collections.abc import Sequence

from longretriever_tf.datasets.event_log.delimited import Unreadable

_NO_CATEGORY = (
    "; --context names another column, and --context=clusters:auto makes categories of what is taken together where "
    "there is none (text_clusters:auto: of what is written of the items)"
)


def plain_names(names: Sequence[str]) -> list[str]:
    """The names without spaces around them, and without a byte order mark."""
    return [name.strip("\ufeff \t\r\n") for name in names]


def find_columns(columns: dict[str, str], names: Sequence[str]) -> dict[str, int]:
    """The index of each column; spaces around a name in the file, and a byte order mark, do not count.

    Raises:
      Unreadable: a column that is missing, or is there twice.
    """
    plain, indices, missing = plain_names(names), {}, []
    for name, flag in columns.items():
        matches = [i for i, given in enumerate(names) if given == name]
        matches = matches or [i for i, given in enumerate(plain) if given == name]
        if len(matches) > 1:
            raise Unreadable(f"column {name!r} ({flag}) is there {len(matches)} times; rename or drop all but one")
        if matches:
            indices[name] = matches[0]
        else:
            missing.append(f"{name!r} ({flag})")
    if missing:
        present = ", ".join(plain[:40]) + (", ..." if len(plain) > 40 else "")
        cure = _NO_CATEGORY if "--context" in [flag for name, flag in columns.items() if name not in indices] else ""
        raise Unreadable(f"no column {', '.join(missing)}; columns present: {present}{_hint(plain)}{cure}")
    return indices


_VALUE = re.compile(r"[-+]?\d+([.,]\d+)?|\d{4}-\d\d-\d\d.*")
"""A number or a date: what no column is called."""


def _hint(names: Sequence[str]) -> str:
    if len(names) != 1:
        value = next((name for name in names if _VALUE.fullmatch(name)), "")
        return value and (
            f" ({value!r} is no name: does the file have no header? Then name all columns in their order, by "
            "--column_names, --items_column_names or --users_column_names)"
        )
    mark = next((mark for mark in ("::", ";", "\t", "|", ",") if mark in names[0]), "")
    return f" (one column: is the delimiter {mark!r}? Then add --delimiter={mark!r})" if mark else ""
