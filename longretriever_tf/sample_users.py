r"""Writes histories of the log that an export was trained on, for the explorer page to choose from.

  longretriever sample_users --export_dir=exports/longretriever --output=users.json
  longretriever serve --model_base_path=exports/longretriever --rest_api_port=8501 --explorer \
    --explorer_users=users.json

With --held_out, as by default, the file also holds what the users did in the --window_days from --as_of on, which the
export has not seen: the page marks what a list hits of it. It holds whole histories of real users: treat it as you
treat the log.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
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
_HELD_OUT = absl_flags.DEFINE_bool(
    "held_out",
    True,
    "Also write what each user did in the training's --window_days from --as_of on, for the page to mark hits. As of "
    "the training cut this is the window that `evaluate` evaluates: test for --cut=test, validation for "
    "--cut=validation.",
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
    from longretriever_tf.retrieval.fingerprint import read_fingerprint
    from longretriever_tf.serving.explorer.users import held_out_window, sample_users

    require_output(_OUTPUT.value)
    version_dir = latest_version(_EXPORT_DIR.value)
    config = flags.config_from_flags(load_config(extra_config_dir(version_dir)))
    corpus = load_extra(version_dir)
    as_of = parse_time(_AS_OF.value, corpus.cut)
    wanted = _USER_IDS.value
    log = load_users(config.data, wanted) if wanted else load_sample(config.data, _MAX_EVENTS, "drawn from")
    window = held_out_window(log, corpus, as_of, config.data.window_days) if _HELD_OUT.value else None
    users = sample_users(log, as_of, _NUM_USERS.value, wanted, window)
    write_text_atomically(_OUTPUT.value, json.dumps({"made_up": False, "users": users}))
    print(
        f"{_OUTPUT.value}: {len(users)} users, {sum(len(user['item_id']) for user in users):,} events{_held_out(users)}"
    )
    counted = max(corpus.cut, read_fingerprint(extra_config_dir(version_dir)).statistics_as_of)  # of a refresh: later
    if window and as_of < counted:
        print(f"as of {np.datetime64(as_of, 's')} the export has learned from held-out events: hits say less")


def _held_out(users: list[dict[str, Any]]) -> str:
    """What is said of held-out events, "" where there are none."""
    windows = [user["held_out"] for user in users if "held_out" in user]
    if not windows:
        return ""
    number = sum(len(window["item_id"]) for window in windows)
    return f", {number:,} held out until {np.datetime64(windows[0]['until'], 's')} UTC"


if __name__ == "__main__":
    flags.run_command(main)
