"""Recommends to a user of the log, from an export alone, and explains each step.

  longretriever recommend --export_dir=exports/longretriever --user=1

Prints the interests with scores and dates, the draw, the candidates of each interest, and the merged list.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.config import flags
from longretriever_tf.config.config import load_config
from longretriever_tf.config.event_features import event_values

_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/longretriever", "Export whose latest version answers.")
_USER = absl_flags.DEFINE_string("user", "", "The user's id, as in the log; empty: the first user of the log.")
_K = absl_flags.DEFINE_integer("k", 20, "Length of the merged list.", lower_bound=1)
_NUM_INTERESTS = absl_flags.DEFINE_integer(
    "num_interests",
    None,
    "N; 0: the top M, and all that --interest_threshold lets in; the export's own by default.",
    lower_bound=0,
)
_TOP_INTERESTS = absl_flags.DEFINE_integer("top_interests", None, "M; the export's own by default.", lower_bound=1)
_THRESHOLD = absl_flags.DEFINE_float(
    "interest_threshold",
    None,
    "With N = 0, a category is searched where log p(item | user) of its best item is estimated at this or more; the "
    "export's own by default.",
    upper_bound=0,
)
_SEED = absl_flags.DEFINE_integer("seed", 1, "Seed of the draw; -1: a fresh one each time.")
_AS_OF = absl_flags.DEFINE_string(
    "as_of",
    "",
    "Time of the request, UTC (2017-12-04 or 2017-12-04T04:01:20); empty: the time until which the export counts "
    "events, the training cut or that of the last refresh.",
)
_EVENT_VALUES = absl_flags.DEFINE_list(
    "event_values",
    [],
    "What the request says of itself, for an export of a run with --event_features: NAME:VALUE, comma separated "
    "(device:mobile). A column that is not named is unknown.",
)
_DATA_DIR = absl_flags.DEFINE_string("data_dir", "", "Where TFDS keeps prepared data, if not where training found it.")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    from longretriever_tf.retrieval.export.saved_model import extra_config_dir, latest_version

    version_dir = latest_version(_EXPORT_DIR.value)
    config = load_config(extra_config_dir(version_dir))
    # Where the data lie, and nothing else: --seed and --num_interests are this request's, not those of the training.
    config = dataclasses.replace(config, data=flags.section_from_flags(config.data))
    values = event_values(_EVENT_VALUES.value, "--event_values")
    from longretriever_tf.retrieval.export.explanation import Question, explain_user

    interests = _NUM_INTERESTS.value, _TOP_INTERESTS.value, _THRESHOLD.value
    question = Question(_USER.value, _K.value, *interests, _SEED.value, _AS_OF.value, values)
    print(explain_user(version_dir, config, question))


if __name__ == "__main__":
    flags.run_command(main)
