"""Evaluates the baselines alone on the validation or the test window: no trained run is needed.

  longretriever evaluate_baselines --flagfile=my.flags --split=test --output=baselines/metrics.json

Takes the flags of training (those that do not describe the log have no effect), so that a run's flagfile fits. Tunes
TIFU-kNN, ItemKNN and EASE on the validation window, a few settings each, and writes all that it tried to
baseline_settings.json next to the output; --baseline_settings=FILE reads such a file instead.
--lists=NAME:FILE.parquet puts any other system's lists alongside (`evaluate` says how such a file looks).
"""

from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.config import flags

flags.define_config_flags("data", "model", "train", "retrieval", "index")
_SPLIT = absl_flags.DEFINE_enum(
    "split", "validation", ["validation", "test"], "Which window. Compare on validation; read test once."
)
_OUTPUT = absl_flags.DEFINE_string("output", "baselines/metrics.json", "Where to write the metrics.")
_MAX_USERS = absl_flags.DEFINE_integer("max_users", 0, "Evaluate only the first so many users; 0: all.", lower_bound=0)
_BASELINES = absl_flags.DEFINE_enum(
    "baselines", "all", ["simple", "all"], "simple: those without anything to tune. all: the tuned ones too."
)
_SETTINGS = absl_flags.DEFINE_string(
    "baseline_settings", "", "A baseline_settings.json of this log: its settings are used and nothing is tuned."
)
_LISTS, _LISTS_COLUMNS = flags.define_list_flags()


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    config = flags.config_from_flags()
    from longretriever_tf.common.files import require_output
    from longretriever_tf.evaluation.evaluate_baselines import BaselineChoice, evaluate_baselines, settings_path
    from longretriever_tf.evaluation.lists import parse_list_files
    from longretriever_tf.evaluation.table import text_table, write_json

    output = _OUTPUT.value
    require_output(output)
    lists = parse_list_files(_LISTS.value, _LISTS_COLUMNS.value)
    choice = BaselineChoice(_BASELINES.value, _SETTINGS.value, settings_path(output), lists)
    metrics = evaluate_baselines(config, _SPLIT.value, choice, _MAX_USERS.value)
    write_json(output, metrics)
    print(text_table(metrics))
    print(f"written: {output}")


if __name__ == "__main__":
    flags.run_command(main)
