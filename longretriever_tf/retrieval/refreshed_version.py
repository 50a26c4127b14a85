"""What a refresh publishes: the towers of a run, the catalogue of an items table, the defaults of the last version."""

import dataclasses
from typing import NamedTuple

import numpy as np

from longretriever_tf import schema
from longretriever_tf.config import Config, DataConfig, load_config
from longretriever_tf.config_check import CLUSTERS, num_clusters
from longretriever_tf.data.clusters import with_trained_clusters
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.load import own_context
from longretriever_tf.data.refreshed import Refreshed, refresh_corpus
from longretriever_tf.datasets.event_log.source import read_item_table
from longretriever_tf.errors import UserError
from longretriever_tf.models.finished import load_for_export
from longretriever_tf.models.refreshed import refresh_models
from longretriever_tf.retrieval.fingerprint import fingerprint_towers, read_fingerprint
from longretriever_tf.retrieval.publish import Source
from longretriever_tf.retrieval.saved_model import extra_config_dir, load_extra


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """An items table and how to read it.

    Attributes:
      items: path of a Parquet or CSV file that lists the whole catalogue.
      item_column, item_name_column, context: its columns; None: named as in the run.
      skip_new_categories: leave out items of categories that training never saw, instead of refusing them.
      new_items: unseen: statistics of items that no one ever took; typical: the median of their category's.
      max_retired: refuse to retire more than this share of the last version's items.
    """

    items: str
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
      catalogue: the items of today.

    Raises:
      UserError: the version was exported from other towers, or the table is not a catalogue for them.
    """
    corpus, arrays, models = load_for_export(run_config)
    towers = fingerprint_towers(run_config, corpus, models, arrays)
    _require_same_towers(towers, run_config.train.run_dir, version_dir)
    config = dataclasses.replace(load_config(extra_config_dir(version_dir)), train=run_config.train)
    exported, spec = load_extra(version_dir), _table_spec(config.data, corpus, catalogue)
    table = read_item_table(spec)
    if num_clusters(corpus.context) and not catalogue.context:
        table = with_trained_clusters(table, spec.context, corpus)
        spec = dataclasses.replace(spec, context=corpus.context)
    refreshed = refresh_corpus(corpus, exported, table, spec.context, catalogue.skip_new_categories)
    _check_retired(refreshed.counts["retired"], exported.num_offered - 2, catalogue)
    source = under_towers(Source(config, corpus, arrays, models, towers), refreshed, catalogue.new_items)
    return RefreshedVersion(source, refreshed.counts)


def under_towers(trained: Source, refreshed: Refreshed, new_items: str) -> Source:
    """The towers of a run with another catalogue under them.

    Args:
      trained: corpus, arrays and models of the run; the config of the version.
      refreshed: of the run's corpus.
      new_items: as of `Catalogue`.
    """
    row, corpus, arrays = refreshed.trained_row, refreshed.corpus, trained.arrays
    models = refresh_models(trained.config, trained.models, corpus, arrays["item_svd"][row], row)
    item_stats = arrays["item_stats"][row]
    if new_items == "typical":
        item_stats = _with_typical_stats(item_stats, corpus, row)
    arrays = arrays | {"item_stats": item_stats, "taste_rows": arrays["taste_rows"][:, row]}
    return Source(trained.config, corpus, arrays, models, trained.towers)


def _with_typical_stats(item_stats: np.ndarray, corpus: Corpus, trained_row: np.ndarray) -> np.ndarray:
    """Statistics [V, 3] with the median of the category's known items where training never saw the item."""
    stats = item_stats.copy()
    for low, high in zip(
        corpus.category_offset[schema.FIRST_KNOWN :], corpus.category_offset[schema.FIRST_KNOWN + 1 :], strict=False
    ):
        is_new = trained_row[low:high] == schema.UNKNOWN
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
