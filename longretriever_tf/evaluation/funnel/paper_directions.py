"""The directions of the paper's Tables 2 to 5, and whether what is measured here points the same way.

Imports no TensorFlow. The paper's direction is computed from its numbers below, ours from our measurements.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from longretriever_tf.evaluation.ranking import Interval

MEASURES = {"aer": "AER", "uer": "UER", "conversion": "conversion"}
ROWS = {
    "mind": "MIND",
    "longretriever": "LongRetriever, random 5 of top 20",
    "top5": "Top5",
    "without_long": "without the long sequence",
    "without_in_context": "without in-context training and retrieval",
    "every_category": "LongRetriever, calibrated, every category",
}
"""Test channels by key: the paper's five rows, and one that it does not have."""

PAPER: Mapping[str, Mapping[str, float]] = {
    "mind": {"aer": 0.3182, "uer": 0.0458, "conversion": 0.0689},
    "longretriever": {"aer": 0.1872, "uer": 0.0929, "conversion": 0.0792},
    "top5": {"aer": 0.3043, "uer": 0.0723, "conversion": 0.0829},
    "without_long": {"aer": 0.1145, "uer": 0.0592, "conversion": 0.0533},
    "without_in_context": {"aer": 0.3892, "uer": 0.1348, "conversion": 0.0561},
}
"""What the paper measured online (Tables 2 to 5); conversion is its CTR * CVR."""

COMPARISONS = (
    ("longretriever", "mind"),
    ("top5", "longretriever"),
    ("without_long", "longretriever"),
    ("without_in_context", "longretriever"),
)
"""(row, the row that the paper compares it with)."""

HOLDS, REVERSED, UNDECIDED, NOT_MEASURED = "holds", "does not hold", "undecided", "not measured"


class Direction(NamedTuple):
    """One comparison of the paper, and ours.

    Attributes:
      row: key in `ROWS`.
      against: key in `ROWS`.
      measure: key in `MEASURES`.
      paper: the paper's difference, row - against.
      here: ours with its 95% interval, None where it was not measured.
      verdict: holds: the same sign, the interval clear of 0; does not hold: the other sign, clear of 0; undecided: the
        interval reaches 0; not measured.
    """

    row: str
    against: str
    measure: str
    paper: float
    here: Interval | None
    verdict: str


def evaluate_directions(differences: Mapping[str, Mapping[str, Mapping[str, Interval | None]]]) -> list[Direction]:
    """All of the paper's directions, in its order.

    Args:
      differences: row to other row to measure to (row - other); rows that were not run are absent.
    """
    directions = []
    for row, against in COMPARISONS:
        for measure in MEASURES:
            paper = PAPER[row][measure] - PAPER[against][measure]
            here = differences.get(row, {}).get(against, {}).get(measure)
            directions.append(Direction(row, against, measure, paper, here, _verdict(paper, here)))
    return directions


def _verdict(paper: float, here: Interval | None) -> str:
    if here is None:
        return NOT_MEASURED
    if here.low <= 0.0 <= here.high:
        return UNDECIDED
    return HOLDS if (here.mean > 0) == (paper > 0) else REVERSED


def state_direction(direction: Direction) -> str:
    """The direction as one line of plain words.

    >>> state_direction(Direction("top5", "longretriever", "aer", 0.12, Interval(-0.2, -0.3, -0.1), "does not hold"))
    'Top5 - LongRetriever, random 5 of top 20, AER: paper +12.00, here -20.00 [-30.00, -10.00] points: does not hold'
    """
    here = direction.here
    ours = "none" if here is None else f"{100 * here.mean:+.2f} [{100 * here.low:+.2f}, {100 * here.high:+.2f}] points"
    return (
        f"{ROWS[direction.row]} - {ROWS[direction.against]}, {MEASURES[direction.measure]}: "
        f"paper {100 * direction.paper:+.2f}, here {ours}: {direction.verdict}"
    )


def count_verdicts(directions: list[Direction]) -> dict[str, int]:
    """How many directions have each verdict."""
    return {verdict: sum(d.verdict == verdict for d in directions) for verdict in (HOLDS, REVERSED, UNDECIDED)}


_PARTS = {
    "aer": {
        "owned_share": "items that the user had taken before are {} of the list",
        "owned_exposed": "of those, exposed {}",
        "novel_exposed": "of the novel ones, exposed {}",
    },
    "uer": {"unique_share": "no other channel retrieved {} of the list", "uer_of_unique": "of those, exposed {}"},
}
"""AER = owned share * exposed of owned + novel share * exposed of novel; UER = unique share * exposed of unique."""


def explain_direction(direction: Direction, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a metric differs, from its parts; "" where it has no parts or was not measured.

    Args:
      direction: of the stand.
      metrics: row to metric (`channels.RATIOS`) to interval or None.
    """
    if direction.here is None:
        return ""
    clauses = []
    for part, clause in _PARTS.get(direction.measure, {}).items():
        values = [metrics[row][part] for row in (direction.row, direction.against)]
        clauses.append(clause.format(" against ".join("-" if v is None else f"{100 * v.mean:.1f}%" for v in values)))
    return "; ".join(clauses)
