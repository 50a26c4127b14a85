"""The numbers behind each plot; what draws them is in `charts`. Intervals are 95%, over users unless said otherwise."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from longretriever_tf.plots.board import read_scalars
from longretriever_tf.plots.panels import (
    MIN_PAIRS,
    Panel,
    Series,
    bin_means,
    calibration_series,
    quantile_bins,
    ratio_interval,
)
from longretriever_tf.reproduction.plan import COSTS, Plot
from longretriever_tf.reproduction.results import Line, Results, Source
from longretriever_tf.reproduction.statements import knows_ranks, pair_hits

_WITHIN_K = 20


@dataclasses.dataclass(frozen=True)
class Chart:
    """A plot of the plan, ready to draw."""

    plot: Plot
    panels: tuple[Panel, ...]
    sources: tuple[Source, ...]
    note: str = ""


def make_chart(plot: Plot, results: Results) -> Chart:
    """The numbers of a plot; without panels where no job that it needs is done."""
    lines = [line for line in results.lines(plot.rows) if line.source]
    panels = tuple(_MAKERS[plot.kind](plot, lines)) if lines else ()
    sources = tuple(dict.fromkeys(line.source for line in lines if line.source))
    return Chart(plot, tuple(panel for panel in panels if panel.series), sources, _NOTES[plot.kind])


def _bars(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    """A bar per line; the interval is over users, averaged over seeds, where their metrics are kept."""
    section, _, name = plot.metric.partition(" ")
    points = []
    for line in lines:
        if (metric := line.metric(plot.metric)) is None:
            continue
        users = line.user_means(f"{section}/{name}")
        bounds = (np.nan, np.nan)
        if users is not None:
            bounds = _bounds(users)
        elif section.startswith("within_category") and line.users:
            hits, user, _ = pair_hits(line, "novel" if section.endswith("novel") else "all", int(name.split("@")[1]))
            bounds = ratio_interval(hits, user)[1:]
        points.append((line.label, metric.mean, *bounds))
    if points:
        labels, y, low, high = zip(*points, strict=True)
        series = Series(plot.metric, tuple(map(float, range(len(y)))), y, low, high)
        yield Panel("", "bars", "", plot.metric, (series,), labels)


def _bounds(users: np.ndarray) -> tuple[float, float]:
    """The interval of the mean of a metric of every user, [U] float64, NaN where a user has none."""
    kept = users[~np.isnan(users)]
    _, low, high = ratio_interval(kept, np.arange(len(kept)))
    return low, high


def _windows(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    """The metric of each window, and below it what the window's own runs took."""
    many = [line for line in lines if line.windows]
    longest = max((len(line.windows) for line in many), default=0)
    ticks = tuple(str(number + 1) for number in range(longest))
    metrics, costs = [], []
    for line in many:
        x = tuple(map(float, range(len(line.windows))))
        values = [window.metric(plot.metric) for window in line.windows]
        metrics.append(Series(line.label, x, tuple(value.mean if value else np.nan for value in values)))
        costs.append(Series(line.label, x, line.window_costs(next(iter(COSTS)))))
    yield Panel("", "points", "window", plot.metric, tuple(metrics), ticks)
    yield Panel("", "points", "window", "processor minutes of its own runs", tuple(costs), ticks)


