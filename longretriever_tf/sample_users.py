"""Writes histories of the log that an export was trained on, for the explorer page to choose from.

  python -m longretriever_tf.sample_users --export_dir=exports/longretriever --output=users.json
  python -m longretriever_tf.serve --model_base_path=exports/longretriever --rest_api_port=8501 --explorer \
    --explorer_users=users.json

The file holds whole histories of real users: treat it as you treat the log.
"""

import json
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.common.files import require_output, write_text_atomically
from longretriever_tf.config import flags
from longretriever_tf.config.config import load_config

_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/longretriever", "Export whose log the users come from.")
_OUTPUT = absl_flags.DEFINE_string("output", "users.json", "File to write.")
_NUM_USERS = absl_flags.DEFINE_integer(
    "num_users", 12, "How many, from the longest history to the shortest.", lower_bound=1
)
_USER_IDS = absl_flags.DEFINE_list("user_ids", [], "Ids of the users to write instead, as in the log.")
_AS_OF = absl_flags.DEFINE_string(
    "as_of", "", "Time of the requests, UTC (2017-12-04 or 2017-12-04T04:01:20); empty: the training cut."
)
_DATA_DIR = absl_flags.DEFINE_string("data_dir", "", "Where TFDS keeps prepared data, if not where training found it.")
_MAX_EVENTS = 5_000_000
"""Events of a log on disk that are read to draw users from."""


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    from longretriever_tf.data.window.sample import load_sample, load_users
    from longretriever_tf.retrieval.export.explanation import parse_time
    from longretriever_tf.retrieval.export.saved_model import extra_config_dir, latest_version, load_extra
    from longretriever_tf.serving.explorer.users import sample_users

    require_output(_OUTPUT.value)
    version_dir = latest_version(_EXPORT_DIR.value)
    config = flags.config_from_flags(load_config(extra_config_dir(version_dir)))
    as_of = parse_time(_AS_OF.value, load_extra(version_dir).cut)
    wanted = _USER_IDS.value
    log = load_users(config.data, wanted) if wanted else load_sample(config.data, _MAX_EVENTS, "drawn from")
    users = sample_users(log, as_of, _NUM_USERS.value, wanted)
    write_text_atomically(_OUTPUT.value, json.dumps({"made_up": False, "users": users}))
    print(f"{_OUTPUT.value}: {len(users)} users, {sum(len(user['item_id']) for user in users):,} events")


if __name__ == "__main__":
    flags.run_command(main)
