"""A request and its answer as a client sees them, and as the columns of the exported signatures.

Imports no TensorFlow: a client over REST needs numpy alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from longretriever_tf.errors import UserError
from longretriever_tf.text import as_text, is_text

ItemId = int | str
Columns = dict[str, np.ndarray]

_NO_ITEM: dict[str, ItemId] = {"DT_INT64": -3_867_590_412_748_930_227, "DT_STRING": ""}
"""Pads lists of items to leave out: an id that no log has. The number is an arbitrary one of the 2**64 that there are,
since people's ids are at 0, at -1 and at the limits of int64; text ids are never empty."""

_NUMPY = {"DT_INT64": np.int64, "DT_INT32": np.int32, "DT_FLOAT": np.float32, "DT_STRING": np.object_}
_NEUTRAL: dict[str, Any] = {"seed": -1, "exploration": 0, "goal": "all", "history_weight": 1.0}
"""What says nothing on any export; used where the server does not tell its defaults."""

_CATEGORY_LISTS = ("allowed_category", "forbidden_category")
_SCALARS = ("k", "num_interests", "top_interests", "seed", "exploration", "merge", "goal")


class InputSpec(NamedTuple):
    """One input of a signature: the dtype's name (DT_INT64, ...), and its default where the server tells one."""

    dtype: str
    default: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """One user's question. What is None or empty is left to the export's own default.

    Attributes:
      history_item_id: items of the whole life, in any order; unknown ones are ignored. Who must shorten a life sends
        its first moment and the latest events: how it begins tells which table must not be read (`data.taste`).
      history_timestamp: seconds UTC of each, above 0, events of one basket at its earliest, as in training; those at
        or after the request are ignored.
      request_timestamp: seconds UTC.
      profile: values by profile column; a missing one is unknown.
      history_weight: weight of each event in the interest score; all 1 by default.
      k: length of the list.
      num_interests, top_interests: N interests are drawn from the best M.
      seed: of the draw: same seed, same answer; a fresh draw without one.
      exploration: how many of the N go to categories that the user never touched.
      merge: calibrated, raw, quota or round_robin.
      goal: all, or novel: nothing that the history holds.
      exclude_item_id: items that must not come back.
      allowed_category: search these alone; empty: all.
      forbidden_category: never search these.
      forced_category: search these in any case; the weight multiplies the category's probability.

    Raises:
      UserError: columns of different lengths, or ids of two kinds.
    """

    history_item_id: Sequence[ItemId]
    history_timestamp: Sequence[int]
    request_timestamp: int
    profile: Mapping[str, str] = dataclasses.field(default_factory=dict)
    history_weight: Sequence[float] | None = None
    k: int | None = None
    num_interests: int | None = None
    top_interests: int | None = None
    seed: int | None = None
    exploration: int | None = None
    merge: str | None = None
    goal: str | None = None
    exclude_item_id: Sequence[ItemId] = ()
    allowed_category: Sequence[str] = ()
    forbidden_category: Sequence[str] = ()
    forced_category: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        num = len(self.history_item_id)
        for name in ("history_timestamp", "history_weight"):
            column = getattr(self, name)
            if column is not None and len(column) != num:
                raise UserError(f"`{name}` has {len(column)} values for {num} in `history_item_id`; give one per event")

    @property
    def turns_knobs(self) -> bool:
        """Whether anything but `k` differs from the export's defaults."""
        knobs = (*_SCALARS[1:], "history_weight", "exclude_item_id", *_CATEGORY_LISTS, "forced_category")
        return any(getattr(self, name) not in (None, (), [], {}) for name in knobs)


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
    """One user's answer: the list, best first, and the interests behind it; `num_valid` is the list's length."""

    candidates: tuple[Candidate, ...]
    interests: tuple[Interest, ...]
    num_valid: int


def lead_with_padding(request: Request, inputs: Mapping[str, InputSpec]) -> Request:
    """The same question with padding at the head of every list.

    A server that batches requests of unequal length lengthens each by repeating its own first element: that must be
    nothing, or the oldest event would count many times.
    """
    no_item = _NO_ITEM[inputs["history_item_id"].dtype]
    weight = [1.0] * len(request.history_item_id) if request.history_weight is None else request.history_weight
    return dataclasses.replace(
        request,
        history_item_id=[no_item, *request.history_item_id],
        history_timestamp=[0, *request.history_timestamp],
        history_weight=[0.0, *weight],
        exclude_item_id=[no_item, *request.exclude_item_id],
        allowed_category=["", *request.allowed_category],
        forbidden_category=["", *request.forbidden_category],
        forced_category={"": 0.0, **request.forced_category},
    )


def make_columns(requests: Sequence[Request], inputs: Mapping[str, InputSpec], may_omit: bool = False) -> Columns:
    """The requests as the inputs of a signature, one row each, histories padded on the right with timestamp 0.

    Args:
      requests: B of them, at least one.
      inputs: of the signature, as the server's metadata tells.
      may_omit: leave out what no request says and the metadata has no default for, as gRPC allows and REST does not.

    Raises:
      UserError: a profile column that the model does not have, values of a wrong type, or a value that only the caller
        can give.
    """
    if not requests:
        raise UserError("no requests: give one or more")
    _check_profile(requests, inputs)
    columns = {}
    for name, spec in inputs.items():
        column = _column(name, spec, requests)
        if column is not None:
            columns[name] = _cast(name, spec, column)
        elif not may_omit:
            raise UserError(f"the server tells no default of `{name}`, and REST needs every input: set Request.{name}")
    return columns