def _history_length(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    section, _, name = plot.metric.partition(" ")
    kept = [line for line in lines if line.user_means(f"{section}/{name}") is not None]
    if not kept:
        return
    for key, x_label in (("history_length", "events before the window"), ("repeat_share", "% of truth taken before")):
        values = kept[0].users[0][key]
        bins, ticks = quantile_bins(values if key == "history_length" else np.round(100 * values).astype(np.int64))
        series = []
        for line in kept:
            users = line.user_means(f"{section}/{name}")
            assert users is not None
            if len(users) == len(bins):
                series.append(bin_means(line.label, users, np.arange(len(users)), bins, len(ticks)))
        yield Panel("", "points", x_label, plot.metric, tuple(series), ticks)


def _category_size(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    """Recall within the category by its size, for repeats and for novel items."""
    kept = [line for line in lines if line.users]
    if not kept:
        return
    bins, ticks = quantile_bins(kept[0].users[0]["category_size"])
    for task, title in (("all", "all items"), ("novel", "novel items")):
        series = []
        for line in (line for line in kept if knows_ranks(line, task, _WITHIN_K)):
            hits, user, pairs = pair_hits(line, task, _WITHIN_K)
            if len(line.users[0]["pair_user"]) == len(bins):
                series.append(bin_means(line.label, hits, user, bins[pairs], len(ticks)))
        yield Panel(
            title, "points", "items in the category", f"recall@{_WITHIN_K} within the category", tuple(series), ticks
        )


def _repeat_novel(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    """The retrieval tasks side by side; and within the category, repeated pairs next to novel ones."""
    del plot
    corpus, within = [], []
    for line in lines:
        points = []
        for task in ("all", "novel"):
            metric, users = line.metric(f"{task} recall@100"), line.user_means(f"{task}/recall@100")
            points.append((metric.mean if metric else np.nan, *_bounds(np.array([]) if users is None else users)))
        corpus.append(Series(line.label, (0.0, 1.0), *zip(*points, strict=True)))
        if knows_ranks(line, "all", _WITHIN_K):
            hits, user, _ = pair_hits(line, "all", _WITHIN_K)
            is_novel = line.users[0]["pair_is_novel"].astype(np.int64)
            within.append(bin_means(line.label, hits, user, is_novel, 2))
    yield Panel("the whole corpus", "points", "", "recall@100", tuple(corpus), ("all items", "novel items"))
    ticks = ("repeated", "novel")
    yield Panel("within the category", "points", "", f"recall@{_WITHIN_K}", tuple(within), ticks)


def _training(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    """Loss by step of every phase, a line per seed, from the run's TensorBoard events."""
    del plot
    curves: dict[str, list[Series]] = {}
    for line in lines:
        assert line.source is not None
        for job in line.source.needed:
            scalars = read_scalars(os.path.join(job.directory, "tensorboard"))
            for tag, points in scalars.items():
                if tag.endswith("/loss"):
                    x, y = zip(*points, strict=True)
                    curves.setdefault(tag.removesuffix("/loss"), []).append(Series(job.name, x, y))
    for phase, series in curves.items():
        distinct = {one.label: one for one in series}
        yield Panel(phase, "lines", "step", "loss", tuple(distinct.values()), is_noisy=True)


def _calibration(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    del plot
    series = []
    for line in lines:
        tallies = [users["calibration"] for users in line.users if "calibration" in users]
        if tallies:
            series.append(calibration_series(line.label, np.sum(tallies, axis=0)))
    yield Panel("", "loglog", "predicted p(item | user)", "frequency in the window", tuple(series))


_MAKERS: dict[str, Callable[[Plot, Sequence[Line]], Iterator[Panel]]] = {
    "bars": _bars,
    "windows": _windows,
    "history_length": _history_length,
    "category_size": _category_size,
    "repeat_novel": _repeat_novel,
    "training": _training,
    "calibration": _calibration,
}
_NOTES = {
    "bars": "Whiskers: 95% over users, seeds averaged.",
    "windows": "A window's own runs are those that not every window of the line shares.",
    "history_length": "Users in groups of about equal number. Whiskers: 95% over users, seeds averaged.",
    "category_size": "Pairs (user, item) in groups of about equal number. Whiskers: 95%, pairs of a user together.",
    "repeat_novel": "Whiskers: 95%, pairs of a user together, seeds averaged.",
    "training": "Pale: mean loss of every 20 steps. Strong: its running mean.",
    "calibration": f"Pairs (user, item) by predicted probability, at least {MIN_PAIRS} a point. Dashed: calibrated.",
}
