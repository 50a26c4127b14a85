"""torch-rechub's ComirecSA on the arrays that bench_peers.py hands over, by its own trainer, in its own interpreter.

Its softmax reads a list of negatives of each row. The model takes a temperature and forgets it in its loss, where inner
products of unit vectors would hardly tell 1,024 items apart: here the loss divides by it, as its other models do.
"""

import contextlib
import io

import numpy as np
from peer_marks import Peer, read_arrays, spend_budget

TEMPERATURE = 0.05
"""The best recall@100 of 1, 0.05 and 0.02 after a minute, on Complete Journey's validation window."""


def ask(path: str, folder: str) -> None:
    """Trains by the clock, see `peer_marks`.

    Args:
      path: of the arrays.
      folder: where vectors go.
    """
    import torch
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.matching import ComirecSA
    from torch_rechub.trainers import MatchTrainer
    from torch_rechub.utils.data import MatchDataGenerator

    torch.manual_seed(1)
    data, rng = read_arrays(path), np.random.default_rng(1)
    num_items, dim, batch_size = int(data["num_items"]), int(data["dim"]), int(data["batch_size"])
    shared = {"vocab_size": num_items, "embed_dim": dim, "shared_with": "item_id"}
    model = ComirecSA(
        [SparseFeature("hist_len", data["history"].shape[1] + 1, dim)],  # some user feature must be there
        [SequenceFeature("hist_item_id", pooling="concat", **shared)],
        [SparseFeature("item_id", num_items, dim)],
        [SequenceFeature("neg_items", pooling="concat", **shared)],
        interest_num=int(data["interests"]),
    )
    trainer = MatchTrainer(model, mode=2)
    trainer.criterion = lambda logits, label: torch.nn.functional.cross_entropy(logits / TEMPERATURE, label)

    def train(rows: np.ndarray) -> None:
        columns = {
            "hist_item_id": data["history"][rows],
            "hist_len": data["length"][rows],
            "item_id": data["target"][rows],
            "neg_items": rng.integers(2, num_items, (len(rows), int(data["negatives"])), np.int32),  # 0, 1: no items
        }
        dataset = MatchDataGenerator(columns, np.zeros(len(rows), np.int64)).dataset  # the target comes first
        loader = torch.utils.data.DataLoader(dataset, batch_size)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            trainer.train_one_epoch(loader)

    def embed() -> tuple[np.ndarray, np.ndarray]:
        asked = {"hist_item_id": torch.tensor(data["asked_history"]), "hist_len": torch.tensor(data["asked_length"])}
        model.eval()
        with torch.no_grad():
            model.mode = "user"
            users = torch.cat(
                [model({k: v[i : i + 256] for k, v in asked.items()}) for i in range(0, len(asked["hist_len"]), 256)]
            )
            model.mode = "item"
            items = model({"item_id": torch.arange(num_items)})
        model.mode = None
        return users.numpy(), items.numpy()

    train(np.arange(batch_size))
    spend_budget(Peer(train, embed, 5 * batch_size), data, folder)
