"""Plain tables for a terminal: aligned by what characters occupy there, and never wider than it. No TensorFlow."""

import itertools
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence

from wcwidth import wcswidth, wcwidth

DEFAULT_WIDTH = 80
_MIN_WIDTH = 40
_GAP = 2
_MIN_HEADING = 14


def terminal_width() -> int:
    """Columns to write for: $COLUMNS if it is set, else the terminal's, else (a pipe, a file) 80; never below 40."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given) > 0:
        return max(_MIN_WIDTH, int(given))
    if sys.stdout is None or not sys.stdout.isatty():
        return DEFAULT_WIDTH
    return max(_MIN_WIDTH, shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns)


def display_width(text: str) -> int:
    """Columns that `text` occupies: Chinese characters take two, combining accents none.

    >>> display_width("tea"), display_width("お茶")
    (3, 4)
    """
    return max(0, wcswidth(printable(text)))


def printable(text: str) -> str:
    """`text` with line breaks, terminal control codes and other unprintable characters shown as a question mark."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def shorten(text: str, width: int) -> str:
    """The beginning of `text` on one line of at most `width` columns; "..." says that there was more.

    >>> shorten("a long name", 8)
    'a lon...'
    """
    text = printable(text)
    return text if display_width(text) <= width else _head(text, width - 3) + "..."


def wrap_command(command: str, width: int = 0) -> str:
    r"""A shell command over several lines, each but the last ended by a backslash, so that it can still be copied.

    >>> print(wrap_command("longretriever m --name='a b' --other=1", 22))
    longretriever m \
        '--name=a b' \
        --other=1
    """
    width = width or terminal_width()
    if display_width(command) <= width:
        return command
    try:
        words = [shlex.quote(word) for word in shlex.split(command)]
    except ValueError:  # an open quote: no command that a shell could run
        return command
    lines = [words[0]]
    for word in words[1:]:
        if display_width(lines[-1]) + display_width(word) + 3 <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines)


