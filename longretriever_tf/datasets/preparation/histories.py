"""Pass 3: the users of one shard, their events out of all pieces, as whole histories. Imports no TensorFlow."""

import os
from collections.abc import Sequence

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.ranges import flat_ranges
from longretriever_tf.common.text import as_text, code_text, find_rows
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets import accounts, baskets
from longretriever_tf.datasets.build_log import RawEvents, build_log
from longretriever_tf.datasets.event_log.source import own_context, plain_value
from longretriever_tf.datasets.log import ItemTable, LifelongLog
from longretriever_tf.datasets.preparation.pieces import PieceInfo, load_piece, open_rows, read_baskets
from longretriever_tf.datasets.preparation.vocabulary import Vocabulary, read_users

_NO_ITEMS = ItemTable(np.zeros(0, np.int64), {}, as_text([]))
"""A shard's histories name rows of the log's item table, which lies beside the shards."""


def build_shard(
    spec: DataConfig, pieces: Sequence[PieceInfo], vocabulary: Vocabulary, directory: str, k: int
) -> LifelongLog:
    """Whole histories of the users of shard k, without the item table.

    Raises:
      UserError: a basket that lasts too long, where --long_baskets=refuse.
    """
    low, high = vocabulary.user_offset[k : k + 2]
    user_id, profile = read_users(directory, k)
    events = [_read_events(directory, info.stem, low, high) for info in pieces]
    user = np.concatenate([part[0] for part in events])
    item = np.concatenate([part[1] for part in events])
    rows = {
        name: _join([part[2] for part in events], name) for name in ("time", "nanosecond", "weight", "basket", "row")
    }
    time, nanosecond = rows["time"], rows["nanosecond"]
    assert time is not None
    action = _join_actions([part[2] for part in events], pieces, vocabulary, directory) if spec.action_column else None
    columns = RawEvents(user, item, time, weight=rows["weight"], nanosecond=nanosecond, action=action)
    counts: dict[str, int] = {}
    if spec.basket_column:
        piece = np.repeat(np.arange(len(pieces)), [len(part[0]) for part in events])
        assert rows["basket"] is not None
        given = _code_baskets(directory, pieces, vocabulary, piece, rows["basket"])
        cut = _cut_baskets(spec, pieces, user_id, columns, given, piece, rows["row"])
        columns, counts = columns._replace(basket_id=cut.basket_id), cut.counts
    return build_log(columns, user_id, profile, _NO_ITEMS, own_context(spec), counts)


def _read_events(directory: str, stem: str, low: int, high: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events of users `low` to `high` in a piece: user row in the shard, item row, [n] int64 each, and the records."""
    users = np.load(os.path.join(directory, f"{stem}.users.npy"))
    first, last = np.searchsorted(users["user"], [low, high])
    users = users[first:last]
    owner, at = flat_ranges(users["start"], users["stop"])
    rows = open_rows(directory, stem)
    is_slice = len(at) and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all()
    rows = np.array(rows[at[0] : at[-1] + 1] if is_slice else rows[at])
    item = np.load(os.path.join(directory, f"{stem}.items.npy"))[rows["item"]].astype(np.int64)
    keep = item >= 0
    return (users["user"] - low)[owner][keep], item[keep], rows[keep]


def _join_actions(
    rows: Sequence[np.ndarray], pieces: Sequence[PieceInfo], vocabulary: Vocabulary, directory: str
) -> np.ndarray:
    """The number of each event's action among those of the whole log, [E] int64."""
    known = as_text(vocabulary.actions)
    parts = [np.zeros(0, np.int64)]
    for info, part in zip(pieces, rows, strict=True):
        names = load_piece(directory, info.stem).actions
        assert names is not None
        parts.append(find_rows(known, names)[part["action"]])
    return np.concatenate(parts)


def _join(parts: Sequence[np.ndarray], name: str) -> np.ndarray | None:
    """A column of all pieces; zeros for a piece that has none, None if none has it."""
    if not any(name in (part.dtype.names or ()) for part in parts):
        return None
    return np.concatenate(
        [
            part[name].astype(_TYPES.get(name, np.int64))
            if name in (part.dtype.names or ())
            else np.zeros(len(part), np.int64)
            for part in parts
        ]
    )


_TYPES: dict[str, type] = {"weight": np.float32}


def _code_baskets(
    directory: str, pieces: Sequence[PieceInfo], vocabulary: Vocabulary, piece: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The shard's baskets by their distinct ids, sorted, and the number of each event's among them, -1 for none."""
    ids: list[np.ndarray] = []
    code = np.full(len(row), -1, np.int64)
    num_ids = 0
    for number, info in enumerate(pieces):
        events = np.flatnonzero((piece == number) & (row >= 0))
        if not len(events):
            continue
        distinct, inverse = np.unique(row[events], return_inverse=True)
        read = read_baskets(directory, info.stem, distinct)
        ids.append(as_text(read) if vocabulary.baskets_are_text else np.array(read, np.int64))
        code[events] = num_ids + inverse
        num_ids += len(distinct)
    if not ids:
        return np.zeros(0, np.int64), code
    values = np.concatenate(ids)
    known, inverse = code_text(values) if vocabulary.baskets_are_text else np.unique(values, return_inverse=True)
    return known, np.append(inverse, -1)[code]


def _cut_baskets(
    spec: DataConfig,
    pieces: Sequence[PieceInfo],
    user_id: np.ndarray,
    events: RawEvents,
    given: tuple[np.ndarray, np.ndarray],
    piece: np.ndarray,
    row: np.ndarray | None,
) -> baskets.CutBaskets:
    """Baskets that are unique across users, none longer than allowed unless the flags keep them.

    Raises:
      UserError: one is longer, and --long_baskets=refuse.
    """
    known, code = given
    pair = events.user_row * len(known) + code  # shops restart their counters: a basket has one user
    _, basket_id = np.unique(pair, return_inverse=True)
    basket_id = np.where(code < 0, -1, basket_id).astype(np.int64)
    cut = baskets.cut_long_baskets(basket_id, events.timestamp, spec.max_basket_hours)
    if cut.first_long < 0 or spec.long_baskets == "cut":
        return cut
    del cut.counts[accounts.CUT_BASKETS]
    if spec.long_baskets == "keep":
        return cut._replace(basket_id=basket_id)
    at = cut.first_long
    assert row is not None
    raise UserError(
        f"--events={spec.events}, column {spec.basket_column!r}: "
        f"{accounts.describe_baskets(cut.counts, 'refused')}; the longest begins in row {row[at] + 1} of "
        f"{pieces[piece[at]].file}: basket {plain_value(known[code[at]])!r} of {spec.user_column} "
        f"{plain_value(user_id[events.user_row[at]])!r}; let --long_baskets=cut part them, or give baskets ids of "
        "their own"
    )
