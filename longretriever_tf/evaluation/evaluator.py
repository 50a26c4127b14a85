"""Scores any retriever against the truth of a window, a chunk of users at a time. Imports no TensorFlow."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.evaluation import ranking
from longretriever_tf.evaluation.diversity import diversity_of_lists, gini, self_information
from longretriever_tf.evaluation.ground_truth import Truth
from longretriever_tf.evaluation.write_lists import ListsHook, ignore_lists

KS = (20, 50, 100, 500)
WITHIN_KS = (10, 20, 50)
CHUNK = 128


class Scorer(Protocol):
    """Anything that scores the whole corpus for some users."""

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


class TaskScorer(abc.ABC):
    """A `Scorer` that has more to say than one matrix of scores."""

    name: str
    is_probability: bool = False
    """Whether `score`, or `log_probability`, is log p(item | user) over the whole corpus."""
    lists_only: bool = False
    """Whether an item at -inf may be any place behind those that are not: its rank within a category is unknown."""

    @abc.abstractmethod
    def score(self, users: np.ndarray) -> np.ndarray:
        """Scores for the task "all"; see `Scorer.score`."""

    def score_novel(self, users: np.ndarray) -> np.ndarray | None:
        """Scores for the task "novel", where they are others than `score`, which None stands for."""
        return None

    def log_probability(self, users: np.ndarray) -> np.ndarray | None:
        """Log p(item | user), [B, V], where `score` ranks by something else, which None stands for."""
        return None

    def within(self, users: np.ndarray) -> np.ndarray | None:
        """Scores to compare inside one category alone, where the merged ones leave categories out; None: the same."""
        return None


@dataclasses.dataclass(frozen=True)
class TaskMetrics:
    """One task ("all" or "novel") in full.

    Attributes:
      per_user: metric name to [U'] float64 in the order of `Truth.users`, NaN for users with empty truth: what
        `ranking.paired_bootstrap` compares.
      coverage: item and category coverage by name, and what lists show beside hits (`diversity`).
      rank: rank of each truth pair within its category, [P] int64, 0 the best.
      untouched: the same lists held against those pairs alone whose category the user had never seen; no coverage.
      rank_depth: ranks below it are known of all pairs; what a scorer does not list (`TaskScorer.lists_only`) may have
        any rank from here on.
    """

    per_user: dict[str, np.ndarray]
    coverage: dict[str, float]
    rank: np.ndarray
    untouched: "TaskMetrics | None" = None
    rank_depth: int = ranking.NOT_RANKED

    def summary(self) -> dict[str, float]:
        """Means over users, coverage, and the numbers of users and pairs; of no users, the numbers alone."""
        num_users = int(np.sum(~np.isnan(next(iter(self.per_user.values()), np.zeros(0)))))
        counts: dict[str, float] = {"num_users": num_users, "num_pairs": len(self.rank)}
        if num_users == 0:
            return counts
        return counts | {name: ranking.mean_over_users(value) for name, value in self.per_user.items()} | self.coverage


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of a scorer on both tasks."""

    all: TaskMetrics
    novel: TaskMetrics

    def summary(self, within_ks: tuple[int, ...] = WITHIN_KS) -> dict[str, dict[str, float]]:
        """The `metrics.json` entry of a model; within-category metrics count over pairs."""
        tasks = {"": self.all, "_novel": self.novel}
        return {
            "all": self.all.summary(),
            "novel": self.novel.summary(),
            **{f"within_category{end}": _recall_within(one, within_ks) for end, one in tasks.items()},
            **{f"untouched{end}": one.untouched.summary() for end, one in tasks.items() if one.untouched is not None},
        }


def _recall_within(task: TaskMetrics, ks: tuple[int, ...]) -> dict[str, float]:
    """Recall within the category at each k that the ranks are known to."""
    return ranking.recall_of_ranks(task.rank, tuple(k for k in ks if k <= task.rank_depth))


def evaluate_scorer(
    scorer: Scorer, truth: Truth, category_offset: np.ndarray, ks: tuple[int, ...] = KS, chunk: int = CHUNK
) -> dict[str, dict[str, float]]:
    """Recall, hit rate, NDCG, MRR and coverage of a scorer, on all items and on novel ones, and within categories.

    Novel: items that the user took before the cut leave both the truth and the candidates.

    Args:
      scorer: what is evaluated.
      truth: of the window.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.
      ks: list lengths.
      chunk: users scored at once; changes memory and speed only (128 x 65,000 items: some 200 MB).

    Returns:
      `{"all": {"recall@100": ...}, "novel": {...}, "within_category": {"recall@20": ...},
      "within_category_novel": {...}, "untouched": {"recall@100": ...}, "untouched_novel": {...}}`; the last two hold
      the lists of both tasks against what lies in categories that the user had never seen.
    """
    return evaluate_many((scorer,), truth, category_offset, ks, chunk)[scorer.name].summary()


def evaluate_many(
    scorers: Sequence[Scorer],
    truth: Truth,
    category_offset: np.ndarray,
    ks: tuple[int, ...] = KS,
    chunk: int = CHUNK,
    on_progress: Callable[[int], Any] = lambda num_users: None,
    on_lists: ListsHook = ignore_lists,
) -> dict[str, Evaluation]:
    """As `evaluate_scorer`, of several scorers, by name; keeps the metrics of every user, for paired comparisons.

    Chunks are the outer loop: scorers that ask one model in several ways share what is computed for a chunk.

    Args:
      on_progress: called after each chunk with how many more users are done; a progress bar's `update`.
      on_lists: takes every model's lists of `max(ks)` items, a chunk and task at a time.

    Raises:
      ValueError: the scores of a scorer have another shape than [B, V], or hold NaN.
    """
    assert category_offset[-1] == truth.num_items, (category_offset[-1], truth.num_items)
    information = self_information(truth)
    done: dict[str, list[tuple[_Chunk, _Chunk]]] = {scorer.name: [] for scorer in scorers}
    for start in range(0, truth.num_users, chunk):
        part = truth.rows(start, min(start + chunk, truth.num_users))
        for scorer in scorers:
            done[scorer.name].append(_evaluate_chunk(scorer, part, category_offset, ks, on_lists))
            on_progress(part.num_users)
    evaluations = {}
    for name, chunks in done.items():
        every, novel = zip(*chunks, strict=True)
        tasks = (_join(task, ks, category_offset, information) for task in (every, novel))
        evaluations[name] = Evaluation(*tasks)
    return evaluations


def ranks_within_category(
    scorer: TaskScorer, truth: Truth, category_offset: np.ndarray, chunk: int = CHUNK
) -> np.ndarray:
    """Rank of each truth pair within its category by `scorer.within`, 0 the best, [P] int64: no list is merged.

    Args:
      scorer: what is evaluated.
      truth: of the window.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.
      chunk: users scored at once.
    """
    ranks = []
    for start in range(0, truth.num_users, chunk):
        part = truth.rows(start, min(start + chunk, truth.num_users))
        scores = _checked(scorer.within, part)
        assert scores is not None, f"{scorer.name} has no scores of its own within categories"
        ranks.append(ranking.rank_within_category(scores, part.pair_row(), part.item, category_offset))
    return np.concatenate(ranks)


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Metrics of one task for the users of one chunk."""

    per_user: dict[str, np.ndarray]
    lists: np.ndarray  # [B, max(ks)] int32; -1 pads
    rank: np.ndarray
    untouched: dict[str, np.ndarray]
    untouched_rank: np.ndarray
    rank_depth: int


def _evaluate_chunk(
    scorer: Scorer, truth: Truth, category_offset: np.ndarray, ks: tuple[int, ...], on_lists: ListsHook
) -> tuple[_Chunk, _Chunk]:
    """Evaluates both tasks; calls `score` once unless the scorer has more to say."""
    scores = _checked(scorer.score, truth)
    assert scores is not None
    within = own_novel = None
    if isinstance(scorer, TaskScorer):
        within, own_novel = _checked(scorer.within, truth), _checked(scorer.score_novel, truth)
    lists_only = isinstance(scorer, TaskScorer) and scorer.lists_only

    def evaluate(task: str, scores: np.ndarray, within: np.ndarray, truth: Truth) -> _Chunk:
        lists = ranking.top_k(scores, max(ks))
        on_lists(scorer.name, task, truth.users, lists)
        return _evaluate(lists, within, truth, category_offset, ks, lists_only)

    every = evaluate("all", scores, scores if within is None else within, truth)
    novel = scores if own_novel is None else own_novel
    within = novel if within is None else within
    for matrix in (novel, within):
        matrix[truth.interacted_row(), truth.interacted_item] = -np.inf
    return every, evaluate("novel", novel, within, truth.novel())


def _checked(score: Callable[[np.ndarray], np.ndarray | None], truth: Truth) -> np.ndarray | None:
    """Calls `score`, checks the shape, and takes the reserved rows out of the candidates."""
    scores = score(truth.users)
    if scores is None:
        return None
    expected = (truth.num_users, truth.num_items)
    if scores.shape != expected:
        raise ValueError(f"`score` returned shape {scores.shape}, expected [users, items] = {expected}")
    scores[:, :FIRST_KNOWN] = -np.inf
    return scores


def _evaluate(
    lists: np.ndarray,
    within: np.ndarray,
    truth: Truth,
    category_offset: np.ndarray,
    ks: tuple[int, ...],
    lists_only: bool,
) -> _Chunk:
    """Metrics of lists [B, max(ks)], which it may overwrite, and of scores within categories [B, V]."""
    size = np.diff(truth.offset)
    lists[size == 0] = -1  # a user without truth is in no mean, so not in coverage either
    rank = ranking.rank_within_category(within, truth.pair_row(), truth.item, category_offset)
    depth = ranking.NOT_RANKED
    if lists_only:
        missed = rank == ranking.NOT_RANKED
        depth = ranking.listed_depth(within, truth.pair_row()[missed], truth.item[missed], category_offset)
    untouched, is_untouched = truth.untouched(category_offset)
    return _Chunk(
        per_user=ranking.per_user_metrics(ranking.hit_matrix(lists, truth.offset, truth.item), size, ks),
        lists=lists.astype(np.int32),
        rank=rank,
        untouched=ranking.per_user_metrics(
            ranking.hit_matrix(lists, untouched.offset, untouched.item), np.diff(untouched.offset), ks
        ),
        untouched_rank=rank[is_untouched],
        rank_depth=depth,
    )


def _join(
    chunks: tuple[_Chunk, ...], ks: tuple[int, ...], category_offset: np.ndarray, information: np.ndarray
) -> TaskMetrics:
    names, lists = chunks[0].per_user, np.concatenate([chunk.lists for chunk in chunks])
    untouched = {name: np.concatenate([chunk.untouched[name] for chunk in chunks]) for name in names}
    shown = ranking.count_exposures(lists, ks, len(information))
    diversity = diversity_of_lists(lists, ks, category_offset, information)
    return TaskMetrics(
        per_user={name: np.concatenate([chunk.per_user[name] for chunk in chunks]) for name in names},
        coverage={
            **ranking.coverage(shown, ks, category_offset),
            **{name: ranking.mean_over_users(value) for name, value in diversity.items() if np.isfinite(value).any()},
            **{f"gini@{k}": gini(shown[i]) for i, k in enumerate(ks)},
        },
        rank=np.concatenate([chunk.rank for chunk in chunks]),
        untouched=TaskMetrics(untouched, {}, np.concatenate([chunk.untouched_rank for chunk in chunks])),
        rank_depth=min(chunk.rank_depth for chunk in chunks),
    )
