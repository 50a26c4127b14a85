"""Draws charts as inline SVG whose colours are the page's own, so that one drawing suits light and dark."""

import html
import io
import re

from matplotlib.figure import Figure as Canvas

from longretriever_tf.plots.axes import Palette, draw_axes, drawing, style_of
from longretriever_tf.plots.panels import Panel

PAGE = Palette("#010203", "#040506", "#070809", tuple(f"#0a0b{i:02x}" for i in range(1, 11)))
"""Stand-ins, which the page's variables replace."""
_PAGE_COLORS = {PAGE.ink: "var(--ink)", PAGE.soft: "var(--soft)", PAGE.grid: "var(--rule)"} | {
    hue: f"var(--hue{i})" for i, hue in enumerate(PAGE.hues)
}
_WIDTH = 4.7
_BAR_HEIGHT = 0.3


def draw_panel(panel: Panel, name: str, hues: dict[str, int]) -> str:
    """One panel as an `<svg>` element.

    Args:
      panel: what is drawn.
      name: what a screen reader says; ids derive from it, so it must be unique on the page.
      hues: `hues_of` the chart's panels.
    """
    with drawing({**style_of(PAGE), "svg.hashsalt": name}):
        is_bars = panel.kind == "bars"
        height = 0.75 + _BAR_HEIGHT * len(panel.ticks) if is_bars else 3.1
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        canvas.patch.set_alpha(0.0)
        ax = canvas.subplots()
        ax.patch.set_alpha(0.0)
        draw_axes(ax, panel, hues, PAGE)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(text.getvalue(), name)


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
