"""Actions of events (view, cart, buy): what each weighs, and which are targets. Imports no TensorFlow."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from longretriever_tf.common.errors import UserError

_LEAST, _MOST = 1e-9, 1e9
_CURE = "give each as NAME:WEIGHT, such as view:0.2,buy:1"


class Actions(NamedTuple):
    """The actions of a log.

    Attributes:
      name: distinct, sorted; empty where the log has none.
      weight: what an event of each weighs; empty: all 1.
      target: those whose events are to be retrieved; empty: every event is.
    """

    name: tuple[str, ...] = ()
    weight: tuple[float, ...] = ()
    target: tuple[str, ...] = ()


def settle_actions(names: Iterable[str], weights: Sequence[str], targets: Sequence[str], where: str) -> Actions:
    """The actions of a log as the flags want them.

    Args:
      names: the log's.
      weights: of --action_weights.
      targets: of --target_actions.
      where: the log, for errors.

    Raises:
      UserError: a flag names an action that the log does not have.
    """
    names, of_action = tuple(sorted(names)), action_weights(weights)
    require_known(of_action, names, "--action_weights", where)
    require_known(targets, names, "--target_actions", where)
    return Actions(names, tuple(of_action.get(name, 1.0) for name in names) if of_action else (), tuple(targets))


def action_weights(entries: Iterable[str]) -> dict[str, float]:
    """The weights of --action_weights by action; what follows the last colon is the weight.

    >>> action_weights(["view:0.2", "add:cart:1"])
    {'view': 0.2, 'add:cart': 1.0}

    Raises:
      UserError: an entry without a name or a weight, a weight that is no number above 0, an action named twice.
    """
    weights: dict[str, float] = {}
    for entry in entries:
        name, _, number = entry.rpartition(":")
        if not name:
            raise UserError(f"--action_weights: {entry!r} has no action or no weight; {_CURE}")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not _LEAST <= weight <= _MOST:
            raise UserError(
                f"--action_weights: the weight of {name!r} is {number!r}; expected a number above 0, at least "
                f"{_LEAST:g} and at most {_MOST:g} (rows that shall not count at all are best left out of the table)"
            )
        if name in weights:
            raise UserError(f"--action_weights: the action {name!r} is there twice; give it one weight")
        weights[name] = weight
    return weights


def default_weight(data: Any) -> float:
    """What an event without an action weighs: as the first of --target_actions, else 1.

    Args:
      data: a `DataConfig`.
    """
    return action_weights(data.action_weights).get(data.target_actions[0], 1.0) if data.target_actions else 1.0


def check_actions(data: Any) -> None:
    """Refuses settings of actions that do not go together.

    Args:
      data: a `DataConfig`.

    Raises:
      UserError: names the flag and the cure.
    """
    action_weights(data.action_weights)
    given = [name for name in ("action_weights", "target_actions") if getattr(data, name)]
    if given and not (data.action_column or data.data):
        raise UserError(
            f"--{given[0]}={','.join(getattr(data, given[0]))} needs --action_column, the column of the events table "
            "that holds the actions"
        )
    if data.action_column and data.dataset != "event_log" and not data.data:
        raise UserError(
            f"--action_column={data.action_column} with --dataset={data.dataset}: only tables of your own have one; "
            "use --dataset=event_log"
        )
    roles = ("user", "item", "timestamp", "weight", "basket")
    role = next((role for role in roles if getattr(data, f"{role}_column") == data.action_column), "")
    if data.action_column and role:
        raise UserError(f"--action_column={data.action_column} is --{role}_column too: name the column of the actions")


def check_action_counts(model: Any, data: Any) -> None:
    """Refuses --action_counts where there is nothing to count apart.

    Args:
      model: a `ModelConfig`.
      data: a `DataConfig`; with `data.data` set, the prepared log may have targets of its own, and is not refused.

    Raises:
      UserError: names the flag and the cure.
    """
    if model.action_counts and not (data.target_actions or data.data):
        raise UserError(
            "--action_counts without --target_actions: there is one kind of events to count; add --target_actions"
        )
    if model.action_counts and model.subsequence != "items":
        raise UserError(
            f"--action_counts with --subsequence={model.subsequence}: a token that is an event has no counts; leave it "
            "out"
        )


def require_known(names: Iterable[str], known: Iterable[str], flag: str, where: str) -> None:
    """Refuses actions that a log does not have.

    Args:
      names: the actions asked for.
      known: the log's.
      flag: that names them.
      where: the log, for the error.

    Raises:
      UserError: names the first one, and the actions that are there.
    """
    known = sorted(known)
    odd = [name for name in names if name not in known]
    if odd:
        there = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
        raise UserError(
            f"{flag}: {where} has no action {odd[0]!r}; its actions are {there or 'none'} (spelling and case count)"
        )
