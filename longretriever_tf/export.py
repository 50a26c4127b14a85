"""Exports a finished run as a SavedModel that answers raw histories with a merged, explained top-k.

  python -m longretriever_tf.export --run_dir=runs/demo --export_dir=exports/longretriever

Writes exports/longretriever/VERSION/. By default every category is searched exactly, with no custom op: that runs on
stock TensorFlow Serving. --index=auto gives large categories a ScaNN searcher, tuned to --scann_recall; how near each
comes to exact search is printed, and kept in assets.extra/index.json.

The version carries the fingerprint of its towers and warm-up requests. Before it takes its place, a fresh process loads
it and must answer those requests as this one did.
"""

from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf import flags
from longretriever_tf.config import load_config

flags.define_config_flags("retrieval", "index")
_RUN_DIR = absl_flags.DEFINE_string("run_dir", "runs/default", "Run directory of a finished training.")
_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/longretriever", "Holds one folder per version.")
_VERSION = absl_flags.DEFINE_integer(
    "version", 0, "Version number; 0 takes the next free one, an existing number is replaced.", lower_bound=0
)
_CHECK = absl_flags.DEFINE_bool(
    "check", True, "Load the export in a fresh process and replay its warm-up requests before it takes its place."
)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    config = flags.config_from_flags(load_config(_RUN_DIR.value))
    from longretriever_tf.models.finished import load_for_export
    from longretriever_tf.retrieval.fingerprint import fingerprint_towers
    from longretriever_tf.retrieval.publish import Source, publish
    from longretriever_tf.serving.replay import check_in_fresh_process  # TensorFlow takes seconds to load

    corpus, arrays, models = load_for_export(config)
    towers = fingerprint_towers(config, corpus, models, arrays)
    source = Source(config, corpus, arrays, models, towers)
    replay = check_in_fresh_process if _CHECK.value else None
    print(f"exported {publish(source, _EXPORT_DIR.value, _VERSION.value, replay).describe()}")


if __name__ == "__main__":
    flags.run_command(main)
