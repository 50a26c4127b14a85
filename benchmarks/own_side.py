"""This package's side of bench_peers.py: the model that the flags name, trained by the clock."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from peer_marks import MARKS
from recall import measure_recall

SHARES = {1: (1.0,), 2: (0.75, 0.25)}
"""Of the budget, the part of each phase: LongRetriever trains its towers, then its interest score."""

_TRIED = 24
"""Batches that are run before the clock: tracing for a shape is not a model's rate, and they show how many steps
the budget holds."""

_TRIED_S = 20.0
"""Most seconds for each pass over them."""


class _Clocked:
    """A phase that trains for some seconds at a time.

    Args:
      config: the run's.
      phase: the phase.
      budget_s: seconds in all.
    """

    def __init__(self, config: Any, phase: Any, budget_s: float) -> None:
        self._phase, self._batches = phase, _endless(phase)
        self._step = _make_step(config, phase, budget_s)
        self.spent, self.seen, self.pairs = 0.0, 0, 0

    def train(self, until_s: float) -> None:
        """Trains until so many seconds are spent in all."""
        while self.spent < until_s:
            start = time.perf_counter()
            batch = next(self._batches)
            float(self._step(batch))
            self.spent += time.perf_counter() - start
            self.seen += self._phase.batch_examples(batch)
            self.pairs += int(batch.target_row.shape[0]) if hasattr(batch, "target_row") else 0


def train_own(config: Any, log: Any, cuts: Any, prepared: Any, truth: Any, budget_s: float) -> dict[str, Any]:
    """Spends the budget in parts and measures recall between them, off the clock.

    Args:
      config: the run's, with cut=validation.
      log: the whole log.
      cuts: its cuts.
      prepared: the window before the training cut.
      truth: of the validation window.
      budget_s: seconds of training.

    Returns:
      `examples_per_s` and `pairs_per_s` (targets) of the retriever while it trains, `curve` as `evaluate_marks` has it.
    """
    from longretriever_tf.training.distributed.cluster import Cluster
    from longretriever_tf.training.setup import assemble

    parts = assemble(config, log, cuts, prepared, Cluster())
    parts.set_scales()
    shares = SHARES[len(parts.phases)]
    clocked = [_Clocked(config, phase, share * budget_s) for phase, share in zip(parts.phases, shares, strict=True)]
    curve = []
    for mark in range(1, MARKS + 1):
        for one, share in zip(clocked, shares, strict=True):
            one.train(share * budget_s * mark / MARKS)
        recall = measure_recall(_make_scorer(config, prepared, parts.models), truth, prepared.corpus.category_offset)
        curve.append({"seconds": sum(one.spent for one in clocked)} | recall)
    first = clocked[0]
    return {"examples_per_s": first.seen / first.spent, "pairs_per_s": first.pairs / first.spent, "curve": curve}


def _endless(phase: Any) -> Iterator[Any]:
    for epoch in itertools.count():
        yield from phase.source.make_dataset(epoch)


def _make_step(config: Any, phase: Any, budget_s: float) -> Callable[[Any], Any]:
    """The step, traced for the shapes to come, the weights as they were; its learning rate ends with the budget."""
    from longretriever_tf.models.optimizer import WEIGHT_DECAY, LazyAdamW

    variables, batches = phase.variables(), list(itertools.islice(phase.source.make_dataset(0), _TRIED))
    still = phase.make_step(LazyAdamW(0.0, 0.0, 1), config.train.xla)  # rate 0: no weight moves
    _run(still, batches)
    total = max(1, round(budget_s / _run(still, batches)))
    optimizer = LazyAdamW(config.train.learning_rate, WEIGHT_DECAY, total)
    step = phase.make_step(optimizer, config.train.xla)
    state = [*variables, *optimizer.variables]
    before = [variable.numpy() for variable in state]
    _run(step, batches)
    for variable, value in zip(state, before, strict=True):
        variable.assign(value)
    return step


def _run(step: Callable[[Any], Any], batches: list[Any]) -> float:
    """Mean seconds of the batches run: all of them, or as many as `_TRIED_S` hold."""
    times: list[float] = []
    for batch in batches:
        start = time.perf_counter()
        float(step(batch))
        times.append(time.perf_counter() - start)
        if sum(times) > _TRIED_S:
            break
    return sum(times) / len(times)


def _make_scorer(config: Any, prepared: Any, models: dict[str, Any]) -> Any:
    from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
    from longretriever_tf.models.baselines.scorer import RecentScorer

    if "interest" not in models:
        return RecentScorer(config, prepared, models["retriever"])
    return LongRetrieverScorer(config, prepared, models["retriever"], models["interest"], config.retrieval)
