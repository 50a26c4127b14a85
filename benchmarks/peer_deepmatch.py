"""DeepMatch's MIND on the arrays that bench_peers.py hands over, in a process of its own: it needs graph mode."""

import os

import numpy as np
from peer_marks import Peer, read_arrays, spend_budget

os.environ["TF_USE_LEGACY_KERAS"] = "1"


def ask(path: str, folder: str) -> None:
    """Trains by the clock, see `peer_marks`; negatives are drawn once for a batch, its sampled softmax.

    Args:
      path: of the arrays.
      folder: where vectors go.
    """
    import tensorflow as tf

    tf.compat.v1.disable_eager_execution()
    from deepctr.feature_column import SparseFeat, VarLenSparseFeat
    from deepmatch.models import MIND
    from deepmatch.utils import NegativeSampler, sampledsoftmaxloss

    data = read_arrays(path)
    num_items, dim, batch_size = int(data["num_items"]), int(data["dim"]), int(data["batch_size"])
    history = SparseFeat("hist_item_id", num_items, dim, embedding_name="item_id")
    user = [VarLenSparseFeat(history, data["history"].shape[1], "mean", "hist_len")]
    sampler = NegativeSampler("uniform", int(data["negatives"]), "item_id")
    item = SparseFeat("item_id", num_items, dim)
    k_max = int(data["interests"])
    model = MIND(user, [item], k_max=k_max, user_dnn_hidden_units=(2 * dim, dim), sampler_config=sampler)
    model.compile(optimizer="adam", loss=sampledsoftmaxloss)
    tower = tf.keras.Model(model.user_input, model.user_embedding)
    items = tf.keras.Model(model.item_input, model.item_embedding)
    inputs = {"hist_item_id": data["history"], "hist_len": data["length"], "item_id": data["target"]}

    def train(rows: np.ndarray) -> None:
        part = {name: column[rows] for name, column in inputs.items()}
        model.fit(part, np.ones(len(rows)), batch_size=batch_size, verbose=0)

    def embed() -> tuple[np.ndarray, np.ndarray]:
        asked = {"hist_item_id": data["asked_history"], "hist_len": data["asked_length"]}
        vectors = items.predict(np.arange(num_items), batch_size=4096, verbose=0).reshape(num_items, dim)
        return tower.predict(asked, batch_size=256, verbose=0), vectors

    train(np.arange(batch_size))
    spend_budget(Peer(train, embed, 5 * batch_size), data, folder)
