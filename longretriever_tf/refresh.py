"""Publishes a new version with today's statistics, another catalogue, or both: no training, seconds instead of hours.

  longretriever refresh --run_dir=runs/demo --export_dir=exports/longretriever --events=today.parquet
  longretriever refresh --run_dir=runs/demo --export_dir=exports/longretriever --items=catalogue.parquet

--events holds the events since the last version, in the columns that the run was trained on. They are added to the
run's own log, which is read once more, and to those of earlier refreshes, which are kept in RUN_DIR/later_events; so
popularity, staleness and repeat rate of items and categories are what training would count today. An event that is
counted already is not counted again, one that comes late is. Events of unknown users count; items that the last version
does not know become retrievable if the events say their category and features, or the run kept them. --recount is for a
run whose own tables grow in place; --whole_log says that --events is the whole log, and reads no other. Answers say as
of when: `statistics_as_of` in each of them.

The table of --items lists the whole catalogue of today. Items that it has and the last version has not are new: their
vectors come from their side features, their statistics say "never seen" if no event says more. Items that it lacks are
retired: never retrieved, still read in histories. An item whose category changed moves, its past events with it. All
learned stays, so does the fingerprint of the towers; an export of other towers is refused. The index is built anew, of
the kind that the last version has unless --index says otherwise. A refresh that fails leaves the last version as it is.
"""

import dataclasses
import os
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.common.progress import stage
from longretriever_tf.config import flags
from longretriever_tf.config.config import load_config

flags.define_config_flags("index")
_RUN_DIR = absl_flags.DEFINE_string("run_dir", "runs/default", "Run directory that the export was made from.")
_EXPORT_DIR = absl_flags.DEFINE_string(
    "export_dir", "exports/longretriever", "Its latest version is refreshed; the new one is written next to it."
)
_TO_DIR = absl_flags.DEFINE_string(
    "to_dir", "", "Export directory that gets the new version, in place of --export_dir; empty: the same."
)
_ITEMS = absl_flags.DEFINE_string(
    "items",
    "",
    "Path of the items table (.parquet, .csv or .csv.gz): the whole catalogue; empty: it stays, with the "
    "new items of the events.",
)
_EVENTS = absl_flags.DEFINE_string(
    "events",
    "",
    "Path of the table of the events since the last version, in the run's columns and any format that training reads; "
    "empty: none.",
)
_WHOLE_LOG = absl_flags.DEFINE_bool(
    "whole_log",
    False,
    "--events holds the whole log from its first event until today: count it alone. For a log of which events were "
    "deleted, and for a run whose own log is gone.",
)
_RECOUNT = absl_flags.DEFINE_bool(
    "recount", False, "Read the run's own log anew: its tables have grown since. With --events, those are added to it."
)
_SKIP_LAST_DAYS = absl_flags.DEFINE_float(
    "skip_last_days",
    None,
    "Count the run's own log but for its last so many days; as in the run by default. For experiments on a log of the "
    "past (configs/reproduce/daily.toml).",
    lower_bound=0,
)
_ITEM_COLUMN = absl_flags.DEFINE_string("item_column", None, "Column of the item's id; the run's own by default.")
_NAME_COLUMN = absl_flags.DEFINE_string(
    "item_name_column", None, "Column of a readable name; the run's own by default."
)
_CONTEXT = absl_flags.DEFINE_string("context", None, "Column of the category; the run's own by default.")
_SKIP = absl_flags.DEFINE_bool(
    "skip_new_categories", False, "Leave out items of categories that training never saw, instead of refusing them."
)
_NEW_ITEMS = absl_flags.DEFINE_enum(
    "new_items",
    "unseen",
    ["unseen", "typical"],
    "Statistics of new items. unseen: as of items that no one ever took, so they come up late. typical: the median of "
    "their category, so that they compete by their features.",
)
_MAX_RETIRED = absl_flags.DEFINE_float(
    "max_retired", 0.2, "Refuse to retire more than this share of the items: a table may be cut short.", 0, 1
)
_VERSION = absl_flags.DEFINE_integer("version", 0, "Version number; 0 takes the next free one.", lower_bound=0)
_CHECK = absl_flags.DEFINE_bool(
    "check", True, "Load the version in a fresh process and replay its warm-up requests before it takes its place."
)
_VECTORS = absl_flags.DEFINE_string(
    "vectors", "", "Also write the version's item vectors there as Parquet, as `export --vectors` does."
)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    run_config = load_config(_RUN_DIR.value)
    with stage("loading TensorFlow"):
        from longretriever_tf.data.number_bins import describe_bins
        from longretriever_tf.retrieval.export.log_of_today import Catalogue, date_of
        from longretriever_tf.retrieval.export.publish import publish
        from longretriever_tf.retrieval.export.refresh import refresh_version
        from longretriever_tf.retrieval.export.saved_model import latest_version
        from longretriever_tf.retrieval.export.vectors import require_vectors_dir, write_vectors
        from longretriever_tf.retrieval.sharding.shards_file import ROUTER_DIR, num_shards_of
        from longretriever_tf.serving.server.warmup import check_in_fresh_process

    if _VECTORS.value:
        require_vectors_dir(_VECTORS.value, _TO_DIR.value or _EXPORT_DIR.value)
    category_shards = num_shards_of(_EXPORT_DIR.value)
    folder = ROUTER_DIR if category_shards else ""  # the router holds the catalogue
    version_dir = latest_version(os.path.join(_EXPORT_DIR.value, folder))
    catalogue = Catalogue(
        items=_ITEMS.value,
        events=_EVENTS.value,
        whole_log=_WHOLE_LOG.value,
        recount=_RECOUNT.value,
        skip_last_days=_SKIP_LAST_DAYS.value,
        item_column=_ITEM_COLUMN.value,
        item_name_column=_NAME_COLUMN.value,
        context=_CONTEXT.value,
        skip_new_categories=_SKIP.value,
        new_items=_NEW_ITEMS.value,
        max_retired=_MAX_RETIRED.value,
    )
    tables = " and ".join(filter(None, (_ITEMS.value, _EVENTS.value, "the run's log" if _RECOUNT.value else "")))
    with stage(f"laying {tables} under the towers of {_RUN_DIR.value}"):
        source, counts, events = refresh_version(run_config, version_dir, catalogue)
    # The other flags are the command's own: --events here is not that of the run.
    config = dataclasses.replace(source.config, index=flags.section_from_flags(source.config.index))
    source = source._replace(config=config)
    replay = check_in_fresh_process if _CHECK.value else None
    published = publish(source, _TO_DIR.value or _EXPORT_DIR.value, _VERSION.value, replay, category_shards)
    for line in filter(None, (events, describe_bins(source.corpus.feature_edges))):
        print(line)
    print(", ".join(f"{count:,} {what}" for what, count in counts.items()))
    print(f"refreshed {version_dir} -> {published.describe()}")
    print(f"statistics of items and categories: as of {date_of(published.fingerprint.statistics_as_of)} UTC")
    if _VECTORS.value:
        print(write_vectors(_VECTORS.value, published.packed, source.corpus, published.fingerprint))


if __name__ == "__main__":
    flags.run_command(main)
