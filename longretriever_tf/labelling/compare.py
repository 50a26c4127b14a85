"""A context beside another one: sizes, entropy, agreement, examples. Imports no TensorFlow."""

import dataclasses

import numpy as np

from longretriever_tf.common.text import code_text

_SHOWN = 50
_EXAMPLES = 5
_SHARES = 3


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How a column divides the items.

    Attributes:
      categories: how many.
      largest: the largest one's share of the items.
      median: items of the median category.
      singles: categories of one item.
      entropy: of a random item's category, in bits.
    """

    categories: int
    largest: float
    median: float
    singles: int
    entropy: float

    @property
    def effective(self) -> float:
        """How many categories of equal size would have this entropy."""
        return float(2.0**self.entropy)


@dataclasses.dataclass(frozen=True)
class Category:
    """A new category: its size, the old ones that its items come from with their shares, and some items."""

    name: str
    size: int
    before: tuple[tuple[str, float], ...]
    examples: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two columns of the same items.

    Attributes:
      old_column, new_column: their names; old_column is "" where there is none.
      old, new: their sizes; `old` is None without an old column.
      agreement: normalised mutual information, 0 (independent) to 1 (one renames the other); None without an old one.
      categories: the new ones, the largest first, at most 50.
    """

    old_column: str
    new_column: str
    old: Sizes | None
    new: Sizes
    agreement: float | None
    categories: tuple[Category, ...]


def measure_sizes(column: np.ndarray) -> Sizes:
    """The sizes of a column, [V] of str.

    >>> measure_sizes(np.array(["a", "a", "b", "b"], object)).entropy
    1.0
    """
    counts = np.bincount(code_text(column)[1])
    return Sizes(
        len(counts), counts.max() / counts.sum(), float(np.median(counts)), int((counts == 1).sum()), _entropy(counts)
    )


def normalised_mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information over the mean of both entropies; 1 where both have one category.

    >>> normalised_mutual_information(np.array(["a", "a", "b"], object), np.array(["x", "x", "y"], object))
    1.0
    """
    rows, columns = code_text(one)[1], code_text(other)[1]
    joint = np.unique(rows * (int(columns.max()) + 1) + columns, return_counts=True)[1]
    entropies = [_entropy(np.bincount(part)) for part in (rows, columns)]
    mean = sum(entropies) / 2
    shared = sum(entropies) - _entropy(joint)
    return 1.0 if mean == 0 else float(np.clip(shared / mean, 0.0, 1.0))


def compare(old: tuple[str, np.ndarray] | None, new: tuple[str, np.ndarray], texts: np.ndarray) -> Comparison:
    """Compares two columns.

    Args:
      old: name and values, [V] of str; None: there is none.
      new: the same.
      texts: of the items, for examples, [V] of str.
    """
    column, values = new
    names, row = code_text(values)
    sizes = np.bincount(row)
    shown = np.argsort(-sizes, kind="stable")[:_SHOWN]
    categories = tuple(_describe(names[c], np.flatnonzero(row == c), old, texts) for c in shown)
    agreement = normalised_mutual_information(old[1], values) if old else None
    old_sizes = measure_sizes(old[1]) if old else None
    return Comparison(old[0] if old else "", column, old_sizes, measure_sizes(values), agreement, categories)


def _describe(name: str, rows: np.ndarray, old: tuple[str, np.ndarray] | None, texts: np.ndarray) -> Category:
    before: tuple[tuple[str, float], ...] = ()
    if old:
        values, counts = np.unique(old[1][rows].astype(np.str_), return_counts=True)
        largest = np.argsort(-counts, kind="stable")[:_SHARES]
        before = tuple((str(values[i]), counts[i] / len(rows)) for i in largest)
    step = max(len(rows) // _EXAMPLES, 1)
    examples = list(dict.fromkeys(texts[rows[::step]].tolist()))[:_EXAMPLES]
    return Category(name, len(rows), before, tuple(examples))


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0
