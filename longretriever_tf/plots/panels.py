"""The numbers of a plot, ready to draw: series, panels, and how values are grouped into them. Imports no TensorFlow.

Intervals are 95%, over users unless said otherwise.
"""

import dataclasses

import numpy as np

MIN_PAIRS = 100
"""Of a point of a calibration curve; fewer are too noisy."""

_Z = 1.96  # of a normal 95% interval
_BINS = 5


@dataclasses.dataclass(frozen=True)
class Series:
    """One line or group of bars: y at x, with bounds; NaN where there is nothing."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
      kind: "bars" (x are indices of `ticks`), "points" (likewise, joined), "lines" (x are numbers), "loglog", "scatter"
        (x are numbers, or indices of `ticks`, and nothing is joined), "scatter_log" (x on a logarithmic scale), or
        "numbers" (what was measured once: no axes, but the values as text).
      ticks: names of the points.
      is_noisy: of lines: their running mean stands out, the values themselves lie pale behind it.
      from_zero: of lines: the axis of y begins at 0.
    """

    title: str
    kind: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    ticks: tuple[str, ...] = ()
    is_noisy: bool = False
    from_zero: bool = False


def running_mean(y: np.ndarray) -> np.ndarray:
    """The mean of each value [n] and its neighbors: a fortieth of all on either side, fewer at the ends; [n] float64.

    >>> running_mean(np.array([0.0, 6.0, 0.0] * 27))[:3].tolist()
    [0.0, 2.0, 2.4]
    """
    at = np.arange(len(y))
    reach = np.minimum(len(y) // 40, np.minimum(at, at[::-1]))  # the same on both sides: the ends stay as they are
    total = np.concatenate([[0.0], np.cumsum(y, dtype=np.float64)])
    return np.asarray((total[at + reach + 1] - total[at - reach]) / (2 * reach + 1))


def ratio_interval(hits: np.ndarray, group: np.ndarray) -> tuple[float, float, float]:
    """Mean of hits [Q] and its interval, pairs of one group (user) counted as dependent.

    The usual linearised ratio: with sums h_u over n_u pairs, se = sqrt(sum (h_u - mean n_u)^2) / sum n_u.

    >>> [round(x, 2) for x in ratio_interval(np.array([1.0, 0.0, 1.0, 0.0]), np.arange(4))]
    [0.5, 0.01, 0.99]
    """
    if not len(hits):
        return np.nan, np.nan, np.nan
    _, index = np.unique(group, return_inverse=True)
    size = np.bincount(index)
    mean = hits.mean()
    error = np.sqrt(np.sum((np.bincount(index, hits) - mean * size) ** 2)) / size.sum()
    return float(mean), float(mean - _Z * error), float(mean + _Z * error)


def quantile_bins(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Bins of about equal numbers: the bin of each value [Q] int64, and the bins' names ("12-40").

    >>> quantile_bins(np.array([1, 1, 1, 2, 3, 4, 9, 9, 30, 100]))[1]
    ('1-2', '3-8', '9-29', '30-100')
    """
    cuts = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS, method="higher"))
    cuts = cuts[cuts > values.min()]
    bins = np.searchsorted(cuts, values, side="right")
    starts = np.concatenate([[values.min()], cuts]).astype(np.int64)
    stops = np.concatenate([cuts - 1, [values.max()]]).astype(np.int64)
    names = [str(a) if a == b else f"{a:,}-{b:,}" for a, b in zip(starts, stops, strict=True)]
    return bins, tuple(names)


def bin_means(label: str, hits: np.ndarray, group: np.ndarray, bins: np.ndarray, num_bins: int) -> Series:
    """The mean of hits [Q] in each bin, with its interval; NaN hits are left out.

    Args:
      label: of the series.
      hits: [Q] float64.
      group: [Q] int, the user of each: those of one count as dependent.
      bins: [Q] int64, the bin of each, as `quantile_bins` gives it.
      num_bins: how many there are.
    """
    kept = ~np.isnan(hits)
    hits, group, bins = hits[kept], group[kept], bins[kept]
    points = [ratio_interval(hits[bins == i], group[bins == i]) for i in range(num_bins)]
    y, low, high = zip(*points, strict=True)
    return Series(label, tuple(map(float, range(num_bins))), y, low, high)


def calibration_series(label: str, tally: np.ndarray) -> Series:
    """Mean frequency against mean prediction of each bin of a tally; bins of few pairs, or without a hit, are left out.

    Args:
      label: of the series.
      tally: [bins, 3] float64: pairs, their summed probability, their summed frequency.

    >>> calibration_series("p", np.array([[200.0, 20.0, 30.0], [MIN_PAIRS - 1, 50.0, 50.0]]))
    Series(label='p', x=(0.1,), y=(0.15,), low=(), high=())
    """
    count, predicted, observed = tally.T
    kept = (count >= MIN_PAIRS) & (observed > 0)
    x, y = predicted[kept] / count[kept], observed[kept] / count[kept]
    return Series(label, tuple(x.tolist()), tuple(y.tolist()))
