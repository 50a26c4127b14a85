"""The lists of several shards become the answer of one export: `retrieval.merge_lists` in numpy, float32 as there.

Interests whose shard did not answer are left out as if they had not been chosen, and the answer names them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from longretriever_tf.retrieval.merge import MERGES, Candidates

Outputs = Mapping[str, np.ndarray]

INTERESTS = (
    "interest_category",
    "interest_score",
    "interest_rank_drawn",
    "interest_origin",
    "interest_num_events",
    "interest_last_timestamp",
)
NOTES = ("unknown_category", "num_unknown_items", "num_unknown_excluded", "statistics_as_of", "num_unknown_actions")
"""What the router says of a request; routers of before the last two, or without actions, lack them."""
_WEIGHTS = ("log_interest", "quota")
_LEAST = np.finfo(np.float32).min


class QueryLists(NamedTuple):
    """What the shards answered to R queries.

    Attributes:
      item_id: raw ids, [R, W] int64 or object.
      logit: [R, W] float32.
      log_partition: [R] float32.
      num_valid: length of each list, [R] int32; 0 where the shard did not answer.
      missing: the shard's name where it did not answer, b"" elsewhere, [R] object of bytes.
    """

    item_id: np.ndarray
    logit: np.ndarray
    log_partition: np.ndarray
    num_valid: np.ndarray
    missing: np.ndarray


def merge_interests(routed: Outputs, lists: QueryLists) -> dict[str, np.ndarray]:
    """The answer to `serving_default` or `top_k`.

    Args:
      routed: what the router answered.
      lists: of its R queries.

    Returns:
      The outputs of one export, and what is missing, "" where padded: missing_shard [B, S] names of shards,
      missing_category [B, X] names of the interests that are left out.
    """
    request, interest = routed["query_request"], routed["query_interest"]
    shape = routed["log_interest"].shape  # [B, N]
    columns = {name: routed[name] for name in (*INTERESTS, *_WEIGHTS)}
    wide = {name: _scatter(shape, request, interest, part) for name, part in lists._asdict().items()}
    is_lost = wide["missing"] != b""
    lost_category = np.where(is_lost, columns["interest_category"], b"")
    missing = {"missing_shard": _names(wide["missing"]), "missing_category": _names(lost_category)}
    num_drawn = routed["num_interests_drawn"]
    if is_lost.any():
        columns, wide = _leave_out(is_lost, columns, wide)
        num_drawn = num_drawn - is_lost.sum(1, dtype=np.int32)
    merged = _merge(routed, columns, wide)
    explained = {name: columns[name] for name in INTERESTS}
    return merged | explained | {"num_interests_drawn": num_drawn} | _notes(routed) | missing


def _notes(routed: Outputs) -> dict[str, np.ndarray]:
    return {name: routed[name] for name in NOTES if name in routed}


def merge_in_category(routed: Outputs, lists: QueryLists) -> dict[str, np.ndarray]:
    """The answer to `retrieve_in_category`: a list for each request, as of one export."""
    k = routed["k"]
    width, have = int(k.max(initial=1)), lists.item_id.shape[1]
    at = np.arange(width)[None]
    num = np.minimum(lists.num_valid, k)
    real = at < num[:, None]
    pad = [(0, 0), (0, max(width - have, 0))]
    item = np.pad(lists.item_id, pad)[:, :width]
    score = np.pad(lists.logit - lists.log_partition[:, None], pad)[:, :width]
    names = np.where(lists.missing == b"", b"", routed["category"])[:, None]
    return {
        "item_id": np.where(real, item, blank_of(item.dtype)),
        "score": np.where(real, score, np.float32(0)),
        "num_valid": num.astype(np.int32),
        **_notes(routed),
        "missing_shard": _names(lists.missing[:, None]),
        "missing_category": _names(names),
    }


def _merge(routed: Outputs, columns: Outputs, lists: Outputs) -> dict[str, np.ndarray]:
    """`retrieval.merge_lists` of lists [B, N, W]."""
    k, num_requests = routed["k"], len(routed["k"])
    num, width = lists["logit"].shape[1:]
    rank = np.arange(width, dtype=np.float32)[None, None]
    candidates = Candidates(
        logit=lists["logit"],
        log_probability=lists["logit"] - lists["log_partition"][:, :, None],
        rank=rank,
        log_interest=columns["log_interest"][:, :, None],
        order=np.arange(num, dtype=np.float32)[None, :, None],
        num_interests=np.float32(num),
        is_beyond_quota=(rank >= columns["quota"][:, :, None]).astype(np.float32),
    )
    merged = np.full(lists["logit"].shape, _LEAST, np.float32)
    real = np.arange(width)[None, None] < lists["num_valid"][:, :, None]
    for name in set(routed["merge"].tolist()):
        scores = np.broadcast_to(MERGES[name.decode()](candidates), merged.shape)
        merged = np.where((routed["merge"] == name)[:, None, None] & real, scores, merged)
    longest = int(k.max(initial=1))
    flat = merged.reshape(num_requests, num * width)
    at = np.argsort(-flat, axis=1, kind="stable")[:, :longest]  # equal scores: the lower position first, as top_k
    at = np.pad(at, [(0, 0), (0, longest - at.shape[1])])
    best = np.take_along_axis(flat, at, 1) if flat.shape[1] else np.full(at.shape, _LEAST, np.float32)
    count = np.minimum(real.reshape(num_requests, -1).sum(1), k).astype(np.int32)
    kept = np.arange(longest)[None] < count[:, None]
    chosen = np.where(kept, at // max(width, 1), 0)
    item = lists["item_id"].reshape(num_requests, -1)
    item = np.take_along_axis(item, at, 1) if flat.shape[1] else np.full(at.shape, blank_of(item.dtype), item.dtype)
    category, place = (
        np.take_along_axis(columns[name], chosen, 1) for name in ("interest_category", "interest_rank_drawn")
    )
    return {
        "item_id": np.where(kept, item, blank_of(item.dtype)),
        "score": np.where(kept, best, np.float32(0)),
        "category": np.where(kept, category, b""),
        "interest_rank": np.where(kept, place, np.int32(0)),
        "num_valid": count,
    }


def _scatter(shape: tuple[int, ...], row: np.ndarray, column: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Values of R queries at their places among the N interests of each request, blank elsewhere: [B, N, ...]."""
    wide = np.full((*shape, *part.shape[1:]), blank_of(part.dtype), part.dtype)
    wide[row, column] = part
    return wide


