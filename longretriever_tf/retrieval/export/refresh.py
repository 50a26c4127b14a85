"""What a refresh publishes: a run's towers, catalogue and statistics of new tables, the last version's defaults.

Items come, go and move between categories; what was learned stays. Vocabularies of categories and values stay those of
training, since the towers know no others.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.ranges import offset_of
from longretriever_tf.common.text import as_text
from longretriever_tf.config.check import CLUSTERS, asks_clusters
from longretriever_tf.config.config import Config, DataConfig, load_config
from longretriever_tf.data.corpus import Corpus, encode_values, ids_like
from longretriever_tf.data.later_events import events_of, save_events
from longretriever_tf.data.number_bins import with_bins
from longretriever_tf.data.recipe.learned_context import with_trained_clusters
from longretriever_tf.datasets.event_log.source import read_item_table
from longretriever_tf.datasets.load import own_context, with_text_flags
from longretriever_tf.datasets.log import ItemTable
from longretriever_tf.models.build import Models, build_models, load_for_export
from longretriever_tf.retrieval.export.fresh_statistics import FreshStatistics, fresh_statistics
from longretriever_tf.retrieval.export.log_of_today import Catalogue, LogOfToday, date_of, describe_table, open_log
from longretriever_tf.retrieval.export.publish import Source
from longretriever_tf.retrieval.export.saved_model import extra_config_dir, load_extra
from longretriever_tf.retrieval.export.sold_items import with_sold_items
from longretriever_tf.retrieval.fingerprint import Fingerprint, fingerprint_towers, read_fingerprint

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Refreshed:
    """A corpus with another catalogue.

    Attributes:
      corpus: the listed items, then the retired ones.
      trained_row: row of each item in every table of the trained corpus, UNKNOWN for items that training never saw:
        gathered by it, vectors, biases, statistics and SVD follow their items, and new items get those of an unknown
        one (a trained embedding, zeros, "never seen"). [V] int32.
      counts: how many items are new, returned, moved (to another category), altered (other features), retired,
        unchanged and, where new categories are skipped, skipped.
    """

    corpus: Corpus
    trained_row: np.ndarray
    counts: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Items by column; one row each."""

    item_id: np.ndarray
    name: np.ndarray
    category: np.ndarray
    feature: np.ndarray

    def take(self, rows: np.ndarray) -> "_Rows":
        return _Rows(self.item_id[rows], self.name[rows], self.category[rows], self.feature[rows])


class RefreshedVersion(NamedTuple):
    """What to publish.

    Attributes:
      source: what the version is made of.
      counts: how many items changed in which way (`Refreshed.counts`), and how many events were counted.
      events: what became of the rows of the events table, in one line; "" without one.
    """

    source: Source
    counts: dict[str, int]
    events: str = ""


def refresh_version(run_config: Config, version_dir: str, catalogue: Catalogue) -> RefreshedVersion:
    """Lays another catalogue under the towers of a run.

    Args:
      run_config: of the run that the version was exported from.
      version_dir: the version to refresh; its request defaults, the items and the later events that it knows are kept.
      catalogue: the items of today, later events, or both.

    Raises:
      UserError: the version was exported from other towers, a table is not one for them, or there is none.
    """
    _require_read(catalogue)
    corpus, arrays, models = load_for_export(run_config)
    towers = fingerprint_towers(run_config, corpus, models, arrays)
    _require_same_towers(towers, run_config.train.run_dir, version_dir)
    config = dataclasses.replace(load_config(extra_config_dir(version_dir)), train=run_config.train)
    exported, before = load_extra(version_dir), read_fingerprint(extra_config_dir(version_dir))
    trained = Source(config, corpus, arrays, models, towers)
    log = _open_log(config, before, corpus.cut, catalogue)
    refreshed = _catalogue_of_today(config, corpus, exported, log, catalogue)
    if log is None:
        return RefreshedVersion(under_towers(trained, refreshed, catalogue.new_items), dict(refreshed.counts))
    since = before.statistics_as_of or corpus.cut
    until = 0 if catalogue.events or catalogue.recount else since
    as_trained = arrays["item_stats"][refreshed.trained_row]
    fresh = fresh_statistics(log, refreshed.corpus, as_trained, since, until)
    told = "" if log.table is None or log.is_whole else describe_table(log, fresh.added, refreshed.corpus, since)
    source = under_towers(trained, refreshed, catalogue.new_items, fresh)
    source = source._replace(later_events=_keep_events(config.train.run_dir, log, fresh, before, corpus.cut, catalogue))
    return RefreshedVersion(source, refreshed.counts | {"events counted": fresh.num_events}, told)


