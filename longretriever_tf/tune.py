"""Searches settings of `train` on the validation window, by Optuna: pip install 'longretriever_tf[tune]'.

  longretriever tune --flagfile=my.flags --space=configs/tune/recipe.toml --trials=20 --output=runs/tune

The flags are those of `train`; --space says which settings are drawn, and from what. The first trial has the flags as
they are. Each trial is an ordinary run directory under --output, with its log and its metrics; the test window is never
asked. A search that was stopped goes on by the same command, a trial at its last checkpoint, and more --trials continue
it. At the end it prints the best flags, and writes best.flags, trials.json and tune.png.
"""

import dataclasses
import os
import shlex
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import require_writable
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.config import flags
from longretriever_tf.config.config import Config
from longretriever_tf.reproduction.runner import stop_on_signals
from longretriever_tf.tuning.report import FLAGS_FILE, best_of, text_report, write_report
from longretriever_tf.tuning.space import Space, load_space
from longretriever_tf.tuning.study import Search, Trial
from longretriever_tf.tuning.trials import Question, check_objective, flag_of

flags.define_config_flags("data", "model", "train", "retrieval", "baseline")
_SPACE = absl_flags.DEFINE_string(
    "space", "configs/tune/recipe.toml", "Which settings are drawn, and from what; see configs/tune."
)
_TRIALS = absl_flags.DEFINE_integer(
    "trials",
    20,
    "Trials in all, with those that were made before; a job that fails is none. Each takes a training and an "
    "evaluation.",
    lower_bound=1,
)
_OUTPUT = absl_flags.DEFINE_string(
    "output", "runs/tune", "Directory of the search: its trials, their runs, the report."
)
_OBJECTIVE = absl_flags.DEFINE_list(
    "objective",
    ["all recall@100", "novel recall@100"],
    "Metrics of the validation window, as section and name, separated by commas; the search raises their geometric "
    "mean, as requests get it.",
)
_MAX_USERS = absl_flags.DEFINE_integer(
    "max_users", 0, "Evaluate only the first so many users of the validation window; 0: all.", lower_bound=0
)
_PARALLEL = absl_flags.DEFINE_integer("parallel", 1, "Trials at once; the cores are split among them.", lower_bound=1)
_ANY_CODE = absl_flags.DEFINE_bool("any_code", False, "Go on with a search that another version of this package began.")
_NOT_PASSED_ON = ("run_dir", "seed", "cut")


def main(argv: Sequence[str]) -> int:
    """Runs the command; status 1 if a trial failed."""
    del argv
    stop_on_signals()
    config = _config()
    space = load_space(_SPACE.value)
    question = Question(_given_flags(), config.train.seed, tuple(_OBJECTIVE.value), _MAX_USERS.value)
    output = os.path.normpath(_OUTPUT.value)
    require_writable(output)
    busy = f"--output={output!r} is in use by another search ({{}}): wait for it, stop it, or name another directory"
    with hold_lock(output, busy, name=".search.lock"):
        search = Search(config, space, question, output, _PARALLEL.value, _ANY_CODE.value)
        try:
            search.run(_TRIALS.value)
        finally:
            trials = search.trials()
            written = write_report(trials, space, question, output)
    print(text_report(trials, question))
    _print_best(trials, space, config)
    print(f"written: {', '.join(written)}")
    if best_of(trials):
        flagfile, run_dir = (shlex.quote(os.path.join(output, name)) for name in (FLAGS_FILE, "best"))
        print(f"next: longretriever train --flagfile={flagfile} --cut=test --run_dir={run_dir}")
    return 1 if any(trial.outcome == "failed" for trial in trials) else 0


def _config() -> Config:
    config = flags.config_from_flags()
    if config.train.cut != "validation":
        raise UserError(
            f"--cut={config.train.cut}: a search trains before the validation window, which it then asks; add "
            "--cut=validation after the other flags"
        )
    if config.train.distribute != "none":
        raise UserError(
            f"--distribute={config.train.distribute}: a trial trains in one process on one device; leave the flag out, "
            "and run several trials at once with --parallel"
        )
    if not _OBJECTIVE.value:
        raise UserError("--objective=: it is empty; expected metrics such as 'all recall@100'")
    check_objective(_OBJECTIVE.value)
    return config


def _given_flags() -> tuple[str, ...]:
    """The flags of `train` that were given, by flagfile or not, as one types them: what every trial has."""
    names = ["recipe", *(field.name for section in _sections() for field in dataclasses.fields(section))]
    given = [absl_flags.FLAGS[name] for name in names if name not in _NOT_PASSED_ON and name in absl_flags.FLAGS]
    return tuple(str(flag.serialize()) for flag in given if flag.present)


def _sections() -> list[type]:
    return [field.type for field in dataclasses.fields(Config)]  # type: ignore[misc]


def _print_best(trials: Sequence[Trial], space: Space, config: Config) -> None:
    best = best_of(trials)
    if best is None:
        return
    as_they_are = space.values_of(config)
    first = next((trial for trial in trials if trial.settings == as_they_are and trial.value is not None), None)
    compared = f"; the flags as they are: {first.value:.4f}" if first else ""
    print(f"best: trial {best.number}, {best.value:.4f}{compared}; its run: {best.run_dir}")
    print(f"flags to add to yours: {' '.join(flag_of(*item) for item in best.settings.items())}")


if __name__ == "__main__":
    flags.run_command(main)
