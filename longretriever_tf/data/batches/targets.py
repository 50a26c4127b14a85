"""The items that examples ask for. Imports no TensorFlow."""

import dataclasses

import numpy as np

from longretriever_tf.data.batches.examples import Examples
from longretriever_tf.data.corpus import flat_ranges
from longretriever_tf.data.search.behavior_index import CategoryOrder


@dataclasses.dataclass(frozen=True)
class Targets:
    """Distinct targets of all examples: example x owns `item[offset[x]:offset[x + 1]]`, in order of first occurrence.

    Attributes:
      offset: [X + 1] int64.
      item: [t] int32.
    """

    offset: np.ndarray
    item: np.ndarray


def distinct_targets(examples: Examples, order: CategoryOrder) -> Targets:
    """Reads the target slices of all examples once."""
    owner, position = flat_ranges(examples.target_start, examples.target_stop)
    item = order.item[position]
    key = owner * (int(order.item.max(initial=0)) + 1) + item
    by_key = np.argsort(key, kind="stable")
    is_first = np.zeros(len(key), bool)
    is_first[by_key[np.diff(key[by_key], prepend=-1) != 0]] = True
    count = np.bincount(owner[is_first], minlength=len(examples))
    return Targets(np.concatenate([[0], np.cumsum(count)]).astype(np.int64), item[is_first])
