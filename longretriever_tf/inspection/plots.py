"""A log's history as nine plots, each titled by what it shows of this log. Draws to files, needs no display."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from longretriever_tf.common import schema
from longretriever_tf.common.files import explain_os_errors
from longretriever_tf.inspection.measures import HistoryMeasures, Window
from longretriever_tf.inspection.statistics import BATCH, RECENT, SHORT, TOP, Statistics
from longretriever_tf.plots.axes import Palette, drawing, style_of

_BLUE, _ORANGE, _GREEN, _GREY, _INK = "#2f6db3", "#e07b39", "#4c9a6a", "#9aa3ad", "#2b3138"

_STYLE = style_of(Palette(_INK, _INK, "#eceff2", ())) | {
    "font.size": 10.5,
    "axes.edgecolor": "#c4cad1",
    "axes.titlesize": 12,
    "axes.titlepad": 10,
    "grid.linewidth": 0.8,
    "xtick.major.size": 3,
    "figure.dpi": 120,
    "savefig.dpi": 120,
    "figure.facecolor": "white",
}


def draw_history(
    directory: str, title: str, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics
) -> list[str]:
    """Writes `life.png`, all panels together, and `panels/NAME.png`, each alone; returns their paths.

    Args:
      directory: where to; created if need be.
      title: the log's name.
      history: `measure_history` of the log.
      windows: `measure_windows`; empty leaves the targets panel blank.
      statistics: `history_statistics` of the same log.

    Raises:
      UserError: a file cannot be written.
    """
    log = statistics["log"]
    with drawing(_STYLE), explain_os_errors(f"cannot write plots to {directory!r}"):
        os.makedirs(os.path.join(directory, "panels"), exist_ok=True)
        canvas = Canvas(
            figsize=(19, 15.5), layout=ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.16, wspace=0.04, hspace=0.05)
        )
        canvas.suptitle(
            f"The history of {title}: {log['events']:,} events, {log['users']:,} users, {log['items']:,} "
            f"items, {log['categories']:,} categories ({log['context']}), {log['days']:,.0f} days",
            fontsize=16,
        )
        for ax, panel in zip(canvas.subplots(3, 3).flat, _PANELS.values(), strict=True):
            panel(ax, history, windows, statistics)
        paths = [os.path.join(directory, "life.png")]
        canvas.savefig(paths[0])
        for name, panel in _PANELS.items():
            alone = Canvas(figsize=(7, 5), layout="constrained")
            panel(alone.subplots(), history, windows, statistics)
            paths.append(os.path.join(directory, "panels", f"{name}.png"))
            alone.savefig(paths[-1])
    return paths


def _compact(value: float, _: object = None) -> str:
    """1200 as 1.2k: ticks stay short."""
    for bound, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:g}{suffix}"
    return f"{value:g}"


def _percent_axis(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{round(100 * share, 3):g}%"))


def _log_axis(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if _decades(axis) < 3.5 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_compact))


def _decades(axis: Axis) -> float:
    low, high = axis.get_view_interval()
    return float(np.log10(high / max(low, 1e-12)))


def _mark(ax: Axes, x: float, label: str) -> None:
    """A dashed line at `x`, labelled at the top."""
    ax.axvline(x, color=_ORANGE, linewidth=1.4, linestyle=(0, (4, 3)))
    style: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
    ax.annotate(label, (x, 1), (4, -2), color=_ORANGE, fontsize=9.5, **style)


def _log_bins(largest: int, per_decade: int = 9) -> np.ndarray:
    """Edges that each hold at least one whole number, wider and wider, beyond `largest`."""
    steps = int(np.ceil(np.log10(max(largest, 2) + 1) * per_decade)) + 1
    return np.unique(np.round(10 ** (np.arange(steps + 1) / per_decade))) - 0.5


def _log_histogram(ax: Axes, values: np.ndarray, color: str) -> None:
    ax.hist(values, bins=_log_bins(int(values.max())).tolist(), color=color, edgecolor="white", linewidth=0.6)
    ax.set_xscale("log")
    ax.margins(y=0.12)
    _log_axis(ax.xaxis)
    ax.yaxis.set_major_formatter(FuncFormatter(_compact))


def _sum_by(daily: np.ndarray, step: int) -> np.ndarray:
    """Sums over whole groups of `step` days; a last, partial group would look like a fall and is left out."""
    groups = len(daily) // step
    return daily[: groups * step].reshape(groups, step).sum(1)


def _draw_time(ax: Axes, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics) -> None:
    step = 7 if len(history.events_per_day) >= 42 else 1
    counts = _sum_by(history.events_per_day, step)
    starts = (history.day_start + np.arange(len(counts)) * step * schema.DAY_S).astype("datetime64[s]")
    ax.bar(starts, counts, width=np.timedelta64(step, "D"), align="edge", color=_BLUE, edgecolor="white", linewidth=0.3)
    for name, color in (("validation", _GREEN), ("test", _ORANGE)):
        if name in windows:
            start, stop = np.array([windows[name].start, windows[name].stop]).astype("datetime64[s]")
            ax.axvspan(start, stop, color=color, alpha=0.3, linewidth=0, label=name, zorder=0)
    if windows:
        ax.legend(loc="upper left", ncols=2)
    ax.margins(y=0.18)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(ax.xaxis.get_major_locator()))
    ax.yaxis.set_major_formatter(FuncFormatter(_compact))
    ax.set(
        title=f"{statistics['log']['events'] / max(statistics['log']['days'], 1):,.0f} events a day",
        xlabel="date (UTC)",
        ylabel="events per week" if step == 7 else "events per day",
    )


def _draw_histories(ax: Axes, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics) -> None:
    _log_histogram(ax, history.events_per_user, _BLUE)
    for n in RECENT:
        _mark(ax, n, f"last {n}")
    ax.set(
        title=f"The median user has {statistics['lives']['events_per_user']['median']:,.0f} events",
        xlabel="events per user (log scale)",
        ylabel="users",
    )


def _draw_beyond(ax: Axes, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics) -> None:
    reach = np.unique(np.round(np.geomspace(1, history.events_per_user.max(), 120)))
    beyond = [np.maximum(history.events_per_user - n, 0).sum() / len(history.is_repeat) for n in reach]
    ax.fill_between(reach, beyond, color=_BLUE, alpha=0.15, linewidth=0)
    ax.plot(reach, beyond, color=_BLUE, linewidth=2.2)
    ax.set_xscale("log")
    for n in RECENT:
        share = statistics["lives"]["share_beyond_last"][str(n)]
        ax.plot([n], [share], "o", color=_ORANGE, markersize=7, zorder=3)
        ax.annotate(f"{share:.0%} beyond\nthe last {n}", (n, share), (8, 4), textcoords="offset points", color=_ORANGE)
    _log_axis(ax.xaxis)
    _percent_axis(ax.yaxis)
    ax.set(
        title=f"{statistics['lives']['share_beyond_last']['200']:.0%} of history lies beyond the last 200 events",
        xlabel="latest events of the user that a model reads (log scale)",
        ylabel="share of all events not read",
        ylim=(0, 1.08),
    )


def _draw_interests(ax: Axes, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics) -> None:
    counts = history.categories.categories_per_user
    width = max(1, int(np.ceil(counts.max() / 40)))
    bins = np.arange(0.5, counts.max() + width + 1, width).tolist()
    ax.hist(counts, bins=bins, color=_GREEN, edgecolor="white", linewidth=0.6)
    _mark(ax, 20, "20 interests")
    ax.margins(y=0.12)
    ax.yaxis.set_major_formatter(FuncFormatter(_compact))
    ax.set(
        title=f"The median user has seen {np.median(counts):,.0f} of {statistics['log']['categories']:,} categories",
        xlabel="distinct categories per user",
        ylabel="users",
    )


def _draw_subsequences(ax: Axes, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics) -> None:
    for values, color, label in (
        (history.categories.subsequence_length, _BLUE, "per (user, category)"),
        (history.categories.num_earlier, _GREEN, "as an event finds it"),
    ):
        steps = np.unique(np.round(np.geomspace(1, max(values.max(), 2), 200)))
        share = 1 - np.searchsorted(np.sort(values), steps) / len(values)
        ax.plot(steps, share, color=color, linewidth=2.2, label=label)
    ax.set_xscale("log")
    ax.axvspan(0.9, SHORT + 0.5, color=_GREY, alpha=0.15, linewidth=0)
    ax.text(1.0, 0.03, f"{SHORT} or fewer", color="#6b7480", fontsize=9.5)
    _mark(ax, statistics["subsequences"]["max_length"], f"L = {statistics['subsequences']['max_length']}")
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.92))
    _log_axis(ax.xaxis)
    _percent_axis(ax.yaxis)
    ax.set(
        title=f"{statistics['subsequences']['share_short']:.0%} of subsequences hold {SHORT} events or fewer",
        xlabel="events in one category (log scale)",
        ylabel="share with at least so many",
        ylim=(0, 1.05),
        xlim=(0.9, None),
    )


def _draw_repeats(ax: Axes, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics) -> None:
    step = max(1, min(28, len(history.events_per_day) // 12))
    events, repeats = _sum_by(history.events_per_day, step), _sum_by(history.repeats_per_day, step)
    middle = ((np.arange(len(events)) + 0.5) * step)[events > 0]
    share = repeats[events > 0] / events[events > 0]
    ax.fill_between(middle, share, color=_ORANGE, alpha=0.15, linewidth=0)
    ax.plot(middle, share, color=_ORANGE, linewidth=2.2, marker="o", markersize=5)
    _percent_axis(ax.yaxis)
    ax.set(
        title=f"{statistics['lives']['repeat_share']:.0%} of events repeat an item the user had before",
        xlabel=f"days since the log began (mean of {step} day{'s' if step > 1 else ''})",
        ylabel="share of events that repeat",
        ylim=(0, min(1.05, max(0.1, 1.25 * float(share.max())))),
    )


def _draw_negatives(ax: Axes, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics) -> None:
    items, events = history.categories.items_per_category, history.categories.events_per_category
    edges = np.array([1, 2, 8, *BATCH, 4096, np.inf])
    labels = ["1", "2-7", f"8-{BATCH[0] - 1}", f"{BATCH[0]}-{BATCH[1] - 1}", f"{BATCH[1]}-4095", "4096+"]
    at = np.searchsorted(edges, items[events > 0], side="right") - 1
    x = np.arange(at.max() + 1)
    for weights, shift, color, label in (
        (None, -0.2, _GREY, "of categories"),
        (events[events > 0], 0.2, _BLUE, "of events"),
    ):
        counts = np.bincount(at, weights, len(x))
        shares = counts / counts.sum()
        bars = ax.bar(x + shift, shares, width=0.38, color=color, label=label)
        words = ["" if not share else "<1%" if share < 0.005 else f"{share:.0%}" for share in shares]
        ax.bar_label(bars, words, fontsize=9, padding=2)
    ax.set_xticks(x, labels[: len(x)])
    ax.grid(axis="x", visible=False)
    ax.legend(title="share ...", alignment="left")
    ax.margins(y=0.15)
    _percent_axis(ax.yaxis)
    enough = 1 - statistics["negatives"]["event_share_below"][str(BATCH[0])]
    ax.set(
        title=f"{enough:.0%} of events have {BATCH[0]} items or more in their category",
        xlabel="items in the category: the positive and its possible negatives",
        ylabel="share",
    )


def _draw_targets(ax: Axes, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics) -> None:
    ax.set(
        title="Test targets by interest: the log is too short to split",
        xlabel="interests searched",
        ylabel="share of test targets within reach",
    )
    if "test" not in windows or not len(windows["test"].is_novel):
        return
    test, split = windows["test"], statistics["split"]["test"]
    steps = np.unique(np.round(np.geomspace(1, max(history.categories.categories_per_user.max(), 2), 100)))
    for rank, color, kind in (
        (test.interest_rank, _BLUE, "all"),
        (test.interest_rank[test.is_novel], _ORANGE, "novel"),
    ):
        if len(rank):
            share = np.searchsorted(np.sort(rank[rank >= 0]), steps) / len(rank)
            label = f"{kind}: {np.mean(rank < 0):.0%} in categories never seen"
            ax.plot(steps, share, color=color, linewidth=2.2, label=label)
    ax.set_xscale("log")
    for n in (n for n in TOP if n <= steps[-1]):
        share = split["all"][f"top_{n}"]
        ax.plot([n], [share], "o", color=_BLUE, markersize=7)
        ax.annotate(f"{share:.0%}", (n, share), (-6, 5), textcoords="offset points", color=_BLUE, ha="right")
    _log_axis(ax.xaxis)
    _percent_axis(ax.yaxis)
    ax.legend(loc="upper left")
    ax.set(
        title=f"The top 20 interests hold {split['all']['top_20']:.0%} of the test targets",
        ylim=(0, 1.2),
        yticks=np.linspace(0, 1, 6),
        xlabel="interests searched, best first by eq. 3 (log scale)",
    )


def _draw_largest(ax: Axes, history: HistoryMeasures, windows: dict[str, Window], statistics: Statistics) -> None:
    rows = statistics["negatives"]["largest"][::-1]
    shares = [row["events"] / statistics["log"]["events"] for row in rows]
    ax.barh(range(len(rows)), shares, color=_GREEN, height=0.36)
    for y, (share, row) in enumerate(zip(shares, rows, strict=True)):
        ax.text(
            0, y + 0.25, f" {row['category'][:48]}", va="bottom", fontsize=9.5
        )  # as ticks they would squeeze the axis
        size = f"{share:.1%}, {row['items']:,} item{'s' if row['items'] > 1 else ''}"
        ax.annotate(size, (share, y), (5, 0), textcoords="offset points", va="center", fontsize=9.5, color="#6b7480")
    ax.set_yticks([])
    ax.grid(axis="y", visible=False)
    ax.set_ylim(-0.5, len(rows))
    ax.margins(x=0.3)
    _percent_axis(ax.xaxis)
    ax.set(title=f"The {len(rows)} largest categories hold {sum(shares):.0%} of the events", xlabel="share of events")


_PANELS: dict[str, Callable[[Axes, HistoryMeasures, dict[str, Window], Statistics], None]] = {
    "time": _draw_time,
    "events_per_user": _draw_histories,
    "beyond_recent": _draw_beyond,
    "categories_per_user": _draw_interests,
    "subsequences": _draw_subsequences,
    "targets": _draw_targets,
    "repeats": _draw_repeats,
    "negatives": _draw_negatives,
    "largest_categories": _draw_largest,
}
