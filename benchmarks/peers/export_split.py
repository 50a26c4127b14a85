r"""Writes what any other system needs to train on the same data: events before a window, users, items, as Parquet.

  python benchmarks/peers/export_split.py --flagfile=configs/demo.flags --split=validation --split_dir=.peers/splits/cj

Files of the directory (raw ids throughout):
  events.parquet  user, item, timestamp (seconds UTC), weight: every event strictly before the window, oldest first
  users.parquet   user: whom to recommend for, all with an event before the window
  items.parquet   item, category and side features: what may be recommended, all that someone took before the window
  truth.parquet   user, item: what they took in the window, of --split=validation alone, to tune by
  split.json      cut, window, counts, commit
Lists of user, item and rank come back by `python -m longretriever_tf.evaluate --lists=NAME:FILE.parquet`, or without a
trained run by `evaluate_baselines`.
"""

import json
import os
from typing import Any

from absl import flags as absl_flags

from longretriever_tf.config import flags

flags.define_config_flags("data", "model", "train", "retrieval", "index", "baseline")
_SPLIT = absl_flags.DEFINE_enum("split", "validation", ["validation", "test"], "Which window comes after the events.")
_DIR = absl_flags.DEFINE_string("split_dir", ".peers/split", "Where the files go.")


def main(argv: list[str]) -> None:
    """Runs the export."""
    del argv
    config = flags.config_from_flags()
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.data.batches.prepared_data import load_split
    from longretriever_tf.evaluation.evaluate_baselines import open_log

    log, cuts = load_split(config)
    corpus, encoded, truth, as_of = open_log(config, log, cuts, _SPLIT.value)
    tables = _tables(corpus, encoded.before(as_of))
    if _SPLIT.value == "validation":
        pairs = {"user": log.user_id[truth.users[truth.pair_row()]], "item": corpus.item_id[truth.item]}
        tables["truth"] = pairs
    for name, columns in tables.items():
        _write(os.path.join(_DIR.value, f"{name}.parquet"), columns)
    facts = {
        **describe_origin("python benchmarks/peers/export_split.py", config.train.seed),
        "data": config.data.dataset,
        "split": _SPLIT.value,
        "cut": as_of,
        "window_days": config.data.window_days,
        **{f"num_{name}": len(next(iter(columns.values()))) for name, columns in tables.items()},
    }
    write_text_atomically(os.path.join(_DIR.value, "split.json"), json.dumps(facts, indent=2) + "\n")
    counts = ", ".join(f"{len(next(iter(columns.values()))):,} {name}" for name, columns in tables.items())
    print(f"written: {_DIR.value} ({counts})")


def _tables(corpus: Any, past: Any) -> dict[str, dict[str, Any]]:
    """Columns by table: the events before the window by time, their users, and the corpus."""
    import numpy as np

    from longretriever_tf.common.schema import FIRST_KNOWN

    user = past.event_user()
    order = np.argsort(past.timestamp, kind="stable")
    events = {
        "user": past.user_id[user[order]],
        "item": corpus.item_id[past.item[order]],
        "timestamp": past.timestamp[order],
        "weight": past.weight[order],
    }
    known = slice(FIRST_KNOWN, None)
    items = {"item": corpus.item_id[known], "category": corpus.category_name[corpus.item_category[known]]}
    for f, (name, values) in enumerate(corpus.feature_values.items()):
        items[name] = values[corpus.item_feature[known, f]]
    return {"events": events, "users": {"user": past.user_id[np.unique(user)]}, "items": items}


def _write(path: str, columns: dict[str, Any]) -> None:
    import pandas as pd

    from longretriever_tf.common.files import explain_os_errors, open_aside

    with explain_os_errors(f"cannot write {path!r}"):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open_aside(path) as aside:
            pd.DataFrame(columns).to_parquet(aside, index=False)


if __name__ == "__main__":
    flags.run_command(main)
