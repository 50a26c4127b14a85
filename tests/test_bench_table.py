"""The table of benchmarks: numbers found by path, under the command that measured them."""

import json
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "benchmarks"))
import write_table


def write(folder, name, facts):
    (folder / f"{name}.json").write_text(json.dumps(facts))


def test_numbers_are_found_by_path_and_shown_under_their_command(tmp_path):
    origin = {
        "command": "python benchmarks/bench_request.py",
        "date": "2026-01-02",
        "machine": "M",
        "load_average": 1.25,
    }
    parts = {"1": {"model": 2.5, "json_decode": 4.0}, "32": {"model": 1234.4}}
    write(tmp_path, "bench_request", origin | {"ours": parts, "plain": {"recall": 0.9, "1": {"ratio": 5.5}}})
    rows = write_table.make_rows(str(tmp_path))
    assert [(row["figure"], row["value"]) for row in rows] == [
        ("one request inside the model, per history, batch 1", 2.5),
        ("one request inside the model, per history, batch 32", 1234.4),
        ("its JSON to arrays, batch 1", 4.0),
        ("plain per-category TFRS over ours, batch 1", 5.5),
    ]
    text = write_table.as_markdown(rows)
    assert "`python benchmarks/bench_request.py` (2026-01-02, M, load 1.2)" in text
    assert "| one request inside the model, per history, batch 32 | 1,234 CPU ms |" in text


def test_indices_of_lists_are_named(tmp_path):
    write(tmp_path, "bench_serving", {"load": [{"throughput_per_s": 40.0}, {"throughput_per_s": 20.0}]})
    rows = [(row["figure"], row["value"]) for row in write_table.make_rows(str(tmp_path))]
    assert rows == [("server under load, run 0", 40.0), ("server under load, run 1", 20.0)]


@pytest.mark.parametrize("name", sorted(write_table.ROWS))
def test_every_benchmark_of_the_table_exists(name):
    assert os.path.exists(
        os.path.join(os.path.dirname(__file__), "..", "benchmarks", f"{name.removesuffix('_gpu')}.py")
    )
