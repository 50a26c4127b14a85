"""How far a run is ahead of the best baseline on each metric, with its interval. Imports no TensorFlow."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.evaluation.evaluator import Evaluation
from longretriever_tf.evaluation.ground_truth import Truth
from longretriever_tf.evaluation.ranking import resampled_sums

_SEED = 1
_RESAMPLINGS = 2000
_Differences = dict[str, dict[str, dict[str, dict[str, Any]]]]


def differences_to_best(
    evaluations: Mapping[str, Evaluation], truth: Truth, baselines: Collection[str], columns: Sequence[tuple[str, str]]
) -> _Differences:
    """Each model that is no baseline, minus the best baseline of the metric, with a 95% interval.

    Users are resampled, the same ones for all metrics; within a category too, where a metric counts over pairs, since
    the pairs of a user are not independent.

    Args:
      evaluations: evaluations of the same truth, by model.
      truth: of the window.
      baselines: which of the models are baselines; none: there is nothing to differ from.
      columns: (section, metric) pairs: per user of "all" and "novel", recall@k of "within_category" and
        "within_category_novel".

    Returns:
      `{MODEL: {"all": {"recall@100": {"baseline": NAME, "mean": ..., "low": ..., "high": ...}}, ...}}`, in the order of
      `evaluations`; a section without truth is left out.
    """
    names = [name for name in evaluations if name not in baselines]
    rivals = [name for name in evaluations if name in baselines]
    sizes = {section: _sizes(truth, section) for section, _ in columns}
    keys, rows = [], []
    for section, metric in columns:
        if not rivals or not sizes[section].any():
            continue
        gains = {name: _gains(evaluation, truth, section, metric) for name, evaluation in evaluations.items()}
        known = [name for name, evaluation in evaluations.items() if _is_known(evaluation, section, metric)]
        best = max((name for name in rivals if name in known), key=lambda name: gains[name].sum(), default="")
        compared = [name for name in names if name in known and best]
        keys += [(name, section, metric, best) for name in compared]
        rows += [gains[name] - gains[best] for name in compared]
    if not rows:
        return {}
    sums = resampled_sums(np.stack([*rows, *sizes.values()]), _SEED, _RESAMPLINGS)  # [n, rows and sections]
    resampled_size = dict(zip(sizes, sums[:, len(rows) :].T, strict=True))
    differences: _Differences = {name: {} for name in names}
    for (name, section, metric, best), row, resampled in zip(keys, rows, sums.T, strict=False):
        low, high = np.percentile(resampled / np.maximum(resampled_size[section], 1.0), [2.5, 97.5])
        mean = float(row.sum() / sizes[section].sum())
        interval = {"baseline": best, "mean": mean, "low": float(low), "high": float(high)}
        differences[name].setdefault(section, {})[metric] = interval
    return differences


def _is_known(evaluation: Evaluation, section: str, metric: str) -> bool:
    """Whether the metric exists: a system that gives lists alone may not say ranks within a category."""
    if not section.startswith("within"):
        return True
    return bool(int(metric.removeprefix("recall@")) <= getattr(evaluation, _task(section)).rank_depth)


def _task(section: str) -> str:
    return "novel" if section.endswith("novel") else "all"


def _sizes(truth: Truth, section: str) -> np.ndarray:
    """What each user counts in the section's means, [U'] float64: once if there is truth, or once for each pair."""
    pairs = np.diff((truth.novel() if _task(section) == "novel" else truth).offset)
    return (pairs if section.startswith("within") else pairs > 0).astype(np.float64)


def _gains(evaluation: Evaluation, truth: Truth, section: str, metric: str) -> np.ndarray:
    """Each user's part in the sum whose quotient by `_sizes` is the metric, [U'] float64."""
    task = getattr(evaluation, _task(section))
    if not section.startswith("within"):
        return np.nan_to_num(task.per_user[metric], nan=0.0)
    rows = (truth.novel() if _task(section) == "novel" else truth).pair_row()
    hits = task.rank < int(metric.removeprefix("recall@"))
    return np.bincount(rows, hits, minlength=truth.num_users)
