"""What a refresh publishes: a run's towers, catalogue and statistics of new tables, the last version's defaults."""

import dataclasses
from typing import NamedTuple

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.check import CLUSTERS, num_clusters
from longretriever_tf.config.config import Config, DataConfig, load_config
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.learned_context import with_trained_clusters
from longretriever_tf.data.refreshed import Refreshed, refresh_corpus
from longretriever_tf.datasets.event_log.source import read_item_table
from longretriever_tf.datasets.load import own_context
from longretriever_tf.models.build import load_for_export
from longretriever_tf.models.refreshed import refresh_models
from longretriever_tf.retrieval.export.fresh_statistics import FreshStatistics, fresh_statistics
from longretriever_tf.retrieval.export.publish import Source
from longretriever_tf.retrieval.export.saved_model import extra_config_dir, load_extra
from longretriever_tf.retrieval.fingerprint import fingerprint_towers, read_fingerprint


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What is new: an items table, an events table, or both, and how to read them.

    Attributes:
      items: path of a Parquet or CSV file that lists the whole catalogue; empty: the last version's stays.
      events: path of a table of all events until today; empty: the statistics of the run's cut stay.
      item_column, item_name_column, context: its columns; None: named as in the run.
      skip_new_categories: leave out items of categories that training never saw, instead of refusing them.
      new_items: unseen: statistics of items that no one ever took; typical: the median of their category's.
      max_retired: refuse to retire more than this share of the last version's items.
    """

    items: str = ""
    events: str = ""
    item_column: str | None = None
    item_name_column: str | None = None
    context: str | None = None
    skip_new_categories: bool = False
    new_items: str = "unseen"
    max_retired: float = 0.2


class RefreshedVersion(NamedTuple):
    """What to publish, and how many items changed in which way (`data.refreshed.Refreshed.counts`)."""

    source: Source
    counts: dict[str, int]


def refresh_version(run_config: Config, version_dir: str, catalogue: Catalogue) -> RefreshedVersion:
    """Lays another catalogue under the towers of a run.

    Args:
      run_config: of the run that the version was exported from.
      version_dir: the version to refresh; its request defaults and the items it knows are kept.
      catalogue: the items of today, the events until today, or both.

    Raises:
      UserError: the version was exported from other towers, a table is not one for them, or there is none.
    """
    if not (catalogue.items or catalogue.events):
        raise UserError("nothing to refresh by: give --items=TABLE (the catalogue), --events=TABLE (the log), or both")
    corpus, arrays, models = load_for_export(run_config)
    towers = fingerprint_towers(run_config, corpus, models, arrays)
    _require_same_towers(towers, run_config.train.run_dir, version_dir)
    config = dataclasses.replace(load_config(extra_config_dir(version_dir)), train=run_config.train)
    exported = load_extra(version_dir)
    refreshed = (
        _refresh_items(config, corpus, exported, catalogue) if catalogue.items else _keep_items(corpus, exported)
    )
    trained = Source(config, corpus, arrays, models, towers)
    counts, fresh = dict(refreshed.counts), _count_events(trained, refreshed, version_dir, catalogue.events)
    if fresh is not None:
        counts["events counted"] = fresh.num_events
    return RefreshedVersion(under_towers(trained, refreshed, catalogue.new_items, fresh), counts)


def _count_events(trained: Source, refreshed: Refreshed, version_dir: str, events: str) -> FreshStatistics | None:
    """The statistics of today; None where no table of events says them."""
    cut, row = trained.corpus.cut, refreshed.trained_row
    stamped = read_fingerprint(extra_config_dir(version_dir)).statistics_as_of
    if events:
        as_trained = trained.arrays["item_stats"][row]
        return fresh_statistics(trained.config.data, events, refreshed.corpus, as_trained, stamped or cut)
    if stamped > cut:
        raise UserError(
            f"the statistics of {version_dir} were renewed by --events, and would fall back to those of the run's cut: "
            "give --events again, the whole log of today"
        )
    return None


def _refresh_items(config: Config, corpus: Corpus, exported: Corpus, catalogue: Catalogue) -> Refreshed:
    """The catalogue of the items table."""
    spec = _table_spec(config.data, corpus, catalogue)
    table = read_item_table(spec)
    if num_clusters(corpus.context) and not catalogue.context:
        table = with_trained_clusters(table, spec.context, corpus)
        spec = dataclasses.replace(spec, context=corpus.context)
    refreshed = refresh_corpus(corpus, exported, table, spec.context, catalogue.skip_new_categories)
    _check_retired(refreshed.counts["retired"], exported.num_offered - 2, catalogue)
    return refreshed


def under_towers(trained: Source, refreshed: Refreshed, new_items: str, fresh: FreshStatistics | None = None) -> Source:
    """The towers of a run with another catalogue under them.

    Args:
      trained: corpus, arrays and models of the run; the config of the version.
      refreshed: of the run's corpus.
      new_items: as of `Catalogue`.
      fresh: statistics newer than those of the run's cut.
    """
    row, corpus, arrays = refreshed.trained_row, refreshed.corpus, trained.arrays
    models = refresh_models(trained.config, trained.models, corpus, arrays["item_svd"][row], row)
    item_stats, has_own = arrays["item_stats"][row], row != schema.UNKNOWN
    if fresh is not None:
        item_stats, has_own = fresh.item, fresh.is_seen
        arrays = arrays | {"category_stats": fresh.category, "statistics_as_of": np.array(fresh.as_of)}
    if new_items == "typical":
        item_stats = _with_typical_stats(item_stats, corpus, has_own)
    arrays = arrays | {"item_stats": item_stats, "taste_rows": arrays["taste_rows"][:, row]}
    return Source(trained.config, corpus, arrays, models, trained.towers)


def _keep_items(corpus: Corpus, exported: Corpus) -> Refreshed:
    """The catalogue of the last version."""
    row = corpus.find_items(exported.item_id)
    row[schema.PADDING] = schema.PADDING
    return Refreshed(exported, row, {"unchanged": exported.num_offered - schema.FIRST_KNOWN})


def _with_typical_stats(item_stats: np.ndarray, corpus: Corpus, has_own: np.ndarray) -> np.ndarray:
    """Statistics [V, 3] with the median of the category's known items where the item has none of its own."""
    stats = item_stats.copy()
    for low, high in zip(
        corpus.category_offset[schema.FIRST_KNOWN :], corpus.category_offset[schema.FIRST_KNOWN + 1 :], strict=False
    ):
        is_new = ~has_own[low:high]
        if is_new.any() and not is_new.all():
            stats[low:high][is_new] = np.median(item_stats[low:high][~is_new], axis=0)
    return stats


