"""The design that a first version would have, to measure against: numpy, one TFRS layer per category, Python merge.

Used by bench_index.py (the layers alone) and bench_request.py (whole requests).
"""

import heapq
import os
import pickle
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

LEAST_ITEMS = 100
"""TFRS's ScaNN layer fails below; such categories get a brute-force layer."""

K = 100


def save_layers(
    kind: str, vectors: np.ndarray, bias: np.ndarray, offset: np.ndarray, folder: str, categories: Iterable[int]
) -> int:
    """Saves a layer per category under `folder`/model; returns how many hold a ScaNN searcher.

    Args:
      kind: "plain": TFRS's own settings; "plain_reordered": searches and reorders more, for like recall.
      vectors: [V, D].
      bias: [V], one more coordinate of each vector.
      offset: category c owns the rows `offset[c]:offset[c + 1]`.
      folder: where.
      categories: which.
    """
    import tensorflow as tf
    import tensorflow_recommenders as tfrs

    whole = np.concatenate([vectors, bias[:, None]], 1)
    kinds = {}
    for category in categories:
        low, high = int(offset[category]), int(offset[category + 1])
        if high - low >= LEAST_ITEMS:
            leaves = max(2, (high - low) // 100)
            effort = {"num_leaves": leaves}
            if kind == "plain_reordered":
                leaves = int(np.sqrt(high - low))
                effort = {
                    "num_leaves": leaves,
                    "num_leaves_to_search": leaves if high - low < 1000 else int(0.3 * leaves),
                    "num_reordering_candidates": 1000,
                }
            layer = tfrs.layers.factorized_top_k.ScaNN(k=min(K, high - low), **effort)
        else:
            layer = tfrs.layers.factorized_top_k.BruteForce(k=min(K, high - low))
        layer.index(tf.constant(whole[low:high]), tf.range(low, high))
        layer(tf.constant(whole[:1]))
        kinds[category] = isinstance(layer, tfrs.layers.factorized_top_k.ScaNN)
        options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
        layer.save(os.path.join(folder, "model", str(category)), options=options)
    with open(os.path.join(folder, "kinds.pickle"), "wb") as file:
        pickle.dump(kinds, file)
    return sum(kinds.values())


def load_layers(folder: str) -> dict[int, Any]:
    """The saved layers by category; call one with [r, D + 1] to get scores and item indices, [r, k] each."""
    import tensorflow as tf

    with open(os.path.join(folder, "kinds.pickle"), "rb") as file:
        kinds = pickle.load(file)
    return {category: tf.saved_model.load(os.path.join(folder, "model", str(category))) for category in kinds}


class Catalogue(NamedTuple):
    """What the plain design knows of items.

    Attributes:
      item_id: raw ids, row 0 padding, row 1 unknown, [V].
      by_id: rows in ascending order of id, without the first two.
      category: [V].
      num_categories: C.
    """

    item_id: np.ndarray
    by_id: np.ndarray
    category: np.ndarray
    num_categories: int


class RawHistory(NamedTuple):
    """One user's raw history, and the time of the request: [T] int64, [T] int64 seconds, seconds."""

    item_id: np.ndarray
    timestamp: np.ndarray
    as_of: int


class PlainRetriever:
    """One request after another: eq. 3 and hard search in numpy, the towers padded to L, a layer per category.

    Args:
      catalogue: of the export.
      encode: the trained user tower, see `retrieve`; pads every subsequence to L.
      layers: by category.
      max_events: most events of a category that are read.
    """

    def __init__(
        self, catalogue: Catalogue, encode: Callable[..., Any], layers: dict[int, Any], max_events: int
    ) -> None:
        self._catalogue, self._encode, self._layers, self._max_events = catalogue, encode, layers, max_events

    def retrieve(
        self, history: RawHistory, interests: np.ndarray, top: int
    ) -> tuple[list[tuple[float, int]], np.ndarray]:
        """The best (score, item index), best first, and the user vector of each interest.

        Args:
          history: the request.
          interests: the categories that are searched; the draw by eq. 3 is made all the same, and paid for.
          top: M.
        """
        known = self._catalogue
        ids = known.item_id[known.by_id]
        item = known.by_id[np.minimum(np.searchsorted(ids, history.item_id), len(ids) - 1)]
        keep = (known.item_id[item] == history.item_id) & (history.timestamp > 0) & (history.timestamp < history.as_of)
        item, timestamp = item[keep], history.timestamp[keep]
        order = np.argsort(timestamp, kind="stable")
        item, timestamp = item[order], timestamp[order]
        category, age = known.category[item], ((history.as_of - timestamp) / 86_400).astype(np.float32)
        score = np.bincount(category, 1 / np.maximum(age, 1.0), known.num_categories)
        np.random.default_rng(1).choice(np.argsort(-score)[:top], len(interests), replace=False)
        segments = [np.flatnonzero(category == one) for one in interests]
        latest = [segment[-self._max_events :] for segment in segments]
        embedding = self._encode(
            item=np.concatenate([item[segment] for segment in latest]),
            age=np.concatenate([age[segment] for segment in latest]),
            length=np.array([len(segment) for segment in latest]),
            count=np.array([len(segment) for segment in segments]),
            category=interests.astype(np.int32),
            activity=np.log1p([len(age), age.min(), np.exp2(-age / 30.0).sum()]).astype(np.float32),
        ).numpy()
        candidates: list[tuple[float, int]] = []
        for one, vector in zip(interests.tolist(), embedding, strict=True):
            scores, items = self._layers[one](np.append(vector, np.float32(1.0))[None])
            candidates += zip(scores.numpy()[0].tolist(), items.numpy()[0].tolist(), strict=True)
        return heapq.nlargest(K, candidates), embedding
