"""AER, UER and conversion of retrieval channels in front of one ranker, offline (the paper's Tables 2 to 5).

  validation window: all channels' candidates, labelled by what users took -> one ranker
  test window:       a stand = some other channels + one test channel -> candidates -> the ranker's best 50 = exposures

An exposure converts if the user took the item in the test window; nobody was really shown these lists, so conversion
stands in for CTR * CVR. Everything is a ratio of sums over users; intervals resample users, the ranker held fixed.
Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.evaluation.funnel.channels import COUNTS, RATIOS, CandidatePairs, count_channel, expose, pool
from longretriever_tf.evaluation.funnel.ranker import RankerConfig, fit_ranker
from longretriever_tf.evaluation.ground_truth import Truth
from longretriever_tf.evaluation.ranking import Interval, percentile_interval, resampled_sums


@dataclasses.dataclass(frozen=True)
class FunnelConfig:
    """Sizes of the funnel.

    Attributes:
      k: items that a channel retrieves per user.
      num_exposed: exposures per user.
      resamplings: of the users, for the intervals.
      seed: of the resampling, of the sampled users and of the ranker.
      ranker: of the boosted trees.
    """

    k: int = 100
    num_exposed: int = 50
    resamplings: int = 1000
    seed: int = 1
    ranker: RankerConfig = dataclasses.field(default_factory=RankerConfig)


@dataclasses.dataclass(frozen=True)
class FunnelWindow:
    """One window as the funnel sees it.

    Attributes:
      truth: what users took in it.
      lists: channel name to its items for `truth.users`, retrieved as of the window's start, [U, k] int64, -1 pads.
      features: of pairs as of the window's start: (rows of the log [n], items [n]) -> [n, F] float32.
      feature_names: [F].
    """

    truth: Truth
    lists: Mapping[str, np.ndarray]
    features: Callable[[np.ndarray, np.ndarray], np.ndarray]
    feature_names: tuple[str, ...]

    def candidates(self) -> tuple[CandidatePairs, np.ndarray]:
        """All pairs that a channel retrieved, and their features [n, F] float32."""
        pairs = pool(list(self.lists.values()), self.truth.num_items)
        return pairs, self.features(self.truth.users[pairs.row], pairs.item)


@dataclasses.dataclass(frozen=True)
class FunnelRow:
    """A test channel in a stand.

    Attributes:
      metrics: `RATIOS` by name, an interval each; None where the denominator is 0.
      ranker: the report of the ranker that chose the exposures.
      counts: sums over users.
      differences: other row's name to metric to (this row - the other), paired over the same resampled users.
    """

    metrics: dict[str, Interval | None]
    ranker: dict[str, Any]
    counts: dict[str, int]
    differences: dict[str, dict[str, Interval | None]]


def run_funnel(
    validation: FunnelWindow,
    test: FunnelWindow,
    stands: Mapping[str, Sequence[str]],
    test_channels: Sequence[str],
    config: FunnelConfig,
    on_progress: Callable[[int], Any] = lambda num_rows: None,
) -> dict[str, dict[str, FunnelRow]]:
    """Metrics of every test channel in every stand.

    Args:
      validation: where the ranker learns.
      test: where channels are evaluated.
      stands: stand name to the names of its other channels.
      test_channels: names of the channels that take the stand's last place, one at a time.
      config: sizes.
      on_progress: called with 1 after each row.

    Returns:
      stand to test channel to its row.
    """
    pairs, features = validation.candidates()
    taken = pairs.has(validation.truth.pair_row(), validation.truth.item)
    ranker = fit_ranker(features, taken, pairs.row, validation.feature_names, config.ranker)
    pairs, features = test.candidates()
    score = ranker.score(features)
    rows = {}
    for stand, others in stands.items():
        per_user = {}
        for name in test_channels:
            other_lists = [test.lists[other] for other in others if other != name]
            is_candidate = np.any([pairs.has_list(lists) for lists in (test.lists[name], *other_lists)], axis=0)
            exposed = expose(pairs, is_candidate, score, config.num_exposed)
            per_user[name] = count_channel(pairs, test.lists[name], other_lists, exposed, test.truth)
            on_progress(1)
        rows[stand] = _summarise(per_user, ranker.report, config)
    return rows


def _summarise(
    per_user: Mapping[str, Mapping[str, np.ndarray]], ranker: dict[str, Any], config: FunnelConfig
) -> dict[str, FunnelRow]:
    names = list(per_user)
    counts = np.stack([[per_user[name][count] for count in COUNTS] for name in names])  # [rows, COUNTS, U]
    total = ratios_of(counts.sum(axis=-1))  # [rows, RATIOS]
    resampled = bootstrap_ratios(counts, config.seed, config.resamplings)  # [n, rows, RATIOS]
    rows = {}
    for r, name in enumerate(names):
        differences = {
            other: _intervals(total[r] - total[o], resampled[:, r] - resampled[:, o])
            for o, other in enumerate(names)
            if o != r
        }
        sums = {count: int(counts[r, c].sum()) for c, count in enumerate(COUNTS)}
        rows[name] = FunnelRow(_intervals(total[r], resampled[:, r]), ranker, sums, differences)
    return rows


def ratios_of(sums: np.ndarray) -> np.ndarray:
    """`RATIOS` from sums of `COUNTS`, [..., COUNTS] -> [..., RATIOS] float64; NaN where the denominator is 0."""
    top = np.stack([sums[..., COUNTS.index(numerator)] for numerator, _ in RATIOS.values()], axis=-1)
    bottom = np.stack([sums[..., COUNTS.index(denominator)] for _, denominator in RATIOS.values()], axis=-1)
    return np.where(bottom > 0, top / np.maximum(bottom, 1), np.nan)


def bootstrap_ratios(counts: np.ndarray, seed: int, n: int) -> np.ndarray:
    """Ratios of `n` resamplings of the users, the same users for every row: [rows, COUNTS, U] -> [n, rows, RATIOS]."""
    sums = resampled_sums(counts.reshape(-1, counts.shape[-1]).astype(np.float64), seed, n)
    return ratios_of(sums.reshape(n, *counts.shape[:-1]))


def _intervals(value: np.ndarray, resampled: np.ndarray) -> dict[str, Interval | None]:
    """Each ratio with its 95% interval; None where it does not exist."""
    intervals: dict[str, Interval | None] = {}
    for i, name in enumerate(RATIOS):
        draws = resampled[:, i][~np.isnan(resampled[:, i])]
        exists = len(draws) and not np.isnan(value[i])
        intervals[name] = percentile_interval(float(value[i]), draws) if exists else None
    return intervals
