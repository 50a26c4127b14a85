"""A log's history as aligned text, as wide as the terminal, each block with one line on how to read it."""

import textwrap
from collections.abc import Sequence

from longretriever_tf.common.text_table import render_table, terminal_width, wrap_text
from longretriever_tf.datasets import accounts
from longretriever_tf.inspection.advice import Finding
from longretriever_tf.inspection.statistics import RECENT, SHORT, TOP, Figures

_MARKS = {"good": "[+]", "fair": "[~]", "poor": "[-]"}


def render_history(
    title: str, figures: Figures, findings: Sequence[Finding], warnings: Sequence[str], verdict: str
) -> str:
    """The whole report.

    Args:
      title: the log's name.
      figures: `life_figures`, with `contexts` beside.
      findings: `judge_fit`.
      warnings: `find_warnings`.
      verdict: one line, the last.
    """
    blocks = [
        _head(title, figures),
        _rows(figures),
        _fit(findings),
        _warnings(warnings),
        _histories(figures),
        _subsequences(figures),
        _split(figures),
        _negatives(figures),
        _columns(figures),
        _contexts(figures),
        verdict,
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _width() -> int:
    """Columns to write for: the terminal's, as far as a line is still easy to read."""
    return min(terminal_width(), 110)


def _block(title: str, note: str, lines: Sequence[str]) -> str:
    return "\n".join(
        [title.upper(), *textwrap.wrap(note, _width()), *(part for line in lines for part in _indent(line))]
    )


def _indent(line: str) -> list[str]:
    """A line of a block; prose that is too wide goes on in the next line (tables are narrow enough already)."""
    if len(line) <= terminal_width() - 2:
        return [f"  {line}".rstrip()]
    return textwrap.wrap(line, _width(), initial_indent="  ", subsequent_indent="    ")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return render_table(header, rows, width=terminal_width() - 2)  # a block indents by two


def _percent(share: float) -> str:
    """Shares to the percent; small ones to the tenth, so that few is not none."""
    return f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value != round(value) and value < 100 else f"{value:,.0f}"


def _head(title: str, figures: Figures) -> str:
    log = figures["log"]
    size = (
        f"{log['events']:,} events of {log['users']:,} users on {log['items']:,} items in {log['categories']:,} "
        f"categories (context: {log['context']})"
    )
    span = (
        f"{log['first']} to {log['last']} UTC, {log['days']:,.0f} days"
        + (", baskets given" if log["has_baskets"] else ", no baskets")
        + (", weighted events" if log["has_weights"] else "")
    )
    lines = [size, span]
    if log["items_without_events"]:
        lines.append(f"{log['items_without_events']:,} more items of the item table have no event; they count nowhere")
    return "\n".join(
        [
            f"The history of {title}",
            "=" * len(f"The history of {title}"),
            *(part for line in lines for part in wrap_text(line)),
        ]
    )


def _rows(figures: Figures) -> str:
    chain = accounts.lines(figures["counts"])
    if not chain:
        return ""
    width = len(f"{chain[0][0]:,}")
    lines = [f"{count:>{width},}  {words}" for count, words in chain]
    for note in accounts.notes(figures["counts"]):
        lines += ["", *wrap_text(note)]
    return _block("Rows", "What became of every row that was read; the first figure is the sum of the others.", lines)


def _fit(findings: Sequence[Finding]) -> str:
    width = max(len(finding.topic) for finding in findings)
    indent = " " * (width + 6)
    lines = [
        line
        for f in findings
        for line in textwrap.wrap(
            f"{_MARKS[f.verdict]} {f.topic.ljust(width)}  {f.reason}", _width() - 2, subsequent_indent=indent
        )
    ]
    return _block("Does the method fit?", "[+] good  [~] fair  [-] poor; rules of thumb, figures below", lines)


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return _block("Warnings", "none: nothing unusual found", [])
    lines = [
        line for warning in warnings for line in textwrap.wrap(f"! {warning}", _width() - 2, subsequent_indent="  ")
    ]
    return _block("Warnings", "unusual things; each may be right, but look before training", lines)


def _distribution(label: str, values: dict[str, float]) -> list[str]:
    return [label, *(_number(values[name]) for name in ("min", "median", "mean", "p90", "p99", "max"))]


_DISTRIBUTION_HEADER = ("", "min", "median", "mean", "p90", "p99", "max")


def _histories(figures: Figures) -> str:
    histories = figures["lives"]
    rows = [
        _distribution("events per user", histories["events_per_user"]),
        _distribution("distinct categories per user", histories["categories_per_user"]),
    ]
    shares = [
        [
            f"beyond the last {n} events of the user",
            _percent(histories["share_beyond_last"][str(n)]),
            _percent(histories["share_read_beyond_last"][str(n)]),
        ]
        for n in RECENT
    ]
    length = figures["subsequences"]["max_length"]
    return _block(
        "Lives",
        "How long users live in the log, and what a model of recent events would never see.",
        [
            *_table(_DISTRIBUTION_HEADER, rows),
            "",
            *_table(["share of events ...", "of all", f"of each category's last {length}"], shares),
            "",
            f"{_percent(histories['repeat_share'])} of events repeat an item that the user had before",
        ],
    )


def _subsequences(figures: Figures) -> str:
    found, length = figures["subsequences"], figures["subsequences"]["max_length"]
    rows = [
        _distribution(f"per (user, category), {found['pairs']:,} of them", found["length"]),
        _distribution("as an event finds it, strictly before it", found["found"]),
    ]
    note = f"What hard search finds: a user's events in one category (it keeps the last {length})."
    return _block(
        "Subsequences",
        note,
        [
            *_table(_DISTRIBUTION_HEADER, rows),
            "",
            (
                f"{_percent(found['share_short'])} of (user, category) pairs hold {SHORT} events or fewer, "
                f"{_percent(found['share_above_max'])} more than L = {length}"
            ),
            f"{_percent(found['share_found_none'])} of events find none: the user's first time in that category",
        ],
    )


def _split(figures: Figures) -> str:
    split = figures["split"]
    if not split:
        return ""
    names = list(split)
    rows = [
        [label, *(f"{split[name][key]:,.0f}" if key in split[name] else "" for name in names)]
        for label, key in (
            ("days", "days"),
            ("events", "events"),
            ("events a day", "events_per_day"),
            ("users", "users"),
            ("distinct (user, item) pairs", "pairs"),
            ("  of users without a history before", "new_user_pairs"),
            ("  of items without an event before", "new_item_pairs"),
            ("  targets: the rest", "targets"),
            ("users with targets", "target_users"),
        )
    ]
    rows.append(["novel targets (never had before)", "", *(_percent(split[name]["novel_share"]) for name in names[1:])])
    rows.insert(0, ["starts", *(split[name]["start"][:10] for name in names)])
    return _block(
        "Split",
        "Global in time. A target is an item that a user with a past takes in the window, if it had an event before.",
        [*_table(["", *names], rows), "", *_reach(split)],
    )


def _reach(split: Figures) -> list[str]:
    rows = [
        [
            f"{name}, {kind} targets",
            *(_percent(split[name][kind][f"top_{n}"]) for n in TOP),
            _percent(split[name][kind]["untouched"]),
        ]
        for name in ("validation", "test")
        for kind in ("all", "novel")
    ]
    return [
        "Where their categories stand among the user's interests (eq. 3 at the window's start): a hard ceiling.",
        *_table(["", *(f"top {n}" for n in TOP), "never seen"], rows),
    ]


def _negatives(figures: Figures) -> str:
    negatives = figures["negatives"]
    below, shares = negatives["categories_below"], negatives["event_share_below"]
    few = [
        f"{below[n]:,} categories have fewer than {n} items; {_percent(shares[n])} of events lie in them" for n in below
    ]
    rows = [[row["category"][:40], f"{row['events']:,}", f"{row['items']:,}"] for row in negatives["largest"]]
    return _block(
        "Negatives",
        "Items of a category are all the negatives that an in-context batch can find.",
        [
            *_table(_DISTRIBUTION_HEADER, [_distribution("items per category", negatives["items_per_category"])]),
            "",
            *few,
            "",
            *_table(["largest categories", "events", "items"], rows),
        ],
    )


def _columns(figures: Figures) -> str:
    rows = [
        [
            f"{row['table']}: {row['column']}",
            f"{row['values']:,}",
            _percent(row["missing_share"]),
            _percent(row["missing_event_share"]),
        ]
        for row in figures["columns"]
    ]
    return _block(
        "Columns",
        "Side features of items and profile of users; missing is a value of its own.",
        _table(["", "values", "missing", "by events"], rows),
    )


def _contexts(figures: Figures) -> str:
    if len(figures["contexts"]) < 2:
        return ""
    keys = [("top_20", "target in top 20"), ("untouched", "never seen")] if figures["split"] else []
    header = [
        "--context=",
        "categories",
        "median items",
        "events below 64 items",
        f"pairs of <= {SHORT} events",
        *(words for _, words in keys),
    ]
    rows = [
        [
            row["column"] + (" *" if row["column"] == figures["log"]["context"] else ""),
            f"{row['categories']:,}",
            _number(row["median_items"]),
            _percent(row["event_share_below_64"]),
            _percent(row["share_short"]),
            *(_percent(row[key]) for key, _ in keys),
        ]
        for row in figures["contexts"]
    ]
    return _block(
        "Other contexts",
        "Each item column as the context (* the one in use). Coarser: longer subsequences, "
        "fewer interests to search, easier negatives.",
        _table(header, rows),
    )
