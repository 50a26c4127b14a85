"""Numeric features of items as categories: bins whose edges are quantiles as of the training cut.

A bin is a value like any other to the towers, so that numbers need no weights, no export and no warm start of their
own. Edges belong to a corpus: a refresh and an update keep them. Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from absl import logging

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text
from longretriever_tf.datasets.log import ItemTable


def fit_edges(numbers: np.ndarray, num_bins: int) -> np.ndarray:
    """The bounds between bins of about as many numbers each, ascending, [at most num_bins - 1] float64.

    Bin b holds the numbers from edge b - 1 on and below edge b. Edges are numbers that occur. One that fills a bin or
    more gets a bin of its own.

    Args:
      numbers: finite, at least one.
      num_bins: B, at most.

    >>> fit_edges(np.arange(100.0), 4).tolist()
    [25.0, 50.0, 75.0]
    >>> fit_edges(np.array([0.0] * 60 + [1.0, 2.0, 3.0, 4.0] * 10), 5).tolist()
    [1.0, 3.0]
    >>> fit_edges(np.array([7.0, 7.0]), 5).tolist()
    []
    """
    ordered, distinct = np.sort(numbers), np.unique(numbers)
    edges = ordered[np.arange(1, num_bins) * len(ordered) // num_bins]
    filling = edges[1:][edges[1:] == edges[:-1]]  # and the first bin, where its edge is the smallest number
    filling = np.concatenate([filling, edges[:1][edges[:1] == ordered[0]]])
    after = np.searchsorted(distinct, filling, side="right")
    edges = np.union1d(edges, distinct[after[after < len(distinct)]])
    return edges[edges > ordered[0]]


def bin_names(edges: np.ndarray) -> np.ndarray:
    """What the bins are called, in order, [len(edges) + 1] of str.

    >>> bin_names(np.array([1.5, 20.0])).tolist()
    ['below 1.5', '1.5 to 20.0', 'from 20.0']
    """
    if not len(edges):
        return as_text(["any number"])
    bounds = [repr(edge) for edge in edges.tolist()]
    inner = [f"{low} to {high}" for low, high in zip(bounds, bounds[1:], strict=False)]
    return as_text([f"below {bounds[0]}", *inner, f"from {bounds[-1]}"])


def name_bins(numbers: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each number by its name, `schema.MISSING` where it is NaN; [n] of str."""
    names = as_text([*bin_names(edges), schema.MISSING])
    return names[np.where(np.isnan(numbers), len(names) - 1, np.searchsorted(edges, numbers, side="right"))]


def with_bins(items: ItemTable, edges: Mapping[str, np.ndarray]) -> ItemTable:
    """The table with its numbers as features: of each column that has edges, the name of the bin."""
    binned = {name: name_bins(items.numbers[name], bounds) for name, bounds in edges.items() if name in items.numbers}
    numbers = {name: column for name, column in items.numbers.items() if name not in binned}
    return dataclasses.replace(items, features={**items.features, **binned}, numbers=numbers)


def learn_edges(
    items: ItemTable, rows: np.ndarray, num_bins: int, known: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The edges of every numeric column of a table.

    Args:
      items: the table.
      rows: of the items with an event before the cut.
      num_bins: at most.
      known: edges that an earlier training has learned; these columns keep them.

    Raises:
      UserError: a column has no number for any of these items.
    """
    edges = {}
    for name, column in items.numbers.items():
        numbers = column[rows][~np.isnan(column[rows])]
        if name in known:
            edges[name] = known[name]
            continue
        if not len(numbers):
            raise UserError(
                f"--numeric_features={name}: none of the {len(rows):,} items with an event before the training cut has "
                "a number in this column; leave it out"
            )
        edges[name] = fit_edges(numbers, num_bins)
        if not len(edges[name]) and len(numbers) == len(rows):
            logging.warning(
                "--numeric_features=%s: all items have the number %r, which tells nothing of them; leave it out",
                *(name, float(numbers[0])),
            )
    return edges


def describe_bins(edges: Mapping[str, np.ndarray]) -> str:
    """A line for those whose bins are kept; "" where there are none.

    >>> describe_bins({"price": np.array([1.5, 20.0])})
    'bins of numeric features: kept with their edges (price 3)'
    """
    bins = ", ".join(f"{name} {len(bounds) + 1}" for name, bounds in edges.items())
    return f"bins of numeric features: kept with their edges ({bins})" if bins else ""
