"""Panels as one PNG for light backgrounds: a title, the panels in rows, one legend, a note. Needs no display."""

import io
import math
from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from longretriever_tf.plots.axes import MARKERS, Palette, draw_axes, drawing, hues_of, style_of
from longretriever_tf.plots.panels import Panel

PRINT = Palette(
    "#1d2329",
    "#4d5862",
    "#e1e6ea",
    ("#1f62ad", "#cf5c12", "#2f8257", "#8a4fb0", "#b5476a", "#2a8c98", "#9a7400", "#54669a", "#7a5a45", "#7d8a96"),
)
"""The colours of the report of `reproduce` on white."""

_WIDTH, _HEIGHT, _DPI = 4.9, 3.4, 120
_LEGEND_ROW = 0.24


def draw_page(title: str, panels: Sequence[Panel], note: str = "", columns: int = 3) -> bytes:
    """The panels, drawn, as the bytes of a PNG.

    Args:
      title: one line above all.
      panels: one at least; series of one label have one colour and marker throughout.
      note: one line below all.
      columns: panels in a row, at most.
    """
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    hues = hues_of(tuple(panels), PRINT)
    shares = any(len(panel.series) > 1 for panel in panels if panel.kind != "numbers")  # else titles suffice
    per_legend_row = max(int(1.5 * columns), 1)
    legend_rows = math.ceil(len(hues) / per_legend_row) if shares else 0
    height = _HEIGHT * rows + _LEGEND_ROW * legend_rows + 0.8
    with drawing(style_of(PRINT)):
        canvas = Canvas(figsize=(_WIDTH * columns, height), layout="constrained", facecolor="white")
        canvas.suptitle(title, fontsize=13, x=0.01, ha="left")
        axes = canvas.subplots(rows, columns, squeeze=False).ravel()
        for ax, panel in zip(axes, panels, strict=False):
            draw_axes(ax, panel, hues, PRINT)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        if legend_rows:
            keys = [
                Line2D([], [], color=PRINT.hues[hue], marker=MARKERS[hue], markersize=5, linewidth=1.2, label=label)
                for label, hue in hues.items()
            ]
            canvas.legend(
                handles=keys,
                loc="outside lower left",
                ncols=per_legend_row,
                title=note,  # a label below all would cover it
                title_fontsize=9,
                alignment="left",
            )
        elif note:
            canvas.supxlabel(note, fontsize=9, x=0.01, ha="left", color=PRINT.soft)
        drawn = io.BytesIO()
        canvas.savefig(drawn, format="png", dpi=_DPI)
    return drawn.getvalue()
