"""Histories that the explorer page offers: from a file of real ones, or the made-up ones of an export's warm-up
requests.

The file is JSON: {"made_up": false, "users": [{"label": "household 1", "request_timestamp": 1512345680, "item_id":
[...], "timestamp": [...], "weight": [...], "action": [...], "profile": {"age": "35-44"}, "held_out": {"until":
1514764880, "item_id": [...], "timestamp": [...]}}]}; weight, action, profile and held_out, what the user did from the
request on, may be left out.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S, FIRST_KNOWN

if TYPE_CHECKING:  # a server reads users without TFDS and pandas
    from longretriever_tf.data.corpus import Corpus
    from longretriever_tf.datasets.log import LifelongLog

_DEFAULT = "serving_default"
_MILLISECONDS_FROM = 10**11  # as seconds this is the year 5138
_NEEDED = ("label", "request_timestamp", "item_id", "timestamp")
_WRITE_ONE = "longretriever sample_users --export_dir=... --output=users.json writes one"
User = dict[str, Any]


class HeldOut(NamedTuple):
    """Which events count as held out.

    Attributes:
      until: the first second after the window.
      is_known: items of the log that the model could list, [V] bool: an evaluation counts no others.
    """

    until: int
    is_known: np.ndarray


def read_users(path: str) -> bytes:
    """A users file, checked; returns what the page loads.

    Raises:
      UserError: it cannot be read, or is of another form.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"--explorer_users={path!r} cannot be read as JSON: {error}; {_WRITE_ONE}") from error
    users = document.get("users") if isinstance(document, dict) else None
    if not isinstance(users, list) or not users:
        raise UserError(f'--explorer_users={path!r} must hold {{"users": [...]}}, one user at least; {_WRITE_ONE}')
    for number, user in enumerate(users, 1):
        if fault := _fault(user):
            raise UserError(f"--explorer_users={path!r}: user {number} {fault}; {_WRITE_ONE}")
    return json.dumps({"made_up": bool(document.get("made_up")), "users": users}).encode()


def _fault(user: Any) -> str:
    """What is wrong with a user of the file, "" for nothing."""
    if not isinstance(user, dict):
        return f"must be an object, and is {json.dumps(user)[:60]}"
    if missing := [name for name in _NEEDED if name not in user]:
        return f"lacks {', '.join(missing)}"
    if fault := _fault_of_events(user):
        return fault
    items, times = user["item_id"], user["timestamp"]
    if wrong := [t for t in [*times, user["request_timestamp"]] if type(t) is not int or abs(t) >= _MILLISECONDS_FROM]:
        return f"has the timestamp {wrong[0]!r}; expected whole seconds"
    weights = user.get("weight") or [1] * len(items)
    if not isinstance(weights, list) or len(weights) != len(items):
        return "must have as many `weight` as `item_id`, or none"
    if wrong := [one for one in weights if type(one) not in (int, float) or not 0 <= one < math.inf]:
        return f"has the weight {json.dumps(wrong[0])[:40]}; expected a number of at least 0"
    actions = user.get("action", [])
    if actions and not (isinstance(actions, list) and len(actions) == len(items) and set(map(type, actions)) == {str}):
        return "must have as many `action` as `item_id`, as text, or none"
    if not isinstance(user.get("profile", {}), dict):
        return 'must have `profile` as {"column": "value"}, or none'
    return _fault_of_held_out(user["held_out"], user["request_timestamp"]) if "held_out" in user else ""


def _fault_of_events(events: Any) -> str:
    items, times = events.get("item_id"), events.get("timestamp")
    if not isinstance(items, list) or not isinstance(times, list) or len(items) != len(times):
        return "must have lists `item_id` and `timestamp` of one length"
    if wrong := [item for item in items if type(item) not in (int, str)]:
        return f"has the item {json.dumps(wrong[0])[:40]}; expected text or whole numbers"
    return ""


def _fault_of_held_out(held_out: Any, as_of: int) -> str:
    if not isinstance(held_out, dict) or type(held_out.get("until")) is not int:
        return 'must have `held_out` as {"until": whole seconds, "item_id": [...], "timestamp": [...]}'
    if fault := _fault_of_events(held_out):
        return f"{fault} in `held_out`"
    if wrong := [t for t in held_out["timestamp"] if type(t) is not int or not as_of <= t < held_out["until"]]:
        return f"has the timestamp {wrong[0]!r} in `held_out`; expected whole seconds from {as_of} to before `until`"
    return ""


