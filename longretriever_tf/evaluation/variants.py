"""Other ways to ask one trained run, which need no training: evaluated in one pass with it. Imports no TensorFlow.

longretriever evaluate --run_dir=runs/demo --split=validation --variants=paper --draw_seeds=3
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import RetrievalConfig
from longretriever_tf.evaluation.evaluator import Evaluation, Scorer, TaskMetrics

GROUPS = ("paper", "merges", "interests", "all")
MERGES = ("calibrated", "quota", "raw", "round_robin")
DAY_FLOORS = (0.1, 1.0, 7.0)
GRID = ((5, 5), (5, 20), (10, 10), (10, 40), (20, 20), (20, 60), (40, 40), (60, 60))
"""N and M."""


@dataclasses.dataclass(frozen=True)
class RetrievalVariants:
    """Which other ways a run is asked in.

    Attributes:
      group: one of `GROUPS`; empty: none.
      draw_seeds: of a variant that draws interests at random, how many draws are averaged.
      export_dir: holds an export of the run, which is asked itself; empty: none.
      lists_path: where the lists of the table's first row are written (`write_lists`); empty: nowhere.
      export_alone: ask the export, and the run itself not.
    """

    group: str = ""
    draw_seeds: int = 1
    export_dir: str = ""
    lists_path: str = ""
    export_alone: bool = False


class WithRetrieval(Scorer, Protocol):
    """A scorer that answers in other ways too."""

    def with_retrieval(self, name: str, retrieval: RetrievalConfig, *, draw: int = 0) -> Scorer:
        """The same models under other retrieval settings and another draw of random interests."""
        ...


def variants_of(group: str, retrieval: RetrievalConfig) -> dict[str, RetrievalConfig]:
    """Retrieval settings by name.

    paper: eq. 3 with the lists merged in turn: Top5 against random 5 of 20, and the best 20 by each day floor.
    merges: the best 20 interests under each merge. interests: a grid of N and M under the run's own merge, and eq. 3
    alongside the learned score.

    Args:
      group: one of `GROUPS`.
      retrieval: of the run; what a variant does not name stays.

    Raises:
      UserError: there is no such group.
    """
    if group not in GROUPS:
        raise UserError(f"--variants={group}: expected one of {', '.join(GROUPS)}")
    groups = {"paper": _paper(retrieval), "merges": _merges(retrieval), "interests": _interests(retrieval)}
    if group != "all":
        return groups[group]
    return {name: variant for part in groups.values() for name, variant in part.items()}


def _paper(retrieval: RetrievalConfig) -> dict[str, RetrievalConfig]:
    asked = dataclasses.replace(retrieval, interest="paper", merge="round_robin", search="category")
    top20 = dataclasses.replace(asked, num_interests=20, top_interests=20)
    return {
        "Top5": dataclasses.replace(asked, num_interests=5, top_interests=5),
        "random 5 of 20": dataclasses.replace(asked, num_interests=5, top_interests=20),
        **{f"eq. 3, top 20, day_floor={floor:g}": dataclasses.replace(top20, day_floor=floor) for floor in DAY_FLOORS},
    }


def _merges(retrieval: RetrievalConfig) -> dict[str, RetrievalConfig]:
    asked = dataclasses.replace(retrieval, search="category", num_interests=20, top_interests=20)
    return {f"merge={merge}": dataclasses.replace(asked, merge=merge) for merge in MERGES}


def _interests(retrieval: RetrievalConfig) -> dict[str, RetrievalConfig]:
    grid = {(num, top): dataclasses.replace(retrieval, num_interests=num, top_interests=top) for num, top in GRID}
    variants = {f"N={num}, M={top}": asked for (num, top), asked in grid.items()}
    if retrieval.interest == "learned":
        for num, top in ((5, 5), (20, 20), (60, 60)):
            variants[f"eq. 3, N={num}, M={top}"] = dataclasses.replace(grid[num, top], interest="paper")
    return variants


def ask_variants(scorer: WithRetrieval, variants: Mapping[str, RetrievalConfig], num_draws: int) -> list[Scorer]:
    """A scorer per variant; one per draw ("NAME, draw 2") where interests are random, for `average_draws`."""
    scorers: list[Scorer] = []
    for name, retrieval in variants.items():
        draws = num_draws if 0 < retrieval.num_interests < retrieval.top_interests else 1
        names = [name] if draws == 1 else [_draw_name(name, draw) for draw in range(draws)]
        scorers += [scorer.with_retrieval(full, retrieval, draw=draw) for draw, full in enumerate(names)]
    return scorers


def average_draws(evaluations: Mapping[str, Evaluation], names: Sequence[str], num_draws: int) -> dict[str, Evaluation]:
    """Joins the draws of each variant: metrics per user, and coverage, are means over draws.

    Args:
      evaluations: by scorer, as `evaluate_many` gives them.
      names: of the variants.
      num_draws: as given to `ask_variants`.

    Returns:
      Evaluations by name, in the order of `evaluations`; a variant stands where its first draw stood.
    """
    first = {_draw_name(name, 0): name for name in names}
    others = {_draw_name(name, draw) for name in names for draw in range(1, num_draws)}
    averaged = {}
    for name, evaluation in evaluations.items():
        if name in first:
            draws = [evaluations[_draw_name(first[name], draw)] for draw in range(num_draws)]
            averaged[first[name]] = Evaluation(
                _mean_section([draw.all for draw in draws]), _mean_section([draw.novel for draw in draws])
            )
        elif name not in others:
            averaged[name] = evaluation
    return averaged


def _draw_name(name: str, draw: int) -> str:
    return f"{name}, draw {draw + 1}"


def _mean_section(draws: Sequence[TaskMetrics]) -> TaskMetrics:
    """Ranks within a category do not depend on the interests drawn: those of the first."""
    return TaskMetrics(
        per_user={name: np.mean([draw.per_user[name] for draw in draws], axis=0) for name in draws[0].per_user},
        coverage={name: float(np.mean([draw.coverage[name] for draw in draws])) for name in draws[0].coverage},
        rank=draws[0].rank,
        untouched=_mean_untouched(draws),
    )


def _mean_untouched(draws: Sequence[TaskMetrics]) -> TaskMetrics | None:
    parts = [draw.untouched for draw in draws if draw.untouched is not None]
    return _mean_section(parts) if len(parts) == len(draws) else None
