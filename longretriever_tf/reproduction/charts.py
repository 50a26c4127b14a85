"""Draws charts as inline SVG whose colours are the page's own, so that one drawing suits light and dark."""

import html
import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure as Canvas

from longretriever_tf.plots.axes import Palette, draw_axes, style_of
from longretriever_tf.plots.axes import hues_of as hues_of_panels
from longretriever_tf.plots.panels import Panel
from longretriever_tf.reproduction.series import Chart

# Stand-ins: replaced by the page's variables.
_PALETTE = Palette("#010203", "#040506", "#070809", tuple(f"#0a0b{i:02x}" for i in range(1, 11)))
_PAGE_COLORS = {_PALETTE.ink: "var(--ink)", _PALETTE.soft: "var(--soft)", _PALETTE.grid: "var(--rule)"} | {
    hue: f"var(--hue{i})" for i, hue in enumerate(_PALETTE.hues)
}
_WIDTH = 4.7
_BAR_HEIGHT = 0.3


def draw_panel(panel: Panel, name: str, hues: dict[str, int]) -> str:
    """One panel as an `<svg>` element.

    Args:
      panel: what is drawn.
      name: read aloud to who cannot see it; ids are made of it, so it must be the page's only one.
      hues: `hues_of` the chart.
    """
    with rc_context({**style_of(_PALETTE), "svg.hashsalt": name}):
        is_bars = panel.kind == "bars"
        height = 0.75 + _BAR_HEIGHT * len(panel.ticks) if is_bars else 3.1
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        canvas.patch.set_alpha(0.0)
        ax = canvas.subplots()
        ax.patch.set_alpha(0.0)
        draw_axes(ax, panel, hues, _PALETTE)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(text.getvalue(), name)


def hues_of(chart: Chart) -> dict[str, int]:
    """Number of the hue of every series by label, the same in all the panels of a chart."""
    return hues_of_panels(chart.panels, _PALETTE)


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
