"""The correction of a user's own items (`data.recipe.own_correction`) in the merged scores of whole corpora."""

from typing import NamedTuple

import numpy as np

from longretriever_tf.data.recipe.own_correction import OwnCorrection


class OwnItems(NamedTuple):
    """The items of some users' subsequences.

    Attributes:
      row: position of the user among those asked about, [n].
      item: [n].
      known: what the correction says of it before anything is scored, [n] float32.
    """

    row: np.ndarray
    item: np.ndarray
    known: np.ndarray


def correct_own_items(merged: np.ndarray, parts: list[OwnItems], correction: OwnCorrection) -> None:
    """Adds the correction to log p(item | user), in place; what is left out (-inf) stays so.

    Args:
      merged: of every item, [B, V] float32.
      parts: together, each own item of each of the B users, once.
      correction: of the run.
    """
    for row, item, known in parts:
        score = merged[row, item]
        is_there = np.isfinite(score)
        gain = known[is_there] + np.float32(correction.log_probability) * score[is_there]
        merged[row[is_there], item[is_there]] += gain
