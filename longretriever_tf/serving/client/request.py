"""A request as a client sees it, and as the columns of the exported signatures.

Imports no TensorFlow: a client over REST needs numpy alone.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.input_names import BANDIT_PRIOR, input_of_profile
from longretriever_tf.serving.client.input_spec import InputSpec, cast_column
from longretriever_tf.serving.client.request_values import (
    as_count,
    as_list,
    as_log_probability,
    as_positive,
    as_rewards,
    check_bandit,
    check_ids,
    check_texts,
    check_threshold,
    check_times,
    check_weights,
)
from longretriever_tf.serving.client.response import ItemId, plain_lists

Columns = dict[str, np.ndarray]

_NO_ITEM: dict[str, ItemId] = {"DT_INT64": -3_867_590_412_748_930_227, "DT_STRING": ""}
"""Pads lists of items to leave out: an id that no log has. The number is an arbitrary one of the 2**64 that there are,
since people's ids are at 0, at -1 and at the limits of int64; text ids are never empty."""

_NEUTRAL: dict[str, Any] = {"seed": -1, "exploration": 0, "goal": "all", "history_weight": 1.0}
_NEUTRAL |= {"bandit": "none", "bandit_prior": BANDIT_PRIOR}
"""What says nothing on any export; used where the server does not tell its defaults."""

_CATEGORY_LISTS = ("allowed_category", "forbidden_category")
_COUNT_BITS = {"k": 32, "num_interests": 32, "top_interests": 32, "exploration": 32, "seed": 64}
_NUMBERS = {name: functools.partial(as_count, bits=bits) for name, bits in _COUNT_BITS.items()} | {
    "interest_threshold": as_log_probability,
    "bandit_prior": as_positive,
}
_SCALARS: tuple[str, ...] = ("k", "num_interests", "top_interests", "interest_threshold", "seed", "exploration")
_SCALARS += ("merge", "goal", "bandit", "bandit_prior")
_REWARDS = ("reward_trials", "reward_successes")


