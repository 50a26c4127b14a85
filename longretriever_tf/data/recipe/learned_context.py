"""A learned context, as one more item column: clusters of items that the same users take, or of alike texts.

Imports no TensorFlow.
"""

import dataclasses

import numpy as np
from absl import logging

from longretriever_tf.common import schema
from longretriever_tf.common.text import as_text, code_text, find_rows
from longretriever_tf.config.check import asks_clusters, asks_text_clusters, num_clusters
from longretriever_tf.data.corpus import Corpus, encode_log, find_seen, fit_corpus, ids_like
from longretriever_tf.data.recipe.item_svd import fit_item_svd
from longretriever_tf.data.recipe.kmeans import cluster_rows, random_rows
from longretriever_tf.data.recipe.text_context import cluster_texts, place_texts
from longretriever_tf.datasets.log import ItemTable, LifelongLog

_DIM = 64


def cluster_context(
    log: LifelongLog, context: str, cut: int, seed: int, text_columns: tuple[str, ...] = ()
) -> LifelongLog:
    """The log with the column "clusters:N" or "text_clusters:N" as its context, fitted on what lies before `cut`.

    Either is a k-means of vectors of unit length: spherical in effect. The log needs no category; if it has one, it
    stays a side feature. Clusters rest on who takes what alone, by the rows of the items' SVD (`item_svd`); items that
    nobody took before the cut go where their like went, see `_spread`. Text clusters rest on what is written of the
    items that were taken before the cut; the others go to the nearest centre (`text_context`).

    Args:
      log: the whole log, with a context of its own or none (""); with this very context it stays as it is.
      context: "clusters:N" or "text_clusters:N"; anything else leaves the log as it is. There are at most as many
        clusters as items that differ.
      cut: seconds UTC.
      seed: of k-means and of the SVD's start.
      text_columns: as the flag says.

    Raises:
      UserError: no event lies before the cut; or text clusters are asked for, and there are no texts.
    """
    if not asks_clusters(context) or log.context == context:
        return log
    if asks_text_clusters(context):
        seen = find_seen(log, cut)
        items = with_text_clusters(log.items, log.context, seen.item_row, context, seed, text_columns)
        return dataclasses.replace(log, items=items, context=context)
    own = log if log.context else _with_one_category(log, context)
    corpus = fit_corpus(own, cut)
    vectors = fit_item_svd(encode_log(own, corpus).before(cut), corpus, _DIM, seed)[schema.FIRST_KNOWN :]
    wanted = num_clusters(context, len(vectors))
    numbers, cluster = np.unique(cluster_rows(vectors, wanted, seed, random_rows), return_inverse=True)
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


def with_text_clusters(
    items: ItemTable, own_context: str, seen_row: np.ndarray, context: str, seed: int, text_columns: tuple[str, ...]
) -> ItemTable:
    """The table with the column "text_clusters:N".

    Args:
      items: of the whole log.
      own_context: the log's own category column, "" for none.
      seen_row: rows of the items with an event before the cut, [n].
      context: the column's name.
      seed: of k-means and the SVD's start.
      text_columns: as the flag says.

    Raises:
      UserError: there are no texts.
    """
    is_seen = np.zeros(len(items.item_id), bool)
    is_seen[seen_row] = True
    wanted = num_clusters(context, int(is_seen.sum()))
    if not is_seen.any():
        return dataclasses.replace(items, features={**items.features, context: as_text(["all"] * len(is_seen))})
    name = cluster_texts(items, text_columns, is_seen, wanted, seed)
    is_placed = name != ""
    num_made = len(set(name[is_placed].tolist()))
    if num_made < wanted:
        logging.info("--context=%s: %d clusters, of %d items with events", context, num_made, len(seen_row))
    column = _spread(items, own_context, items.item_id[is_placed], name[is_placed])  # without texts: with their like
    return dataclasses.replace(items, features={**items.features, context: column})


def with_trained_clusters(
    items: ItemTable, own_context: str, corpus: Corpus, text_columns: tuple[str, ...] = ()
) -> ItemTable:
    """Another items table with the column of a trained corpus's clusters: known items keep theirs.

    The others go where their like are, see `_spread`; text clusters take them by the nearest centre, where their texts
    say which.

    Args:
      items: the table.
      own_context: its category column; "" or one that it lacks: it has none.
      corpus: its context is "clusters:N" or "text_clusters:N".
      text_columns: of text clusters, as the flag says.

    Raises:
      UserError: the table has no texts, and text clusters need them.
    """
    known = slice(schema.FIRST_KNOWN, None)
    name = corpus.category_name[corpus.item_category[known]]
    if asks_text_clusters(corpus.context):
        row = find_rows(corpus.item_id[known], ids_like(corpus.item_id, items.item_id))
        placed = place_texts(items, text_columns, row >= 0, np.where(row >= 0, name[row], as_text([""])))
        if (is_placed := placed != "").any():
            column = _spread(items, own_context, items.item_id[is_placed], placed[is_placed])
            return dataclasses.replace(items, features={**items.features, corpus.context: column})
    column = _spread(items, own_context, corpus.item_id[known], name)
    return dataclasses.replace(items, features={**items.features, corpus.context: column})


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
