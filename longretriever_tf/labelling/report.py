"""The page that compares the new context with the old one. Imports no TensorFlow."""

import dataclasses
from typing import Any

import jinja2

from longretriever_tf.common.files import write_text_atomically
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.labelling.compare import Comparison
from longretriever_tf.labelling.costs import Prices, show_cost
from longretriever_tf.labelling.label import Settings, Spent


@dataclasses.dataclass(frozen=True)
class LabelReport:
    """What the page says.

    Attributes:
      output: path of the items table.
      comparison: of the columns.
      settings: what was asked.
      spent: in this run.
      cost: of this run; None without prices.
      num_items, num_texts, num_placed: items, distinct texts, and texts placed by their nearest.
      origin: versions, date and command.
    """

    output: str
    comparison: Comparison
    settings: Settings
    spent: Spent
    cost: float | None
    num_items: int
    num_texts: int
    num_placed: int
    origin: dict[str, Any]


def make_report(
    output: str, comparison: Comparison, settings: Settings, spent: Spent, prices: Prices, counts: tuple[int, int, int]
) -> LabelReport:
    """Collects what the page says; `counts` are items, distinct texts and placed texts."""
    cost = prices.of(spent.tokens_in, spent.tokens_out)
    origin = describe_origin("longretriever contexts", 0)
    return LabelReport(output, comparison, settings, spent, cost, *counts, origin)


def write_report(report: LabelReport, path: str) -> None:
    """Writes the page.

    Raises:
      UserError: it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("longretriever_tf.labelling", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    write_text_atomically(
        path, environment.get_template("contexts.html.jinja").render(report=report, show_cost=show_cost)
    )
