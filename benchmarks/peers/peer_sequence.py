"""SASRec with sampled softmax, gSASRec (gBCE, Petrov and Macdonald, RecSys 2023) and HSTU, by RecTools.

Each user's latest events, oldest first, train a causal Transformer to say the next one; its last state searches all
items. RecTools reads the latest `length` events of a user, in training too. Events of one second, a basket, come in
random order: by id, the model would learn the order of ids.
"""

from typing import Any

import numpy as np
import pandas as pd
from peer_split import Score, Split
from rectools import Columns

PACKAGES = ("RecTools", "torch", "pytorch-lightning", "numpy")
_LOSS = {"sasrec": "sampled_softmax", "gsasrec": "gBCE", "hstu": "sampled_softmax"}


def settings(name: str) -> list[dict[str, Any]]:
    """The library's example first, then changes of a base that reads longer and trains longer."""
    del name
    example = {
        "length": 100,
        "dim": 64,
        "blocks": 1,
        "heads": 2,
        "dropout": 0.2,
        "negatives": 128,
        "rate": 1e-3,
        "epochs": 10,
    }
    base = example | {"length": 200, "epochs": 30}
    changes: list[dict[str, Any]] = [
        {},
        {"dim": 128, "dropout": 0.5, "negatives": 512},
        {"length": 500},
        {"epochs": 100},
        {"blocks": 2},
        {"dropout": 0.5},
        {"negatives": 1024},
        {"dim": 256, "dropout": 0.5, "negatives": 1024},
        {"length": 500, "dim": 128, "epochs": 100, "dropout": 0.5},
        {"rate": 3e-4, "epochs": 100},
        {"length": 1000, "epochs": 50},
    ]
    return [example, *(base | change for change in changes)]


def fit(name: str, split: Split, setting: dict[str, Any], seed: int) -> tuple[Score, int]:
    """Scores, and the number of events predicted times epochs."""
    import pytorch_lightning
    import torch
    from rectools.dataset import Dataset
    from rectools.models import HSTUModel, SASRecModel

    pytorch_lightning.seed_everything(seed)
    frame = pd.DataFrame(
        {
            Columns.User: split.user,
            Columns.Item: split.item,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(
                split.timestamp + np.random.default_rng(seed).random(len(split.user)), unit="s"
            ),
        }
    )
    dataset = Dataset.construct(frame)
    model = (HSTUModel if name == "hstu" else SASRecModel)(
        session_max_len=setting["length"],
        n_factors=setting["dim"],
        n_blocks=setting["blocks"],
        n_heads=setting["heads"],
        dropout_rate=setting["dropout"],
        n_negatives=setting["negatives"],
        loss=_LOSS[name],
        lr=setting["rate"],
        epochs=setting["epochs"],
        batch_size=64,
        deterministic=False,
    )
    model.fit(dataset)
    preparator, network = model.data_preparator, model.torch_model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).eval()
    asked = preparator.transform_dataset_u2i(
        dataset, np.arange(split.shape[0]), _asking_time(split) if name == "hstu" else None
    )
    with torch.no_grad():
        items = network.item_model.get_all_embeddings()
        last = [
            network.similarity_module.session_tower_forward(
                network.encode_sessions({key: value.to(device) for key, value in batch.items()}, items)[:, -1]
            ).cpu()
            for batch in preparator.get_dataloader_recommend(asked, 256)
        ]
        items = network.similarity_module.item_tower_forward(items)
    states = np.zeros((split.shape[0], items.shape[1]), np.float32)
    states[np.asarray(asked.user_id_map.external_ids, np.int64)] = torch.cat(last).numpy()
    known = np.asarray(preparator.get_known_items_sorted_internal_ids())
    item = np.asarray(preparator.item_id_map.convert_to_external(known), np.int64)
    vectors = items.cpu().numpy()[known]

    def score(rows: np.ndarray) -> np.ndarray:
        scores = np.full((len(rows), split.shape[1]), -np.inf, np.float32)
        scores[:, item] = states[rows] @ vectors.T
        return scores

    length = np.minimum(np.bincount(split.user) - 1, setting["length"])
    return score, int(np.maximum(length, 0).sum()) * setting["epochs"]


def _asking_time(split: Split) -> pd.DataFrame:
    """When each user is asked: HSTU's attention knows how long ago events were, RecTools reads that from here."""
    users = np.arange(split.shape[0])
    return pd.DataFrame(
        {
            Columns.User: users,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(np.full(len(users), split.cut), unit="s"),
        }
    )
