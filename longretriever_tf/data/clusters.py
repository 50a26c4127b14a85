"""A learned context: clusters of items that the same users take, as one more item column. Imports no TensorFlow."""

import dataclasses
import warnings

import numpy as np
import scipy.cluster.vq

from longretriever_tf import schema
from longretriever_tf.config_check import num_clusters
from longretriever_tf.data.corpus import Corpus, encode_log, fit_corpus
from longretriever_tf.data.item_svd import fit_item_svd
from longretriever_tf.data.log import ItemTable, LifelongLog

_DIM = 64
_ROUNDS = 30
_FIT_ITEMS_PER_CLUSTER = 100
"""Centers are fitted on a sample of this many items per cluster, which moves them little and bounds the time."""


def cluster_context(log: LifelongLog, context: str, cut: int, seed: int) -> LifelongLog:
    """The log with the column "clusters:N" as its context, fitted on the events strictly before `cut`.

    k-means of the rows of the items' SVD (`item_svd`), which have unit length: spherical in effect. Items that nobody
    took before the cut have no vector and go where most items of the log's own category went; the log's own category
    stays a side feature.

    Args:
      log: the whole log with a context of its own.
      context: "clusters:N"; anything else leaves the log as it is.
      cut: seconds UTC.
      seed: of k-means and of the SVD's start.

    Raises:
      UserError: no event lies before the cut.
    """
    wanted = num_clusters(context)
    if not wanted:
        return log
    corpus = fit_corpus(log, cut)
    vectors = fit_item_svd(encode_log(log, corpus).before(cut), corpus, _DIM, seed)[schema.FIRST_KNOWN :]
    cluster = _cluster_rows(vectors, wanted, seed)
    width = len(str(wanted - 1))
    name = np.array([f"cluster {number:0{width}d}" for number in range(wanted)])[cluster]
    column = _spread(log.items, log.context, corpus.item_id[schema.FIRST_KNOWN :], name)
    items = dataclasses.replace(log.items, features={**log.items.features, context: column})
    return dataclasses.replace(log, items=items, context=context)


def with_trained_clusters(items: ItemTable, own_context: str, corpus: Corpus) -> ItemTable:
    """Another items table with the column of a trained corpus's clusters: known items keep theirs, the others go where
    most items of their own category are.

    Args:
      items: the table, with the column `own_context`.
      own_context: the log's own category, a side feature of the corpus.
      corpus: its context is "clusters:N".
    """
    known = slice(schema.FIRST_KNOWN, None)
    name = corpus.category_name[corpus.item_category[known]]
    column = _spread(items, own_context, corpus.item_id[known], name)
    return dataclasses.replace(items, features={**items.features, corpus.context: column})


def _cluster_rows(rows: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Cluster of each row, [n] int; fewer clusters than wanted where rows are few or alike."""
    rng = np.random.default_rng(seed)
    wanted = min(wanted, len(np.unique(rows, axis=0)))
    if wanted < 2:
        return np.zeros(len(rows), np.int64)
    sample = rng.permutation(len(rows))[: wanted * _FIT_ITEMS_PER_CLUSTER]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # then there is one category fewer
        # Started from items: k-means++ would cost more than all rounds together at hundreds of clusters.
        centers, _ = scipy.cluster.vq.kmeans2(rows[sample], wanted, iter=_ROUNDS, minit="points", seed=rng)
    cluster, _ = scipy.cluster.vq.vq(rows, centers)
    return cluster.astype(np.int64)


def _spread(items: ItemTable, own_context: str, known_id: np.ndarray, name: np.ndarray) -> np.ndarray:
    """The cluster of every item of a table: its own, else the most frequent of its category, else of all; [V] of str.

    Args:
      items: the table.
      own_context: its category column.
      known_id: ids with a cluster, [n].
      name: their clusters, [n] of str.
    """
    order = np.argsort(known_id, kind="stable")
    at = order[np.minimum(np.searchsorted(known_id, items.item_id, sorter=order), len(order) - 1)]
    is_known = known_id[at] == items.item_id
    own, category = np.unique(items.features[own_context].astype(str), return_inverse=True)
    names, number = np.unique(name, return_inverse=True)
    count = np.zeros((len(own), len(names)), np.int64)
    np.add.at(count, (category[is_known], number[at[is_known]]), 1)
    usual = np.where(count.any(1), count.argmax(1), np.bincount(number).argmax())
    return np.where(is_known, name[at], names[usual[category]])
