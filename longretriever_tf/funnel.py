r"""AER, UER and conversion of retrieval channels before one ranker: the paper's Tables 2 to 5, offline.

  longretriever funnel --run_dir=runs/validation \
      --channel_run=mind=runs/mind --channel_run=without_long=runs/short --channel_run=without_in_context=runs/mixed

Every run must have been trained with --cut=validation: the ranker learns from what the channels retrieve for the
validation window. --run_dir alone gives the rows longretriever (random 5 of top 20), top5 and every_category. A
--channel_run of another name is a row of its own, unless --channels names it: then it is an other channel of every row.
Writes funnel.json and funnel.md, and reports which of the paper's directions hold here.
"""

import os
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.config import flags
from longretriever_tf.config.config import load_config

_RUN_DIR = absl_flags.DEFINE_string(
    "run_dir", "runs/default", "Run directory of a LongRetriever trained with --cut=validation."
)
_CHANNEL_RUN = absl_flags.DEFINE_multi_string(
    "channel_run",
    [],
    "Another run as a channel, NAME=RUN_DIR or NAME=RUN_DIR:key=value,... with retrieval settings (interest, "
    "day_floor, num_interests, top_interests, merge, every_category). The paper's rows are called mind, without_long "
    "and without_in_context. Repeat the flag for each.",
)
_CHANNELS = absl_flags.DEFINE_list(
    "channels",
    ["popularity", "category_popularity"],
    "The other channels of the stand: popularity, category_popularity, or names of --channel_run.",
)
_OWN_ITEMS = absl_flags.DEFINE_enum(
    "own_items", "both", ["with", "without", "both"], "Whether a channel of the user's own items is among the others."
)
_K = absl_flags.DEFINE_integer("k", 100, "Items that each channel retrieves per user.", lower_bound=1)
_EXPOSED = absl_flags.DEFINE_integer("num_exposed", 50, "Items that the ranker exposes per user.", lower_bound=1)
_MAX_USERS = absl_flags.DEFINE_integer(
    "max_users", 5000, "Users per window, sampled by --seed; 0: all. Bounds memory and time.", lower_bound=0
)
_RESAMPLINGS = absl_flags.DEFINE_integer("resamplings", 1000, "Bootstrap resamplings of the users.", lower_bound=1)
_SEED = absl_flags.DEFINE_integer("seed", 1, "Of the sampled users, the ranker and the bootstrap.", 0, 2**31 - 1)
_OUTPUT = absl_flags.DEFINE_string(
    "output",
    "",
    "Where to write the metrics as JSON, and a table next to it as .md. Empty: funnel.json in the run directory.",
)
_DATA_DIR = absl_flags.DEFINE_string("data_dir", "", "Where TFDS keeps prepared data, if not where training found it.")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    config = flags.config_from_flags(load_config(_RUN_DIR.value))
    from longretriever_tf.common.files import require_output
    from longretriever_tf.evaluation.funnel.channel_spec import parse_channel
    from longretriever_tf.evaluation.funnel.exposure import FunnelConfig
    from longretriever_tf.evaluation.funnel.ranker import RankerConfig, import_lightgbm
    from longretriever_tf.evaluation.funnel.text import text_report, write_report

    specs = tuple(map(parse_channel, _CHANNEL_RUN.value))
    output = _OUTPUT.value or os.path.join(_RUN_DIR.value, "funnel.json")
    require_output(output)
    import_lightgbm()  # an error here comes before minutes of retrieval, not after
    from longretriever_tf.evaluation.funnel.run_funnel import FunnelSetup, evaluate_funnel  # TensorFlow takes seconds

    setup = FunnelSetup(specs, tuple(_CHANNELS.value), _OWN_ITEMS.value, _MAX_USERS.value)
    funnel = FunnelConfig(
        k=_K.value,
        num_exposed=_EXPOSED.value,
        resamplings=_RESAMPLINGS.value,
        seed=_SEED.value,
        ranker=RankerConfig(seed=_SEED.value),
    )
    report = evaluate_funnel(config, setup, funnel)
    write_report(output, report)
    print(text_report(report))
    print(f"written: {output}, {os.path.splitext(output)[0]}.md")


if __name__ == "__main__":
    flags.run_command(main)
