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

from longretriever_tf.evaluation.funnel.channels import COUNTS, RATIOS, Pairs, count_channel, expose, pool
from longretriever_tf.evaluation.funnel.ranker import Ranker, RankerConfig, fit_ranker
from longretriever_tf.evaluation.ground_truth import Truth
from longretriever_tf.evaluation.ranking import Interval, resampled_sums


@dataclasses.dataclass(frozen=True)
class FunnelConfig:
    """Sizes of the funnel.

    Attributes:
      k: items that a channel retrieves per user.
      num_exposed: exposures per user.
      resamplings: of the users, for the intervals.
      channel_ranks: give the ranker each channel's rank of the pair too; each row then has a ranker of its own.
      seed: of the resampling, of the sampled users and of the ranker.
      ranker: of the boosted trees.
    """

    k: int = 100
    num_exposed: int = 50
    resamplings: int = 1000
    channel_ranks: bool = False
    seed: int = 1
    ranker: RankerConfig = dataclasses.field(default_factory=RankerConfig)


@dataclasses.dataclass(frozen=True)
class Window:
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


@dataclasses.dataclass(frozen=True)
class Row:
    """A test channel in a stand.

    Attributes:
      figures: `RATIOS` by name, an interval each; None where nothing was there to count.
      ranker: the report of the ranker that chose the exposures.
      counts: sums over users.
      differences: other row's name to figure to (this row - the other), paired over the same resampled users.
    """

    figures: dict[str, Interval | None]
    ranker: dict[str, Any]
    counts: dict[str, int]
    differences: dict[str, dict[str, Interval | None]]


def run_funnel(
    validation: Window,
    test: Window,
    stands: Mapping[str, Sequence[str]],
    test_channels: Sequence[str],
    config: FunnelConfig,
    on_progress: Callable[[int], Any] = lambda num_rows: None,
) -> dict[str, dict[str, Row]]:
    """Figures of every test channel in every stand.

    Args:
      validation: where the ranker learns.
      test: where channels are judged.
      stands: stand name to the names of its other channels.
      test_channels: names of the channels that take the stand's last place, one at a time.
      config: sizes.
      on_progress: told 1 after each row.

    Returns:
      stand to test channel to its row.
    """
    learn, ask = _Half(validation, config), _Half(test, config)
    shared = None if config.channel_ranks else learn.fit(list(validation.lists), ())
    made = {}
    for stand, others in stands.items():
        per_user, rankers = {}, {}
        for name in test_channels:
            beside = [other for other in others if other != name]
            ranker = shared or learn.fit([*beside, name], [*beside, name])
            per_user[name] = ask.count(ranker, beside, name)
            rankers[name] = ranker.report
            on_progress(1)
        made[stand] = _summarise(per_user, rankers, config)
    return made


class _Half:
    """One window's pairs with their features, computed once for all rankers, stands and rows."""

    def __init__(self, window: Window, config: FunnelConfig) -> None:
        self._window, self._config = window, config
        truth = window.truth
        self._pairs = pool(list(window.lists.values()), truth.num_items)
        self._features = window.features(truth.users[self._pairs.row], self._pairs.item)
        self._scores: tuple[Ranker | None, np.ndarray] = None, np.zeros(0)

    def fit(self, channels: Sequence[str], ranked: Sequence[str]) -> Ranker:
        """A ranker on the candidates of `channels`, which sees the ranks in the lists of `ranked`."""
        window, pairs = self._window, self._pairs
        taken = pairs.has(window.truth.pair_row(), window.truth.item)
        at = self._candidates(channels)
        features = self._with_ranks(ranked)[at]
        # The last channel of a row stands in the test place, whichever it is.
        names = (*window.feature_names, *(f"rank in channel {place}" for place in range(len(ranked))))
        return fit_ranker(features, taken[at], pairs.row[at], names, self._config.ranker)

    def count(self, ranker: Ranker, others: Sequence[str], name: str) -> dict[str, np.ndarray]:
        """Counts of channel `name` beside `others`, per user."""
        window = self._window
        if self._config.channel_ranks:
            scores = ranker.score(self._with_ranks([*others, name]))
        else:
            if self._scores[0] is not ranker:
                self._scores = ranker, ranker.score(self._features)
            scores = self._scores[1]
        exposed = expose(self._pairs, self._candidates([*others, name]), scores, self._config.num_exposed)
        beside = [window.lists[other] for other in others]
        return count_channel(self._pairs, window.lists[name], beside, exposed, window.truth)

    def _candidates(self, channels: Sequence[str]) -> np.ndarray:
        found = np.zeros(len(self._pairs.row), bool)
        for name in channels:
            found |= self._pairs.has_list(self._window.lists[name])
        return found

    def _with_ranks(self, channels: Sequence[str]) -> np.ndarray:
        """The features, then the place of each pair in each channel's list, NaN where it is not there."""
        ranks = [list_places(self._pairs, self._window.lists[name])[:, None] for name in channels]
        return np.concatenate([self._features, *ranks], axis=1) if ranks else self._features


def list_places(pairs: Pairs, lists: np.ndarray) -> np.ndarray:
    """Place of each pair in its user's list ([U, k], -1 pads), 0 the best, NaN where it is not there, [n] float32."""
    row, place = np.nonzero(lists >= 0)
    key = row * pairs.num_items + lists[row, place]
    places = np.full(len(pairs.row), np.nan, np.float32)
    keys = pairs.key()
    at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    is_there = keys[at] == key
    places[at[is_there]] = place[is_there]
    return places


def _summarise(
    per_user: Mapping[str, Mapping[str, np.ndarray]], rankers: Mapping[str, dict[str, Any]], config: FunnelConfig
) -> dict[str, Row]:
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
        rows[name] = Row(_intervals(total[r], resampled[:, r]), rankers[name], sums, differences)
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
    made: dict[str, Interval | None] = {}
    for i, name in enumerate(RATIOS):
        draws = resampled[:, i][~np.isnan(resampled[:, i])]
        if np.isnan(value[i]) or not len(draws):
            made[name] = None
            continue
        low, high = np.percentile(draws, [2.5, 97.5])
        made[name] = Interval(float(value[i]), float(low), float(high))
    return made