def make_rows(columns: Columns) -> list[dict[str, Any]]:
    """The columns as `instances`: one object per request."""
    lists = {name: column.tolist() for name, column in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def read_responses(outputs: Mapping[str, Any]) -> list[Response]:
    """Answers from the outputs of `serving_default` or `top_k`: lists of JSON, or arrays."""
    columns = {name: _plain(column) for name, column in outputs.items()}
    interests = read_interests(columns)
    names = ("item_id", "score", "category", "interest_rank")
    responses = []
    for row, num in enumerate(columns["num_valid"]):
        cells = zip(*(columns[name][row][:num] for name in names), strict=True)
        responses.append(Response(tuple(Candidate(*cell) for cell in cells), interests[row], num))
    return responses


def read_interests(outputs: Mapping[str, Any]) -> list[tuple[Interest, ...]]:
    """The interests of each request, in the order of their search."""
    names = ("category", "score", "rank_drawn", "origin", "num_events", "last_timestamp")
    columns = [_plain(outputs[f"interest_{name}"]) for name in names]
    rows = [zip(*(column[row] for column in columns), strict=True) for row in range(len(columns[0]))]
    return [tuple(Interest(*cell) for cell in row if cell[0]) for row in rows]  # padding has no name


def rows_to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The `predictions` of a row reply as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _plain(column: Any) -> Any:
    """Nested lists of str and numbers."""
    if not isinstance(column, np.ndarray):
        return column
    if is_text(column):
        return as_text(column.ravel()).reshape(column.shape).tolist()
    return column.tolist()


def _check_profile(requests: Sequence[Request], inputs: Mapping[str, InputSpec]) -> None:
    given = {name for request in requests for name in request.profile}
    known = {name for name in inputs if name not in Request.__dataclass_fields__ and name not in _NOT_PROFILE}
    if given - known:
        raise UserError(
            f"profile column {sorted(given - known)[0]!r} is not an input of the model; its profile columns: "
            f"{', '.join(sorted(known)) or 'none'}"
        )


_NOT_PROFILE = ("forced_weight", "category", "item_id", "expected")


def _column(name: str, spec: InputSpec, requests: Sequence[Request]) -> list[Any] | None:
    """One row per request; None: nobody says anything, and no default is known."""
    if name in ("history_item_id", "history_timestamp"):
        return _padded([getattr(request, name) for request in requests], "" if spec.dtype == "DT_STRING" else 0)
    if name == "exclude_item_id":
        return _padded([request.exclude_item_id for request in requests], _NO_ITEM[spec.dtype])
    if name in _CATEGORY_LISTS:
        return _padded([getattr(request, name) for request in requests], "")
    if name == "forced_category":
        return _padded([list(request.forced_category) for request in requests], "")
    if name == "forced_weight":
        return _padded([list(request.forced_category.values()) for request in requests], 0.0)
    if name == "history_weight":
        return _weights(requests)
    if name == "request_timestamp":
        return [request.request_timestamp for request in requests]
    if name in _SCALARS:
        return _scalars(name, spec, requests)
    return [request.profile.get(name, "") for request in requests]


def _scalars(name: str, spec: InputSpec, requests: Sequence[Request]) -> list[Any] | None:
    values = [getattr(request, name) for request in requests]
    if None not in values:
        return values
    default = _NEUTRAL.get(name) if spec.default is None else _plain(spec.default)[0]
    return None if default is None else [default if value is None else value for value in values]


def _weights(requests: Sequence[Request]) -> list[Any]:
    if all(request.history_weight is None for request in requests):
        return [[_NEUTRAL["history_weight"]]] * len(requests)  # one for all events of a life
    given = [
        [1.0] * len(request.history_item_id) if request.history_weight is None else request.history_weight
        for request in requests
    ]
    return _padded(given, 0.0)


def _padded(rows: Sequence[Sequence[Any]], fill: Any) -> list[list[Any]]:
    width = max(map(len, rows))
    return [[*(row.tolist() if isinstance(row, np.ndarray) else row), *[fill] * (width - len(row))] for row in rows]


def _cast(name: str, spec: InputSpec, column: list[Any]) -> np.ndarray:
    """An array of the input's dtype; numbers never become text, nor text numbers."""
    wanted = _NUMPY.get(spec.dtype)
    if wanted is None:
        raise UserError(f"input `{name}` has dtype {spec.dtype}, which no retriever of this package has")
    if wanted is np.object_:
        return _cast_text(name, column)
    array = np.array(column) if np.size(column) else np.zeros(np.shape(column), wanted)
    kinds, what = ("iu", "whole numbers") if np.issubdtype(wanted, np.integer) else ("iuf", "numbers")
    if array.dtype.kind not in kinds:
        raise UserError(f"`{name}` must hold {what}, as the model was trained; received {_odd(column, kinds)!r}")
    return array.astype(wanted)


def _cast_text(name: str, column: list[Any]) -> np.ndarray:
    """Text at the width of each value: fixed-width text would hold all at the width of the longest."""
    array = np.array(column, np.object_)
    odd = [value for value in array.flat if not isinstance(value, str)]
    if odd:
        raise UserError(f"`{name}` must hold text, as the model was trained; received {odd[0]!r}")
    return array


def _odd(column: list[Any], kinds: str) -> Any:
    """A value at fault."""
    flat = [value for row in column for value in (row if isinstance(row, list) else [row])]
    return next((value for value in flat if np.array(value).dtype.kind not in kinds), flat[0])
