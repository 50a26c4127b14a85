"""A learned context: clusters of items that the same users take, as one more item column. Imports no TensorFlow."""

import dataclasses
import warnings

import numpy as np
import scipy.cluster.vq
from absl import logging

from longretriever_tf.common import schema
from longretriever_tf.common.text import as_text, code_text, find_rows
from longretriever_tf.config.check import num_clusters
from longretriever_tf.data.corpus import Corpus, encode_log, fit_corpus, ids_like
from longretriever_tf.data.recipe.item_svd import fit_item_svd
from longretriever_tf.datasets.log import ItemTable, LifelongLog

_DIM = 64
_ROUNDS = 30
_FIT_ITEMS_PER_CLUSTER = 100
"""Centers are fitted on a sample of this many items per cluster, which moves them little and bounds the time."""


def cluster_context(log: LifelongLog, context: str, cut: int, seed: int) -> LifelongLog:
    """The log with the column "clusters:N" as its context, fitted on the events strictly before `cut`.

    k-means of the rows of the items' SVD (`item_svd`), which have unit length: spherical in effect. Clusters rest on
    who takes what alone; the log needs no category. If it has one, it stays a side feature. Items that nobody took
    before the cut have no vector and go where their like went, see `_spread`.

    Args:
      log: the whole log, with a context of its own or none ("").
      context: "clusters:N"; anything else leaves the log as it is. There are at most as many clusters as items that
        differ.
      cut: seconds UTC.
      seed: of k-means and of the SVD's start.

    Raises:
      UserError: no event lies before the cut.
    """
    wanted = num_clusters(context)
    if not wanted:
        return log
    own = log if log.context else _with_one_category(log, context)
    corpus = fit_corpus(own, cut)
    vectors = fit_item_svd(encode_log(own, corpus).before(cut), corpus, _DIM, seed)[schema.FIRST_KNOWN :]
    numbers, cluster = np.unique(_cluster_rows(vectors, wanted, seed), return_inverse=True)
    width = len(str(wanted - 1))
    name = as_text(f"cluster {number:0{width}d}" for number in numbers)[cluster]
    column = _spread(log.items, log.context, corpus.item_id[schema.FIRST_KNOWN :], name)
    if len(numbers) < wanted:
        logging.info("--context=%s: %d clusters, of %d items with events", context, len(numbers), len(name))
    items = dataclasses.replace(log.items, features={**log.items.features, context: column})
    return dataclasses.replace(log, items=items, context=context)


def _with_one_category(log: LifelongLog, name: str) -> LifelongLog:
    """The log with all items in one category, a column called `name`."""
    features = {**log.items.features, name: as_text(["all"] * len(log.items.item_id))}
    return dataclasses.replace(log, items=dataclasses.replace(log.items, features=features), context=name)


def with_trained_clusters(items: ItemTable, own_context: str, corpus: Corpus) -> ItemTable:
    """Another items table with the column of a trained corpus's clusters: known items keep theirs, the others go where
    their like are, see `_spread`.

    Args:
      items: the table.
      own_context: its category column; "" or one that it lacks: it has none.
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
    """The cluster of every item of a table, [V] of str.

    Its own; else the most frequent one among the items of its category; else among those that share a feature, the
    columns in their order, missing values aside; else the most frequent of all.

    Args:
      items: the table.
      own_context: its category column, or one that it lacks.
      known_id: ids with a cluster, [n].
      name: their clusters, [n] of str.
    """
    names, number = code_text(name)
    at = find_rows(known_id, ids_like(known_id, items.item_id))
    is_known = at >= 0
    cluster = np.where(is_known, number[at], -1)
    columns = sorted(items.features, key=lambda column: column != own_context)  # stable: the category first
    for column in columns:
        usual = _usual_clusters(items.features[column], cluster, is_known, len(names))
        cluster = np.where(cluster < 0, usual, cluster)
    return names[np.where(cluster < 0, np.bincount(number).argmax(), cluster)]


def _usual_clusters(values: np.ndarray, cluster: np.ndarray, is_known: np.ndarray, num_clusters: int) -> np.ndarray:
    """The most frequent cluster among the known items of the same value, -1 where there is none, [V] int64."""
    values, row = code_text(values)
    pair = row[is_known] * num_clusters + cluster[is_known]
    pairs, count = np.unique(pair, return_counts=True)
    order = np.lexsort((pairs, -count, pairs // num_clusters))  # by value, the most frequent first, then by number
    usual = np.full(len(values), -1)
    first, at = np.unique(pairs[order] // num_clusters, return_index=True)
    usual[first] = pairs[order][at] % num_clusters
    return np.where(values[row] == schema.MISSING, -1, usual[row])
