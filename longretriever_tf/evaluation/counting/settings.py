"""The best setting of each baseline on the validation window: tuned once, stored as JSON, read afterwards."""

import dataclasses
import json
import os
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_os_errors, write_text_atomically
from longretriever_tf.common.progress import Progress
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.config.config import DataConfig
from longretriever_tf.data.corpus import encode_log, fit_corpus
from longretriever_tf.data.recipe.learned_context import cluster_context
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.log_identity import fingerprint_log
from longretriever_tf.datasets.splits import Cuts
from longretriever_tf.evaluation.counting import tuning

COMMAND = "longretriever evaluate_baselines"


def tune_settings(config: DataConfig, log: LifelongLog, cuts: Cuts, seed: int, program: str) -> dict[str, Any]:
    """Tunes every baseline on the validation window, with a corpus of its own that ends before it.

    Args:
      config: names the log.
      log: the whole of it.
      cuts: of the log.
      seed: of learned clusters, if the config names them; nothing else here is random.
      program: the calling command, for the header.

    Returns:
      What `write_settings` writes: the header, "log" (`describe_log`), "budget" and "baselines" (`tuning.tune`).

    Raises:
      UserError: no user has truth in the validation window.
    """
    print(tuning.describe_budget(), flush=True)
    cut = cuts.validation_start
    corpus = fit_corpus(cluster_context(log, config.context, cut, seed, config.text_columns), cut)
    progress = Progress("tuning baselines", tuning.num_settings(), "settings")
    window = cuts.window_of("validation")
    tuned = tuning.tune(encode_log(log, corpus), corpus.num_items, window, progress.update)
    progress.close()
    return {
        **describe_origin(program, seed),
        "split": "validation",
        "data": config.dataset,
        "log": describe_log(log, cuts),
        "config": dataclasses.asdict(config),
        "budget": tuning.describe_budget(),
        "baselines": tuned,
    }


def describe_log(log: LifelongLog, cuts: Cuts) -> dict[str, Any]:
    """Facts that identify a log and its cuts."""
    sizes = {"num_users": len(log.user_id), "num_items": len(log.items.item_id), "num_events": len(log.timestamp)}
    target = {"target_actions": list(log.actions.target) or None}
    return sizes | dataclasses.asdict(cuts) | target | {"fingerprint": fingerprint_log(log)}


def write_settings(path: str, settings: dict[str, Any]) -> None:
    """Writes the result of `tune_settings`, whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    write_text_atomically(path, json.dumps(settings, indent=2, allow_nan=False) + "\n")


def read_settings(path: str, log: LifelongLog, cuts: Cuts) -> dict[str, tuning.Setting]:
    """The chosen setting of each baseline by name.

    Raises:
      UserError: there is no such file, it is not one of settings, or it was tuned on another log or split.
    """
    if not os.path.exists(path):
        raise UserError(
            f"--baseline_settings={path!r}: there is no such file; leave the flag out to tune, or tune first: "
            f"{COMMAND} --flagfile=... --split=validation"
        )
    with explain_os_errors(f"cannot read {path!r}"), open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        stored = json.loads(text)
        tuned_on, baselines = stored["log"], stored["baselines"]
        chosen = {name: dict(baselines[name]["chosen"]) for name in tuning.TUNED_BASELINES}
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--baseline_settings={path!r} does not hold the settings of {', '.join(tuning.TUNED_BASELINES)} "
            f"({type(error).__name__}: {error}); expected a baseline_settings.json that {COMMAND} wrote"
        ) from error
    for name, setting in chosen.items():
        known = tuning.TUNED_BASELINES[name].parameters()
        if set(setting) != known:
            raise UserError(
                f"--baseline_settings={path!r}: {name} has {', '.join(setting) or 'nothing'}, expected "
                f"{', '.join(sorted(known))}: a file of another version; tune again with {COMMAND}"
            )
    here = describe_log(log, cuts)
    if "fingerprint" not in tuned_on:  # a file of an earlier version is compared by sizes and times
        here.pop("fingerprint")
    differs = {key: value for key, value in here.items() if tuned_on.get(key) != value}
    if differs:
        listed = "; ".join(f"{key} {tuned_on.get(key)} there, {value} here" for key, value in differs.items())
        raise UserError(
            f"--baseline_settings={path!r} was tuned on another log or split ({listed}); give this log's file, "
            "or leave the flag out to tune"
        )
    return chosen
