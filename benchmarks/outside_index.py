"""Retrieval with an index of one's own: the vectors of `export --vectors`, and the answer of `interest_embeddings`.

Needs numpy, pyarrow and one of faiss-cpu and qdrant-client; neither this package nor TensorFlow. `retrieve` is all of
it: search each interest's category, add the repeat term to the user's own items, estimate the log-partition from the
items found, merge.
"""

import json
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow.parquet as pq

K = 100
_SEARCHED_EXACTLY = 200
"""A graph gains nothing for smaller categories."""


class Items(NamedTuple):
    """What `export --vectors` wrote: ids and vectors [n, D + 1], whose last column is the bias; rows by category."""

    item_id: np.ndarray
    vector: np.ndarray
    rows: dict[str, slice]
    row_of: dict[Any, int]


class Index(Protocol):
    """Finds the K best items of one category."""

    def search(self, category: str, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `Items` and their scores, best first, at most K; `query` is [user_vector, 1]."""
        ...


def read_items(directory: str) -> Items:
    """Reads the vectors, each with its bias as a last number, so that an index of vectors alone can hold both."""
    table = pq.read_table(os.path.join(directory, "items.parquet"))
    vector = table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    item_id = np.array(table["item_id"].to_pylist(), object)
    categories = pq.read_table(os.path.join(directory, "categories.parquet")).to_pylist()
    rows = {one["category"]: slice(one["first_row"], one["first_row"] + one["num_items"]) for one in categories}
    return Items(
        item_id,
        np.column_stack([vector, table["bias"].to_numpy()]).astype(np.float32),
        rows,
        {one: row for row, one in enumerate(item_id.tolist())},
    )


class Exact:
    """Brute force."""

    def __init__(self, items: Items) -> None:
        self._items = items

    def search(self, category: str, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self._items.rows[category]
        scores = self._items.vector[rows] @ query
        best = np.argsort(-scores, kind="stable")[:K]
        return best + rows.start, scores[best]


class FaissHnsw:
    """An HNSW graph for each category; small categories are searched exactly."""

    def __init__(self, items: Items) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._items, self._graphs = items, {}
        for category, rows in items.rows.items():
            dim, is_small = items.vector.shape[1], rows.stop - rows.start < _SEARCHED_EXACTLY
            graph = faiss.IndexFlatIP(dim) if is_small else faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
            if not is_small:
                graph.hnsw.efConstruction, graph.hnsw.efSearch = 200, 200
            graph.add(items.vector[rows])
            self._graphs[category] = graph

    def search(self, category: str, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self._items.rows[category]
        scores, found = self._graphs[category].search(query[None], min(K, max(rows.stop - rows.start, 1)))
        real = found[0] >= 0
        return found[0][real] + rows.start, scores[0][real]


class Qdrant:
    """Qdrant within this process, a collection for each category."""

    def __init__(self, items: Items) -> None:
        from qdrant_client import QdrantClient, models

        self._client, self._items = QdrantClient(":memory:"), items
        self._names = {category: str(number) for number, category in enumerate(items.rows)}
        for category, rows in items.rows.items():
            params = models.VectorParams(size=items.vector.shape[1], distance=models.Distance.DOT)
            self._client.create_collection(self._names[category], params)
            points = models.Batch(ids=list(range(rows.start, rows.stop)), vectors=items.vector[rows].tolist())
            if points.ids:
                self._client.upsert(self._names[category], points)

    def search(self, category: str, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self._client.query_points(self._names[category], query=query.tolist(), limit=K).points
        return np.array([one.id for one in found], np.int64), np.array([one.score for one in found], np.float32)


class Remembered:
    """Another index, asked each question once: the three ways of the benchmark share their searches."""

    def __init__(self, index: Index) -> None:
        self._index, self._known = index, {}

    def search(self, category: str, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = category, query.tobytes()
        if key not in self._known:
            self._known[key] = self._index.search(category, query)
        return self._known[key]


KINDS = {"exact": Exact, "faiss_hnsw": FaissHnsw, "qdrant_local": Qdrant}


def retrieve(
    items: Items, index: Index, answer: Mapping[str, np.ndarray], has_repeats: bool = True, has_partition: bool = True
) -> np.ndarray:
    """The K best items of one request, as rows of `items`, best first.

    Args:
      items: the vectors.
      index: built from them.
      answer: one row of the answer of `interest_embeddings`.
      has_repeats, has_partition: False shows what leaving out the repeat term or the log-partition costs.
    """
    rows, scores = [], []
    for number in range(int(answer["num_interests_drawn"])):
        query = np.append(answer["embedding"][number], np.float32(1))
        found, score = index.search(answer["interest_category"][number], query)
        if has_repeats:
            found, score = _add_repeats(items, query, found, score, answer, number)
        if has_partition:
            score = score - _log_sum_exp(score)
        rows.append(found)
        scores.append(score + answer["log_share"][number])
    best = np.argsort(-np.concatenate(scores), kind="stable")[:K]
    return np.concatenate(rows)[best]


def _add_repeats(
    items: Items, query: np.ndarray, found: np.ndarray, score: np.ndarray, answer: Mapping[str, np.ndarray], number: int
) -> tuple[np.ndarray, np.ndarray]:
    """The user's own items of the category with their repeat term, found or not, then the others that were found."""
    pairs = zip(answer["subsequence_item_id"][number].tolist(), answer["subsequence_boost"][number], strict=True)
    boost = {items.row_of[item]: gain for item, gain in pairs if item in items.row_of}  # padding is no item's id
    own = np.fromiter(boost, np.int64, len(boost))
    is_other = ~np.isin(found, own)
    own_score = items.vector[own] @ query + np.fromiter(boost.values(), np.float32, len(boost))
    return np.concatenate([own, found[is_other]]), np.concatenate([own_score, score[is_other]])


def _log_sum_exp(score: np.ndarray) -> float:
    largest = score.max(initial=-1e30)
    return float(largest + np.log(np.exp(score - largest).sum())) if len(score) else 0.0


def ask(directory: str, questions: str, answers: str, kind: str) -> None:
    """What bench_vectors.py lets another process do: answers every question each way, saves rows, prints JSON."""
    items = read_items(directory)
    start = time.perf_counter()
    index = KINDS[kind](items)
    facts: dict[str, Any] = {"build_s": time.perf_counter() - start}
    with np.load(questions, allow_pickle=True) as stored:
        asked = dict(stored)
    rows = [{name: column[row] for name, column in asked.items()} for row in range(len(asked["embedding"]))]
    ways = {"with both": (True, True), "with repeats": (True, False), "vectors alone": (False, False)}
    out, remembered = {}, Remembered(index)
    for name, way in ways.items():
        start = time.process_time()
        lists = [retrieve(items, remembered, row, *way) for row in rows]
        facts.setdefault("cpu_ms_per_request", 1000 * (time.process_time() - start) / len(rows))
        out[name] = np.stack([np.pad(one, (0, K - len(one)), constant_values=-1) for one in lists])
    np.savez(answers, **out)
    facts["recall_of_exact_search"] = _agreement(items, index, rows[:: max(1, len(rows) // 200)])
    print(json.dumps(facts))


def _agreement(items: Items, index: Index, rows: list[dict[str, np.ndarray]]) -> float:
    """Share of the exact K best of each interest that the index finds."""
    exact, shares = Exact(items), []
    for row in rows:
        for number in range(int(row["num_interests_drawn"])):
            query = np.append(row["embedding"][number], np.float32(1))
            asked = row["interest_category"][number], query
            wanted, found = exact.search(*asked)[0], index.search(*asked)[0]
            shares.append(np.isin(wanted, found).mean() if len(wanted) else 1.0)
    return float(np.mean(shares))