def _require_same_towers(towers: str, run_dir: str, version_dir: str) -> None:
    theirs = read_fingerprint(extra_config_dir(version_dir)).towers
    if towers != theirs:
        raise UserError(
            f"{version_dir} was exported from towers with the fingerprint {theirs or '(none)'}, and those of "
            f"--run_dir={run_dir} have {towers}: vectors of one mean nothing to the other. Name the run that it was "
            "exported from, or export this run first"
        )


def _table_spec(data: DataConfig, corpus: Corpus, catalogue: Catalogue) -> DataConfig:
    """How to read the table: the run's column names unless told otherwise, and every feature of the towers."""
    name = catalogue.item_name_column
    context = corpus.context
    if num_clusters(context):
        # No table holds learned clusters: the log's own category, if the run had one, says where a new item goes.
        context = own_context(data) if own_context(data) in corpus.feature_values else CLUSTERS
    return dataclasses.replace(
        data,
        items=catalogue.items,
        item_column=catalogue.item_column or data.item_column,
        item_name_column=data.item_name_column if name is None else name,
        context=catalogue.context or context,
        item_features=tuple(corpus.feature_values),
    )


def _check_retired(num_retired: int, num_offered: int, catalogue: Catalogue) -> None:
    if num_retired > catalogue.max_retired * num_offered:
        raise UserError(
            f"--items={catalogue.items} lacks {num_retired:,} of the {num_offered:,} items of the last version, more "
            f"than --max_retired={catalogue.max_retired:g} of them. The table must list the whole catalogue; if they "
            "are gone indeed, raise --max_retired"
        )
