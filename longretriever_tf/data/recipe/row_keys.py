"""Where the rows of a grown table come from: by the key of a row, never by its position. Imports no TensorFlow."""

import dataclasses

import numpy as np
import scipy.sparse

from longretriever_tf.common import schema
from longretriever_tf.data.corpus import Corpus, encode_values


@dataclasses.dataclass(frozen=True)
class RowSource:
    """Rows of a grown table as sums of rows of the earlier one.

    Attributes:
      row: earlier row of each row, -1 where its key is new, [n] int64.
      like: weights of earlier rows for each new row, in the order of `row`, [new, W] float32; None: a new row is a copy
        of the row of the unknown.
    """

    row: np.ndarray
    like: np.ndarray | None = None

    @property
    def num_new(self) -> int:
        return int((self.row < 0).sum())

    def grow(self, earlier: np.ndarray) -> np.ndarray:
        """The grown table, [W, ...] -> [n, ...]."""
        grown = earlier[np.where(self.row >= 0, self.row, schema.UNKNOWN)]
        if self.like is not None and self.num_new:
            grown[self.row < 0] = self.like @ earlier
        return grown

    def grow_zeros(self, earlier: np.ndarray) -> np.ndarray:
        """The grown table with zeros in its new rows: what an optimizer knows of them."""
        grown = earlier[np.maximum(self.row, 0)]
        grown[self.row < 0] = 0
        return grown


@dataclasses.dataclass(frozen=True)
class CorpusGrowth:
    """How the vocabularies of a corpus follow from an earlier one.

    Attributes:
      items, categories: rows of the per-item and the per-category tables.
      features, profiles, events: rows of the table of each column.
      lost: how many keys the earlier corpus had and the new one lacks, by the name of the vocabulary; only those above
        0.
    """

    items: RowSource
    categories: RowSource
    features: dict[str, RowSource]
    profiles: dict[str, RowSource]
    events: dict[str, RowSource]
    lost: dict[str, int]

    def named(self) -> dict[str, RowSource]:
        """All sources by the name of the vocabulary, as `lost` has it."""
        columns = {**self.features, **{f"profile {name}": source for name, source in self.profiles.items()}}
        columns |= {f"event {name}": source for name, source in self.events.items()}
        return {"items": self.items, "categories": self.categories, **columns}


def grow_corpus(earlier: Corpus, grown: Corpus) -> CorpusGrowth:
    """Finds every row of a corpus in an earlier one of the same columns.

    Args:
      earlier: of the earlier run.
      grown: fitted on a log that goes on from that run's.
    """
    vocabularies = {
        "items": (earlier.item_id, grown.item_id),
        "categories": (earlier.category_name, grown.category_name),
        **{name: (earlier.feature_values[name], values) for name, values in grown.feature_values.items()},
        **{f"profile {name}": (earlier.profile_values[name], v) for name, v in grown.profile_values.items()},
        **{f"event {name}": (earlier.event_values[name], v) for name, v in grown.event_values.items()},
    }
    rows = {name: find_earlier_rows(*pair) for name, pair in vocabularies.items()}
    lost = {name: len(pair[0]) - int((rows[name] >= 0).sum()) for name, pair in vocabularies.items()}
    new = np.flatnonzero(rows["categories"] < 0)
    like = _like_categories(earlier, grown, new, rows) if len(new) else None
    return CorpusGrowth(
        items=RowSource(rows["items"]),
        categories=RowSource(rows["categories"], like),
        features={name: RowSource(rows[name]) for name in grown.feature_values},
        profiles={name: RowSource(rows[f"profile {name}"]) for name in grown.profile_values},
        events={name: RowSource(rows[f"event {name}"]) for name in grown.event_values},
        lost={name: number for name, number in lost.items() if number},
    )


def find_earlier_rows(earlier: np.ndarray, grown: np.ndarray) -> np.ndarray:
    """Row of each key in the earlier vocabulary, -1 where it is new, [n] int64; the first two rows are no keys."""
    row = encode_values(grown, earlier).astype(np.int64)
    row[row == schema.UNKNOWN] = -1
    row[: schema.FIRST_KNOWN] = [schema.PADDING, schema.UNKNOWN]
    return row


def _like_categories(earlier: Corpus, grown: Corpus, new: np.ndarray, rows: dict[str, np.ndarray]) -> np.ndarray:
    """How much each new category is like each earlier one, [new, earlier C] float32, rows of sum 1.

    Alike are categories whose items share values of side features; a category whose values are all new is as much like
    any as like any other.
    """
    shape = len(new), earlier.num_categories
    like = np.zeros(shape)
    for f, name in enumerate(grown.feature_values):
        source = rows[name]
        known = np.flatnonzero(source >= schema.FIRST_KNOWN)
        theirs = _items_by_value(earlier, list(earlier.feature_values).index(name))[:, source[known]]
        here = _items_by_value(grown, f)[new][:, known]
        share = theirs @ scipy.sparse.diags(1.0 / np.maximum(np.asarray(theirs.sum(0)).ravel(), 1e-12))
        here = scipy.sparse.diags(1.0 / np.maximum(np.asarray(here.sum(1)).ravel(), 1e-12)) @ here
        like += (here @ share.T).toarray()
    is_offered = np.diff(earlier.category_offset) > 0
    is_offered[: schema.FIRST_KNOWN] = False
    total = like.sum(1, keepdims=True)
    any_other = np.broadcast_to(is_offered / max(int(is_offered.sum()), 1), shape)
    return np.where(total > 1e-9, like / np.maximum(total, 1e-9), any_other).astype(np.float32)


def _items_by_value(corpus: Corpus, feature: int) -> scipy.sparse.csr_matrix:
    """Items of each category and value of a side feature, [C, values]; padding and unknown aside."""
    known = slice(schema.FIRST_KNOWN, None)
    category, value = corpus.item_category[known], corpus.item_feature[known, feature]
    shape = corpus.num_categories, len(list(corpus.feature_values.values())[feature])
    return scipy.sparse.csr_matrix((np.ones(len(value)), (category, value)), shape=shape)
