"""A log's history as aligned text, as wide as the terminal, each block with one line on how to read it."""

import textwrap
from collections.abc import Iterable, Sequence

from longretriever_tf.common.text_table import render_table, terminal_width, wrap_text
from longretriever_tf.datasets import accounts
from longretriever_tf.inspection.advice import FitRating
from longretriever_tf.inspection.statistics import RECENT, SHORT, TOP, Statistics

_MARKS = {"good": "[+]", "fair": "[~]", "poor": "[-]"}


def render_history(
    title: str, statistics: Statistics, findings: Sequence[FitRating], warnings: Sequence[str], verdict: str
) -> str:
    """The whole report.

    Args:
      title: the log's name.
      statistics: `history_statistics`, with `contexts` and `numbers`.
      findings: of `evaluate_fit`.
      warnings: of `find_warnings`.
      verdict: one line, the last.
    """
    blocks = [
        _head(title, statistics["log"]),
        _rows(statistics["counts"]),
        _fit(findings),
        _warnings(warnings),
        _histories(statistics),
        _subsequences(statistics["subsequences"]),
        _split(statistics["split"], statistics["actions"]),
        _negatives(statistics["negatives"]),
        _actions(statistics["actions"]),
        _columns(statistics["columns"]),
        _numbers(statistics["numbers"]),
        _contexts(statistics),
        verdict,
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _width() -> int:
    """Columns to write for: the terminal's, as far as a line is still easy to read."""
    return min(terminal_width(), 110)


def _block(title: str, note: str, lines: Iterable[str]) -> str:
    head = [title.upper(), *textwrap.wrap(note, _width())]
    return "\n".join([*head, *(part for line in lines for part in _indent(line))])


def _indent(line: str) -> list[str]:
    """A line of a block; prose that is too wide goes on in the next line (tables are narrow enough already)."""
    if len(line) <= terminal_width() - 2:
        return [f"  {line}".rstrip()]
    return textwrap.wrap(line, _width(), initial_indent="  ", subsequent_indent="    ")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return render_table(header, rows, width=terminal_width() - 2)  # a block indents by two


def _distributions(rows: dict[str, dict[str, float]]) -> list[str]:
    """A table of distributions (`describe`) by their names."""
    names = ("min", "median", "mean", "p90", "p99", "max")
    return _table(["", *names], [[label, *(_number(row[name]) for name in names)] for label, row in rows.items()])


def _percent(share: float) -> str:
    """Shares to the percent; small ones to the tenth, so that few is not none."""
    return f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value != round(value) and value < 100 else f"{value:,.0f}"


def _head(title: str, log: Statistics) -> str:
    heading = f"The history of {title}"
    lines = [
        f"{log['events']:,} events of {log['users']:,} users on {log['items']:,} items in {log['categories']:,} "
        f"categories (context: {log['context']})",
        f"{log['first']} to {log['last']} UTC, {log['days']:,.0f} days"
        + (", baskets given" if log["has_baskets"] else ", no baskets")
        + (", weighted events" if log["has_weights"] else ""),
    ]
    if log["items_without_events"]:
        lines.append(f"{log['items_without_events']:,} more items of the item table have no event and are not counted")
    return "\n".join([heading, "=" * len(heading), *(part for line in lines for part in wrap_text(line))])


def _rows(counts: dict[str, int]) -> str:
    chain = accounts.lines(counts)
    if not chain:
        return ""
    width = len(f"{chain[0][0]:,}")
    lines = [f"{count:>{width},}  {words}" for count, words in chain]
    for note in accounts.notes(counts):
        lines += ["", *wrap_text(note)]
    return _block("Rows", "What became of every row that was read; the first number is the sum of the others.", lines)


def _fit(findings: Sequence[FitRating]) -> str:
    width = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        line = f"{_MARKS[finding.verdict]} {finding.topic.ljust(width)}  {finding.reason}"
        lines += textwrap.wrap(line, _width() - 2, subsequent_indent=" " * (width + 6))
    return _block("Does the method fit?", "[+] good  [~] fair  [-] poor; rules of thumb on the numbers below", lines)


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return _block("Warnings", "none: nothing unusual found", [])
    lines = [line for text in warnings for line in textwrap.wrap(f"! {text}", _width() - 2, subsequent_indent="  ")]
    return _block("Warnings", "unusual things; each may be right, but look before training", lines)


def _actions(actions: Statistics) -> str:
    if not actions:
        return ""
    target = ", ".join(actions["target"]) or "none found"
    header = ["", "events", "share", "users", "user-item pairs", f"followed by {target}"]
    rows = [
        [name, f"{one['events']:,}", _percent(one["share"]), f"{one['users']:,}", f"{one['pairs']:,}"]
        + [_percent(one["leads"]) if actions["target"] else "-"]
        for name, one in actions["actions"].items()
    ]
    lines = _table(header, rows)
    if actions["proposal"]:
        lines += [
            "",
            f"to retrieve {target}, and to weigh the others as they lead there: {' '.join(actions['proposal'])}",
        ]
    elif not actions["target"]:
        lines += ["", "no action follows others on the same item: name what is to be retrieved by --target_actions"]
    note = (
        "What users did. Events of every action are history; with --target_actions, those alone are to be retrieved: "
        f"{target if actions['is_chosen'] else 'not set, so every event is'}."
    )
    return _block("Actions", note, lines)


def _histories(statistics: Statistics) -> str:
    histories, length = statistics["lives"], statistics["subsequences"]["max_length"]
    shares = [
        [
            f"beyond the last {n} events of the user",
            _percent(histories["share_beyond_last"][str(n)]),
            _percent(histories["share_read_beyond_last"][str(n)]),
        ]
        for n in RECENT
    ]
    lines = [
        *_distributions(
            {
                "events per user": histories["events_per_user"],
                "distinct categories per user": histories["categories_per_user"],
            }
        ),
        "",
        *_table(["share of events ...", "of all", f"of each category's last {length}"], shares),
        "",
        f"{_percent(histories['repeat_share'])} of events repeat an item that the user had before",
    ]
    return _block("Histories", "How long histories are, and what a model of recent events would never see.", lines)


def _subsequences(subsequences: Statistics) -> str:
    length = subsequences["max_length"]
    lines = [
        *_distributions(
            {
                f"per (user, category), {subsequences['pairs']:,} of them": subsequences["length"],
                "as an event finds it, strictly before it": subsequences["found"],
            }
        ),
        "",
        f"{_percent(subsequences['share_short'])} of (user, category) pairs hold {SHORT} events or fewer, "
        f"{_percent(subsequences['share_above_max'])} more than L = {length}",
        f"{_percent(subsequences['share_found_none'])} of events find none: the user's first time in that category",
    ]
    note = f"What hard search finds: a user's events in one category (it keeps the last {length})."
    return _block("Subsequences", note, lines)


def _split(split: Statistics, actions: Statistics) -> str:
    if not split:
        return ""
    of_targets = f" of {', '.join(actions['target'])}" if actions and actions["is_chosen"] else ""
    rows = [["starts", *(part["start"][:10] for part in split.values())]]
    for label, key in (
        ("days", "days"),
        ("events", "events"),
        ("events a day", "events_per_day"),
        ("users", "users"),
        (f"distinct (user, item) pairs{of_targets}", "pairs"),
        ("  of users without a history before", "new_user_pairs"),
        ("  of items without an event before", "new_item_pairs"),
        ("  targets: the rest", "targets"),
        ("users with targets", "target_users"),
    ):
        rows.append([label, *(f"{part[key]:,.0f}" if key in part else "" for part in split.values())])
    shares = [_percent(part["novel_share"]) if "novel_share" in part else "" for part in split.values()]
    rows.append(["novel targets (never had before)", *shares])
    reach = [
        [
            f"{name}, {kind} targets",
            *(_percent(split[name][kind][f"top_{n}"]) for n in TOP),
            _percent(split[name][kind]["untouched"]),
        ]
        for name in ("validation", "test")
        for kind in ("all", "novel")
    ]
    lines = [
        *_table(["", *split], rows),
        "",
        "Rank of their categories among the user's interests (eq. 3 at the window's start): an upper bound of recall.",
        *_table(["", *(f"top {n}" for n in TOP), "never seen"], reach),
    ]
    note = "Global in time. A target is an item that a user with a past takes in the window, if it had an event before."
    return _block("Split", note, lines)


def _negatives(negatives: Statistics) -> str:
    below, shares = negatives["categories_below"], negatives["event_share_below"]
    rows = [[row["category"][:40], f"{row['events']:,}", f"{row['items']:,}"] for row in negatives["largest"]]
    lines = [
        *_distributions({"items per category": negatives["items_per_category"]}),
        "",
        *(
            f"{below[n]:,} categories have fewer than {n} items; {_percent(shares[n])} of events lie in them"
            for n in below
        ),
        "",
        *_table(["largest categories", "events", "items"], rows),
    ]
    return _block("Negatives", "Items of a category are all the negatives that an in-context batch can find.", lines)


def _columns(columns: list[Statistics]) -> str:
    rows = [
        [
            f"{row['table']}: {row['column']}",
            f"{row['values']:,}",
            _percent(row["missing_share"]),
            _percent(row["missing_event_share"]),
        ]
        for row in columns
    ]
    note = "Side features of items, profile of users, columns of events; missing is a value of its own."
    return _block("Columns", note, _table(["", "values", "missing", "by events"], rows))


def _numbers(numbers: list[Statistics]) -> str:
    if not numbers:
        return ""
    names = ("min", "p25", "median", "p75", "max")
    rows = [
        [row["column"], f"{row['values']:,}", _percent(row["missing_share"]), *_quantiles(row, names)]
        for row in numbers
    ]
    lines = [
        *_table(["", "values", "missing", *names], rows),
        "",
        *(f"{row['column']}: {row['set']}" for row in numbers),
    ]
    note = "Columns of the items that hold numbers, those that are not read among them, and what to set."
    return _block("Numbers", note, lines)


def _quantiles(row: Statistics, names: Sequence[str]) -> list[str]:
    return [f"{row[name]:.4g}" if name in row else "" for name in names]


def _contexts(statistics: Statistics) -> str:
    if len(statistics["contexts"]) < 2:
        return ""
    keys = {"top_20": "target in top 20", "untouched": "never seen"} if statistics["split"] else {}
    rows = [
        [
            row["column"] + (" *" if row["column"] == statistics["log"]["context"] else ""),
            f"{row['categories']:,}",
            _number(row["median_items"]),
            _percent(row["event_share_below_64"]),
            _percent(row["share_short"]),
            *(_percent(row[key]) for key in keys),
        ]
        for row in statistics["contexts"]
    ]
    header = ["--context=", "categories", "median items", "events below 64 items", f"pairs of <= {SHORT} events"]
    note = (
        "Each item column as the context (* the one in use). Coarser: longer subsequences, "
        "fewer interests to search, easier negatives."
    )
    return _block("Other contexts", note, _table([*header, *keys.values()], rows))
