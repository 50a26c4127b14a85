"""Fits the capacity planner's models on the measurements in results/: longretriever_tf/planning/fitted.json.

  python benchmarks/fit_plan.py

Each figure is a sum of terms that never fall where an input grows (non-negative least squares on relative errors). Of
each figure's measurements some are held out: the fit does not see them, and their errors are what `plan` prints.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags as absl_flags
from scipy.optimize import nnls

from longretriever_tf.config import flags
from longretriever_tf.planning.estimate import EVENTS_PER_SHARD

_RESULTS = absl_flags.DEFINE_string("results", "results", "Folder of the measurements.")
_OUTPUT = absl_flags.DEFINE_string("output", "longretriever_tf/planning/fitted.json", "What ships with the package.")


class Point(NamedTuple):
    """A measurement: of which file, at which inputs, its value, and whether the fit leaves it out."""

    source: str
    inputs: Mapping[str, float]
    value: float
    is_held_out: bool


class Figure(NamedTuple):
    """What is fitted: its unit, its terms, its measurements, and what they are of."""

    unit: str
    terms: tuple[str, ...]
    points: Callable[[Callable[[str], Any]], list[Point]]
    note: str


def _sizes(part: str, measured: str, named: str) -> Callable[[Callable[[str], Any]], list[Point]]:
    """Points of bench_sizes.json or bench_export_sizes.json: every second size is held out."""
    source, least = ("bench_export_sizes", "items") if part == "exports" else ("bench_sizes", "events")

    def points(read: Callable[[str], Any]) -> list[Point]:
        rows = read(source)[part]
        return [Point(source, {named: row[least]}, row[measured], at % 2 == 1) for at, row in enumerate(rows)]

    return points


def _worker_points(read: Callable[[str], Any]) -> list[Point]:
    """A worker of `prepare` holds one shard; shards hold 2 million events, or all of a smaller log."""
    rows = read("bench_sizes")["on_disk"]
    held = [min(row["events"], EVENTS_PER_SHARD) for row in rows]
    return [
        Point("bench_sizes", {"shard_events": num_events}, row["peak_mb"], at % 2 == 1)
        for at, (row, num_events) in enumerate(zip(rows, held, strict=True))
    ]


def _request_points(read: Callable[[str], Any]) -> list[Point]:
    """CPU of one request in the model by what grows; held out: a middle size of each."""
    held_out = {"events": 20_000, "items": 1_000_000, "categories": 3_000}
    points = []
    for source in ("bench_growth", "bench_growth_items"):
        facts = read(source)
        for axis in sorted(set(held_out) & set(facts["curves"])):
            curve = facts["curves"][axis]
            for size, cpu_ms in zip(curve["sizes"], curve["cpu_ms"], strict=True):
                at = facts["by_default"] | {axis: size}
                inputs = {
                    "events_per_user": at["events"],
                    "items_per_category": at["items"] / at["categories"],
                    "categories": at["categories"],
                }
                points.append(Point(source, inputs, cpu_ms, size == held_out[axis]))
    return sorted(points, key=lambda point: (point.source, *point.inputs.values(), point.value))


def _served_points(read: Callable[[str], Any]) -> list[Point]:
    """Two cores over answers a second, callers included, by gRPC; held out: 8 callers at 2,000, 2 callers at 200."""
    points = []
    for load in read("bench_serving")["load"]:
        if load["transport"] == "gRPC":
            inputs = {"events_per_user": load["history_length"]}
            points.append(
                Point("bench_serving", inputs, 2000 / load["throughput_per_s"], load["history_length"] < 1000)
            )
    for row in read("serving_batching")["rows"]:
        if (row["server"], row["transport"]) == ("this server", "gRPC"):
            inputs, rate = {"events_per_user": row["history_length"]}, np.mean(row["answers_per_s"])
            points.append(Point("serving_batching", inputs, 2000 / rate, row["history_length"] > 1000))
    return points


def _cpu_training_points(read: Callable[[str], Any]) -> list[Point]:
    """Two cores; held out: the same step with two layers, and its repeats."""
    points = [Point("bench_training", {}, 2 / read("bench_training")["examples_per_s"]["both"], False)]
    points.append(Point("bench_plain_training", {}, 2 / read("bench_plain_training")["ours"]["both"], True))
    runs = read("bench_plain_training_again")["runs"]
    return points + [Point("bench_plain_training_again", {}, 2 / run["ours"]["both"], True) for run in runs]


def _h100_points(read: Callable[[str], Any]) -> list[Point]:
    """One size: its median, and no other to hold out."""
    return [Point("bench_training_gpu", {}, 1 / read("bench_training_gpu")["examples_per_s"]["end_to_end"], False)]


FIGURES = {
    "log_bytes": Figure(
        "bytes", ("events",), _sizes("on_disk", "log_bytes", "events"), "generated logs, 600 events a user"
    ),
    "prepare_cpu_s": Figure(
        "s", ("constant", "events"), _sizes("on_disk", "cpu_s", "events"), "generated logs in Parquet, one worker"
    ),
    "prepare_worker_mb": Figure(
        "MB", ("constant", "shard_events"), _worker_points, "a worker's largest memory, 68,000 items"
    ),
    "memory_path_mb": Figure(
        "MB", ("constant", "events"), _sizes("in_memory", "peak_mb", "events"), "without kept histories"
    ),
    "training_h100_s_per_example": Figure(
        "s", ("constant",), _h100_points, "two layers, up to 50 tokens; repeats 8% apart"
    ),
    "training_cpu_s_per_example": Figure("s", ("constant",), _cpu_training_points, "pipeline included"),
    "export_bytes": Figure(
        "bytes", ("constant", "items"), _sizes("exports", "bytes", "items"), "default recipe, 300 categories"
    ),
    "loaded_mb": Figure(
        "MB", ("constant", "items"), _sizes("exports", "loaded_mb", "items"), "default recipe, 300 categories"
    ),
    "request_cpu_ms": Figure(
        "ms",
        ("constant", "events_per_user", "items_per_category", "categories"),
        _request_points,
        "in the model, one thread, 5 interests",
    ),
    "served_core_ms": Figure(
        "ms", ("constant", "events_per_user"), _served_points, "gRPC, 20 interests, callers on the same cores"
    ),
}


def main(argv: list[str]) -> None:
    """Fits and writes."""
    del argv
    from longretriever_tf.common.files import write_text_atomically

    models = {name: _fit(figure, _read) for name, figure in FIGURES.items()}
    facts = {"command": "python benchmarks/fit_plan.py", "models": models}
    write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")
    for name, model in models.items():
        error = model["worst_error"]
        shown = "no held-out size" if error is None else f"{error:.1%} on {len(model['held_out'])} held out"
        print(f"{name:28s} {shown}")


def _read(source: str) -> Any:
    with open(os.path.join(_RESULTS.value, f"{source}.json"), encoding="utf-8") as file:
        return json.load(file)


def _fit(figure: Figure, read: Callable[[str], Any]) -> dict[str, Any]:
    """The model of a figure, as `planning.fitted.FittedModel` reads it."""
    points = figure.points(read)
    rows = np.array([[({"constant": 1.0} | point.inputs)[term] for term in figure.terms] for point in points])
    values, is_held_out = (np.array(column) for column in ([p.value for p in points], [p.is_held_out for p in points]))
    scale = rows.max(0)  # inputs of some millions and of 1 in one system
    mine = ~is_held_out
    weights = nnls((rows / scale / values[:, None])[mine], np.ones(mine.sum()))[0] / scale
    predicted = rows @ weights
    errors = np.abs(predicted / values - 1)[is_held_out]
    return {
        "unit": figure.unit,
        "coefficients": dict(zip(figure.terms, weights.tolist(), strict=True)),
        "sources": sorted({f"results/{point.source}.json" for point in points}),
        "worst_error": float(errors.max()) if len(errors) else None,
        "held_out": [
            {"inputs": point.inputs, "measured": point.value, "predicted": float(prediction)}
            for point, prediction in zip(points, predicted, strict=True)
            if point.is_held_out
        ],
        "largest": {term: float(rows[:, at].max()) for at, term in enumerate(figure.terms) if term != "constant"},
        "note": figure.note,
    }


if __name__ == "__main__":
    flags.run_command(main)
