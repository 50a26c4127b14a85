"""Exports a finished run as a SavedModel that answers raw histories with a merged, explained top-k.

  longretriever export --run_dir=runs/demo --export_dir=exports/longretriever

Writes exports/longretriever/VERSION/. By default every category is searched exactly, with no custom op: that runs on
stock TensorFlow Serving. --index=auto gives large categories a ScaNN searcher, tuned to --scann_recall; how near each
comes to exact search is printed, and kept in assets.extra/index.json.

The version carries the fingerprint of its towers and warm-up requests. Before it takes its place, a fresh process loads
it and must answer those requests as this one did.

With --category_shards=4 it writes exports/longretriever/router/VERSION/, shard-0/VERSION/ to shard-3/VERSION/ and
shards.json, which says where each is served.

A last line says what the export holds of the log's catalogue and what it leaves out; --catalogue chooses.

--vectors=DIR also writes the item vectors as Parquet, for an index that you already have (docs/scaling.md). --card
writes a model card next to the versions, with the metrics that `evaluate` left in the run directory.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags as absl_flags

from longretriever_tf.common.progress import stage
from longretriever_tf.config import flags
from longretriever_tf.config.config import load_config
from longretriever_tf.retrieval.export.destination import require_destination

flags.define_config_flags("retrieval", "index")
_RUN_DIR = absl_flags.DEFINE_string("run_dir", "runs/default", "Run directory of a finished training.")
_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/longretriever", "Holds one folder per version.")
_VERSION = absl_flags.DEFINE_integer(
    "version", 0, "Version number; 0 takes the next free one, an existing number is replaced.", lower_bound=0
)
_CATALOGUE = absl_flags.DEFINE_enum(
    "catalogue",
    "auto",
    ["auto", "seen", "all"],
    "Which items. seen: those with an event before the training cut, which `evaluate` counts. all: every item of the "
    "log's items table; those without events get vectors from their features. auto: all for --cut=none, else seen.",
)
_NEW_ITEMS = absl_flags.DEFINE_enum(
    "new_items",
    "unseen",
    ["unseen", "typical"],
    "catalogue=all: statistics of the items without events. unseen: no one ever took them, so they come up late. "
    "typical: the median of their category, so that they compete by their features.",
)
_CATEGORY_SHARDS = absl_flags.DEFINE_integer(
    "category_shards",
    0,
    "Split the index over so many shards, each with a range of categories, and write a router and the shards in place "
    "of one SavedModel (docs/scaling.md): for catalogues that one server cannot hold. 0: one SavedModel.",
    lower_bound=0,
)
_CHECK = absl_flags.DEFINE_bool(
    "check", True, "Load the export in a fresh process and replay its warm-up requests before it takes its place."
)
_VECTORS = absl_flags.DEFINE_string(
    "vectors",
    "",
    "Also write item vectors, biases and categories there as Parquet, for faiss or a vector database of your own; the "
    "export's signature interest_embeddings gives the user vectors. An older set of vectors there is replaced.",
)
_CARD = absl_flags.DEFINE_bool(
    "card",
    False,
    "Write a model card into --export_dir, README.md in the form of Hugging Face's: use, data, how to call it, limits, "
    "and the metrics of metrics.json in the run directory, if the run was evaluated.",
)
_CARD_LICENSE = absl_flags.DEFINE_string(
    "card_license",
    "other",
    "Licence of the model in its card, by Hugging Face's name of it (apache-2.0, ...): its owner decides.",
)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    config = flags.config_from_flags(load_config(_RUN_DIR.value))
    require_destination(_RUN_DIR.value, _EXPORT_DIR.value)
    with stage("loading TensorFlow"):
        from longretriever_tf.retrieval.export.card import read_results, write_card
        from longretriever_tf.retrieval.export.catalogue_version import export_version
        from longretriever_tf.retrieval.export.publish import publish
        from longretriever_tf.retrieval.export.vectors import require_vectors_dir, write_vectors
        from longretriever_tf.serving.server.warmup import check_in_fresh_process

    if _VECTORS.value:
        require_vectors_dir(_VECTORS.value, _EXPORT_DIR.value)
    results = read_results(_RUN_DIR.value, config) if _CARD.value else None
    with stage(f"reading the run {_RUN_DIR.value}"):
        source, holds = export_version(config, _CATALOGUE.value, _NEW_ITEMS.value)
    replay = check_in_fresh_process if _CHECK.value else None
    published = publish(source, _EXPORT_DIR.value, _VERSION.value, replay, _CATEGORY_SHARDS.value)
    print(f"exported {published.describe()}")
    print(f"{published.directory} {holds}; histories as of {np.datetime64(source.corpus.cut, 's')} UTC")
    if _VECTORS.value:
        print(write_vectors(_VECTORS.value, published.packed, source.corpus, published.fingerprint))
    if _CARD.value:
        print(f"card: {write_card(published, holds, _EXPORT_DIR.value, results, _CARD_LICENSE.value)}")


if __name__ == "__main__":
    flags.run_command(main)
