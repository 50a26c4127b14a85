"""The event log in memory: whole histories, columnar, users contiguous. Imports no TensorFlow.

24 bytes an event (item row 4, time 8, basket 8, weight 4), 2 more where it has an action; everything derived from it
(positions, examples, batches) is light keys into these columns.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from longretriever_tf.common.ranges import flat_ranges, offset_of
from longretriever_tf.config.actions import Actions


@dataclasses.dataclass(frozen=True)
class ItemTable:
    """Every item that the log or the items table names.

    Attributes:
      item_id: raw ids, [V], int64 or str, unique, sorted.
      features: categorical side features by column name, each [V] of str; `schema.MISSING` where unknown.
      name: readable names, [V] of str.
      texts: what text clusters rest on and nothing else reads, by column: [V] of str; or vectors, [V, d] float32, 0
        where an item has none.
      numbers: numeric side features by column name, each [V] float64; NaN where unknown.
    """

    item_id: np.ndarray
    features: dict[str, np.ndarray]
    name: np.ndarray
    texts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    numbers: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class EventColumn(NamedTuple):
    """A categorical column of events: `value[row]` is the column.

    Attributes:
      value: distinct, [K] of str, sorted; `schema.MISSING` where an event has none.
      row: of each event, [E] int32.
    """

    value: np.ndarray
    row: np.ndarray

    def of(self, events: np.ndarray) -> "EventColumn":
        """Some of the events, by positions or a mask."""
        return self._replace(row=self.row[events])


@dataclasses.dataclass(frozen=True)
class LifelongLog:
    """Histories of all users; user u owns events `offset[u]:offset[u + 1]`, oldest first.

    A basket is one time: all its events carry its earliest time, one event per (basket, item). So "strictly before
    this timestamp" also means "never of the same basket", and hard search needs no basket column.

    Attributes:
      user_id: raw ids, [U], int64 or str, unique, sorted.
      profile: categorical profile by column name, each [U] of str; `schema.MISSING` where unknown.
      offset: [U + 1] int64.
      item_row: row of `items`, [E] int32.
      timestamp: seconds UTC, [E] int64, ascending within a user.
      basket_id: [E] int64; -1 where the log has no baskets.
      weight: [E] float32; 1.0 where the log has no weights (eq. 3 becomes a weighted sum of `event_weight`).
      items: the item table.
      context: the default context column (category) among `items.features`; "" where the log has none, and it is to be
        learned.
      counts: what became of every row that was read, by the names of `datasets.accounts`; empty where nobody counted.
      action: which of `actions` each event is, [E] int16; None where the log has none.
      actions: their names and what they weigh, and which are to be retrieved.
      event_features: columns of --event_features by name; none in most logs, and none in a log on disk.
    """

    user_id: np.ndarray
    profile: dict[str, np.ndarray]
    offset: np.ndarray
    item_row: np.ndarray
    timestamp: np.ndarray
    basket_id: np.ndarray
    weight: np.ndarray
    items: ItemTable
    context: str
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    action: np.ndarray | None = None
    actions: Actions = Actions()
    event_features: dict[str, EventColumn] = dataclasses.field(default_factory=dict)

    @property
    def is_target(self) -> np.ndarray | None:
        """Whether each event is to be retrieved, [E] bool; None: every event is."""
        if self.action is None or not self.actions.target:
            return None
        of_action: np.ndarray = np.isin(self.actions.name, self.actions.target)
        return of_action[self.action]

    @property
    def event_weight(self) -> np.ndarray:
        """What each event weighs in eq. 3: its own weight times that of its action, [E] float32."""
        if self.action is None or not self.actions.weight:
            return self.weight
        return self.weight * np.array(self.actions.weight, np.float32)[self.action]

    @property
    def num_users(self) -> int:
        return len(self.user_id)

    @property
    def num_events(self) -> int:
        return len(self.item_row)

    def of_users(self, chosen: slice | np.ndarray) -> "LifelongLog":
        """Some of the users with their whole histories, by a slice of rows or a mask, [U] bool; items stay all."""
        _, event = flat_ranges(self.offset[:-1][chosen], self.offset[1:][chosen])
        return dataclasses.replace(
            self,
            user_id=self.user_id[chosen],
            profile={name: column[chosen] for name, column in self.profile.items()},
            offset=offset_of(np.diff(self.offset)[chosen]),
            item_row=self.item_row[event],
            timestamp=self.timestamp[event],
            basket_id=self.basket_id[event],
            weight=self.weight[event],
            action=None if self.action is None else self.action[event],
            event_features={name: column.of(event) for name, column in self.event_features.items()},
        )

    def of_events(self, keep: np.ndarray) -> "LifelongLog":
        """Some of the events, by a mask, [E] bool; users and items stay."""
        return dataclasses.replace(
            self,
            offset=offset_of(np.bincount(self.event_user()[keep], minlength=self.num_users)),
            item_row=self.item_row[keep],
            timestamp=self.timestamp[keep],
            basket_id=self.basket_id[keep],
            weight=self.weight[keep],
            action=None if self.action is None else self.action[keep],
            event_features={name: column.of(keep) for name, column in self.event_features.items()},
        )

    def event_user(self) -> np.ndarray:
        """The row of the user who owns each event, [E] int32."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), np.diff(self.offset))
