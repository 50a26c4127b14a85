"""Draws charts as inline SVG whose colours are the page's own, so that one drawing suits light and dark."""

import html
import io
import re
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from longretriever_tf.reproduction.series import Chart, Panel

_INK, _SOFT, _GRID = "#010203", "#040506", "#070809"  # stand-ins: replaced by the page's variables
_HUES = tuple(f"#0a0b{i:02x}" for i in range(1, 11))
_PAGE_COLORS = {_INK: "var(--ink)", _SOFT: "var(--soft)", _GRID: "var(--rule)"} | {
    hue: f"var(--hue{i})" for i, hue in enumerate(_HUES)
}
_MARKERS = "osD^vPX<>p"
_WIDTH = 4.7
_BAR_HEIGHT = 0.3

_STYLE = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _GRID,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def draw_panel(panel: Panel, name: str, hues: dict[str, int]) -> str:
    """One panel as an `<svg>` element.

    Args:
      panel: what is drawn.
      name: read aloud to who cannot see it; ids are made of it, so it must be the page's only one.
      hues: `hues_of` the chart.
    """
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        is_bars = panel.kind == "bars"
        height = 0.75 + _BAR_HEIGHT * len(panel.ticks) if is_bars else 3.1
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        canvas.patch.set_alpha(0.0)
        ax = canvas.subplots()
        ax.patch.set_alpha(0.0)
        _DRAWERS[panel.kind](ax, panel, hues)
        if panel.title:
            ax.set_title(panel.title)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(text.getvalue(), name)


def hues_of(chart: Chart) -> dict[str, int]:
    """Number of the hue of every series by label, the same in all the panels of a chart."""
    labels = dict.fromkeys(series.label for panel in chart.panels for series in panel.series)
    return {label: i % len(_HUES) for i, label in enumerate(labels)}


def _draw_bars(ax: Axes, panel: Panel, hues: dict[str, int]) -> None:
    """Horizontal, the first on top: names stay readable."""
    del hues  # the first bar stands out, the others are alike
    (series,) = panel.series
    place = np.arange(len(series.y))
    y = np.array(series.y)
    ax.barh(place, y, height=0.62, color=[_HUES[0] if i == 0 else _HUES[9] for i in place])
    _whiskers(ax, place, series.y, series.low, series.high, horizontal=True)
    ax.set_yticks(place, panel.ticks, color=_INK)
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


def _whiskers(ax: Axes, place: np.ndarray, y: tuple[float, ...], low: tuple, high: tuple, horizontal: bool) -> None:
    middle, under, over = np.array(y), np.array(low), np.array(high)
    kept = np.isfinite(under) & np.isfinite(over)
    errors = np.stack([(middle - under)[kept], (over - middle)[kept]])
    errors = np.maximum(errors, 0.0)
    at = (middle[kept], place[kept]) if horizontal else (place[kept], middle[kept])
    ax.errorbar(*at, **{"xerr" if horizontal else "yerr": errors}, fmt="none", ecolor=_INK, elinewidth=1.0, capsize=0)


def _draw_points(ax: Axes, panel: Panel, hues: dict[str, int]) -> None:
    count = len(panel.series)
    for i, series in enumerate(panel.series):
        place = np.array(series.x) + (i - (count - 1) / 2) * min(0.1, 0.5 / count)
        y = np.array(series.y)
        color = _HUES[hues[series.label]]
        known = np.isfinite(y)
        style: dict[str, Any] = {
            "linestyle": "-" if len(panel.ticks) > 2 else "none",
            "linewidth": 1.2,
            "markersize": 4.5,
        }
        ax.plot(place[known], y[known], marker=_MARKERS[hues[series.label]], color=color, **style)
        if series.low:
            low, high = np.array(series.low), np.array(series.high)
            bounded = np.isfinite(low) & np.isfinite(high)
            ax.vlines(place[bounded], low[bounded], high[bounded], color=color, linewidth=1.2)
    ax.set_xticks(range(len(panel.ticks)), panel.ticks)
    ax.grid(axis="x", visible=False)
    ax.set_xlim(-0.5, len(panel.ticks) - 0.5)
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]) if ax.get_ylim()[0] < 0 else 0.0)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    ax.yaxis.set_major_locator(MaxNLocator(5))


def _draw_lines(ax: Axes, panel: Panel, hues: dict[str, int]) -> None:
    for series in panel.series:
        ax.plot(series.x, series.y, color=_HUES[hues[series.label]], linewidth=1.2)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _draw_loglog(ax: Axes, panel: Panel, hues: dict[str, int]) -> None:
    values = [value for series in panel.series for value in (*series.x, *series.y)]
    ends = (min(values, default=1e-3), max(values, default=1.0))
    ax.plot(ends, ends, color=_SOFT, linewidth=1.0, linestyle=(0, (4, 3)))
    for series in panel.series:
        hue = hues[series.label]
        style: dict[str, Any] = {"linewidth": 1.2, "markersize": 4.0}
        ax.plot(series.x, series.y, marker=_MARKERS[hue], color=_HUES[hue], **style)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(10))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)


def _inline(svg: str, name: str) -> str:
    """Matplotlib's file as an element of a page: no prologue, no metadata, no namespaces, colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every drawing; what is referred to is no group
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would hold for the whole page
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    head = rf'<svg viewBox="\1" role="img" aria-label="{html.escape(name)}">'
    svg = re.sub(r'<svg\b[^>]*viewBox="([^"]*)"[^>]*>', head, svg, count=1)
    for stand_in, color in _PAGE_COLORS.items():
        svg = svg.replace(stand_in, color)
    return svg


_DRAWERS = {"bars": _draw_bars, "points": _draw_points, "lines": _draw_lines, "loglog": _draw_loglog}
