"""What all peers share: reading the split that export_split.py wrote, recall by which they are tuned, and their lists.

Needs numpy, scipy, pandas and pyarrow; neither TensorFlow nor this package, so that a peer's environment is its own.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse

K, WITHIN_K, TUNED_BY = 500, 20, 100
"""Length of the lists, of those within a category, and of those that settings are chosen by."""

DAY_S = 86_400
_CHUNK = 128
Score = Callable[[np.ndarray], np.ndarray]
"""Scores of all items for some users: rows [B] to [B, V] float32, higher is better."""


class Split(NamedTuple):
    """The data of a split; users and items are rows of `user_id` and `item_id`.

    Attributes:
      facts: of split.json.
      user_id, item_id: raw ids, [U] and [V].
      category: of each item, [V] int64.
      user, item, timestamp: of each event, oldest first, [E].
      cut: start of the window, seconds UTC.
      truth: 1 where the user took the item in the window, [U, V] CSR; None for a test window.
    """

    facts: dict[str, Any]
    user_id: np.ndarray
    item_id: np.ndarray
    category: np.ndarray
    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    cut: int
    truth: Any

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.user_id), len(self.item_id)

    def matrix(self, value: np.ndarray | None = None) -> Any:
        """Values of the events (None: 1 each), summed by user and item, [U, V] float32 CSR."""
        value = np.ones(len(self.user)) if value is None else value
        summed = scipy.sparse.csr_matrix((value, (self.user, self.item)), shape=self.shape)
        summed.sum_duplicates()
        return summed.astype(np.float32)

    def decayed(self, days: float) -> np.ndarray:
        """exp(-age / days) of each event at the cut, [E] float64; ones for days = 0."""
        age = (self.cut - self.timestamp) / DAY_S
        return np.exp(-age / days) if days else np.ones(len(age))


def read_facts(directory: str) -> dict[str, Any]:
    """What export_split.py says of a split: cut, window, commit."""
    with open(os.path.join(directory, "split.json"), encoding="utf-8") as file:
        facts: dict[str, Any] = json.load(file)
    return facts


def read_split(directory: str) -> Split:
    """Reads a directory of export_split.py."""

    def read(name: str) -> pd.DataFrame:
        return pd.read_parquet(os.path.join(directory, f"{name}.parquet"))

    events, users, items = read("events"), read("users"), read("items")
    user_index, item_index = pd.Index(users["user"]), pd.Index(items["item"])
    truth = None
    if os.path.exists(os.path.join(directory, "truth.parquet")):
        pairs = read("truth")
        at = user_index.get_indexer(pairs["user"]), item_index.get_indexer(pairs["item"])
        truth = scipy.sparse.csr_matrix((np.ones(len(pairs)), at), shape=(len(users), len(items)))
    facts = read_facts(directory)
    return Split(
        facts,
        users["user"].to_numpy(),
        items["item"].to_numpy(),
        pd.factorize(items["category"])[0],
        user_index.get_indexer(events["user"]),
        item_index.get_indexer(events["item"]),
        events["timestamp"].to_numpy(),
        facts["cut"],
        truth,
    )


def measure(split: Split, score: Score) -> dict[str, float]:
    """Recall@100 on all items and on novel ones in the validation window: `recall@100`, `novel_recall@100`."""
    had = split.matrix()
    recalls: dict[str, list[float]] = {"all": [], "novel": []}
    asked = np.flatnonzero(np.diff(split.truth.indptr))
    for start in range(0, len(asked), _CHUNK):
        users = asked[start : start + _CHUNK]
        scores = np.asarray(score(users), np.float32)
        for task in recalls:
            wanted = split.truth[users].toarray() > 0
            if task == "novel":
                own = had[users].toarray() > 0
                scores, wanted = np.where(own, -np.inf, scores), wanted & ~own
            k = min(TUNED_BY, scores.shape[1])
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            hits = np.take_along_axis(wanted, best, axis=1).sum(axis=1)
            size = wanted.sum(axis=1)
            recalls[task] += (hits[size > 0] / size[size > 0]).tolist()
    return {f"recall@{TUNED_BY}": np.mean(recalls["all"]), f"novel_recall@{TUNED_BY}": np.mean(recalls["novel"])}


def write_lists(path: str, split: Split, score: Score) -> None:
    """Writes the lists of all users: all items, novel ones, and the best of each category.

    Args:
      path: of a Parquet file with the columns user, item, rank and task, as `evaluate --lists` reads it.
      split: whose users.
      score: of the items.
    """
    had, aside = split.matrix(), f"{path}.aside"
    kinds = [pa.array(ids[:1]).type for ids in (split.user_id, split.item_id)]
    schema = pa.schema([("user", kinds[0]), ("item", kinds[1]), ("rank", pa.int32()), ("task", pa.string())])
    with pq.ParquetWriter(aside, schema) as writer:
        for start in range(0, len(split.user_id), _CHUNK):
            users = np.arange(start, min(start + _CHUNK, len(split.user_id)))
            scores = np.asarray(score(users), np.float32)
            own = had[users].toarray() > 0
            novel = np.where(own, -np.inf, scores)
            parts = [("all", _best(scores, K)), ("novel", _best(novel, K)), ("within", _within(split, scores, own))]
            for task, (row, item, rank) in parts:
                columns = [pa.array(split.user_id[users[row]], kinds[0]), pa.array(split.item_id[item], kinds[1])]
                columns += [pa.array(rank, pa.int32()), pa.array([task] * len(row), pa.string())]
                writer.write_table(pa.table(columns, schema=schema))
    os.replace(aside, path)


def _best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and rank from 1 of the k best of each row; -inf is in no list."""
    k = min(k, scores.shape[1])
    some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(some, order, axis=1)
    row, position = np.nonzero(np.take_along_axis(scores, best, axis=1) > -np.inf)
    return row, best[row, position], position + 1


def _within(split: Split, scores: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, ...]:
    """As `_best` of each category, down to its `WITHIN_K`th item that the user never had."""
    parts = []
    for items in _categories(split.category):
        most = int(own[:, items].sum(axis=1).max())
        row, column, rank = _best(scores[:, items], WITHIN_K + most)
        is_novel = ~own[row, items[column]]
        before = np.cumsum(is_novel) - is_novel  # novel items ahead, those of earlier rows included
        kept = before - before[np.searchsorted(row, row)] < WITHIN_K
        parts.append((row[kept], items[column[kept]], rank[kept]))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _categories(category: np.ndarray) -> Iterator[np.ndarray]:
    """The items of each category."""
    order = np.argsort(category, kind="stable")
    return iter(np.split(order, np.flatnonzero(np.diff(category[order])) + 1))
