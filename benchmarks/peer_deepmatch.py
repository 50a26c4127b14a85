"""DeepMatch's MIND on the arrays that bench_peers.py hands over, in a process of its own: it needs graph mode.

  pip install --target=PEERS --no-deps deepmatch==0.3.2 'deepctr>=0.9.4a0,<0.10'

beside this package, and PYTHONPATH=PEERS. Run by bench_peers.py.
"""

import json
import os
import time

import numpy as np

os.environ["TF_USE_LEGACY_KERAS"] = "1"

INTERESTS = 5
NEGATIVES = 1023


def ask(path: str) -> None:
    """Trains by the chunk until the budget is spent; prints examples/s and (seconds, recall@100) as JSON.

    Args:
      path: .npz of `history` [X, L], `length` [X], `target` [X]; `asked_history`, `asked_length`, `asked_offset`,
        `asked_item` (truth of the asked users, CSR); `num_items`, `batch_size`, `dim`, `budget_s`.
    """
    import tensorflow as tf

    tf.compat.v1.disable_eager_execution()
    from deepctr.feature_column import SparseFeat, VarLenSparseFeat
    from deepmatch.models import MIND
    from deepmatch.utils import NegativeSampler, sampledsoftmaxloss

    data = dict(np.load(path))
    num_items, dim, batch_size = int(data["num_items"]), int(data["dim"]), int(data["batch_size"])
    history = SparseFeat("hist_item_id", num_items, dim, embedding_name="item_id")
    user = [VarLenSparseFeat(history, data["history"].shape[1], "mean", "hist_len")]
    sampler = NegativeSampler("uniform", NEGATIVES, "item_id")
    item = SparseFeat("item_id", num_items, dim)
    model = MIND(user, [item], k_max=INTERESTS, user_dnn_hidden_units=(2 * dim, dim), sampler_config=sampler)
    model.compile(optimizer="adam", loss=sampledsoftmaxloss)
    tower = tf.keras.Model(model.user_input, model.user_embedding)
    items = tf.keras.Model(model.item_input, model.item_embedding)
    inputs = {"hist_item_id": data["history"], "hist_len": data["length"], "item_id": data["target"]}
    chunk, order = 100 * batch_size, np.random.default_rng(1).permutation(len(data["target"]))
    warm = order[:batch_size]
    model.fit({name: column[warm] for name, column in inputs.items()}, np.ones(batch_size), batch_size, verbose=0)
    spent, seen, curve = 0.0, 0, []
    while spent < float(data["budget_s"]):
        rows = order[np.arange(seen, seen + chunk) % len(order)]
        part = {name: column[rows] for name, column in inputs.items()}
        start = time.perf_counter()
        model.fit(part, np.ones(len(rows)), batch_size=batch_size, verbose=0)
        spent, seen = spent + time.perf_counter() - start, seen + len(rows)
        vectors = items.predict(np.arange(num_items), batch_size=4096, verbose=0).reshape(num_items, dim)
        asked = {"hist_item_id": data["asked_history"], "hist_len": data["asked_length"]}
        found = _best(tower.predict(asked, batch_size=256, verbose=0), vectors)
        curve.append((spent, _recall(found, data["asked_offset"], data["asked_item"])))
    print(json.dumps({"examples_per_s": seen / spent, "curve": curve}))


def _best(interests: np.ndarray, vectors: np.ndarray, k: int = 100) -> np.ndarray:
    """The k items nearest to any of a user's interests ([U, K, D]), [U, k]; rows 0 and 1 hold no item."""
    found = []
    for user in interests:
        score = (vectors @ user.T).max(1)
        score[:2] = -np.inf
        found.append(np.argpartition(-score, k)[:k])
    return np.array(found)


def _recall(found: np.ndarray, offset: np.ndarray, item: np.ndarray) -> float:
    truth = [item[low:high] for low, high in zip(offset[:-1], offset[1:], strict=True)]
    return float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True) if len(t)]))
