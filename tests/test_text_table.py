"""Tables for a terminal: never wider than it, whatever is in them."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from trained import ROOT

from longretriever_tf.common.text_table import display_width, render_table, shorten, terminal_width, wrap_command
from longretriever_tf.evaluation.funnel.text import text_report
from longretriever_tf.evaluation.table import text_table

HEADER = ["model", *(f"recall@{k}" for k in (20, 50, 100, 500)), "ndcg@100", "an uncommonly long heading of a column"]
GROUPS = ["", "all", "all", "novel", "novel", "within category, novel", "x"]
NAMES = (
    "plain",
    "a name of many words that wants to run over several lines",
    "w" * 70,
    "お茶と抹茶の売り場",
    "é̂̂" * 9,
    "",
)


def _rows():
    return [[name, *(f"{row + 0.1 * column:.4f}" for column in range(6))] for row, name in enumerate(NAMES)]


@pytest.mark.parametrize("groups", [(), GROUPS])
@pytest.mark.parametrize("width", [40, 57, 80, 120, 400])
def test_no_line_is_wider_and_every_cell_is_there(width, groups):
    lines = render_table(HEADER, _rows(), groups, width)
    assert max(map(display_width, lines)) <= width
    words = " ".join(lines).split()
    for cell in (cell for row in _rows() for cell in row[1:]):
        assert words.count(cell) == 1
    assert "".join(lines).count("w") >= 70  # a long word is cut, not lost
    if width == 400:
        assert len(lines) == len(NAMES) + 1 + bool(groups)


def test_columns_line_up_by_what_characters_occupy():
    lines = render_table(["", "n"], [["お茶", "1"], ["tea", "22"], ["cafe\u0301", "333"]])
    assert lines == ["        n", "お茶    1", "tea    22", "cafe\u0301  333"]
    assert {display_width(line) for line in lines} == {9}


def test_line_breaks_and_terminal_codes_stay_out():
    lines = render_table(["name", "n"], [["two\nlines\r\x1b[31mred\u202e", "1"]])
    assert len(lines) == 2 and lines[1].startswith("two?lines??[31mred?") and all(map(str.isprintable, lines))
    assert (
        shorten("a" * 10**6, 12) == "a" * 9 + "..."
        and shorten("お茶お茶お茶", 9) == "お茶お..."
        and shorten("tea", 3) == "tea"
    )


def test_group_names_never_run_together():
    header, groups = ["m", "r@1", "r@2", "r@3"], ["", "within category", "within category, novel", "untouched"]
    first, second, _ = render_table(header, [["a", "1", "2", "3"]], groups, 200)
    assert first.split("  ")[0] == "" and [name for name in groups if name and f"  {name}" in first] == groups[1:]
    assert second.split() == header


def test_a_wrapped_command_is_still_the_command():
    command = "longretriever evaluate --run_dir='my runs/a b' --split=test --output=/a/long/path/metrics.json"
    wrapped = wrap_command(command, 50)
    assert max(map(len, wrapped.splitlines())) <= 50 and len(wrapped.splitlines()) > 2
    assert shlex.split(wrapped.replace("\\\n", " ")) == shlex.split(command)
    assert wrap_command("data: it's open " * 9, 50) == "data: it's open " * 9


@pytest.mark.parametrize(("columns", "width"), [("132", 132), ("7", 40), ("", 80), ("wide", 80), ("-3", 80), ("0", 80)])
def test_the_width_is_that_of_columns_or_80_where_nobody_watches(columns, width):
    code = "from longretriever_tf.common.text_table import terminal_width; print(terminal_width())"
    env = os.environ | {"COLUMNS": columns, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert int(done.stdout) == width


def test_published_tables_fit_80_columns(monkeypatch):
    """Every evaluation and funnel under results/, as the commands print them; their metrics are all there."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert terminal_width() == 80
    paths = sorted(ROOT.glob("results/*/*.json"))
    shown = 0
    for path in paths:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or not {"command", "date", "seed"} <= set(held):
            continue
        render = text_table if "models" in held else text_report if "stands" in held else None
        if render:
            lines = [line for line in render(held).splitlines() if "--" not in line]
            assert max(map(display_width, lines)) <= 80, path
            shown += 1
    assert shown > 20
