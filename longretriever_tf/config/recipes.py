"""What `--recipe` sets: one name for settings that have to agree. Imports no TensorFlow.

The defaults in `config.py` are the recipe "full", behind the results table of README.md. A recipe holds no more than
its differences from them; a flag that is given wins over the recipe.
"""

from typing import Any

FULL, PAPER, COMPACT = "full", "paper", "compact"

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    FULL: {},
    # As close to the paper as its text allows: one example per event, S_u of its latest events of the category, trained
    # item ids, in-batch softmax of single-category batches with logQ, eq. 3, 5 of the top 20 interests, merged in turn.
    PAPER: {
        "model": {
            "subsequence": "events",
            "repeat_term": False,
            "item_stats": False,
            "item_id": True,
            "svd_dim": 0,
            "user_context": False,
            "profile": True,
            "num_layers": 2,
        },
        "train": {
            "examples": "event",
            "loss": "in_batch",
            "logq": True,
            "batch_size": 1024,
            "learning_rate": 1e-3,
            "epochs": 2,
            "interest_epochs": 0,
        },
        "retrieval": {"interest": "paper", "num_interests": 5, "top_interests": 20, "merge": "round_robin"},
    },
    # Few examples: the defaults before there were recipes. Recall@100 on validation 0.294 against 0.297 (all items).
    COMPACT: {"train": {"examples": "snapshot", "epochs": 2, "num_snapshots": 36, "snapshot_every_days": 7.0}},
}
"""Recipe -> section of the config -> setting -> value."""

HELP = (
    "What a run learns and from what, as a whole; a flag that is given wins. full: the recipe behind README's results. "
    "paper: as close to the paper as its text allows. compact: snapshots alone, for a quick look."
)
