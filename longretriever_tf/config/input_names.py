"""How a profile column is called as an input of a signature. Imports no TensorFlow.

A signature's inputs are Python parameters and TensorFlow names: ASCII identifiers, each once. A column that is one
keeps its name; any other ("age band", "k", "class") is called by a rule that exports and clients share, so that a
client goes on naming the column as the users table does.

>>> [input_of_profile(name) for name in ("age", "age band", "k", "1st", "höhe")]
['age', 'profile_age_band', 'profile_k', 'profile_1st', 'profile_huf6he']
"""

import keyword
import re
from collections.abc import Iterable

from longretriever_tf.common.errors import UserError

HISTORY_INPUTS = ("history_item_id", "history_timestamp", "request_timestamp")
"""Inputs that every question about a user has."""

OPTIONAL_INPUTS = (
    *("k", "num_interests", "top_interests", "interest_threshold", "seed", "exploration", "merge", "goal"),
    "history_weight",
    "history_action",
    *("exclude_item_id", "allowed_category", "forbidden_category", "forced_category", "forced_weight"),
    *("bandit", "bandit_prior", "reward_category", "reward_trials", "reward_successes"),
)
"""Inputs with a default; `request_options.default_columns` holds the values."""

BANDIT_PRIOR = 100.0
"""Default of `bandit_prior`, which exports and clients share; chosen in serving/README.md, "Exploring with rewards"."""

OTHER_INPUTS = ("category", "item_id", "expected")
"""Inputs of further signatures."""

_TAKEN = frozenset((*HISTORY_INPUTS, *OPTIONAL_INPUTS, *OTHER_INPUTS, "self", "args", "kwargs"))
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PREFIX = "profile_"


def input_of_profile(column: str) -> str:
    """The input's name: the column's own where it can be one, else "profile_" and the column spelled in ASCII."""
    # "K" and "k" would be one input, as "Age" and "age": TensorFlow's names know no capitals.
    if _PLAIN.fullmatch(column) and column.lower() not in _TAKEN and not keyword.iskeyword(column):
        return column
    return _PREFIX + "".join(map(_spell, column))


def profile_inputs(columns: Iterable[str], is_read: bool) -> list[str]:
    """The inputs of the profile columns, in order; none where the towers do not read the profile."""
    return [input_of_profile(column) for column in columns] if is_read else []


def check_profile_columns(columns: Iterable[str]) -> None:
    """Refuses columns that would be one input; TensorFlow's names do not tell capitals from small letters.

    Raises:
      UserError: names both columns and the input.
    """
    seen: dict[str, str] = {}
    for column in columns:
        name = input_of_profile(column)
        other = seen.setdefault(name.lower(), column)
        if other is not column:
            raise UserError(
                f"--user_features: the columns {other!r} and {column!r} would both be the input {name!r} of an export; "
                "rename one of them in the users table, or train with --noprofile"
            )


def _spell(letter: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_]", letter):
        return letter
    return "_" if letter.isascii() else f"u{ord(letter):x}"
