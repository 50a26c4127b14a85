"""The search itself: Optuna draws, jobs train and evaluate, a file of SQLite remembers. No TensorFlow.

Trial n is a function of the seed, n and the values of the trials before it: a search that is stopped and started again
goes on as if it had not been.
"""

import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import first_line
from longretriever_tf.config.config import Config
from longretriever_tf.reproduction.jobs import Job
from longretriever_tf.reproduction.runner import JobRunner
from longretriever_tf.tuning.space import Setting, Space, Value
from longretriever_tf.tuning.trials import Question, flag_of, geometric_mean, jobs_of_trial, read_metrics

STUDY_FILE = "study.db"
_NAME = "longretriever_tf"
_OUTCOMES = {"COMPLETE": "done", "PRUNED": "refused", "FAIL": "failed", "RUNNING": "begun"}
_MOST_FAILURES = 3  # with nothing done: the next trial would fail too


def import_optuna() -> Any:
    """The library, quiet.

    Raises:
      UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"tune needs Optuna: pip install 'longretriever_tf[tune]' ({first_line(error)})") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


@dataclasses.dataclass(frozen=True)
class Trial:
    """What became of a trial.

    Attributes:
      number: from 0 on.
      settings: what was drawn, as flags have it.
      outcome: "done", "refused" (values that do not go together), "failed" (a job did), or "begun".
      value: of the objective, where it is done.
      metrics: that the objective is made of.
      run_dir: an ordinary run directory; "" where nothing was trained.
      reason: why it is not done.
    """

    number: int
    settings: dict[str, Value]
    outcome: str
    value: float | None
    metrics: dict[str, float]
    run_dir: str
    reason: str


class Search:
    """A search in a directory, begun or taken up again.

    Args:
      config: of the flags as they are.
      space: what is drawn.
      question: what all trials have in common.
      work_dir: holds the study, the runs and the measures.
      parallel: trials at once.
      any_code: trials that another version of the code finished count.
      program: the command of a job's module; None: Python's.

    Raises:
      UserError: Optuna is not installed, or the directory holds another search.
    """

    def __init__(
        self,
        config: Config,
        space: Space,
        question: Question,
        work_dir: str,
        parallel: int = 1,
        any_code: bool = False,
        program: Callable[[Job], list[str]] | None = None,
    ) -> None:
        self._optuna = import_optuna()
        self._config, self._space, self._question = config, space, question
        self._work_dir, self._parallel, self._any_code = work_dir, parallel, any_code
        self._options = {"program": program} if program else {}
        self._jobs: dict[int, list[Job]] = {}
        self._study = self._open()

    def _open(self) -> Any:
        path = os.path.join(self._work_dir, STUDY_FILE)
        try:
            study = self._optuna.create_study(
                storage=f"sqlite:///{os.path.abspath(path)}",
                study_name=_NAME,
                direction="maximize",
                load_if_exists=True,
            )
            stored = dict(study.user_attrs)
        except Exception as error:  # SQLAlchemy and Alembic have many of their own
            raise UserError(
                f"{path} cannot be used ({first_line(error)}): restore it from a copy, or name another --output"
            ) from error
        key = jobs_of_trial(self._question, 0, {}, self._work_dir)[0].key.split("-")
        asked = dataclasses.asdict(self._question) | {"space": self._space.describe(), "log": key[0]}
        asked = json.loads(json.dumps(asked))
        if "asked" not in stored:
            study.set_user_attr("asked", asked)
            study.set_user_attr("code", key[1])
            return study
        differing = [name for name in asked if asked[name] != stored["asked"].get(name)]
        named = [name for name in differing if name != "log"] or differing  # flags are part of that hash
        if differing:
            raise UserError(
                f"--output={self._work_dir} holds another search: it differs in {', '.join(named)}. Go on with its own "
                "flags, space and log, or name another --output"
            )
        if stored["code"] != key[1] and not self._any_code:
            raise UserError(
                f"--output={self._work_dir} holds a search that another version of this package began; name another "
                "--output, or add --any_code to compare trials of both"
            )
        return study

    def run(self, num_trials: int) -> None:
        """Makes trials until there are `num_trials` that are done or refused; those that failed are not counted.

        Raises:
          UserError: the first trials all failed.
        """
        self._enqueue_flags_as_they_are()
        waiting = [trial for trial in self._frozen() if trial.state == self._state("RUNNING")]
        left = num_trials - sum(trial.outcome in ("done", "refused") for trial in self.trials())
        while left > 0:
            batch: list[tuple[int, dict[str, Value]] | None] = []
            while len(batch) < min(self._parallel, left):
                batch.append(self._take_up(waiting.pop(0)) if waiting else self._draw())
            left -= len(batch)
            self._run_batch([trial for trial in batch if trial is not None])
            self._stop_where_all_fail()

    def _enqueue_flags_as_they_are(self) -> None:
        """The first trial is of the flags as they are, so that there is something to beat."""
        values = self._space.values_of(self._config)
        outside = [name for name, setting in self._space.settings.items() if not setting.contains(values[name])]
        if self._frozen():
            return
        if outside:
            _say(f"the space holds no {', '.join(outside)} as the flags have it: no trial of the flags as they are")
        else:
            self._study.enqueue_trial(values)

    def _draw(self) -> Any:
        """The next trial; None where its values do not go together, which is told to the study."""
        number = sum(trial.state != self._state("WAITING") for trial in self._frozen())
        seed = int(np.random.SeedSequence([self._question.seed, number]).generate_state(1)[0])
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        names = self._space.settings
        trial = self._study.ask({name: self._distribution(setting) for name, setting in names.items()})
        settings = {name: setting.shorten(trial.params[name]) for name, setting in names.items()}
        trial.set_user_attr("settings", settings)
        try:
            self._space.apply(self._config, settings)
        except UserError as error:
            trial.set_user_attr("reason", str(error))
            self._study.tell(trial.number, state=self._state("PRUNED"))
            _say(f"trial {trial.number}: refused: {error}")
            return None
        for earlier in self.trials():
            if earlier.outcome == "done" and earlier.settings == settings:
                trial.set_user_attr("same_as", earlier.number)
                self._study.tell(trial.number, earlier.value)
                _say(f"trial {trial.number}: the settings of trial {earlier.number} again, and so its value")
                return None
        return trial.number, settings

    def _take_up(self, trial: Any) -> Any:
        """A trial that was begun before; None where it was stopped before its values were drawn."""
        if "settings" in trial.user_attrs:
            return trial.number, trial.user_attrs["settings"]
        self._study.tell(trial.number, state=self._state("FAIL"))
        return None

    def _run_batch(self, batch: Sequence[tuple[int, dict[str, Value]]]) -> None:
        jobs: dict[str, Job] = {}
        for number, settings in batch:
            _say(f"trial {number}: {' '.join(flag_of(*item) for item in settings.items())}")
            jobs |= {job.name: job for job in self._jobs_of(number, settings)}
        failed: dict[str, str] = {}
        if jobs:
            runner = JobRunner(jobs, self._work_dir, self._parallel, self._any_code, **self._options)  # type: ignore[arg-type]
            failed = runner.run(jobs)
        for number, settings in batch:
            training, measure = self._jobs_of(number, settings)
            if failed.keys() & {training.name, measure.name}:
                self._study.tell(number, state=self._state("FAIL"))
                continue
            value = geometric_mean(list(read_metrics(measure.output, self._question.objective).values()))
            self._study.tell(number, value)
            _say(f"trial {number}: {value:.4f}")

    def _stop_where_all_fail(self) -> None:
        trials = self.trials()
        failed = [trial for trial in trials if trial.outcome == "failed"]
        if len(failed) >= _MOST_FAILURES and not any(trial.outcome == "done" for trial in trials):
            raise UserError(f"the first {len(failed)} trials failed, and none is done: {failed[-1].reason}")

    def trials(self) -> list[Trial]:
        """All trials so far, by their numbers."""
        return [self._read(trial) for trial in self._frozen() if trial.state.name in _OUTCOMES]

    def _read(self, trial: Any) -> Trial:
        """A trial as Optuna and the files of its jobs have it."""
        outcome, settings = _OUTCOMES[trial.state.name], trial.user_attrs.get("settings", {})
        number = trial.user_attrs.get("same_as", trial.number)
        training, measure = self._jobs_of(number, settings)
        is_trained = outcome != "refused" and os.path.isdir(training.directory)
        metrics = {}
        if outcome == "done" and os.path.exists(measure.output):
            metrics = read_metrics(measure.output, self._question.objective)
        reasons = [trial.user_attrs.get("reason"), *(job.stamp().get("reason") for job in (training, measure))]
        return Trial(
            number=trial.number,
            settings=settings,
            outcome=outcome,
            value=trial.value if outcome == "done" else None,
            metrics=metrics,
            run_dir=os.path.normpath(training.directory) if is_trained else "",
            reason="" if outcome == "done" else next(filter(None, reasons), ""),
        )

    def _jobs_of(self, number: int, settings: dict[str, Value]) -> list[Job]:
        """The training and the evaluation of a trial, expected to take what the others took."""
        if number not in self._jobs:
            done = [job for jobs in self._jobs.values() for job in jobs if job.stamp().get("outcome") == "done"]
            self._jobs[number] = jobs_of_trial(self._question, number, settings, self._work_dir, done)
        return self._jobs[number]

    def _frozen(self) -> list[Any]:
        return list(self._study.get_trials(deepcopy=False))

    def _state(self, name: str) -> Any:
        return self._optuna.trial.TrialState[name]

    def _distribution(self, setting: Setting) -> Any:
        made = self._optuna.distributions
        if setting.choices:
            return made.CategoricalDistribution(setting.choices)
        if setting.is_whole:
            return made.IntDistribution(int(setting.low), int(setting.high), setting.log, int(setting.step) or 1)
        return made.FloatDistribution(setting.low, setting.high, setting.log, setting.step or None)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
