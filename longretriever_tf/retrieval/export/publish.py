"""From a run's towers and a catalogue to a version directory: what `export` and `refresh` share."""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.progress import stage
from longretriever_tf.config.config import Config
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.models.build import Models
from longretriever_tf.retrieval.export.saved_model import export_model
from longretriever_tf.retrieval.export.sharded import export_sharded, plan_layout
from longretriever_tf.retrieval.export.tuning_queries import make_check_queries
from longretriever_tf.retrieval.export.verify_index import measure_recall_in_fresh_process
from longretriever_tf.retrieval.fingerprint import Fingerprint, fingerprint_items
from longretriever_tf.retrieval.index.build import IndexReport, build_index, searched_by_scann
from longretriever_tf.retrieval.index.exact import PackedIndex
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.sharding.router import Router
from longretriever_tf.retrieval.sharding.shards_file import require_same_shards, shard_dir


class Source(NamedTuple):
    """What a version is made of.

    Attributes:
      config: the run's, with the request defaults and the index kind of this version.
      corpus: the catalogue.
      arrays: `item_stats` [V, 3], `category_stats` [C, 3] and `taste_rows` [K, V, D] as of the cut; where the
        statistics are newer, `statistics_as_of` says of when, seconds UTC; `generation` of the run.
      models: with a row per item of `corpus`.
      towers: `fingerprint_towers` of the run.
      later_events: names of the events beyond the run's log that the statistics count (`data.later_events`).
    """

    config: Config
    corpus: Corpus
    arrays: dict[str, np.ndarray]
    models: Models
    towers: str
    later_events: tuple[str, ...] = ()


class Published(NamedTuple):
    """A published version, and all of its item vectors, whatever the kind of its index."""

    directory: str
    source: Source
    report: IndexReport
    packed: PackedIndex
    fingerprint: Fingerprint
    num_shards: int = 0

    def describe(self) -> str:
        """One line for people, and the categories that ScaNN searches."""
        directories, number = [self.directory], os.path.basename(self.directory)
        if self.num_shards:
            export_dir = os.path.dirname(os.path.dirname(self.directory))
            directories += [os.path.join(export_dir, shard_dir(i), number) for i in range(self.num_shards)]
        files = (os.path.join(root, name) for one in directories for root, _, names in os.walk(one) for name in names)
        corpus, index = self.source.corpus, self.source.config.index
        split = f", a router and {self.num_shards} shards" if self.num_shards else ""
        line = (
            f"{self.directory}: {corpus.num_offered - 2:,} items, {corpus.num_categories - 2:,} categories, "
            f"{sum(map(os.path.getsize, files)) / 1e6:.0f} MB, index {index.index}: {self.report.summary()}{split}"
        )
        return f"{line}\n{self.report.table()}" if searched_by_scann(index, corpus.category_offset) else line


def publish(
    source: Source, export_dir: str, version: int, replay: Callable[[str], object] | None, category_shards: int = 0
) -> Published:
    """Builds the index and writes the version.

    Args:
      source: what it is made of.
      export_dir: holds one folder per version.
      version: 0 takes the next free number.
      replay: is shown the directory before it takes its place; raises UserError where it answers wrongly.
      category_shards: a router and so many shards in place of one SavedModel; 0: one SavedModel.

    Raises:
      UserError: --search=corpus, an index that misses its recall, a directory that cannot be written or holds another
        kind of export, or what `replay` says.
    """
    require_same_shards(export_dir, category_shards)
    config, corpus, arrays, models, towers, later_events = source
    if config.retrieval.search != "category":
        raise UserError(
            f"--search={config.retrieval.search} is for evaluation alone: an export searches categories; "
            "export with --search=category"
        )
    as_of = int(arrays.get("statistics_as_of", corpus.cut))
    with stage("building the index of all items"):
        served = (Router if category_shards else MultiContextRetriever)(
            config,
            corpus,
            models.retriever,
            models.interest if config.train.interest_epochs else None,
            arrays,
            Fingerprint(towers, fingerprint_items(corpus), as_of, later_events, int(arrays.get("generation", 1))),
        )
        if isinstance(served, Router):
            served.layout = plan_layout(served, config, corpus, category_shards)
        categories = searched_by_scann(config.index, corpus.category_offset)
        queries = make_check_queries(served, config, corpus, categories) if categories else {}
        packed = served.index
        served.index, report = build_index(config.index, packed, corpus, queries)

    def verify(directory: str, part: PackedIndex | None = packed) -> None:
        if isinstance(part, PackedIndex) and report.needs_scann:
            with stage("holding every category to exact search in a fresh process"):
                report.require(measure_recall_in_fresh_process(directory, part, queries))
        if replay is not None:
            with stage("replaying the warm-up requests in a fresh process"):
                replay(directory)

    if isinstance(served, Router):
        directory = export_sharded(served, config, corpus, report, export_dir, version, verify)
    else:
        directory = export_model(served, config, corpus, report, export_dir, version, verify)
    return Published(directory, source, report, packed, served.fingerprint, category_shards)