def held_out_window(log: "LifelongLog", corpus: "Corpus", as_of: int, window_days: float) -> HeldOut | None:
    """The window of an evaluation that begins at `as_of`: its days, and the items that its truth counts.

    Args:
      log: the log, or some of its users.
      corpus: of the export: items that anyone took before its cut.
      as_of: seconds UTC.
      window_days: length of the window.

    Returns:
      None where the log ends before `as_of`: then nobody knows what users did.
    """
    end = int(log.timestamp.max(initial=-1))
    if end < as_of:
        return None
    until = as_of + round(window_days * DAY_S)
    # The log's last second belongs to the test window, as of `splits.Cuts.window_of`.
    return HeldOut(until + (end == until), corpus.find_items(log.items.item_id) >= FIRST_KNOWN)


def sample_users(
    log: "LifelongLog", as_of: int, num_users: int, chosen: Sequence[str] = (), window: HeldOut | None = None
) -> list[User]:
    """Users of a log as of a time: long, middling and short histories, longest first, at equal steps of rank.

    Args:
      log: the log.
      as_of: seconds UTC; events at or after it are left out, and the page asks as of it.
      num_users: how many; fewer where fewer have an event before the time.
      chosen: ids as text; empty: by history length.
      window: what users did from the time on, to be written too; None: nothing of it.

    Raises:
      UserError: a chosen user is not in the log, or no user has an event before the time.
    """
    if chosen:
        row_of = {str(user): row for row, user in enumerate(log.user_id)}
        if unknown := [user for user in chosen if user not in row_of]:
            raise UserError(f"--user_ids: {unknown[0]!r} is not in the log, which has {log.num_users:,} users")
        return [_user(log, row_of[user], as_of, window) for user in chosen]
    length = np.bincount(log.event_user()[log.timestamp < as_of], minlength=log.num_users)
    order = np.argsort(length, kind="stable")
    order = order[length[order] > 0]
    if not len(order):
        raise UserError(f"no user of the log has an event before {np.datetime64(as_of, 's')}; give a later --as_of")
    at = np.linspace(0, len(order) - 1, min(num_users, len(order))).round().astype(int)
    return [_user(log, row, as_of, window) for row in order[at][::-1]]


def _user(log: "LifelongLog", row: int, as_of: int, window: HeldOut | None) -> User:
    first, last = log.offset[row : row + 2]
    times, items = log.timestamp[first:last], log.items.item_id[log.item_row[first:last]]
    stop = int(np.searchsorted(times, as_of))
    user = {
        "label": f"user {log.user_id[row]}",
        "request_timestamp": int(as_of),
        "item_id": items[:stop].tolist(),
        "timestamp": times[:stop].tolist(),
        "profile": {name: str(column[row]) for name, column in log.profile.items()},
    }
    weight = log.weight[first:last][:stop]
    if not np.all(weight == 1):
        user["weight"] = weight.astype(float).round(6).tolist()
    if log.action is not None:
        user["action"] = [log.actions.name[row] for row in log.action[first:last][:stop].tolist()]
    if window is not None:
        counts = (times >= as_of) & (times < window.until) & window.is_known[log.item_row[first:last]]
        counts &= True if log.is_target is None else log.is_target[first:last]
        held_out = {"item_id": items[counts].tolist(), "timestamp": times[counts].tolist()}
        user["held_out"] = {"until": int(window.until), **held_out}
    return user


def warmup_users(version_dir: str) -> bytes:
    """The made-up histories of an export's warm-up requests, as the page loads them; no user where there are no
    requests.

    They are random items at random times: they show that the model answers, and say nothing of its history embedding.
    """
    from longretriever_tf.retrieval.export.warmup_requests import WARMUP_NAME, read_warmup

    path = os.path.join(version_dir, "assets.extra", WARMUP_NAME)
    users = []
    for log in read_warmup(path) if os.path.exists(path) else ():
        request = log.predict_log.request
        if request.model_spec.signature_name == _DEFAULT:
            users += list(_made_up(request.inputs))
    for number, user in enumerate(users, 1):
        user["label"] = f"made-up history {number}"
    return json.dumps({"made_up": True, "users": users}).encode()


def _made_up(inputs: Any) -> Iterator[User]:
    from longretriever_tf.serving.server.tensors import arrays_of

    columns = arrays_of(inputs)
    if not {"history_item_id", "history_timestamp", "request_timestamp"} <= columns.keys():
        return  # another kind of model
    for row, as_of in enumerate(columns["request_timestamp"]):
        items = columns["history_item_id"][row].tolist()
        yield {
            "request_timestamp": int(as_of),
            "item_id": [item.decode() if isinstance(item, bytes) else item for item in items],
            "timestamp": columns["history_timestamp"][row].tolist(),
        }
