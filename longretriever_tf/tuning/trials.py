"""The trials of a search as jobs: a training each, and its evaluation on the validation window. No TensorFlow."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.evaluation.evaluator import KS, WITHIN_KS
from longretriever_tf.reproduction.jobs import Job, make_jobs
from longretriever_tf.reproduction.plan import Measure, Plan, Run
from longretriever_tf.reproduction.results import metric_at, read_json
from longretriever_tf.tuning.space import Value

_MEASURE = "validation"
_MINUTES = (10.0, 3.0)  # of a training and an evaluation, before one was measured


@dataclasses.dataclass(frozen=True)
class Question:
    """What every trial of a search has in common.

    Attributes:
      flags: of `train`, but --seed, --run_dir and what is drawn.
      seed: of every training.
      objective: paths in a model's part of metrics.json ("all recall@100"); a trial's value is their geometric mean.
      max_users: how many users of the validation window are asked; 0: all.
    """

    flags: tuple[str, ...]
    seed: int
    objective: tuple[str, ...]
    max_users: int


_RANKED = ("recall", "hit_rate", "ndcg", "mrr")
_OF_LISTS = (*_RANKED, "item_coverage", "category_coverage", "category_distance", "novelty")
_METRICS = {
    **dict.fromkeys(("all", "novel"), (_OF_LISTS, KS)),
    **dict.fromkeys(("untouched", "untouched_novel"), (_RANKED, KS)),
    **dict.fromkeys(("within_category", "within_category_novel"), (("recall",), WITHIN_KS)),
}
"""By section: names and list lengths of the metrics that a search may raise."""


def check_objective(objective: Sequence[str]) -> None:
    """Refuses what no evaluation measures, before a training is spent on it.

    Raises:
      UserError: names it.
    """
    for path in objective:
        section, _, metric = path.partition(" ")
        names, ks = _METRICS.get(section, ((), ()))
        if metric not in [f"{name}@{k}" for name in names for k in ks]:
            known = f"metrics of {section!r}: {', '.join(names)}, each at {', '.join(map(str, ks))}" if names else ""
            raise UserError(
                f"--objective={path}: no such metric; expected a section and a name, such as 'all recall@100' "
                f"({known or 'sections: ' + ', '.join(_METRICS)})"
            )


def flag_of(name: str, value: Value) -> str:
    """A setting as one types it.

    >>> flag_of("dim", 64), flag_of("profile", False)
    ('--dim=64', '--noprofile')
    """
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={value}"


def jobs_of_trial(
    question: Question, number: int, drawn: Mapping[str, Value], work_dir: str, done: Sequence[Job] = ()
) -> list[Job]:
    """The training of a trial and its evaluation, in this order.

    Args:
      question: of the search.
      number: of the trial.
      drawn: its settings.
      work_dir: of the search.
      done: finished jobs, whose cost is what this trial's are expected to take.
    """
    name = f"trial{number:04d}"
    training, measure = (_mean_minutes(done, module) for module in ("train", "evaluate"))
    flags = (*question.flags, *(flag_of(*item) for item in drawn.items()))
    asked = [f"--split={_MEASURE}", "--baselines=none"]
    if question.max_users:
        asked.append(f"--max_users={question.max_users}")
    plan = Plan(
        title="",
        runs={name: Run(flags, (question.seed,), training or _MINUTES[0])},
        measures={_MEASURE: Measure((name,), tuple(asked), minutes=measure or _MINUTES[1])},
        rows={},
    )
    return list(make_jobs(plan, work_dir).values())


def _mean_minutes(done: Sequence[Job], module: str) -> float:
    seconds = [float(job.stamp().get("seconds", 0.0)) for job in done if job.module == module]
    return sum(seconds) / len(seconds) / 60 if seconds else 0.0


def read_metrics(output: str, objective: Sequence[str]) -> dict[str, float]:
    """The metrics of the objective by their paths, of what requests get: the first model of a metrics.json.

    Raises:
      UserError: the file has no such metric.
    """
    models = read_json(output).get("models", {})
    first: dict[str, Any] = next(iter(models.values()), {})
    found = {}
    for path in objective:
        value = metric_at(first, path)
        if not isinstance(value, int | float):
            sections = ", ".join(first) or "none"
            raise UserError(
                f"--objective: {output} has no metric {path!r}; a metric is a section and a name, such as "
                f"'all recall@100' (sections: {sections})"
            )
        found[path] = float(value)
    return found


def geometric_mean(values: Sequence[float]) -> float:
    """Of numbers of at least 0.

    >>> round(geometric_mean([0.3, 0.1]), 4)
    0.1732
    """
    return float(math.prod(values) ** (1 / len(values)))
