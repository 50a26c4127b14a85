"""Recall against the number of searched categories: fixed numbers of interests, and thresholds.

  python benchmarks/bench_interests.py --run_dir=runs/validation --output=results/bench_interests.json

A finished run (--cut=validation) is asked in each way over the validation window; `categories` is how many a request
searches on average, for all items and for novel ones.
"""

import dataclasses
import json

import numpy as np
from absl import flags as absl_flags

from longretriever_tf.config import flags
from longretriever_tf.evaluation.evaluator import TaskScorer, evaluate_many

_RUN_DIR = absl_flags.DEFINE_string("run_dir", "runs/validation", "Run directory of a training by --cut=validation.")
_FIXED = absl_flags.DEFINE_list("bench_fixed", ["20", "40", "60"], "Fixed numbers of interests, the best.")
_THRESHOLDS = absl_flags.DEFINE_list("bench_thresholds", ["-7", "-7.5", "-8", "-8.5"], "Values of interest_threshold.")
_MAX_USERS = absl_flags.DEFINE_integer("max_users", 0, "The first so many users; 0: all.", lower_bound=0)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.evaluation.open_run import open_run

    run = open_run(_RUN_DIR.value, "validation")
    retrieval = run.config.retrieval
    asked = {f"{n} interests": {"num_interests": int(n), "top_interests": int(n)} for n in _FIXED.value}
    asked |= {f"threshold {t}": {"num_interests": 0, "interest_threshold": float(t)} for t in _THRESHOLDS.value}
    offset = run.corpus.category_offset
    scorers = [
        Counted(run.scorer.with_retrieval(name, dataclasses.replace(retrieval, **values)), offset)
        for name, values in asked.items()
    ]
    truth = run.truth.rows(0, _MAX_USERS.value or run.truth.num_users)
    found = evaluate_many([*scorers, run.scorer], truth, offset, chunk=256)
    metrics = {name: evaluation.summary() for name, evaluation in found.items()}
    rows = {name: {task: metrics[name][task] for task in ("all", "novel")} for name in metrics}
    counts = {one.name: {task: float(np.mean(sizes)) for task, sizes in one.counts.items()} for one in scorers}
    facts = describe_origin("python benchmarks/bench_interests.py", run.config.train.seed)
    facts |= {"data": run.config.data.dataset, "num_users": truth.num_users, "models": rows, "categories": counts}
    for name, tasks in rows.items():
        parts = [f"{task} {counts.get(name, {}).get(task, np.nan):5.1f} searched" for task in tasks]
        recalls = [
            f"{task} {metric} {tasks[task][metric]:.4f}" for task in tasks for metric in ("recall@100", "recall@500")
        ]
        print(f"{name:16s} {'  '.join([*parts, *recalls])}")
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


class Counted(TaskScorer):
    """A scorer that counts the categories in which it scores anything.

    Args:
      scorer: of the run.
      offset: category c owns items `offset[c]:offset[c + 1]`.
    """

    def __init__(self, scorer: TaskScorer, offset: np.ndarray) -> None:
        self.name, self._scorer = scorer.name, scorer
        self._starts = offset[:-1][np.diff(offset) > 0]
        self.counts: dict[str, list[int]] = {"all": [], "novel": []}

    def score(self, users: np.ndarray) -> np.ndarray:
        """The scorer's own."""
        return self._count("all", self._scorer.score(users))

    def score_novel(self, users: np.ndarray) -> np.ndarray:
        """The scorer's own."""
        return self._count("novel", self._scorer.score_novel(users))

    def within(self, users: np.ndarray) -> np.ndarray:
        """The scorer's own."""
        return self._scorer.within(users)

    def _count(self, task: str, scores: np.ndarray) -> np.ndarray:
        finite = (scores > -np.inf).astype(np.int32)
        self.counts[task] += (np.add.reduceat(finite, self._starts, axis=1) > 0).sum(1).tolist()
        return scores


if __name__ == "__main__":
    flags.run_command(main)
