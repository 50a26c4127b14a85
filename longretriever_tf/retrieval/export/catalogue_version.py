"""What an export holds of its log's catalogue: the items with events, or all of them, and a sentence that says so."""

from typing import NamedTuple

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.check import asks_clusters
from longretriever_tf.config.config import Config
from longretriever_tf.data.catalogue import load_catalogue, whole_catalogue
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.learned_context import with_trained_clusters
from longretriever_tf.datasets.load import own_context
from longretriever_tf.datasets.log_identity import LogIdentity, read_identity
from longretriever_tf.models.build import load_for_export
from longretriever_tf.retrieval.export.publish import Source
from longretriever_tf.retrieval.export.refresh import refresh_corpus, under_towers
from longretriever_tf.retrieval.fingerprint import fingerprint_towers


class ExportedVersion(NamedTuple):
    """What to publish, and a sentence on what it holds of the catalogue."""

    source: Source
    holds: str


def export_version(config: Config, catalogue: str = "auto", new_items: str = "unseen") -> ExportedVersion:
    """The towers of a finished run under the catalogue of its log; reads no log.

    Args:
      config: of the run.
      catalogue: seen: the items with an event before the training cut, which are those that `evaluate` counts. all:
        those without one too, by their side features, but for categories that training never saw. auto: all for a run
        of --cut=none, else seen.
      new_items: statistics of the items without events, as of `refresh.Catalogue`.

    Raises:
      UserError: the run has not finished, or kept no catalogue (an earlier version trained it).
    """
    run_dir = config.train.run_dir
    corpus, arrays, models = load_for_export(config)
    source = Source(config, corpus, arrays, models, fingerprint_towers(config, corpus, models, arrays))
    identity = read_identity(run_dir)
    wants_all = catalogue == "all" or (catalogue == "auto" and config.train.cut == "none")
    rest = load_catalogue(run_dir) if wants_all else None
    if wants_all and rest is None:
        raise UserError(
            f"--catalogue={catalogue}: {run_dir!r} was trained by a version that kept no list of the items without "
            "events: export with --catalogue=seen, then `refresh` with the whole items table; or train again"
        )
    if rest is None:
        return ExportedVersion(source, describe_seen(corpus, identity))
    if not len(rest.item_id):
        return ExportedVersion(source, describe_all(corpus, identity, 0, 0))
    table = whole_catalogue(corpus, rest)
    if asks_clusters(corpus.context) and corpus.context not in table.features:  # spread from the log's own category
        table = with_trained_clusters(table, own_context(config.data), corpus)
    refreshed = refresh_corpus(corpus, corpus, table, corpus.context, skip_new_categories=True)
    counts = refreshed.counts
    holds = describe_all(refreshed.corpus, identity, counts["new"], counts.get("skipped", 0))
    return ExportedVersion(under_towers(source, refreshed, new_items), holds)


def describe_seen(corpus: Corpus, identity: LogIdentity | None) -> str:
    """The sentence on an export of the items with events."""
    held = corpus.num_offered - 2
    if identity is None:
        return f"holds {held:,} items, those with an event before the training cut ({_day(corpus.cut)})"
    left_out = identity.num_items - held
    line = f"holds {held:,} of {identity.num_items:,} items of the catalogue"
    if not left_out:
        return line
    return (
        f"{line}; left out: {left_out:,} without an event before the training cut ({_day(corpus.cut)}), "
        f"{identity.num_items_without_events:,} of them without any; --catalogue=all gives them vectors from their "
        "features"
    )


def describe_all(corpus: Corpus, identity: LogIdentity | None, num_new: int, num_skipped: int) -> str:
    """The sentence on an export of the whole catalogue."""
    held = corpus.num_offered - 2
    total = identity.num_items if identity else held + num_skipped
    line = f"holds {held:,} of {total:,} items of the catalogue"
    if num_new:
        line += (
            f"; {num_new:,} of them have no event before the training cut ({_day(corpus.cut)}) and vectors from their "
            "features alone"
        )
    if num_skipped:
        line += (
            f"; left out: {num_skipped:,} of categories that training never saw, for which no interest can be scored"
        )
    return line


def _day(cut: int) -> str:
    return f"{str(np.datetime64(cut, 's')).replace('T', ' ')} UTC"
