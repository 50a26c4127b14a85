"""An answer as a client sees it, from the outputs of the exported signatures. Imports no TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text, is_text

ItemId = int | str

_MISSING = ("missing_shard", "missing_category")

_LATER_NOTES = ("statistics_as_of", "num_unknown_actions")
"""What not every export tells."""

_COUNTS = ("num_unknown_items", "num_unknown_excluded")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One item of the list, and the rank of the interest that brought it (1: the user's best)."""

    item_id: ItemId
    score: float
    category: str
    interest_rank: int


@dataclasses.dataclass(frozen=True)
class Interest:
    """One category that was searched.

    Attributes:
      category: its name.
      score: what it was chosen by.
      rank: among all categories of the user, 1 the best.
      origin: drawn, explored, forced or popular.
      num_events: of the user in it.
      last_timestamp: of the latest, 0 without any.
    """

    category: str
    score: float
    rank: int
    origin: str
    num_events: int
    last_timestamp: int


@dataclasses.dataclass(frozen=True)
class Response:
    """One user's answer.

    Attributes:
      candidates: the list, best first.
      interests: those behind it.
      num_valid: the list's length.
      unknown_category: names in the request's lists of categories that the model does not know: misspelt, perhaps.
      num_unknown_items: events of the history whose item the model does not know.
      num_unknown_excluded: items to leave out that it does not know.
      num_unknown_actions: events of the history whose action it does not know; they weigh 1 and are no targets.
      missing_shard: shards of an export by category ranges that did not answer.
      missing_category: interests that were to be searched there, and are left out.
      statistics_as_of: until when statistics of items and categories count events, seconds UTC; 0: an export of
        before there was such an answer.
    """

    candidates: tuple[Candidate, ...]
    interests: tuple[Interest, ...]
    num_valid: int
    unknown_category: tuple[str, ...] = ()
    num_unknown_items: int = 0
    num_unknown_excluded: int = 0
    missing_shard: tuple[str, ...] = ()
    missing_category: tuple[str, ...] = ()
    statistics_as_of: int = 0
    num_unknown_actions: int = 0


def read_responses(outputs: Mapping[str, Any]) -> list[Response]:
    """Answers from the outputs of `serving_default` or `top_k`: lists of JSON, or arrays.

    Raises:
      UserError: they are a router's, which no shard has answered.
    """
    if "query_shard" in outputs:
        raise UserError(
            "this model is the router of an export by category ranges, and searches nothing itself: give the client "
            "the export's shards.json, or ask a server that was started with --shards_file"
        )
    columns = {name: plain_lists(column) for name, column in outputs.items()}
    interests = read_interests(columns)
    names = ("item_id", "score", "category", "interest_rank")
    tells_unknown = "unknown_category" in columns  # not the exports of before there was such an answer
    responses = []
    for row, num in enumerate(columns["num_valid"]):
        cells = zip(*(columns[name][row][:num] for name in names), strict=True)
        unknown = tuple(name for name in columns["unknown_category"][row] if name) if tells_unknown else ()
        counts = (columns[name][row] for name in _COUNTS) if tells_unknown else (0, 0)
        missing = [tuple(filter(None, columns[name][row])) if name in columns else () for name in _MISSING]
        candidates = tuple(Candidate(*cell) for cell in cells)
        as_of, odd = (columns[name][row] if name in columns else 0 for name in _LATER_NOTES)
        response = Response(candidates, interests[row], num, unknown, *counts, *missing)
        responses.append(dataclasses.replace(response, statistics_as_of=int(as_of), num_unknown_actions=int(odd)))
    return responses


def read_interests(outputs: Mapping[str, Any]) -> list[tuple[Interest, ...]]:
    """The interests of each request, in the order of their search."""
    names = ("category", "score", "rank_drawn", "origin", "num_events", "last_timestamp")
    columns = [plain_lists(outputs[f"interest_{name}"]) for name in names]
    rows = [zip(*(column[row] for column in columns), strict=True) for row in range(len(columns[0]))]
    return [tuple(Interest(*cell) for cell in row if cell[0]) for row in rows]  # padding has no name


def plain_lists(column: Any) -> Any:
    """Nested lists of str and numbers."""
    if not isinstance(column, np.ndarray):
        return column
    if is_text(column):
        return as_text(column.ravel()).reshape(column.shape).tolist()
    return column.tolist()
