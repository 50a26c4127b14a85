"""The action of each event of a table. Imports no TensorFlow."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.config.actions import Actions, settle_actions
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.event_log.columns import LogTable

MAX_ACTIONS = 1000
"""A column with more values than this is none of actions."""


class EventActions(NamedTuple):
    """Actions of N events: `names[row]`.

    Attributes:
      names: distinct, as text, sorted.
      row: [N] int64.
    """

    names: tuple[str, ...]
    row: np.ndarray


def read_actions(spec: DataConfig, events: LogTable) -> EventActions | None:
    """The actions of a table of events; None where the spec names no such column.

    Raises:
      UserError: an event has none, or the column holds too many values to be actions.
    """
    if not spec.action_column:
        return None
    column = events.text(spec.action_column)
    names = tuple(map(str, column.values.tolist()))
    if len(names) > MAX_ACTIONS:
        raise events.fail(
            spec.action_column,
            f"{len(names):,} different values, such as {names[0]!r}, are too many for --action_column: expected a few "
            "actions, as view, cart, buy",
        )
    if schema.MISSING in names:
        missing = np.flatnonzero(column.row == names.index(schema.MISSING))
        raise events.fail(
            spec.action_column,
            f"{len(missing)} of {len(column.row)} rows have no action, the first is {events.row_words(missing[0])}; "
            "name one in every row, or leave these rows out",
        )
    return EventActions(names, column.row)


def action_flags(spec: DataConfig, names: Iterable[str]) -> Actions:
    """The actions of the whole table, as the flags want them.

    Raises:
      UserError: a flag names an action that no event has.
    """
    where = f"--events={spec.events}, column {spec.action_column!r},"
    return settle_actions(names, spec.action_weights, spec.target_actions, where)