def _require_read(catalogue: Catalogue) -> None:
    """Refuses flags that nothing would read."""
    if not (catalogue.items or catalogue.events or catalogue.recount):
        raise UserError(
            "nothing to refresh by: give --items=TABLE (the catalogue), --events=TABLE (the day's events), or both; or "
            "--recount, if the tables of the run's own log have grown"
        )
    if catalogue.whole_log and not catalogue.events:
        raise UserError("--whole_log says what --events=TABLE holds, and there is none; give it, or leave the flag out")
    also = {"--recount": catalogue.recount, "--skip_last_days": catalogue.skip_last_days is not None}
    if catalogue.whole_log and any(also.values()):
        given = " and ".join(name for name, is_given in also.items() if is_given)
        raise UserError(f"{given} says how to read the run's own log, and --whole_log reads no other: leave one out")
    columns = ("item_column", "item_name_column", "context")
    of_items = [f"--{name}={value}" for name in columns if (value := getattr(catalogue, name)) is not None]
    of_items += ["--skip_new_categories"] if catalogue.skip_new_categories else []
    if of_items and not catalogue.items:
        raise UserError(
            f"{of_items[0]} is of the table of --items, and there is none; events are read by the columns of the run: "
            "leave the flag out"
        )


def _open_log(config: Config, before: Fingerprint, cut: int, catalogue: Catalogue) -> LogOfToday | None:
    """What to count; None where the statistics of the run's cut stay."""
    if not (catalogue.events or catalogue.recount or before.statistics_as_of > cut):
        return None
    return open_log(config.data, config.train.run_dir, before.later_events, catalogue)


def _catalogue_of_today(
    config: Config, corpus: Corpus, exported: Corpus, log: LogOfToday | None, catalogue: Catalogue
) -> Refreshed:
    """The items table's, or the last version's with the items that later events name."""
    if catalogue.items:
        return _refresh_items(config, corpus, exported, catalogue)
    sold = None if log is None else with_sold_items(config, corpus, exported, log)
    if sold is None:
        return _keep_items(corpus, exported)
    return refresh_corpus(corpus, exported, sold, corpus.context, skip_new_categories=True)


def _keep_events(
    run_dir: str, log: LogOfToday, fresh: FreshStatistics, before: Fingerprint, cut: int, catalogue: Catalogue
) -> tuple[str, ...]:
    """Keeps the events that came new with the table; the names of all that the new version counts beyond the run's log.

    Raises:
      UserError: the table brings nothing new, and there is nothing else to refresh by.
    """
    if log.table is None:
        return before.later_events
    if log.is_whole:
        later = events_of(log.table)
        later = later.take(later.timestamp >= cut)  # what a later --events without --whole_log is added to
        return (save_events(run_dir, later),) if len(later.timestamp) else ()
    added = fresh.added[fresh.added >= len(log.kept.timestamp)]
    if len(added):
        return (*before.later_events, save_events(run_dir, log.later.take(added)))
    since = before.statistics_as_of or cut
    if catalogue.items or catalogue.recount or fresh.as_of > since:
        return before.later_events
    raise UserError(
        f"--events={catalogue.events} brings nothing new: all of its {log.table.num_events:,} events are counted in "
        f"the last version already (until {date_of(since)} UTC); give the events since then"
    )


