"""Evaluates a finished run on the validation or the test window, alongside simple baselines.

  longretriever evaluate --run_dir=runs/demo --split=test

Prints a table and writes metrics.json: recall, hit rate, NDCG and MRR at 20, 50, 100 and 500, item and category
coverage, for all items and for novel ones (items the user never had), recall within the item's own category, and how
far the run is from the best baseline on each metric of the table, with a 95% interval (paired bootstrap over users).
Alongside it, metrics.per_user.npz holds what each user and each truth pair got, for paired comparisons, and metrics.png
draws both: recall by k, by the length of the history and by the size of the category, and the calibration.
--export_dir asks an export of the run itself, by the signature that requests ask: the first row, "as served".
--variants asks the same run in other ways, in the same pass; configs/ablations/ holds what the paper varies.
--lists=NAME:FILE.parquet (or .csv; repeatable) puts any other system's lists alongside, under the same truth; it stands
among the baselines. --write_lists=FILE.parquet writes the run's own lists in that form. A run that was trained with
--tracker tells its trackers the results too.
"""

import dataclasses
import os
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags
from longretriever_tf.config.config import DataConfig, load_config

flags.define_config_flags("retrieval")
_RUN_DIR = absl_flags.DEFINE_string("run_dir", "runs/default", "Run directory of a finished training.")
_SPLIT = absl_flags.DEFINE_enum(
    "split", "validation", ["validation", "test"], "Which window. Tune on validation; read test once."
)
_OUTPUT = absl_flags.DEFINE_string(
    "output", "", "Where to write the metrics; empty: metrics.json in the run directory."
)
_MAX_USERS = absl_flags.DEFINE_integer("max_users", 0, "Evaluate only the first so many users; 0: all.", lower_bound=0)
_BASELINES = absl_flags.DEFINE_enum(
    "baselines",
    "simple",
    ["none", "simple", "all"],
    "Which baselines to evaluate too. simple: popularity, popularity in the user's categories, the user's own items. "
    "all: TIFU-kNN, ItemKNN and EASE too, tuned on the validation window first (minutes).",
)
_SETTINGS = absl_flags.DEFINE_string(
    "baseline_settings", "", "baselines=all: a baseline_settings.json of this log; its settings are used, none tuned."
)
_VARIANTS = absl_flags.DEFINE_string(
    "variants",
    "",
    "Other ways of asking the run, evaluated too. paper: Top5, random 5 of 20, day floors; merges: each merge; "
    "interests: a grid of N and M; all: these.",
)
_DRAW_SEEDS = absl_flags.DEFINE_integer(
    "draw_seeds", 1, "Average so many draws of each variant that draws interests at random.", lower_bound=1
)
_EXPORT_DIR = absl_flags.DEFINE_string(
    "export_dir",
    "",
    "Ask an export of the run too (its latest version, or the version DIR/3), by its own defaults: the first row, as "
    "served; empty: none.",
)
_EXPORT_ALONE = absl_flags.DEFINE_bool("export_alone", False, "Ask the export alone, and leave the run's own rows out.")
_LISTS, _LISTS_COLUMNS = flags.define_list_flags()
_WRITE_LISTS = absl_flags.DEFINE_string(
    "write_lists",
    "",
    "Write the lists of the table's first row (500 items for each user, and 500 novel ones) to this Parquet file, as "
    "--lists reads it; empty: nowhere.",
)
_OTHER_LOG = absl_flags.DEFINE_bool(
    "other_log",
    False,
    "Evaluate on another log than the run was trained on, say the same one with newer events: the windows are counted "
    "from its end, and must begin after the training's cut.",
)
_SKIP_LAST_DAYS = absl_flags.DEFINE_float(
    "skip_last_days",
    None,
    "With --other_log: read the log as if it had ended so many days earlier; as in the run by default.",
    lower_bound=0,
)
_WINDOW_DAYS = absl_flags.DEFINE_float(
    "window_days", None, "With --other_log: length of the windows in days, say 1; as in the run by default."
)
_MAX_MEMORY_GB = absl_flags.DEFINE_float(
    "max_memory_gb",
    0.0,
    "A run on --data=DIR: evaluate a sample of the users where all events would take more than so many gigabytes; 0: "
    "half of this machine's memory. Item statistics are those of all users.",
    lower_bound=0.0,
)
_PLOTS = absl_flags.DEFINE_bool("plots", True, "Draw metrics.png, and the same into TensorBoard.")
_DATA_DIR = absl_flags.DEFINE_string("data_dir", "", "Where TFDS keeps prepared data, if not where training found it.")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    config = flags.config_from_flags(load_config(_RUN_DIR.value))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, max_memory_gb=_MAX_MEMORY_GB.value))
    config = dataclasses.replace(config, data=_other_windows(config.data))
    from longretriever_tf.common.files import require_output
    from longretriever_tf.evaluation.charts import draw_evaluation
    from longretriever_tf.evaluation.evaluate_baselines import BaselineChoice, settings_path
    from longretriever_tf.evaluation.evaluate_run import (
        evaluate_run,  # after the flags are checked: TensorFlow takes seconds
    )
    from longretriever_tf.evaluation.lists import parse_list_files
    from longretriever_tf.evaluation.per_user import per_user_path
    from longretriever_tf.evaluation.table import text_table, write_json
    from longretriever_tf.evaluation.track import track_evaluation
    from longretriever_tf.evaluation.variants import RetrievalVariants

    output = _OUTPUT.value or os.path.join(_RUN_DIR.value, "metrics.json")
    require_output(output)
    if _WRITE_LISTS.value:
        require_output(_WRITE_LISTS.value)
    lists = parse_list_files(_LISTS.value, _LISTS_COLUMNS.value)
    choice = BaselineChoice(_BASELINES.value, _SETTINGS.value, settings_path(output), lists)
    variants = RetrievalVariants(
        _VARIANTS.value, _DRAW_SEEDS.value, _EXPORT_DIR.value, _WRITE_LISTS.value, _EXPORT_ALONE.value
    )
    metrics = evaluate_run(
        config, _SPLIT.value, _MAX_USERS.value, choice, variants, per_user_path(output), other_log=_OTHER_LOG.value
    )
    write_json(output, metrics)
    print(text_table(metrics))
    written = [
        output,
        *([_WRITE_LISTS.value] if _WRITE_LISTS.value else ()),
        *(draw_evaluation(output)[:1] if _PLOTS.value else ()),
    ]
    print(f"written: {', '.join(written)}")
    track_evaluation(_RUN_DIR.value, metrics, _MAX_USERS.value, written)


def _other_windows(data: DataConfig) -> DataConfig:
    """The log with the end and the windows that the flags say.

    Raises:
      UserError: flags that do not go together, or a length that is none.
    """
    if _EXPORT_ALONE.value and not _EXPORT_DIR.value:
        raise UserError("--export_alone asks an export and nothing else: name it by --export_dir=DIR")
    skip, window = _SKIP_LAST_DAYS.value, _WINDOW_DAYS.value
    for name, value in (("skip_last_days", skip), ("window_days", window)):
        if value is None:
            continue
        if not _OTHER_LOG.value:
            raise UserError(
                f"--{name}={value:g} makes other windows than those of the training: add --other_log, which checks "
                "that they begin after its cut"
            )
    if window is not None and window <= 0:
        raise UserError(f"--window_days={window:g}: expected a number of days above 0")
    return dataclasses.replace(
        data,
        skip_last_days=data.skip_last_days if skip is None else skip,
        window_days=data.window_days if window is None else window,
    )


if __name__ == "__main__":
    flags.run_command(main)
