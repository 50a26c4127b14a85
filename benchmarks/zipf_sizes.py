"""Sizes of generated categories."""

import numpy as np


def zipf_sizes(num_items: int, num_categories: int, exponent: float) -> np.ndarray:
    """Items of each category, at least one: proportional to rank ** -exponent, [num_categories] int64."""
    share = np.arange(1, num_categories + 1) ** -exponent
    return 1 + np.floor((num_items - num_categories) * share / share.sum()).astype(np.int64)
