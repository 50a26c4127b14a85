"""Draws panels on matplotlib axes, in the colours of a palette: for pages that have their own, and for print."""

import dataclasses
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from longretriever_tf.plots.panels import Panel

MARKERS = "osD^vPX<>p"

FRAME = {
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
"""Matplotlib's settings that all our plots share: titles, frame, grid."""
_FEW = 30  # points of a line: so few are marked


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of a drawing, by role. Series also differ by marker, for readers who cannot tell colours apart."""

    ink: str
    soft: str
    grid: str
    hues: tuple[str, ...]


def style_of(palette: Palette) -> dict[str, Any]:
    """Matplotlib's settings for the palette, for `rc_context`."""
    return {
        **FRAME,
        "font.size": 9.5,
        "font.family": "sans-serif",
        "text.color": palette.ink,
        "axes.labelcolor": palette.soft,
        "axes.edgecolor": palette.grid,
        "axes.titlesize": 10.5,
        "grid.color": palette.grid,
        "grid.linewidth": 0.7,
        "xtick.color": palette.soft,
        "ytick.color": palette.soft,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "svg.fonttype": "none",
    }


def hues_of(panels: tuple[Panel, ...], palette: Palette) -> dict[str, int]:
    """Number of the hue of every series by label, the same in all the panels of a chart."""
    labels = dict.fromkeys(series.label for panel in panels for series in panel.series)
    return {label: i % len(palette.hues) for i, label in enumerate(labels)}


def draw_axes(ax: Axes, panel: Panel, hues: dict[str, int], palette: Palette) -> None:
    """Draws a panel on `ax`, within `rc_context(style_of(palette))`; `hues` as `hues_of` the whole chart gives them."""
    _DRAWERS[panel.kind](ax, panel, hues, palette)
    if panel.title:
        ax.set_title(panel.title)


def _draw_bars(ax: Axes, panel: Panel, hues: dict[str, int], palette: Palette) -> None:
    """Horizontal, the first on top: names stay readable."""
    del hues  # the first bar stands out, the others are alike
    (series,) = panel.series
    position = np.arange(len(series.y))
    y = np.array(series.y)
    ax.barh(position, y, height=0.62, color=[palette.hues[0] if i == 0 else palette.hues[9] for i in position])
    _whiskers(ax, position, series.y, series.low, series.high, palette.ink)
    ax.set_yticks(position, panel.ticks, color=palette.ink)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(panel.y_label)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    known = [value for value in (*series.y, *series.high) if np.isfinite(value)]
    top = max(known, default=1.0) or 1.0
    ax.set_xlim(0, 1.17 * top)
    for i, value in enumerate(y):
        end = series.high[i] if np.isfinite(series.high[i]) else value
        ax.annotate(f"{value:.4f}", (end, i), (4, 0), textcoords="offset points", va="center", fontsize=8.5)


def _whiskers(ax: Axes, position: np.ndarray, y: tuple[float, ...], low: tuple, high: tuple, color: str) -> None:
    middle, under, over = np.array(y), np.array(low), np.array(high)
    kept = np.isfinite(under) & np.isfinite(over)
    errors = np.stack([(middle - under)[kept], (over - middle)[kept]])
    errors = np.maximum(errors, 0.0)
    ax.errorbar(middle[kept], position[kept], xerr=errors, fmt="none", ecolor=color, elinewidth=1.0, capsize=0)


def _draw_points(ax: Axes, panel: Panel, hues: dict[str, int], palette: Palette) -> None:
    count = len(panel.series)
    step = min(0.1, 0.5 / max(count, 1)) if any(series.low for series in panel.series) else 0.0  # whiskers need room
    for i, series in enumerate(panel.series):
        position = np.array(series.x) + (i - (count - 1) / 2) * step
        y = np.array(series.y)
        color = palette.hues[hues[series.label]]
        known = np.isfinite(y)
        style, marker = "-" if len(panel.ticks) > 2 else "none", MARKERS[hues[series.label]]
        ax.plot(position[known], y[known], linestyle=style, marker=marker, color=color, lw=1.2, ms=4.5)
        if series.low:
            low, high = np.array(series.low), np.array(series.high)
            bounded = np.isfinite(low) & np.isfinite(high)
            ax.vlines(position[bounded], low[bounded], high[bounded], color=color, linewidth=1.2)
    ax.set_xticks(range(len(panel.ticks)), panel.ticks)
    ax.grid(axis="x", visible=False)
    ax.set_xlim(-0.5, len(panel.ticks) - 0.5)
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]) if ax.get_ylim()[0] < 0 else 0.0)
    ax.set(xlabel=panel.x_label, ylabel=panel.y_label)
    ax.yaxis.set_major_locator(MaxNLocator(5))


def _draw_lines(ax: Axes, panel: Panel, hues: dict[str, int], palette: Palette) -> None:
    for series in panel.series:
        hue = hues[series.label]
        marker = MARKERS[hue] if len(series.x) <= _FEW else ""
        ax.plot(series.x, series.y, marker=marker, markersize=4.0, color=palette.hues[hue], linewidth=1.2)
    ax.set(xlabel=panel.x_label, ylabel=panel.y_label)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _draw_loglog(ax: Axes, panel: Panel, hues: dict[str, int], palette: Palette) -> None:
    values = [value for series in panel.series for value in (*series.x, *series.y)]
    ends = (min(values, default=1e-3), max(values, default=1.0))
    ax.plot(ends, ends, color=palette.soft, linewidth=1.0, linestyle=(0, (4, 3)))
    for series in panel.series:
        hue = hues[series.label]
        ax.plot(series.x, series.y, marker=MARKERS[hue], markersize=4.0, color=palette.hues[hue], linewidth=1.2)
    ax.set(xscale="log", yscale="log", xlabel=panel.x_label, ylabel=panel.y_label)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(10))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def _draw_scatter(ax: Axes, panel: Panel, hues: dict[str, int], palette: Palette) -> None:
    """Points that nothing joins, on a whole or a logarithmic scale, or above the names of choices."""
    for series in panel.series:
        hue = hues[series.label]
        ax.plot(series.x, series.y, linestyle="none", marker=MARKERS[hue], ms=5.0, color=palette.hues[hue], alpha=0.8)
    ax.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.ticks:
        ax.set_xticks(range(len(panel.ticks)), panel.ticks)
        ax.set_xlim(-0.5, len(panel.ticks) - 0.5)
    elif panel.kind == "scatter_log":
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))


_DRAWERS = {
    "bars": _draw_bars,
    "points": _draw_points,
    "lines": _draw_lines,
    "loglog": _draw_loglog,
    "scatter": _draw_scatter,
    "scatter_log": _draw_scatter,
}
