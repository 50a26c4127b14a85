"""Publishes a new version with another catalogue, newer statistics, or both: no training, seconds instead of hours.

  python -m longretriever_tf.refresh --run_dir=runs/demo --export_dir=exports/longretriever --items=catalogue.parquet
  python -m longretriever_tf.refresh --run_dir=runs/demo --export_dir=exports/longretriever --events=log.parquet

--events is the whole log until today, in the columns that the run was trained on: popularity, staleness and repeat rate
of items and categories are counted anew, as of its last event, where those of an export stand still at the run's cut.
The signature `fingerprint` tells of when they are.

The table of --items lists the whole catalogue of today. Items that it has and the last version has not are new: their
vectors come from their side features, their statistics say "never seen". Items that it lacks are retired: never
retrieved, still read in histories. An item whose category changed moves, its past events with it. All learned stays, so
does the fingerprint of the towers; an export of other towers is refused. The index is built anew, of the kind that the
last version has unless --index says otherwise.
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
_ITEMS = absl_flags.DEFINE_string(
    "items", "", "Path of the items table (.parquet, .csv or .csv.gz): the whole catalogue; empty: it stays as it is."
)
_EVENTS = absl_flags.DEFINE_string(
    "events",
    "",
    "Path of the events table: the whole log until today, in the run's columns; empty: the statistics stay.",
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
        from longretriever_tf.retrieval.export.publish import publish
        from longretriever_tf.retrieval.export.refresh import Catalogue, refresh_version
        from longretriever_tf.retrieval.export.saved_model import latest_version
        from longretriever_tf.retrieval.export.vectors import require_vectors_dir, write_vectors
        from longretriever_tf.retrieval.sharding.shards_file import ROUTER_DIR, num_shards_of
        from longretriever_tf.serving.server.warmup import check_in_fresh_process

    if _VECTORS.value:
        require_vectors_dir(_VECTORS.value, _EXPORT_DIR.value)
    category_shards = num_shards_of(_EXPORT_DIR.value)
    folder = ROUTER_DIR if category_shards else ""  # the router holds the catalogue
    version_dir = latest_version(os.path.join(_EXPORT_DIR.value, folder))
    catalogue = Catalogue(
        items=_ITEMS.value,
        events=_EVENTS.value,
        item_column=_ITEM_COLUMN.value,
        item_name_column=_NAME_COLUMN.value,
        context=_CONTEXT.value,
        skip_new_categories=_SKIP.value,
        new_items=_NEW_ITEMS.value,
        max_retired=_MAX_RETIRED.value,
    )
    tables = " and ".join(filter(None, (_ITEMS.value, _EVENTS.value)))
    with stage(f"laying {tables} under the towers of {_RUN_DIR.value}"):
        source, counts = refresh_version(run_config, version_dir, catalogue)
    config = dataclasses.replace(source.config, index=flags.config_from_flags(source.config).index)
    source = source._replace(config=config)
    replay = check_in_fresh_process if _CHECK.value else None
    published = publish(source, _EXPORT_DIR.value, _VERSION.value, replay, category_shards)
    print(", ".join(f"{count:,} {what}" for what, count in counts.items()))
    print(f"refreshed {version_dir} -> {published.describe()}")
    if _VECTORS.value:
        print(write_vectors(_VECTORS.value, published.packed, source.corpus, published.fingerprint))


if __name__ == "__main__":
    flags.run_command(main)
