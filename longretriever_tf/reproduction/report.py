"""The report: one HTML page that needs nothing else, and the same in Markdown."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
import numpy as np

from longretriever_tf.common.files import write_text_atomically
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.plots.axes import hues_of
from longretriever_tf.reproduction.charts import PAGE, draw_panel
from longretriever_tf.reproduction.jobs import Job
from longretriever_tf.reproduction.plan import COSTS, Plan, Table
from longretriever_tf.reproduction.results import Metric, Results, Source
from longretriever_tf.reproduction.runner import duration
from longretriever_tf.reproduction.series import Chart, Panel, make_chart
from longretriever_tf.reproduction.statements import Statement, make_statements


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: the metric in full and rounded for people."""

    metric: Metric
    text: str
    spread: str
    is_best: bool


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A line of a table; a cell is None where the line lacks the metric."""

    label: str
    cells: tuple[Cell | None, ...]
    repeats: str
    source: Source | None
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ReportTable:
    """A table of the plan, filled."""

    table: Table
    rows: tuple[TableRow, ...]

    @property
    def has_spread(self) -> bool:
        """Whether any metric has several seeds: then every cell leaves room for ±."""
        return any(cell is not None and cell.spread for row in self.rows for cell in row.cells)


@dataclasses.dataclass(frozen=True)
class DrawnChart:
    """A chart with its drawings."""

    chart: Chart
    hues: dict[str, int]
    drawings: tuple[str, ...]
    data: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]


@dataclasses.dataclass(frozen=True)
class PlanReport:
    """All that the templates say."""

    plan: Plan
    origin: dict[str, Any]
    statements: tuple[Statement, ...]
    tables: tuple[ReportTable, ...]
    findings: tuple[tuple[str, list[str], Source | None], ...]
    charts: tuple[DrawnChart, ...]
    sources: tuple[Source, ...]
    missing: tuple[tuple[Job, str], ...]
    costs: tuple[tuple[str, str], ...]
    total_cost: str
    num_done: int


def make_report(plan: Plan, jobs: Mapping[str, Job], results: Results) -> PlanReport:
    """Collects the metrics of all jobs that are done; those that are not are listed with the reason.

    Raises:
      UserError: an output lacks something that the plan names.
    """
    tables = tuple(_fill(table, results) for table in plan.tables)  # sources are numbered in the order of reading
    statements = tuple(one for comparison in plan.comparisons for one in make_statements(comparison, results))
    findings = tuple((finding.title, *results.findings(finding)) for finding in plan.findings)
    charts = tuple(_draw(make_chart(plot, results), i) for i, plot in enumerate(plan.plots))
    done = [job for job in jobs.values() if results.done(job)]
    seconds = [float(job.stamp().get("seconds", 0.0)) for job in done]
    return PlanReport(
        plan=plan,
        origin=describe_origin("longretriever reproduce", 0),
        statements=statements,
        tables=tables,
        findings=findings,
        charts=charts,
        sources=tuple(results.sources.values()),
        missing=tuple((job, _reason(job)) for job in jobs.values() if job not in done),
        costs=tuple((job.name, duration(cost)) for job, cost in zip(done, seconds, strict=True)),
        total_cost=duration(sum(seconds)),
        num_done=len(done),
    )


def write_report(report: PlanReport, directory: str) -> tuple[str, str]:
    """Writes report.html and report.md; returns their paths.

    Raises:
      UserError: they cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("longretriever_tf.reproduction", "templates"),
        autoescape=lambda name: name is not None and "html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    paths = os.path.join(directory, "report.html"), os.path.join(directory, "report.md")
    for path, template in zip(paths, ("report.html.jinja", "report.md.jinja"), strict=True):
        write_text_atomically(path, environment.get_template(template).render(report=report, zip=zip))
    return paths


def _fill(table: Table, results: Results) -> ReportTable:
    lines = results.lines(table.rows)
    metrics = [[line.metric(column) for column in table.columns] for line in lines]
    columns = zip(table.columns, zip(*metrics, strict=True), strict=True)
    best = [_best(name, [metric.mean for metric in column if metric]) for name, column in columns]
    rows = []
    for line, row in zip(lines, metrics, strict=True):
        cells = tuple(_cell(metric, top) if metric else None for metric, top in zip(row, best, strict=True))
        missing = tuple(job.name for job in line.missing)
        rows.append(TableRow(line.label, cells, line.repeats, line.source, missing))
    return ReportTable(table, tuple(rows))


def _best(column: str, means: list[float]) -> float:
    """The most, or the least where the column is a cost."""
    if not means:
        return np.nan
    return min(means) if column in COSTS else max(means)


def _cell(metric: Metric, best: float) -> Cell:
    spread = "" if metric.spread is None else f"{metric.spread:.4f}"
    return Cell(metric, number(metric.mean), spread, metric.mean == best)


def number(value: float) -> str:
    """Four decimals; a whole number as it is; "-" for what is not there."""
    if not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4f}"


def _reason(job: Job) -> str:
    """Why a job has no result."""
    stamp = job.stamp()
    has_failed = stamp.get("outcome") == "failed" and stamp.get("key") == job.key
    return (has_failed and stamp.get("reason")) or job.state().value


def _draw(chart: Chart, index: int) -> DrawnChart:
    hues = hues_of(chart.panels, PAGE)
    names = [f"{chart.plot.title}, figure {index + 1}.{i + 1}" for i in range(len(chart.panels))]
    drawings = tuple(draw_panel(panel, name, hues) for panel, name in zip(chart.panels, names, strict=True))
    is_axis_named = all(panel.kind == "bars" for panel in chart.panels)
    data = tuple((_caption(panel), tuple(_data_rows(panel))) for panel in chart.panels if panel.kind != "lines")
    return DrawnChart(chart, {} if is_axis_named else hues, drawings, data)


def _caption(panel: Panel) -> str:
    return ", ".join(filter(None, (panel.title, panel.y_label, panel.x_label and f"by {panel.x_label}")))


def _data_rows(panel: Panel) -> Iterator[tuple[str, ...]]:
    """Head and rows of a panel's numbers: (series, x, y, low, high)."""
    yield "series", panel.x_label or "of", panel.y_label, "95% from", "to"
    for series in panel.series:
        empty = (np.nan,) * len(series.y)
        for x, y, low, high in zip(series.x, series.y, series.low or empty, series.high or empty, strict=True):
            name = panel.ticks[int(x)] if panel.ticks else f"{x:.3g}"
            yield series.label, name, f"{y:.3g}" if panel.kind == "loglog" else number(y), number(low), number(high)
