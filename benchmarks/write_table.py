"""One table of what the benchmarks measured: results/bench_*.json to Markdown and JSON.

  python benchmarks/write_table.py --results=results --output=results/benchmarks.md

Each row names the command that measured it, the machine, the date and the load that the machine was under. A benchmark
that has not run, or a part of it that was left out, has no row.
"""

import json
import os
from typing import Any, NamedTuple

from absl import flags as absl_flags

from longretriever_tf.config import flags

_RESULTS = absl_flags.DEFINE_string("results", "results", "Folder of the bench_*.json files.")
_OUTPUT = absl_flags.DEFINE_string("output", "results/benchmarks.md", "The table; the same as JSON alongside it.")


class Row(NamedTuple):
    """A row of the table: which number, where it lies in the benchmark's JSON, what it is, and how it is shown.

    Attributes:
      path: keys, by dots; `*` stands for each key or index of that level, and is appended to the label.
      label: what people read.
      unit: after the number.
    """

    path: str
    label: str
    unit: str


ROWS: dict[str, tuple[Row, ...]] = {
    "bench_training": (
        Row("examples_per_s.pipeline", "input pipeline alone", "examples/s"),
        Row("examples_per_cpu_s.pipeline", "input pipeline alone, one core", "examples per CPU second"),
        Row("examples_per_s.steps", "training step alone", "examples/s"),
        Row("examples_per_s.both", "training, pipeline included", "examples/s"),
        Row("padding_share", "share of token slots that are padding", ""),
    ),
    "bench_training_gpu": (
        Row("examples_per_s.end_to_end", "one GPU, L = 50, 2 layers: whole epochs, plan included", "examples/s"),
        Row("plan_s", "of an epoch: the plan and its transfer", "s"),
        Row("compile_s", "compiling all shapes, once a run", "s"),
        Row("hours_for_1e10_examples", "at that rate, ten billion examples", "hours"),
    ),
    "bench_plain_training": (
        Row("ours.both", "L = 50, 2 layers: ours", "examples/s"),
        Row("plain.both", "L = 50, 2 layers: plain TFRS", "examples/s"),
        Row("times_as_fast.*", "ours over plain,", "times"),
        Row("equal_examples.*.seconds", "as many examples: training,", "s"),
        Row("equal_examples.*.recall@100", "as many examples: recall@100,", ""),
        Row("equal_examples.*.within_category_recall@20", "as many examples: recall@20 within categories,", ""),
        Row("matrix_multiply.share", "time of the useful matrix products alone over that of the step", ""),
    ),
    "bench_request": (
        Row("ours.*.model", "one request inside the model, per history, batch", "CPU ms"),
        Row("default_over_fixed.*", "the same over a request of --bench_interests, batch", "times"),
        Row("ours.*.json_decode", "its JSON to arrays, batch", "CPU ms"),
        Row("plain.*.ratio", "plain per-category TFRS over ours, batch", "times"),
        Row("plain_reordered.*.ratio", "the same with layers of more effort, batch", "times"),
    ),
    "bench_growth": (
        Row("curves.*.cpu_ms_exponent", "exponent of a request's CPU time in", ""),
        Row("curves.*.cpu_ms_last_exponent", "the same between the two largest sizes, in", ""),
        Row("curves.*.request_mb_exponent", "exponent of a request's memory in", ""),
    ),
    "bench_index": (
        Row("items", "made corpus by Zipf's law: items", ""),
        Row("categories", "in categories", ""),
        Row("*.recall", "recall@100 against exact search in a fresh process, mean of categories, index", ""),
        Row("*.worst_recall", "the same, worst category, index", ""),
        Row("*.warm_ms", "searching 20 categories for one request, index", "ms"),
        Row("*.build_s", "building it, index", "s"),
    ),
    "bench_exports": (
        Row("*.load_s", "loading an export, index", "s"),
        Row("*.warm_ms.20000", "warm request, T = 20,000, index", "ms"),
        Row("*.fresh_recall.worst", "recall in a fresh process, worst category, index", ""),
    ),
    "bench_serving": (
        Row("load.*.throughput_per_s", "server under load, run", "requests/s"),
        Row("load.*.latency_ms.p95", "p95 of run", "ms"),
    ),
    "bench_make_log": (
        Row("made.*.events_per_cpu_s", "generated log, one core,", "events/s"),
        Row("made.*.peak_mb", "the same, memory,", "MB"),
    ),
    "bench_vectors": (
        Row("20 interests.*.recall@100.serving_default", "recall@100 of the export on the users of", ""),
        Row("20 interests.*.recall@100.with both", "recall@100 of its vectors, repeat term and log-partition in", ""),
        Row("20 interests.*.recall@100.vectors alone", "the vectors alone in", ""),
    ),
    "bench_peers": (
        Row("sides.*.examples_per_s", "peers: rows a second,", "rows/s"),
        Row("sides.*.pairs_per_s", "peers: pairs a second,", "pairs/s"),
        Row("to_the_same.*.*.recall", "the best recall that both reach,", ""),
        Row("to_the_same.*.*.theirs_s", "theirs to it,", "s"),
        Row("to_the_same.*.*.ours_s", "ours to it,", "s"),
    ),
}


def main(argv: list[str]) -> None:
    """Writes the table."""
    del argv
    from longretriever_tf.common.files import write_text_atomically

    rows = make_rows(_RESULTS.value)
    write_text_atomically(_OUTPUT.value, as_markdown(rows))
    write_text_atomically(os.path.splitext(_OUTPUT.value)[0] + ".json", json.dumps(rows, indent=2) + "\n")
    print(f"{len(rows)} rows: {_OUTPUT.value}")


def make_rows(folder: str) -> list[dict[str, Any]]:
    """The rows of every benchmark whose JSON lies in the folder."""
    table = []
    for name, rows in ROWS.items():
        path = os.path.join(folder, f"{name}.json")
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
        origin = {key: facts.get(key, "") for key in ("command", "machine", "date", "load_average")}
        for row in rows:
            for tail, value in _find(facts, row.path.split(".")):
                label = " ".join([row.label, *tail])
                table.append({"benchmark": name, "figure": label, "value": value, "unit": row.unit, **origin})
    return table


def _find(facts: Any, path: list[str]) -> list[tuple[list[str], float]]:
    """Every number at `path`, with what its stars stood for."""
    if not path:
        return [([], float(facts))] if isinstance(facts, int | float) else []
    if isinstance(facts, list):
        facts = {str(index): value for index, value in enumerate(facts)}
    if not isinstance(facts, dict):
        return []
    if path[0] != "*":
        return _find(facts[path[0]], path[1:]) if path[0] in facts else []
    return [([key, *tail], value) for key, inner in facts.items() for tail, value in _find(inner, path[1:])]


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """A table per benchmark, under the command that filled it."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (benchmarks/write_table.py) from the JSON files beside it.",
        "",
    ]
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        mine = [row for row in rows if row["benchmark"] == name]
        first = mine[0]
        load = f", load {first['load_average']:.1f}" if isinstance(first["load_average"], float) else ""
        lines += [f"## {name}", f"`{first['command']}` ({first['date']}, {first['machine']}{load})", ""]
        lines += ["| figure | value |", "| --- | ---: |"]
        lines += [f"| {row['figure']} | {_shown(row['value'])} {row['unit']} |" for row in mine] + [""]
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    flags.run_command(main)