@dataclasses.dataclass(frozen=True)
class Request:
    """One user's question. What is None or empty is left to the export's own default.

    Attributes:
      history_item_id: items of the whole history, in any order; unknown ones are ignored. Who must shorten a history
        sends its first time and the latest events: how it begins tells which table must not be read
        (`data.recipe.history_embedding`).
      history_timestamp: seconds UTC of each, above 0, events of one basket at its earliest, as in training; those at
        or after the request are ignored.
      request_timestamp: seconds UTC.
      profile: values by column of the users table; a missing one is unknown. None is sent to a model that reads none.
      history_weight: weight of each event in the interest score; all 1 by default.
      history_action: what the user did with each, as the log of the training spells it, for a model that was trained
        with an action column; "" (or none at all) counts as the first of its --target_actions.
      k: length of the list.
      num_interests, top_interests: N interests are drawn from the best M; N = 0: the best M and all that
        `interest_threshold` lets in.
      interest_threshold: with N = 0, a category is searched from this estimate of its best log p(item | user) on.
      seed: of the draw: same seed, same answer; a fresh draw without one.
      exploration: how many of the N go to categories that the user has never seen.
      merge: calibrated, raw, quota or round_robin.
      goal: all, or novel: nothing that the history holds.
      exclude_item_id: items that must not come back.
      allowed_category: search these alone; empty: all.
      forbidden_category: never search these.
      forced_category: search these in any case; the weight multiplies the category's probability.
      bandit: none, or thompson: interests are chosen and merged by shares drawn around the model's, after `rewards`.
      bandit_prior: how many trials the model's own share is worth there.
      rewards: what was logged of this user, by category: trials and successes (serving/README.md says what to count).
      event_features: values by column of --event_features (device: mobile), as the log of the training spells them;
        one that is missing, or that the training has not seen, is unknown.

    Lists may be numpy arrays or columns of pandas, numbers numpy's.

    Raises:
      UserError: columns of different lengths, ids of two kinds, times in milliseconds, or a value that its field cannot
        hold: it is never cast.
    """

    history_item_id: Sequence[ItemId]
    history_timestamp: Sequence[int]
    request_timestamp: int
    profile: Mapping[str, str] = dataclasses.field(default_factory=dict)
    history_weight: Sequence[float] | None = None
    history_action: Sequence[str] | None = None
    k: int | None = None
    num_interests: int | None = None
    top_interests: int | None = None
    interest_threshold: float | None = None
    seed: int | None = None
    exploration: int | None = None
    merge: str | None = None
    goal: str | None = None
    exclude_item_id: Sequence[ItemId] = ()
    allowed_category: Sequence[str] = ()
    forbidden_category: Sequence[str] = ()
    forced_category: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bandit: str | None = None
    bandit_prior: float | None = None
    rewards: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    event_features: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._make_plain()
        num = len(self.history_item_id)
        for name in ("history_timestamp", "history_weight", "history_action"):
            column = getattr(self, name)
            if column is not None and len(column) != num:
                raise UserError(f"`{name}` has {len(column)} values for {num} in `history_item_id`; give one per event")

    def _make_plain(self) -> None:
        """Lists and numbers of numpy, pandas and others as Python's own, each checked by what the field holds."""

        def put(name: str, value: Any) -> Any:
            object.__setattr__(self, name, value)  # the class is frozen for everybody else
            return value

        def put_list(name: str) -> Sequence[Any]:
            return put(name, as_list(name, getattr(self, name)))

        for name in ("history_item_id", "exclude_item_id"):
            check_ids(name, put_list(name))
        check_times("history_timestamp", put_list("history_timestamp"))
        as_of = put("request_timestamp", as_count("request_timestamp", self.request_timestamp, 64))
        check_times("request_timestamp", [as_of], 1)
        if self.history_weight is not None:
            check_weights("history_weight", put_list("history_weight"))
        if self.history_action is not None:
            check_texts("history_action", put_list("history_action"))
        for name in _CATEGORY_LISTS:
            check_texts(name, put_list(name))
        for name, read in _NUMBERS.items():
            if getattr(self, name) is not None:
                put(name, read(name, getattr(self, name)))
        for name in ("merge", "goal", "bandit"):
            check_texts(name, [getattr(self, name) or ""])
        for name in ("forced_category", "rewards", "profile", "event_features"):
            if not isinstance(getattr(self, name), Mapping):
                raise UserError(f"`{name}` must be a dict; received {getattr(self, name)!r}")
        check_texts("forced_category", list(self.forced_category))
        weights = as_list("forced_category", list(self.forced_category.values()))
        check_weights("forced_category", weights)
        put("forced_category", dict(zip(self.forced_category, weights, strict=True)))
        put("rewards", as_rewards("rewards", self.rewards))
        check_texts("profile", [*self.profile, *self.profile.values()])
        check_texts("event_features", [*self.event_features, *self.event_features.values()])

    @property
    def takes_options(self) -> bool:
        """Whether anything but `k` differs from the export's defaults."""
        of_events = ("history_weight", "history_action", "event_features")
        lists = ("exclude_item_id", *_CATEGORY_LISTS, "forced_category", "rewards")
        request_options = (*_SCALARS[1:], *of_events, *lists)
        return any(getattr(self, name) not in (None, (), [], {}) for name in request_options)


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
        history_action=None if request.history_action is None else ["", *request.history_action],
        exclude_item_id=[no_item, *request.exclude_item_id],
        allowed_category=["", *request.allowed_category],
        forbidden_category=["", *request.forbidden_category],
        forced_category={"": 0.0, **request.forced_category},
        rewards={"": (0.0, 0.0), **request.rewards},
    )


def make_columns(requests: Sequence[Request], inputs: Mapping[str, InputSpec], may_omit: bool = False) -> Columns:
    """The requests as the inputs of a signature, one row each, histories padded on the right with timestamp 0.

    Args:
      requests: B of them, at least one.
      inputs: of the signature, as the server's metadata tells.
      may_omit: leave out what no request says and the metadata has no default for, as gRPC allows and REST does not.

    Raises:
      UserError: a column of the profile or of --event_features that the model does not have, values of a wrong type,
        or a value that only the caller can give.
    """
    if not requests:
        raise UserError("no requests: give one or more")
    _check_profile(requests, inputs)
    _check_event_features(requests, inputs)
    if "history_action" not in inputs and any(request.history_action for request in requests):
        raise UserError(
            "`history_action` is not an input of the model: it was trained without --action_column; leave it out"
        )
    check_bandit([(one.bandit, one.rewards) for one in requests], inputs)
    check_threshold([(one.num_interests, one.interest_threshold) for one in requests], inputs)
    columns = {}
    for name, spec in inputs.items():
        column = _column(name, spec, requests)
        if column is not None:
            columns[name] = cast_column(name, spec, column)
        elif not may_omit:
            raise UserError(f"the server tells no default of `{name}`, and REST needs every input: set Request.{name}")
    return columns


