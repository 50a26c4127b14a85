"""The last version's catalogue and the items that later events name: what a refresh offers without an items table."""

import dataclasses

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.config.check import asks_clusters, asks_text_clusters
from longretriever_tf.config.config import Config
from longretriever_tf.data.catalogue import load_catalogue, whole_catalogue
from longretriever_tf.data.corpus import Corpus, fits_ids
from longretriever_tf.data.later_events import find_ids, say_items
from longretriever_tf.data.number_bins import with_bins
from longretriever_tf.data.recipe.learned_context import with_trained_clusters
from longretriever_tf.datasets.build_log import fill_missing_context
from longretriever_tf.datasets.event_log.source import own_context as column_of_context
from longretriever_tf.datasets.item_texts import split_numbers
from longretriever_tf.datasets.load import open_sharded_log, own_context
from longretriever_tf.datasets.log import ItemTable
from longretriever_tf.retrieval.export.log_of_today import LogOfToday


def with_sold_items(config: Config, trained: Corpus, exported: Corpus, log: LogOfToday) -> ItemTable | None:
    """The items that the last version offers, and those of later events that it does not know; None: there are none.

    The features of new ones come from the events, where the run's log has its items from there, else from what the run
    kept of the items without events. Others wait until an items table lists them, and retired items stay retired.

    Args:
      config: of the run.
      trained: its corpus.
      exported: the corpus of the last version.
      log: of today.
    """
    table = _described_items(config, trained, log)
    if table is None:
        return None
    table = with_bins(table, trained.feature_edges)
    sold = log.sold_items()
    is_new = find_ids(exported.item_id[schema.FIRST_KNOWN :], table.item_id) < 0
    is_new &= fits_ids(trained.item_id, table.item_id)
    rows = np.flatnonzero(is_new & (find_ids(sold, table.item_id) >= 0))
    if not len(rows):
        return None
    features = {name: table.features[name][rows] for name in table.features}
    listed = whole_catalogue(_offered(exported), ItemTable(table.item_id[rows], features, table.name[rows]))
    if not asks_clusters(trained.context) or trained.context in listed.features:
        return listed
    if asks_text_clusters(trained.context):  # events do not say the texts: such items wait for an items table
        return None
    return with_trained_clusters(listed, own_context(config.data), trained)


def _described_items(config: Config, trained: Corpus, log: LogOfToday) -> ItemTable | None:
    """A table that says the category and the features of items beyond the last version's; None: nothing says them."""
    needed = {*trained.feature_values, *([] if asks_clusters(trained.context) else [trained.context])}
    # Events of a log with a table of items have a blank category in place of theirs: that says nothing.
    is_said = say_items(log.data) and not asks_text_clusters(trained.context)
    if log.table is not None and is_said and needed <= set(log.table.items.features):
        return split_numbers(fill_missing_context(log.table.items, column_of_context(config.data)), config.data)
    if log.is_recounted and not log.is_whole:
        return log.own.items if not log.data.data else open_sharded_log(log.data).items
    return load_catalogue(config.train.run_dir)


def _offered(corpus: Corpus) -> Corpus:
    """The corpus without its retired items."""
    rows = slice(0, corpus.num_offered)
    names = ("item_id", "item_name", "item_category", "item_feature")
    return dataclasses.replace(corpus, **{name: getattr(corpus, name)[rows] for name in names})
