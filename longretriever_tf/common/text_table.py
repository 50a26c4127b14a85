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

    >>> print(wrap_command("python -m m --name='a b' --other=1", 22))
    python -m m \
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
    heads = [[printable(cell)] for cell in header]
    body = [[printable(cell) for cell in row] for row in rows]
    names = [[row[0]] for row in body]
    widths = _column_widths(heads, names, body, groups)
    if sum(widths) + _GAP * (len(widths) - 1) > width:
        limit = max(_MIN_HEADING, width * 2 // 5)
        names = [_wrap(row[0], limit) for row in body]
        columns = list(zip(*body, strict=True))[1:] or [()] * (len(header) - 1)
        heads = [_wrap(heads[0][0], limit)] + [
            _wrap(head[0], max(_MIN_HEADING, *map(display_width, (*column, *head[0].split()))))
            for head, column in zip(heads[1:], columns, strict=True)
        ]
        widths = _column_widths(heads, names, body, groups)
    blocks = _split_into_blocks(widths, groups, width)
    lines = [_render_block(block, widths, (heads, names, body), groups) for block in blocks]
    return list(itertools.chain.from_iterable([[""] * (i > 0) + block for i, block in enumerate(lines)]))


def _column_widths(
    heads: Sequence[Sequence[str]], names: Sequence[Sequence[str]], body: Sequence[Sequence[str]], groups: Sequence[str]
) -> list[int]:
    """Width of each column; the first of a group is as wide as the group's name asks, if its other columns are not."""
    first = max(map(display_width, itertools.chain(heads[0], *names)), default=0)
    widths = [first] + [
        max(map(display_width, (*heads[c], *(row[c] for row in body))), default=0) for c in range(1, len(heads))
    ]
    for start, stop in _runs(groups):
        span = sum(widths[start:stop]) + _GAP * (stop - start - 1)
        widths[start] += max(0, display_width(groups[start]) - span)
    return widths


def _runs(groups: Sequence[str]) -> list[tuple[int, int]]:
    """Where neighbors of one group name start and stop; the first column is in none."""
    runs, start = [], 1
    for _, members in itertools.groupby(groups[1:]):
        stop = start + len(list(members))
        runs.append((start, stop))
        start = stop
    return runs


def _split_into_blocks(widths: Sequence[int], groups: Sequence[str], width: int) -> list[list[int]]:
    """Columns of each block: as few blocks as `width` allows, of like widths; a group stays whole where one fits."""
    room = width - widths[0]
    blocks = _fill_blocks(widths, groups, room)
    while len(closer := _fill_blocks(widths, groups, room - 1)) == len(blocks) and room > 0:
        blocks, room = closer, room - 1
    return blocks


def _fill_blocks(widths: Sequence[int], groups: Sequence[str], room: int) -> list[list[int]]:
    """Blocks filled one after the other, each with `room` next to the first column."""
    units = [list(range(*run)) for run in _runs(groups)] or [[c] for c in range(1, len(widths))]
    blocks: list[list[int]] = [[]]
    free = room
    for unit in units:
        for part in [unit] if sum(_GAP + widths[c] for c in unit) <= room else [[c] for c in unit]:
            cost = sum(_GAP + widths[c] for c in part)
            if cost > free and blocks[-1]:
                blocks.append([])
                free = room
            blocks[-1] += part
            free -= cost
    return blocks


def _render_block(
    block: Sequence[int],
    widths: Sequence[int],
    cells: tuple[Sequence[Sequence[str]], Sequence[Sequence[str]], Sequence[Sequence[str]]],
    groups: Sequence[str],
) -> list[str]:
    heads, names, body = cells
    lines = [_group_line(block, widths, heads, groups)] if any(groups) else []
    depth = max(len(heads[c]) for c in (0, *block))
    padded = [[""] * (depth - len(head)) + list(head) for head in heads]
    lines += [_line(padded[0][i], [padded[c][i] for c in block], block, widths) for i in range(depth)]
    for name, row in zip(names, body, strict=True):
        lines.append(_line(name[0], [row[c] for c in block], block, widths))
        lines += [f"  {more}" for more in name[1:]]
    return lines


def _line(first: str, cells: Sequence[str], block: Sequence[int], widths: Sequence[int]) -> str:
    parts = [first + " " * (widths[0] - display_width(first))]
    parts += [" " * (widths[c] - display_width(cell)) + cell for c, cell in zip(block, cells, strict=True)]
    return (" " * _GAP).join(parts).rstrip()


def _group_line(
    block: Sequence[int], widths: Sequence[int], heads: Sequence[Sequence[str]], groups: Sequence[str]
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
