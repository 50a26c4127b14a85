"""What the parts of a score weigh: towers, popularity, repeats, interest. Imports no TensorFlow.

Training learns how to combine these from examples. A small log has too few: logits are then too sure of themselves, and
popularity, or that nobody takes an item twice, is learned by half. So where users are few, a last phase fits these few
numbers on a window that the model has not seen (`training.score_weights`). Large logs keep `PLAIN`: there the parts
count as they were learned.
"""

import os
from typing import NamedTuple

import numpy as np

from longretriever_tf.common.files import explain_damage, read_json_object

FILE = "score_weights.json"


class ScoreWeights(NamedTuple):
    """Weights of the parts of a score.

    Within a category, an item's logit is `logit` times what the model learned (towers, item bias, repeat term), plus
    `popularity` times the log of the item's 30-day popularity, plus `takers` times the log of how many users ever took
    it (both of `data.recipe.item_stats`), plus, for items of the subsequence, `interacted` and `repeats` times log1p of
    the 180-day decayed count. Log p(category | user) is proportional to `interest` times the learned score plus
    `category_popularity` times the log of the category's 30-day popularity, for the task "all" and, as `..._novel`,
    for "novel".
    """

    logit: float = 1.0
    popularity: float = 0.0
    interacted: float = 0.0
    repeats: float = 0.0
    interest: float = 1.0
    category_popularity: float = 0.0
    interest_novel: float = 1.0
    category_popularity_novel: float = 0.0
    takers: float = 0.0


PLAIN = ScoreWeights()
"""The parts count as they were learned."""


def weights_of(values: np.ndarray | None) -> ScoreWeights:
    """From the array that lies among the tables of a run, [9] float64; None: a run of before there were weights."""
    return PLAIN if values is None else ScoreWeights(*np.asarray(values, np.float64).tolist())


def read_score_weights(run_dir: str) -> ScoreWeights:
    """The weights that a run has fitted; `PLAIN` where it has fitted none.

    Raises:
      UserError: score_weights.json is torn.
    """
    path = os.path.join(run_dir, FILE)
    if not os.path.exists(path):
        return PLAIN
    cure = f"delete it and {os.path.join(run_dir, 'training.png')}, and run the training's own command again"
    values = read_json_object(path, cure)
    with explain_damage(path, cure):
        weights = {"takers": 0.0} | values["weights"]  # a file of before takers were weighed
        return ScoreWeights(**{name: float(weights[name]) for name in ScoreWeights._fields})
