"""What users really took in a window: the truth that retrieval is held against. Imports no TensorFlow."""

import dataclasses

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.data.corpus import EncodedLog, offset_of


@dataclasses.dataclass(frozen=True)
class Truth:
    """The (user, item) pairs of a window, in CSR form: user i owns pairs `offset[i]:offset[i + 1]`.

    Attributes:
      users: rows of the log, [U'] int64, ascending.
      offset: [U' + 1] int64.
      item: distinct items that the user took in the window, [P] int64, ascending within a user.
      is_novel: the user had never taken the item before the cut, [P] bool.
      interacted_offset: [U' + 1] int64.
      interacted_item: distinct items that the user took before the cut, [O] int64, ascending within a user; with
        --target_actions, by one of these actions.
      num_items: V, the length of the item vocabulary with its reserved rows.
    """

    users: np.ndarray
    offset: np.ndarray
    item: np.ndarray
    is_novel: np.ndarray
    interacted_offset: np.ndarray
    interacted_item: np.ndarray
    num_items: int

    @property
    def num_users(self) -> int:
        return len(self.users)

    @property
    def num_pairs(self) -> int:
        return len(self.item)

    def pair_row(self) -> np.ndarray:
        """Position in `users` of each pair's user, [P] int64."""
        return np.repeat(np.arange(self.num_users), np.diff(self.offset))

    def interacted_row(self) -> np.ndarray:
        """Position in `users` of each interacted item's user, [O] int64."""
        return np.repeat(np.arange(self.num_users), np.diff(self.interacted_offset))

    def rows(self, start: int, stop: int) -> "Truth":
        """The truth of users `start:stop` alone."""
        pairs = slice(self.offset[start], self.offset[stop])
        interacted = slice(self.interacted_offset[start], self.interacted_offset[stop])
        return dataclasses.replace(
            self,
            users=self.users[start:stop],
            offset=self.offset[start : stop + 1] - self.offset[start],
            item=self.item[pairs],
            is_novel=self.is_novel[pairs],
            interacted_offset=self.interacted_offset[start : stop + 1] - self.interacted_offset[start],
            interacted_item=self.interacted_item[interacted],
        )

    def novel(self) -> "Truth":
        """The novel pairs alone, for the same users: a user without any keeps an empty truth."""
        return self._only(self.is_novel)

    def untouched(self, category_offset: np.ndarray) -> tuple["Truth", np.ndarray]:
        """The pairs alone whose category the user had never seen before the cut, for the same users; and which.

        Args:
          category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.
        """
        pair, interacted = (
            row * len(category_offset) + np.searchsorted(category_offset, item, side="right")
            for row, item in ((self.pair_row(), self.item), (self.interacted_row(), self.interacted_item))
        )
        mask = ~np.isin(pair, interacted)
        return self._only(mask), mask

    def _only(self, mask: np.ndarray) -> "Truth":
        sizes = np.bincount(self.pair_row()[mask], minlength=self.num_users)
        return dataclasses.replace(self, offset=offset_of(sizes), item=self.item[mask], is_novel=self.is_novel[mask])


def is_known_before(log: EncodedLog, cut: int) -> np.ndarray:
    """Events strictly before `cut` of items in the vocabulary, [E] bool: all that fitting may see."""
    return (log.timestamp < cut) & (log.item >= FIRST_KNOWN)


def build_truth(
    log: EncodedLog, num_items: int, cut: int, window: tuple[int, int], is_sold: np.ndarray | None = None
) -> Truth:
    """Distinct items that each user took in `window`, among items that anyone took before `cut`.

    A user counts with at least one event before the cut and one such item in the window. Where the log has target
    events, these alone are truth, and make an item no longer novel; all events are a past, and make an item known.

    Args:
      log: the encoded log; items below `schema.FIRST_KNOWN` (padding, unknown, -1) are ignored.
      num_items: V, the length of the item vocabulary with its reserved rows.
      cut: seconds UTC; the past is t < cut.
      window: [start, stop) in seconds UTC, start >= cut.
      is_sold: which items anyone took before the cut, [V] bool, where the log is of some users alone.

    Raises:
      UserError: no user is left.
    """
    start, stop = window
    assert start >= cut, f"window starts at {start}, before the cut {cut}"
    user, past = log.event_user(), is_known_before(log, cut)
    has_past = np.zeros(log.num_users, bool)
    if is_sold is None:
        is_sold = np.bincount(log.item[past], minlength=num_items) > 0
    has_past[user[log.timestamp < cut]] = True
    is_target = log.targets()
    taken = (log.timestamp >= start) & (log.timestamp < stop) & (log.item >= FIRST_KNOWN) & has_past[user] & is_target
    taken[taken] = is_sold[log.item[taken]]
    if not taken.any():
        raise UserError(
            f"zero users after the split: of {log.num_users} users, {int(has_past.sum())} have events before the cut "
            f"and none of them takes{_by_action(log)}, in the window, an item that anyone took before it; change "
            "--window_days"
        )
    pair = _distinct_pairs(user[taken], log.item[taken], num_items)
    past &= is_target
    interacted = _distinct_pairs(user[past], log.item[past], num_items)
    users = np.unique(pair // num_items)
    interacted = interacted[np.isin(interacted // num_items, users)]
    return Truth(
        users=users,
        offset=np.append(np.searchsorted(pair, users * num_items), len(pair)),
        item=pair % num_items,
        is_novel=~np.isin(pair, interacted, assume_unique=True),
        interacted_offset=np.append(np.searchsorted(interacted, users * num_items), len(interacted)),
        interacted_item=interacted % num_items,
        num_items=num_items,
    )


def _by_action(log: EncodedLog) -> str:
    return "" if log.is_target is None else " (by one of --target_actions)"


def _distinct_pairs(user: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """Distinct (user, item) as one ascending int64 key, user * num_items + item."""
    return np.unique(user.astype(np.int64) * num_items + item)
