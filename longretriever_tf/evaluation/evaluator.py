"""Scores any retriever against the truth of a window, a chunk of users at a time. Imports no TensorFlow."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.evaluation import ranking
from longretriever_tf.evaluation.ground_truth import Truth

KS = (20, 50, 100, 500)
WITHIN_KS = (10, 20, 50)
CHUNK = 128


class Scorer(Protocol):
    """Anything that scores the whole corpus for some users.

    Two more methods are optional, each of the same form as `score`: `score_novel`, where the question "what new item"
    has scores of its own, and `within`, where scores that are compared inside one category only differ from the merged
    ones (say, those leave categories out).
    """

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    def score(self, users: np.ndarray) -> np.ndarray:
        """Scores of every item, higher is better.

        Args:
          users: rows of the log, [B] int64.

        Returns:
          [B, V] float32, -inf where an item is not retrieved, no NaN; a fresh array, which the caller may overwrite.
        """
        ...


@dataclasses.dataclass(frozen=True)
class TaskMetrics:
    """One task ("all" or "novel") in full.

    Attributes:
      per_user: metric name to [U'] float64 in the order of `Truth.users`, NaN for users with empty truth: what
        `ranking.paired_bootstrap` compares.
      coverage: item and category coverage by name.
      rank: rank of each truth pair within its category, [P] int64, 0 the best.
      untouched: the same lists judged by the pairs alone whose category the user had never seen; no coverage.
    """

    per_user: dict[str, np.ndarray]
    coverage: dict[str, float]
    rank: np.ndarray
    untouched: "TaskMetrics | None" = None

    def summary(self) -> dict[str, float]:
        """Means over users, coverage, and the numbers of users and pairs; of no users, the numbers alone."""
        num_users = int(np.sum(~np.isnan(next(iter(self.per_user.values()), np.zeros(0)))))
        counts: dict[str, float] = {"num_users": num_users, "num_pairs": len(self.rank)}
        if num_users == 0:
            return counts
        return counts | {name: ranking.mean_over_users(value) for name, value in self.per_user.items()} | self.coverage


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A scorer judged on both tasks."""

    all: TaskMetrics
    novel: TaskMetrics

    def summary(self, within_ks: tuple[int, ...] = WITHIN_KS) -> dict[str, dict[str, float]]:
        """The `ranking.json` entry of a model; within-category figures count over pairs."""
        tasks = {"": self.all, "_novel": self.novel}
        return {
            "all": self.all.summary(),
            "novel": self.novel.summary(),
            **{f"within_category{end}": ranking.recall_of_ranks(one.rank, within_ks) for end, one in tasks.items()},
            **{f"untouched{end}": one.untouched.summary() for end, one in tasks.items() if one.untouched is not None},
        }


def evaluate_scorer(
    scorer: Scorer, truth: Truth, category_offset: np.ndarray, ks: tuple[int, ...] = KS, chunk: int = CHUNK
) -> dict[str, dict[str, float]]:
    """Recall, hit rate, NDCG, MRR and coverage of a scorer, on all items and on novel ones, and within categories.

    Novel: items that the user took before the cut leave both the truth and the candidates.

    Args:
      scorer: what is judged.
      truth: of the window.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.
      ks: list lengths.
      chunk: users scored at once; changes memory and speed only (128 x 65,000 items: some 200 MB).

    Returns:
      `{"all": {"recall@100": ...}, "novel": {...}, "within_category": {"recall@20": ...},
      "within_category_novel": {...}, "untouched": {"recall@100": ...}, "untouched_novel": {...}}`; the last two judge
      the lists of both tasks by what lies in categories that the user had never seen.
    """
    return evaluate_users(scorer, truth, category_offset, ks, chunk).summary()


def evaluate_users(
    scorer: Scorer,
    truth: Truth,
    category_offset: np.ndarray,
    ks: tuple[int, ...] = KS,
    chunk: int = CHUNK,
    on_progress: Callable[[int], Any] = lambda num_users: None,
) -> Evaluation:
    """As `evaluate_scorer`, but keeps the figures of every user, for paired comparisons.

    Args:
      on_progress: told how many more users are done, after each chunk; a progress bar's `update`.

    Raises:
      ValueError: the scorer's scores have another shape than [B, V], or hold NaN.
    """
    return evaluate_many((scorer,), truth, category_offset, ks, chunk, on_progress)[scorer.name]


def evaluate_many(
    scorers: Sequence[Scorer],
    truth: Truth,
    category_offset: np.ndarray,
    ks: tuple[int, ...] = KS,
    chunk: int = CHUNK,
    on_progress: Callable[[int], Any] = lambda num_users: None,
) -> dict[str, Evaluation]:
    """As `evaluate_users`, several scorers side by side, by name.

    Chunks are the outer loop, so that scorers which share the work of a chunk (one model asked in several ways) find it
    still at hand.
    """
    assert category_offset[-1] == truth.num_items, (category_offset[-1], truth.num_items)
    done: dict[str, list[tuple[_Chunk, _Chunk]]] = {scorer.name: [] for scorer in scorers}
    for start in range(0, truth.num_users, chunk):
        part = truth.rows(start, min(start + chunk, truth.num_users))
        for scorer in scorers:
            done[scorer.name].append(_judge_chunk(scorer, part, category_offset, ks))
            on_progress(part.num_users)
    made = {}
    for name, chunks in done.items():
        every, novel = zip(*chunks, strict=True)
        made[name] = Evaluation(_join(every, ks, category_offset), _join(novel, ks, category_offset))
    return made


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Figures of one task for the users of one chunk."""

    per_user: dict[str, np.ndarray]
    seen: np.ndarray  # [len(ks), V] bool
    rank: np.ndarray
    untouched: dict[str, np.ndarray]
    untouched_rank: np.ndarray


def _judge_chunk(
    scorer: Scorer, truth: Truth, category_offset: np.ndarray, ks: tuple[int, ...]
) -> tuple[_Chunk, _Chunk]:
    """Judges both tasks, calling `score` once unless the scorer has more to say."""
    scores = _checked(scorer.score, truth)
    within = getattr(scorer, "within", None)
    within_scores = scores if within is None else _checked(within, truth)
    every = _judge(scores, within_scores, truth, category_offset, ks)
    score_novel = getattr(scorer, "score_novel", None)
    novel_scores = scores if score_novel is None else _checked(score_novel, truth)
    if within is None:
        within_scores = novel_scores
    for matrix in (novel_scores, within_scores):
        matrix[truth.interacted_row(), truth.interacted_item] = -np.inf
    return every, _judge(novel_scores, within_scores, truth.novel(), category_offset, ks)


def _checked(score: Callable[[np.ndarray], np.ndarray], truth: Truth) -> np.ndarray:
    """Calls `score`, checks the shape, and takes the reserved rows out of the candidates."""
    scores = score(truth.users)
    expected = (truth.num_users, truth.num_items)
    if scores.shape != expected:
        raise ValueError(f"`score` returned shape {scores.shape}, expected [users, items] = {expected}")
    scores[:, :FIRST_KNOWN] = -np.inf
    return scores


def _judge(
    scores: np.ndarray, within: np.ndarray, truth: Truth, category_offset: np.ndarray, ks: tuple[int, ...]
) -> _Chunk:
    size = np.diff(truth.offset)
    lists = ranking.top_k(scores, max(ks))
    lists[size == 0] = -1  # a user without truth is in no mean, so not in coverage either
    rank = ranking.rank_within_category(within, truth.pair_row(), truth.item, category_offset)
    untouched, is_untouched = truth.untouched(category_offset)
    return _Chunk(
        per_user=ranking.per_user_metrics(ranking.hit_matrix(lists, truth.offset, truth.item), size, ks),
        seen=ranking.seen_items(lists, ks, truth.num_items),
        rank=rank,
        untouched=ranking.per_user_metrics(
            ranking.hit_matrix(lists, untouched.offset, untouched.item), np.diff(untouched.offset), ks
        ),
        untouched_rank=rank[is_untouched],
    )


def _join(chunks: tuple[_Chunk, ...], ks: tuple[int, ...], category_offset: np.ndarray) -> TaskMetrics:
    names = chunks[0].per_user
    untouched = {name: np.concatenate([chunk.untouched[name] for chunk in chunks]) for name in names}
    return TaskMetrics(
        per_user={name: np.concatenate([chunk.per_user[name] for chunk in chunks]) for name in names},
        coverage=ranking.coverage(np.logical_or.reduce([chunk.seen for chunk in chunks]), ks, category_offset),
        rank=np.concatenate([chunk.rank for chunk in chunks]),
        untouched=TaskMetrics(untouched, {}, np.concatenate([chunk.untouched_rank for chunk in chunks])),
    )
