"""What the actions of a log are, and how often each leads to what is to be retrieved. Imports no TensorFlow."""

from typing import Any

import numpy as np

from longretriever_tf.datasets.log import LifelongLog


def action_statistics(log: LifelongLog) -> dict[str, Any]:
    """Shares of the actions and where they lead; empty where the log has none.

    Counted by (user, item) pairs: of the pairs with an action, the share in which a target action follows, later than
    the pair's first event of that action.

    Args:
      log: the log; its own target actions count, else the one that `_find_target` finds.

    Returns:
      `{"target": [names], "is_chosen": whether the flags chose them, "actions": {name: {"events", "share", "users",
      "pairs", "leads"}}, "proposal": [flags]}`; the proposal weighs an action as it leads to a target.
    """
    if log.action is None:
        return {}
    first, last = _pair_times(log)
    num_actions = len(log.actions.name)
    target = [log.actions.name.index(name) for name in log.actions.target] or _find_target(first, last)
    until = last[target].max(0) if target else np.full(first.shape[1], -1)
    count = np.bincount(log.action, minlength=num_actions)
    user = log.event_user()
    actions = {}
    for row, name in enumerate(log.actions.name):
        is_there = last[row] >= 0
        actions[name] = {
            "events": int(count[row]),
            "share": float(count[row] / max(log.num_events, 1)),
            "users": len(np.unique(user[log.action == row])),
            "pairs": int(is_there.sum()),
            "leads": float((until > first[row])[is_there].mean()) if is_there.any() else 0.0,
        }
    names = [log.actions.name[row] for row in target]
    proposal = [] if log.actions.target or not names else [f"--target_actions={','.join(names)}"]
    if proposal and not log.actions.weight and len(names) < num_actions:
        weights = [f"{name}:{_rounded(1.0 if name in names else action['leads'])}" for name, action in actions.items()]
        proposal.append(f"--action_weights={','.join(weights)}")
    return {"target": names, "is_chosen": bool(log.actions.target), "actions": actions, "proposal": proposal}


def _pair_times(log: LifelongLog) -> tuple[np.ndarray, np.ndarray]:
    """First and last time of each action in each (user, item) pair, [A, P] int64 each.

    Where a pair has no such event: the largest int64, and -1.
    """
    assert log.action is not None
    key = log.event_user().astype(np.int64) * len(log.items.item_id) + log.item_row
    _, pair = np.unique(key, return_inverse=True)
    shape = len(log.actions.name), int(pair.max(initial=-1)) + 1
    first, last = np.full(shape, np.iinfo(np.int64).max), np.full(shape, -1, np.int64)
    np.minimum.at(first, (log.action, pair), log.timestamp)
    np.maximum.at(last, (log.action, pair), log.timestamp)
    return first, last


def _find_target(first: np.ndarray, last: np.ndarray) -> list[int]:
    """The action that comes after most others on the same item, the rarer of equals: what a shop sells, usually.

    None where no action follows another one.
    """
    found = []
    for row in range(len(first)):
        follows = (first < first[row]) & (last[row] >= 0)  # of each other action, in which pairs it came before
        precedes = (first > first[row]) & (last >= 0)
        found.append((-int((follows.sum(1) > precedes.sum(1)).sum()), int((last[row] >= 0).sum()), row))
    wins, _, row = min(found)
    return [row] if wins < 0 else []


def _rounded(weight: float) -> str:
    return f"{max(weight, 0.01):.2g}"
