"""What the processes of bench_peers.py's peers share: training by the clock, and vectors kept now and then.

Imports NumPy alone: a peer's interpreter need not have this package.
"""

import json
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MARKS = 8
"""Times that recall is measured while the budget is spent."""


class Peer(NamedTuple):
    """A peer's model.

    Attributes:
      train: takes rows of the arrays ([n] int64) and trains on them once.
      embed: the asked users' interests [U, K, D] and the items' vectors [V, D], to be compared by inner product.
      chunk: rows handed to `train` at once, some seconds of work.
    """

    train: Callable[[np.ndarray], None]
    embed: Callable[[], tuple[np.ndarray, np.ndarray]]
    chunk: int


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """What `bench_peers.py` wrote.

    Returns:
      `history` [X, L], `length` [X], `target` [X]; `asked_history` [U, L], `asked_length` [U]; `num_items`,
      `batch_size`, `negatives`, `interests`, `dim`, `budget_s`.
    """
    with np.load(path) as stored:
        return dict(stored)


def spend_budget(peer: Peer, data: dict[str, np.ndarray], folder: str) -> None:
    """Trains until the budget is spent, recall off the clock; prints examples/s and seconds of each mark as JSON.

    Mark i's vectors are `users` and `items` of `folder`/mark_i.npz.

    Args:
      peer: has made its first step already: what is built or traced then is not its rate.
      data: from `read_arrays`.
      folder: where the vectors go.
    """
    budget, order = float(data["budget_s"]), np.random.default_rng(1).permutation(len(data["target"]))
    spent, seen, marks = 0.0, 0, []
    while spent < budget:
        start = time.perf_counter()
        peer.train(order[np.arange(seen, seen + peer.chunk) % len(order)])
        spent, seen = spent + time.perf_counter() - start, seen + peer.chunk
        if spent >= budget * (len(marks) + 1) / MARKS:
            users, items = peer.embed()
            np.savez(os.path.join(folder, f"mark_{len(marks)}.npz"), users=users, items=items)
            marks.append(spent)
    print(json.dumps({"examples_per_s": seen / spent, "marks": marks}))