def wrap_text(text: str, indent: str = "") -> list[str]:
    """Prose as lines of the terminal's width, at most 110; `indent` before the first, two more before the others."""
    width = min(terminal_width(), 110)
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def render_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], groups: Sequence[str] = (), width: int = 0
) -> list[str]:
    """Aligned lines: the first column left, the others right.

    A table wider than `width` wraps its headings and the first column, then goes on in further blocks below, each with
    the first column again. Only a single column that is too wide by itself still runs over.

    Args:
      header: one heading per column.
      rows: cells, as many as headings.
      groups: one name per column, written over the first of neighbors with the same name; empty: none.
      width: columns to write for; 0: `terminal_width()`.

    >>> render_table(["", "p90"], [["users", "7"], ["a", "12"]])
    ['       p90', 'users    7', 'a       12']
    """
    width = width or terminal_width()
    table = [[[printable(cell)] for cell in row] for row in (header, *rows)]  # a cell is a list of lines
    widths = _column_widths(table, groups)
    if sum(widths) + _GAP * (len(widths) - 1) > width:
        limit = max(_MIN_HEADING, width * 2 // 5)
        for row in table:
            row[0] = _wrap(row[0][0], limit)
        for c in range(1, len(header)):
            widest = max(
                display_width(text) for text in (*(row[c][0] for row in table[1:]), *table[0][c][0].split(), "")
            )
            table[0][c] = _wrap(table[0][c][0], max(_MIN_HEADING, widest))
        widths = _column_widths(table, groups)
    blocks = [_render_block(block, table, widths, groups) for block in _split_into_blocks(widths, groups, width)]
    return list(itertools.chain.from_iterable([[""] * (i > 0) + block for i, block in enumerate(blocks)]))


def _column_widths(table: Sequence[Sequence[Sequence[str]]], groups: Sequence[str]) -> list[int]:
    """Width of each column; the first of a group is as wide as the group's name asks, if its other columns are not."""
    widths = [max(display_width(line) for cell in column for line in cell) for column in zip(*table, strict=True)]
    for unit in _units(groups, len(widths)):
        if any(groups):
            span = sum(widths[c] for c in unit) + _GAP * (len(unit) - 1)
            widths[unit[0]] += max(0, display_width(groups[unit[0]]) - span)
    return widths


def _units(groups: Sequence[str], num_columns: int) -> list[list[int]]:
    """Columns that stay together: neighbors of one group name, or each alone; the first column is in none."""
    columns = range(1, num_columns)
    if not groups:
        return [[c] for c in columns]
    return [list(members) for _, members in itertools.groupby(columns, key=lambda c: groups[c])]


def _split_into_blocks(widths: Sequence[int], groups: Sequence[str], width: int) -> list[list[int]]:
    """Columns of each block: as few blocks as `width` allows, of like widths; a group stays whole where one fits."""
    room = width - widths[0]
    blocks = _fill_blocks(widths, groups, room)
    while len(closer := _fill_blocks(widths, groups, room - 1)) == len(blocks) and room > 0:
        blocks, room = closer, room - 1
    return blocks


def _fill_blocks(widths: Sequence[int], groups: Sequence[str], room: int) -> list[list[int]]:
    """Blocks filled one after the other, each with `room` next to the first column."""
    blocks: list[list[int]] = [[]]
    free = room
    for unit in _units(groups, len(widths)):
        for part in [unit] if sum(_GAP + widths[c] for c in unit) <= room else [[c] for c in unit]:
            cost = sum(_GAP + widths[c] for c in part)
            if cost > free and blocks[-1]:
                blocks.append([])
                free = room
            blocks[-1] += part
            free -= cost
    return blocks


def _render_block(
    block: Sequence[int], table: Sequence[Sequence[Sequence[str]]], widths: Sequence[int], groups: Sequence[str]
) -> list[str]:
    """Group names, headings (their last lines level), and rows, whose names go on below them, indented."""
    heads, *body = table
    lines = [_group_line(block, heads, widths, groups)] if any(groups) else []
    depth = max(len(heads[c]) for c in (0, *block))
    padded = {c: [""] * (depth - len(heads[c])) + list(heads[c]) for c in (0, *block)}
    rows = [{c: padded[c][i] for c in padded} for i in range(depth)]
    for row in body:
        rows.append({c: row[c][0] for c in padded})
        rows += [{0: f"  {more}"} | dict.fromkeys(block, "") for more in row[0][1:]]
    for cells in rows:
        parts = [cells[0] + " " * (widths[0] - display_width(cells[0]))]
        parts += [" " * (widths[c] - display_width(cells[c])) + cells[c] for c in block]
        lines.append((" " * _GAP).join(parts).rstrip())
    return lines


def _group_line(
    block: Sequence[int], heads: Sequence[Sequence[str]], widths: Sequence[int], groups: Sequence[str]
) -> str:
    """Each group's name over the heading of its first column in the block."""
    line, position, previous = "", widths[0], ""
    for c in block:
        if groups[c] != previous:
            indent = widths[c] - max(map(display_width, heads[c]))
            span = sum(widths[d] + _GAP for d in block if groups[d] == groups[c] and d >= c) - _GAP
            indent = min(indent, max(0, span - display_width(groups[c])))
            line += " " * (position + _GAP + indent - display_width(line)) + groups[c]
        position, previous = position + _GAP + widths[c], groups[c]
    return line.rstrip()


def _wrap(text: str, width: int) -> list[str]:
    """`text` as lines of at most `width` columns, broken at spaces; a longer word is cut; all but the first by two."""
    if display_width(text) <= width:
        return [text]
    lines: list[str] = []
    line = ""
    words = text.split()
    while words:
        word, room = words[0], width - (_GAP if lines else 0)
        joined = f"{line} {word}" if line else word
        if display_width(joined) <= room:
            line = joined
            words.pop(0)
            continue
        if not line:
            line = _head(word, room)
            words[0] = word[len(line) :]
        lines.append(line)
        line = ""
    return [*lines, line] if line else lines


def _head(text: str, width: int) -> str:
    """The longest beginning of `text` that occupies at most `width` columns, one character at least."""
    taken = 0
    for n, character in enumerate(text):
        taken += max(0, wcwidth(character))
        if taken > width:
            return text[: max(1, n)]
    return text