def _check_profile(requests: Sequence[Request], inputs: Mapping[str, InputSpec]) -> None:
    given = {name for request in requests for name in request.profile}
    known = _further_inputs(inputs, False)
    odd = sorted(name for name in given if input_of_profile(name) not in known)
    if known and odd:  # a model that reads no profile is sent none
        raise UserError(
            f"profile column {odd[0]!r} is not an input of the model; its profile columns: {', '.join(sorted(known))}"
        )


def _further_inputs(inputs: Mapping[str, InputSpec], is_event: bool) -> set[str]:
    """Inputs of --event_features, which have a default, or of the profile; all of them where no default is told."""
    names = {name for name in inputs if name not in Request.__dataclass_fields__ and name not in _NOT_PROFILE}
    if all(spec.default is None for spec in inputs.values()):
        return names
    return {name for name in names if (inputs[name].default is not None) == is_event}


def _check_event_features(requests: Sequence[Request], inputs: Mapping[str, InputSpec]) -> None:
    known = _further_inputs(inputs, True)
    odd = sorted({name for request in requests for name in request.event_features} - known)
    if odd:
        raise UserError(
            f"`event_features`: {odd[0]!r} is not an input of the model; those that it was trained with "
            f"(--event_features): {', '.join(sorted(known)) or 'none'}; leave it out"
        )


_NOT_PROFILE = ("forced_weight", "reward_category", *_REWARDS, "category", "item_id", "expected")


def _column(name: str, spec: InputSpec, requests: Sequence[Request]) -> list[Any] | None:
    """One row per request; None: nobody says anything, and no default is known."""
    if name in ("history_item_id", "history_timestamp", *_CATEGORY_LISTS):
        return _padded([getattr(request, name) for request in requests], "" if spec.dtype == "DT_STRING" else 0)
    if name == "exclude_item_id":
        return _padded([request.exclude_item_id for request in requests], _NO_ITEM[spec.dtype])
    if name == "forced_category":
        return _padded([list(request.forced_category) for request in requests], "")
    if name == "forced_weight":
        return _padded([list(request.forced_category.values()) for request in requests], 0.0)
    if name == "reward_category":
        return _padded([list(request.rewards) for request in requests], "")
    if name in _REWARDS:
        at = _REWARDS.index(name)
        return _padded([[counts[at] for counts in request.rewards.values()] for request in requests], 0.0)
    if name == "history_weight":
        return _weights(requests)
    if name == "history_action":
        return _actions(requests)
    if name == "request_timestamp":
        return [request.request_timestamp for request in requests]
    if name in _SCALARS:
        return _scalars(name, spec, requests)
    return [{**_profile(request), **request.event_features}.get(name, "") for request in requests]


def _profile(request: Request) -> dict[str, str]:
    return {input_of_profile(column): value for column, value in request.profile.items()}


def _scalars(name: str, spec: InputSpec, requests: Sequence[Request]) -> list[Any] | None:
    values = [getattr(request, name) for request in requests]
    if None not in values:
        return values
    default = _NEUTRAL.get(name) if spec.default is None else plain_lists(spec.default)[0]
    return None if default is None else [default if value is None else value for value in values]


def _weights(requests: Sequence[Request]) -> list[Any]:
    if all(request.history_weight is None for request in requests):
        return [[_NEUTRAL["history_weight"]]] * len(requests)  # one for all events of a history
    given = [
        [1.0] * len(request.history_item_id) if request.history_weight is None else request.history_weight
        for request in requests
    ]
    return _padded(given, 0.0)


def _actions(requests: Sequence[Request]) -> list[Any]:
    if all(request.history_action is None for request in requests):
        return [[""]] * len(requests)  # one for all events of a history
    return _padded([request.history_action or [""] * len(request.history_item_id) for request in requests], "")


def _padded(rows: Sequence[Sequence[Any]], fill: Any) -> list[list[Any]]:
    width = max(map(len, rows))
    return [[*(row.tolist() if isinstance(row, np.ndarray) else row), *[fill] * (width - len(row))] for row in rows]