def _refresh_items(config: Config, corpus: Corpus, exported: Corpus, catalogue: Catalogue) -> Refreshed:
    """The catalogue of the items table."""
    spec = _table_spec(config.data, corpus, catalogue)
    table = read_item_table(spec)
    if asks_clusters(corpus.context) and not catalogue.context:
        table = with_trained_clusters(table, spec.context, corpus, spec.text_columns)
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
    takers = arrays["item_takers"][row]
    if fresh is not None:
        item_stats, takers, has_own = fresh.item, fresh.takers, fresh.is_seen
        arrays = arrays | {"category_stats": fresh.category, "statistics_as_of": np.array(fresh.as_of)}
    if new_items == "typical":
        item_stats = _with_typical_stats(item_stats, corpus, has_own)
        takers = _with_typical_stats(takers, corpus, has_own)
    arrays = arrays | {"item_stats": item_stats, "item_takers": takers, "taste_rows": arrays["taste_rows"][:, row]}
    return Source(trained.config, corpus, arrays, models, trained.towers)


def _keep_items(corpus: Corpus, exported: Corpus) -> Refreshed:
    """The catalogue of the last version."""
    row = corpus.find_items(exported.item_id)
    row[schema.PADDING] = schema.PADDING
    return Refreshed(exported, row, {"unchanged": exported.num_offered - schema.FIRST_KNOWN})


def _with_typical_stats(item_stats: np.ndarray, corpus: Corpus, has_own: np.ndarray) -> np.ndarray:
    """Statistics [V, ...] with the median of the category's known items where the item has none of its own."""
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
    """How to read the table: the run's column names unless the flags name others, and every feature of the towers."""
    name = catalogue.item_name_column
    context = corpus.context
    if asks_clusters(context):
        # No table holds learned clusters: the log's own category, if the run had one, says where a new item goes.
        context = own_context(data) if own_context(data) in corpus.feature_values else CLUSTERS
    return dataclasses.replace(
        with_text_flags(data),
        items=catalogue.items,
        item_column=catalogue.item_column or data.item_column,
        item_name_column=data.item_name_column if name is None else name,
        context=catalogue.context or context,
        item_features=tuple(name for name in corpus.feature_values if name not in corpus.feature_edges),
        numeric_features=tuple(corpus.feature_edges),
    )


def _check_retired(num_retired: int, num_offered: int, catalogue: Catalogue) -> None:
    if num_retired > catalogue.max_retired * num_offered:
        raise UserError(
            f"--items={catalogue.items} lacks {num_retired:,} of the {num_offered:,} items of the last version, more "
            f"than --max_retired={catalogue.max_retired:g} of them. The table must list the whole catalogue; if they "
            "are gone indeed, raise --max_retired"
        )


