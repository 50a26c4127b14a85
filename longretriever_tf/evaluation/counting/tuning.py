"""Counting baselines tuned on the validation window, by the small grids below.

Each setting is fitted on the events before the window and evaluated by recall@100 over all of its users. The best one
is fitted again before the cut of any window that is evaluated later. Imports no TensorFlow.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.evaluation.counting.ease import Ease, EaseWithOwn
from longretriever_tf.evaluation.counting.interactions import InteractionMatrix
from longretriever_tf.evaluation.counting.neighbors import ItemKnn, TifuKnn, find_similar, neighbor_mean
from longretriever_tf.evaluation.evaluator import Scorer
from longretriever_tf.evaluation.ground_truth import Truth, build_truth
from longretriever_tf.evaluation.ranking import is_in_top_k, mean_over_users

K = 100
_CHUNK = 64  # users at once: changes no result. Much larger arrays cost a page fault per page, each time anew

Setting = dict[str, float]
"""Values of a baseline's parameters by name; JSON holds it as it is."""


@dataclasses.dataclass(frozen=True)
class TunedBaseline:
    """A baseline that is tuned.

    Attributes:
      goal: which recall@100 chooses: "all", or "both": the geometric mean of all and novel.
      grid: values to try of each parameter; every combination is tried.
      build: the scorers of some settings, which may share work.
      base: name of an earlier baseline whose best setting is reused, so that the grids do not multiply; or "".
    """

    goal: str
    grid: dict[str, tuple[float, ...]]
    build: Callable[[InteractionMatrix, Sequence[Setting]], list[Scorer]]
    base: str = ""

    def settings(self, base: Setting) -> list[Setting]:
        """Every combination of the grid, each with the parameters in `base` added."""
        return [base | dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def parameters(self) -> set[str]:
        """Names of all parameters of a setting."""
        return set(self.grid) | (TUNED_BASELINES[self.base].parameters() if self.base else set())


def _build_tifu(past: InteractionMatrix, settings: Sequence[Setting]) -> list[Scorer]:
    keys = [(setting["decay_days"], int(setting["num_neighbors"])) for setting in settings]
    shared = {key: neighbor_mean(past, *key) for key in dict.fromkeys(keys)}
    return [TifuKnn(past, s["decay_days"], s["alpha"], shared[key]) for s, key in zip(settings, keys, strict=True)]


def _build_item_knn(past: InteractionMatrix, settings: Sequence[Setting]) -> list[Scorer]:
    most = int(max(setting["num_similar"] for setting in settings))
    shared = {value: find_similar(past, value, most) for value in dict.fromkeys(s["shrinkage"] for s in settings)}
    return [ItemKnn(past, shared[setting["shrinkage"]], int(setting["num_similar"])) for setting in settings]


def _build_ease(past: InteractionMatrix, settings: Sequence[Setting]) -> list[Scorer]:
    return [_keep_ease(past, setting["regularization"]) for setting in settings]


def _build_ease_with_own(past: InteractionMatrix, settings: Sequence[Setting]) -> list[Scorer]:
    return [EaseWithOwn(past, _keep_ease(past, s["regularization"]), s["decay_days"], s["weight"]) for s in settings]


def _keep_ease(past: InteractionMatrix, regularization: float) -> Ease:
    """EASE with and without own items share their inverse, the costliest fit here."""
    ease: Ease = past.keep(("ease", regularization), lambda: Ease(past, regularization))
    return ease


TUNED_BASELINES = {
    TifuKnn.name: TunedBaseline(
        "all", {"decay_days": (90, 180, 365), "num_neighbors": (100, 300), "alpha": (0.4, 0.7)}, _build_tifu
    ),
    ItemKnn.name: TunedBaseline("both", {"shrinkage": (3, 10, 30), "num_similar": (20, 60, 200)}, _build_item_knn),
    Ease.name: TunedBaseline("both", {"regularization": (100, 300, 1000, 3000)}, _build_ease),
    EaseWithOwn.name: TunedBaseline(
        "all", {"decay_days": (180, 365), "weight": (0.03, 0.1, 0.3, 1, 3, 10)}, _build_ease_with_own, base=Ease.name
    ),
}
"""In the order of tuning. Baselines that rest on the user's repeats are chosen by "all". ItemKNN and EASE matter most
for novel items, but choosing by these alone can cost much of their recall on all for a gain within the noise.
"""


def num_settings() -> int:
    """Settings tried in all."""
    return sum(len(baseline.settings({})) for baseline in TUNED_BASELINES.values())


def describe_budget() -> str:
    """One line: how many settings each baseline may try."""
    listed = (f"{name} {len(baseline.settings({}))} (by {baseline.goal})" for name, baseline in TUNED_BASELINES.items())
    return f"settings tried on the validation window: {', '.join(listed)}; evaluated by recall@{K}"


def tune(
    log: EncodedLog,
    num_items: int,
    window: tuple[int, int],
    on_progress: Callable[[float], Any] = lambda num_settings: None,
) -> dict[str, dict[str, Any]]:
    """Tries every setting of every baseline on a window.

    Args:
      log: the encoded log; events at or after `window[0]` are read as truth alone.
      num_items: V, of the vocabulary fitted before the window.
      window: [start, stop) of the validation window, seconds UTC.
      on_progress: called with the number of settings just evaluated, fractions of one included.

    Returns:
      By name: `{"chosen": setting, "goal": "all", "tried": [{"setting": ..., "all": recall@100, "novel": ...}]}`.
      A tie goes to the setting tried first. Without any novel truth, "novel" is None and "all" decides.

    Raises:
      UserError: no user has truth in the window.
    """
    past, truth = InteractionMatrix(log, num_items, window[0]), build_truth(log, num_items, window[0], window)
    tuned: dict[str, dict[str, Any]] = {}
    for name, baseline in TUNED_BASELINES.items():
        settings = baseline.settings(tuned[baseline.base]["chosen"] if baseline.base else {})
        recalls = evaluate_settings(baseline.build(past, settings), truth, on_progress)
        best = int(np.argmax([_merit(recall, baseline.goal) for recall in recalls]))  # the first of equals
        tried = [{"setting": setting, **recall} for setting, recall in zip(settings, recalls, strict=True)]
        tuned[name] = {"chosen": settings[best], "goal": baseline.goal, "tried": tried}
    return tuned


def _merit(recall: dict[str, float | None], goal: str) -> float:
    every, novel = recall["all"] or 0.0, recall["novel"]
    return every if goal == "all" or novel is None else math.sqrt(every * novel)


def evaluate_settings(
    scorers: Sequence[Scorer], truth: Truth, on_progress: Callable[[float], Any] = lambda num_settings: None
) -> list[dict[str, float | None]]:
    """recall@100 of each scorer, `{"all": ..., "novel": ...}`, as the evaluator counts it; None without such truth.

    Chunks of users are the outer loop, so that settings can share work (`LastCallCache`).
    """
    hits = np.zeros((2, len(scorers), truth.num_pairs), bool)
    for start in range(0, truth.num_users, _CHUNK):
        stop = min(start + _CHUNK, truth.num_users)
        part, pairs = truth.rows(start, stop), slice(truth.offset[start], truth.offset[stop])
        row = part.pair_row()
        for i, scorer in enumerate(scorers):
            scores = scorer.score(part.users)
            scores[:, :FIRST_KNOWN] = -np.inf
            hits[0, i, pairs] = is_in_top_k(scores, row, part.item, K)
            scores[part.interacted_row(), part.interacted_item] = -np.inf
            hits[1, i, pairs] = is_in_top_k(scores, row, part.item, K)
            on_progress(part.num_users / truth.num_users)
    everyone, novel = np.ones(truth.num_pairs, bool), truth.is_novel
    return [
        {"all": _recall(all_hits, everyone, truth), "novel": _recall(novel_hits, novel, truth)}
        for all_hits, novel_hits in zip(*hits, strict=True)
    ]


def fit_chosen(log: EncodedLog, num_items: int, cut: int, chosen: dict[str, Setting]) -> tuple[Scorer, ...]:
    """The tuned baselines, fitted afresh on the events before `cut`.

    Args:
      log: the encoded log.
      num_items: V, the length of the item vocabulary with its reserved rows.
      cut: seconds UTC.
      chosen: setting of each baseline by name.
    """
    past = InteractionMatrix(log, num_items, cut)
    return tuple(TUNED_BASELINES[name].build(past, [setting])[0] for name, setting in chosen.items())


def _recall(is_hit: np.ndarray, counts: np.ndarray, truth: Truth) -> float | None:
    row = truth.pair_row()
    size = np.bincount(row[counts], minlength=truth.num_users)
    hits = np.bincount(row[counts & is_hit], minlength=truth.num_users)
    return mean_over_users(hits[size > 0] / size[size > 0]) if size.any() else None
