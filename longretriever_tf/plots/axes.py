"""Draws panels on matplotlib axes, in the colours of a palette: for pages that have their own, and for print."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from longretriever_tf.plots.panels import Panel, Series, running_mean

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
_FIRST, _OTHER = 2.0, 1.1  # line widths: the first series is what the plot is about


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of a drawing, by role. Series also differ by marker, for readers who cannot tell colours apart."""

    ink: str
    soft: str
    grid: str
    hues: tuple[str, ...]


_OTHER_SCRIPTS = (
    *(f"{family} {place}" for family in ("Noto Sans CJK", "Source Han Sans") for place in ("JP", "SC", "TC", "KR")),
    *("Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Hebrew"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS", "Unifont"),
)
"""Fonts for what matplotlib's own lacks; those that are installed are asked in turn."""


@contextlib.contextmanager
def drawing(style: dict[str, Any]) -> Iterator[None]:
    """Matplotlib under a style; names may be of any script: a character that no installed font has is a box."""
    installed = set(font_manager.get_font_names())
    families = ["sans-serif", *(name for name in _OTHER_SCRIPTS if name in installed)]
    with warnings.catch_warnings(), rc_context({**style, "font.family": families}):
        warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from")
        yield


def style_of(palette: Palette) -> dict[str, Any]:
    """Matplotlib's settings for the palette, for `drawing`."""
    return {
        **FRAME,
        "font.size": 9.5,
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
        "text.parse_math": False,  # names of models, columns and folders may hold dollars
    }


def hues_of(panels: tuple[Panel, ...], palette: Palette) -> dict[str, int]:
    """Number of the hue of every series by label, the same in all the panels of a chart."""
    labels = dict.fromkeys(series.label for panel in panels if panel.kind != "numbers" for series in panel.series)
    return {label: i % len(palette.hues) for i, label in enumerate(labels)}


def draw_axes(ax: Axes, panel: Panel, hues: dict[str, int], palette: Palette) -> None:
    """Draws a panel on `ax`, within `drawing(style_of(palette))`; `hues` as `hues_of` the whole chart gives them."""
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
        width, order = (_FIRST, 3) if hues[series.label] == 0 else (_OTHER, 2)
        ax.plot(position[known], y[known], linestyle=style, marker=marker, color=color, lw=width, ms=4.5, zorder=order)
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
        smooth = panel.is_noisy and not marker
        ax.plot(
            series.x,
            series.y,
            marker=marker,
            markersize=4.0,
            color=palette.hues[hue],
            linewidth=0.7 if smooth else 1.2,
            alpha=0.3 if smooth else 1.0,
        )
        if smooth:
            ax.plot(series.x, running_mean(np.array(series.y)), color=palette.hues[hue], linewidth=1.6)
    ax.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.from_zero:
        ax.set_ylim(bottom=0.0)
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
    margin = (ends[1] / ends[0]) ** 0.05 if ends[1] > ends[0] else 1.1
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_view_interval(ends[0] / margin, ends[1] * margin, ignore=True)
        axis.set_major_locator(_log_locator(ends[1] / ends[0]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}".replace("e-0", "e-")))
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


def _log_locator(ratio: float) -> Locator:
    """Ticks of a log axis whose ends have this ratio: decades alone would leave a short one without any."""
    if ratio >= 1000:
        return LogLocator(10)
    return LogLocator(10, subs=(1.0, 2.0, 5.0)) if ratio >= 8 else MaxNLocator(4)


def _draw_numbers(ax: Axes, panel: Panel, hues: dict[str, int], palette: Palette) -> None:
    """A line of text for each value."""
    del hues
    ax.set_axis_off()
    for row, series in enumerate(panel.series):
        text = f"{series.label}: {_number(series)}  ({panel.x_label} {series.x[0]:,.0f})"
        ax.text(0.0, 0.94 - 0.1 * row, text, transform=ax.transAxes, va="top", color=palette.ink)


def _number(series: Series) -> str:
    (value,) = series.y
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


_DRAWERS = {
    "bars": _draw_bars,
    "points": _draw_points,
    "lines": _draw_lines,
    "loglog": _draw_loglog,
    "scatter": _draw_scatter,
    "scatter_log": _draw_scatter,
    "numbers": _draw_numbers,
}