def refresh_corpus(
    trained: Corpus, exported: Corpus, items: ItemTable, context: str, skip_new_categories: bool = False
) -> Refreshed:
    """Replaces the catalogue by `items`.

    Items that are no longer listed are retired: no search returns them, and the histories that hold them still count.

    Args:
      trained: of the run.
      exported: of the version to refresh; its items, retired ones among them, stay known.
      items: the whole new catalogue, with every feature that the run was trained on.
      context: the column of `items` that is the category; missing values are filled already.
      skip_new_categories: leave out items of categories that training never saw, instead of refusing them.

    Raises:
      UserError: a category that training never saw, or ids of another kind.
    """
    listed, num_skipped = _listed_rows(trained, items, context, skip_new_categories)
    known = _Rows(exported.item_id, exported.item_name, exported.item_category, exported.item_feature)
    before = exported.find_items(listed.item_id)
    is_gone = np.ones(exported.num_items, bool)
    is_gone[: schema.FIRST_KNOWN] = False
    is_gone[before] = False
    order = np.argsort(listed.category, kind="stable")
    parts = known.take(np.arange(schema.FIRST_KNOWN)), listed.take(order), known.take(np.flatnonzero(is_gone))
    rows = {field.name: np.concatenate([getattr(p, field.name) for p in parts]) for field in dataclasses.fields(_Rows)}
    offered = np.concatenate([parts[0].category, parts[1].category])
    corpus = dataclasses.replace(
        trained,
        item_id=rows["item_id"],
        item_name=rows["name"],
        item_category=rows["category"].astype(np.int32),
        item_feature=rows["feature"].astype(np.int32),
        category_offset=offset_of(np.bincount(offered, minlength=trained.num_categories)),
    )
    trained_row = trained.find_items(corpus.item_id)
    trained_row[schema.PADDING] = schema.PADDING
    counts = _count_changes(exported, listed, before)
    counts["retired"] = int(is_gone[: exported.num_offered].sum())
    return Refreshed(corpus, trained_row, counts | ({"skipped": num_skipped} if num_skipped else {}))


def _listed_rows(trained: Corpus, items: ItemTable, context: str, skip_new_categories: bool) -> tuple[_Rows, int]:
    """The catalogue in indices of the trained vocabularies, and how many items were skipped."""
    items = with_bins(items, trained.feature_edges)
    features = [encode_values(items.features[name], values) for name, values in trained.feature_values.items()]
    category = encode_values(items.features[context], trained.category_name)
    is_new = category == schema.UNKNOWN
    if is_new.any() and not skip_new_categories:
        names, sizes = np.unique(items.features[context][is_new], return_counts=True)
        some = ", ".join(f"{name!r} ({size} items)" for name, size in zip(names[:_SHOWN].tolist(), sizes, strict=False))
        raise UserError(
            f"{context}: {len(names)} categories of the items table were never seen in training: {some}"
            f"{', ...' if len(names) > _SHOWN else ''}. No interest can be scored for them: train again, put their "
            "items into known categories, or leave those items out with --skip_new_categories"
        )
    rows = _Rows(
        item_id=ids_like(trained.item_id, items.item_id),
        name=as_text(items.name),
        category=category,
        feature=np.stack(features, 1) if features else np.zeros((len(category), 0), np.int32),
    )
    return rows.take(np.flatnonzero(~is_new)), int(is_new.sum())


def _count_changes(exported: Corpus, listed: _Rows, before: np.ndarray) -> dict[str, int]:
    is_new = before == schema.UNKNOWN
    moved = ~is_new & (exported.item_category[before] != listed.category)
    altered = ~is_new & ~moved & (exported.item_feature[before] != listed.feature).any(1)
    was_retired = before >= exported.num_offered
    unchanged = ~is_new & ~moved & ~altered & ~was_retired
    masks = {"new": is_new, "returned": was_retired, "moved": moved, "altered": altered, "unchanged": unchanged}
    return {name: int(mask.sum()) for name, mask in masks.items()}


def refresh_models(
    config: Config, models: Models, corpus: Corpus, item_svd: np.ndarray, trained_row: np.ndarray
) -> Models:
    """The same weights for the items of `corpus`.

    Args:
      config: of the run.
      models: as trained.
      corpus: another catalogue with the trained vocabularies.
      item_svd: rows of `corpus`, [V, svd_dim].
      trained_row: row of each item in the trained tables, [V].
    """
    refreshed = build_models(config, corpus, item_svd)
    tower = models.retriever.item_tower
    per_item = [id(table) for table in (tower.bias, tower.id_table) if table is not None]
    pairs = [
        *zip(models.retriever.variables, refreshed.retriever.variables, strict=True),
        *zip(models.interest.variables, refreshed.interest.variables, strict=True),
    ]
    for source, target in pairs:
        value = source.numpy()
        target.assign(value[trained_row] if id(source) in per_item else value)
    return refreshed
