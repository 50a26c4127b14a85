"""What a merged list adds to items that the user has interacted with before. Imports no TensorFlow.

The softmax within a category and log p(category | user) say together how likely the user takes an item next. Of a
user's own items they say it too flatly where it matters, near the cut of a list: what a long life holds in many
categories competes there. So the merged scores of own items are corrected by a formula of what is known of each of
them, fitted on the run's own last snapshot (`training.own_correction`). Lists of novel items hold no own items, and
lists of one category keep their order.
"""

import os
from typing import NamedTuple

import numpy as np

from longretriever_tf.common.files import explain_damage, read_json_object

FILE = "own_correction.json"


class OwnCorrection(NamedTuple):
    """A linear formula; its value is added to log p(item | user) of an item with a token.

    Attributes:
      intercept: added to every own item.
      features: weight of each feature of the item's token (`data.recipe.tokens.make_tokens`), F of them.
      log_probability: weight of the merged score before the correction.
    """

    intercept: float
    features: tuple[float, ...]
    log_probability: float

    def to_array(self) -> np.ndarray:
        """[F + 2] float64, as it lies among the tables of a run."""
        return np.array([self.intercept, *self.features, self.log_probability])


def correction_of(values: np.ndarray | None) -> OwnCorrection | None:
    """From `OwnCorrection.to_array`; None where there is no array, or an empty one."""
    if values is None or not len(values):
        return None
    intercept, *features, log_probability = np.asarray(values, np.float64).tolist()
    return OwnCorrection(intercept, tuple(features), log_probability)


def read_own_correction(run_dir: str) -> OwnCorrection | None:
    """The correction that a run has fitted; None where it has fitted none.

    Raises:
      UserError: own_correction.json is torn.
    """
    path = os.path.join(run_dir, FILE)
    if not os.path.exists(path):
        return None
    cure = f"delete it and {os.path.join(run_dir, 'training.png')}, and run the training's own command again"
    values = read_json_object(path, cure)
    with explain_damage(path, cure):
        weights = values["weights"]
        features = tuple(float(value) for value in weights["features"])
        return OwnCorrection(float(weights["intercept"]), features, float(weights["log_probability"]))