def _leave_out(is_lost: np.ndarray, *tables: Outputs) -> list[dict[str, np.ndarray]]:
    """Columns [B, N, ...] without the lost interests: the others move up, and blanks fill the end."""
    order = np.argsort(is_lost, axis=1, kind="stable")
    kept = np.arange(is_lost.shape[1])[None] < (~is_lost).sum(1)[:, None]

    def compact(column: np.ndarray) -> np.ndarray:
        more = (1,) * (column.ndim - 2)
        moved = np.take_along_axis(column, order.reshape(*order.shape, *more), 1)
        return np.where(kept.reshape(*kept.shape, *more), moved, blank_of(column.dtype)).astype(column.dtype)

    return [{name: compact(column) for name, column in table.items()} for table in tables]


def _names(names: np.ndarray) -> np.ndarray:
    """The distinct names of each row, "" where there is none, [B, n] -> [B, X] object of bytes, as wide as the most."""
    rows = [sorted({name for name in row if name}) for row in names]
    table = np.full((len(rows), max(map(len, rows), default=0)), b"", object)
    for row, held in enumerate(rows):
        table[row, : len(held)] = held
    return table


def blank_of(dtype: np.dtype) -> Any:
    """What pads a column: b"" among texts, else 0."""
    return b"" if dtype.kind == "O" else dtype.type(0)
