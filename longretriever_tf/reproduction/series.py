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
from longretriever_tf.reproduction.plan import Plot
from longretriever_tf.reproduction.results import Line, Results, Source
from longretriever_tf.reproduction.statements import pair_hits

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
    """A bar per line; the interval is over users, averaged over seeds, where their figures are kept."""
    section, _, name = plot.metric.partition(" ")
    points = []
    for line in lines:
        if (figure := line.figure(plot.metric)) is None:
            continue
        users = line.user_means(f"{section}/{name}")
        bounds = (np.nan, np.nan)
        if users is not None:
            kept = users[~np.isnan(users)]
            bounds = ratio_interval(kept, np.arange(len(kept)))[1:]
        elif section.startswith("within_category") and line.users:
            hits, user, _ = pair_hits(line, "novel" if section.endswith("novel") else "all", int(name.split("@")[1]))
            bounds = ratio_interval(hits, user)[1:]
        points.append((line.label, figure.mean, *bounds))
    if points:
        labels, y, low, high = zip(*points, strict=True)
        series = Series(plot.metric, tuple(map(float, range(len(y)))), y, low, high)
        yield Panel("", "bars", "", plot.metric, (series,), labels)


def _history_length(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    section, _, name = plot.metric.partition(" ")
    kept = [line for line in lines if line.user_means(f"{section}/{name}") is not None]
    if not kept:
        return
    for key, x_label in (("history_length", "events before the window"), ("repeat_share", "% of truth taken before")):
        values = kept[0].users[0][key]
        place, ticks = quantile_bins(values if key == "history_length" else np.round(100 * values).astype(np.int64))
        made = []
        for line in kept:
            figures = line.user_means(f"{section}/{name}")
            assert figures is not None
            if len(figures) == len(place):
                made.append(bin_means(line.label, figures, np.arange(len(figures)), place, len(ticks)))
        yield Panel("", "points", x_label, plot.metric, tuple(made), ticks)


def _category_size(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    """Recall within the category by its size, for repeats and for novel items."""
    kept = [line for line in lines if line.users]
    if not kept:
        return
    place, ticks = quantile_bins(kept[0].users[0]["category_size"])
    for task, title in (("all", "all items"), ("novel", "novel items")):
        made = []
        for line in kept:
            hits, user, pairs = pair_hits(line, task, _WITHIN_K)
            if len(line.users[0]["pair_user"]) == len(place):
                made.append(bin_means(line.label, hits, user, place[pairs], len(ticks)))
        yield Panel(title, "points", "items in the category", f"recall@{_WITHIN_K} within", tuple(made), ticks)


def _repeat_novel(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    """The retrieval tasks side by side; and within the category, pairs that repeat beside pairs that do not."""
    del plot
    tasks, pairs_made = [], []
    for line in lines:
        figures = [line.figure("all recall@100"), line.figure("novel recall@100")]
        bounds = []
        for task in ("all", "novel"):
            users = line.user_means(f"{task}/recall@100")
            kept = users[~np.isnan(users)] if users is not None else np.array([])
            bounds.append(ratio_interval(kept, np.arange(len(kept)))[1:])
        y = tuple(np.nan if figure is None else figure.mean for figure in figures)
        tasks.append(Series(line.label, (0.0, 1.0), y, *zip(*bounds, strict=True)))
        if line.users:
            hits, user, _ = pair_hits(line, "all", _WITHIN_K)
            is_novel = line.users[0]["pair_is_novel"].astype(np.int64)
            pairs_made.append(bin_means(line.label, hits, user, is_novel, 2))
    yield Panel("the whole corpus", "points", "", "recall@100", tuple(tasks), ("all items", "novel items"))
    ticks = ("repeated", "novel")
    yield Panel("within the category", "points", "", f"recall@{_WITHIN_K}", tuple(pairs_made), ticks)


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
        yield Panel(phase, "lines", "step", "loss", tuple(distinct.values()))


def _calibration(plot: Plot, lines: Sequence[Line]) -> Iterator[Panel]:
    del plot
    made = []
    for line in lines:
        tallies = [users["calibration"] for users in line.users if "calibration" in users]
        if tallies:
            made.append(calibration_series(line.label, np.sum(tallies, axis=0)))
    yield Panel("", "loglog", "predicted p(item | user)", "frequency in the window", tuple(made))


_MAKERS: dict[str, Callable[[Plot, Sequence[Line]], Iterator[Panel]]] = {
    "bars": _bars,
    "history_length": _history_length,
    "category_size": _category_size,
    "repeat_novel": _repeat_novel,
    "training": _training,
    "calibration": _calibration,
}
_NOTES = {
    "bars": "Whiskers: 95% over users, seeds averaged.",
    "history_length": "Users in groups of about equal number. Whiskers: 95% over users, seeds averaged.",
    "category_size": "Pairs (user, item) in groups of about equal number. Whiskers: 95%, pairs of a user together.",
    "repeat_novel": "Whiskers: 95%, pairs of a user together, seeds averaged.",
    "training": "Mean loss of every 20 steps.",
    "calibration": f"Pairs (user, item) by predicted probability, at least {MIN_PAIRS} a point. On the line: as said.",
}
