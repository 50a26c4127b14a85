"""How one request grows: CPU time and memory against history length, batch, categories and corpus; JSON and curves.

  python benchmarks/bench_growth.py --output=results/bench_growth.json
  python benchmarks/bench_growth.py --bench_axes=items --bench_item_counts=65000,1000000,10000000

Worlds are generated: items fall to categories by Zipf's law, vectors and weights are drawn, histories repeat a tenth
as many items as they have events. Speed does not depend on the weights. Interests are drawn by eq. 3, so that large
categories are searched, and the learned score is computed as ever. Each model is saved, loaded as the server does by a
fresh process with one thread, and asked: medians of its CPU time, and by how much its memory grew over what it held
with the model loaded. `exponent` is the slope of a straight line fitted to the logarithms by least squares (1: linear,
0: no growth); `last_exponent` is the slope between the two largest sizes, where fixed costs weigh least.
"""

import ctypes
import dataclasses
import json
import os
import tempfile
import time
from typing import Any

import numpy as np
from absl import flags as absl_flags
from fresh_process import AS_SERVED, ONE_THREAD, ask_in_fresh_process
from zipf_sizes import zipf_sizes

from longretriever_tf.config import flags

_DEFAULTS = {"events": 20_000, "batch": 1, "categories": 300, "items": 65_000}
_NOW = 1_700_000_000

_AXES = absl_flags.DEFINE_list("bench_axes", list(_DEFAULTS), "What grows, each in turn.")
_SIZES = {
    "events": absl_flags.DEFINE_list("bench_event_counts", ["200", "2000", "20000", "100000"], "Events per history."),
    "batch": absl_flags.DEFINE_list("bench_batches", ["1", "4", "16", "64"], "Histories per request."),
    "categories": absl_flags.DEFINE_list("bench_category_counts", ["300", "1000", "3000", "10000"], "Categories."),
    "items": absl_flags.DEFINE_list("bench_item_counts", ["65000", "250000", "1000000"], "Items in all."),
}
_ZIPF = absl_flags.DEFINE_float("bench_zipf", 0.6, "Size of the category of rank r is proportional to r ** -this.")
_ROUNDS = absl_flags.DEFINE_integer("bench_rounds", 11, "Requests of each size; the median counts.", lower_bound=1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there, and the curves alongside it as PNG.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin

    os.environ.update(ONE_THREAD | AS_SERVED)
    facts = describe_origin("python benchmarks/bench_growth.py", 1) | {"threads": 1, "by_default": _DEFAULTS}
    facts["curves"] = {axis: _grow(axis, sorted(map(int, _SIZES[axis].value))) for axis in _AXES.value}
    facts["load_average"] = os.getloadavg()[0]
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")
        _plot(facts["curves"], os.path.splitext(_OUTPUT.value)[0] + ".png")


def _grow(axis: str, sizes: list[int]) -> dict[str, Any]:
    """One curve: a model for each size, or one for all where only the request grows."""
    plans = [_DEFAULTS | {axis: size} for size in sizes]
    points: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for plan in plans:
            model = os.path.join(folder, f"{plan['categories']}-{plan['items']}")
            if not os.path.isdir(model):
                _save(plan, model)
            points.append(ask_in_fresh_process("bench_growth", model, plan, _ROUNDS.value))
            costs = "  ".join(f"{name} {value:.2f}" for name, value in points[-1].items())
            print(f"{axis:10s} {plan[axis]:>10,d}  {costs}", flush=True)
    curve: dict[str, Any] = {"sizes": sizes} | {name: [point[name] for point in points] for name in points[0]}
    for name in ("cpu_ms", "request_mb"):
        curve[f"{name}_exponent"] = _slope(sizes, curve[name])
        curve[f"{name}_last_exponent"] = _slope(sizes[-2:], curve[name][-2:])
    return curve


def _slope(sizes: list[int], costs: list[float]) -> float:
    """Exponent b of cost = a size ** b, by least squares on logarithms; NaN for a single size."""
    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-3)), 1)[0])


def _save(plan: dict[str, int], folder: str) -> None:
    """Saves an untrained model of a generated corpus, with the signature that answers requests."""
    import tensorflow as tf

    from longretriever_tf.config.config import Config, DataConfig
    from longretriever_tf.models.build import build_models
    from longretriever_tf.retrieval.multi_context import MultiContextRetriever
    from longretriever_tf.retrieval.signatures import make_signatures

    config = Config(data=DataConfig(dataset="event_log"))
    config = dataclasses.replace(config, retrieval=dataclasses.replace(config.retrieval, interest="paper"))
    corpus, rng = _make_corpus(plan["items"], plan["categories"]), np.random.default_rng(1)
    svd = rng.standard_normal([corpus.num_items, config.model.svd_dim], np.float32) * np.float32(0.1)
    models = build_models(config, corpus, svd)
    item, category = (np.zeros([size, 3], np.float32) for size in (corpus.num_items, corpus.num_categories))
    arrays = {"item_stats": item, "category_stats": category, "taste_rows": svd[None]}
    model = MultiContextRetriever(config, corpus, models.retriever, models.interest, arrays)
    signature = make_signatures(model, config.retrieval)["serving_default"]
    tf.saved_model.save(model, folder, signatures={"serving_default": signature})


def _make_corpus(num_items: int, num_categories: int) -> Any:
    from longretriever_tf.data.corpus import Corpus

    sizes = np.concatenate([[1, 1], zipf_sizes(num_items, num_categories, _ZIPF.value)])  # padding, unknown
    total, names = int(sizes.sum()), np.array(["", "?", *(f"c{c}" for c in range(num_categories))])
    category = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    offset = np.concatenate([[0], np.cumsum(sizes)])
    ids, features = np.arange(total), np.zeros([total, 0], np.int32)
    return Corpus(_NOW, "category", ids, ids.astype(str), category, features, offset, sizes, names, {}, {})


def ask(folder: str, plan: dict[str, int], rounds: int) -> None:
    """What the fresh process does: loads, asks, prints JSON."""
    from longretriever_tf.serving.server import memory
    from longretriever_tf.serving.server.loaded import LoadedModel

    memory.keep_freed_memory()
    model = LoadedModel("bench", 1, folder)
    signature = model.signatures["serving_default"]
    feeds = dict(signature.defaults) | _columns(plan)
    inputs = {name: feeds[name] for name in signature.inputs}
    tiny = inputs | {name: inputs[name][:, :1] for name in ("history_item_id", "history_timestamp")}
    model.run(signature, tiny)
    # Freed memory is kept, so what a request made the process grow by is the most that it held at once.
    ctypes.CDLL(None).malloc_trim(0)
    loaded_mb = _memory_mb()
    model.run(signature, inputs)
    took = []
    for _ in range(rounds):
        start = time.process_time()
        model.run(signature, inputs)
        took.append(1000 * (time.process_time() - start))
    facts = {"cpu_ms": float(np.median(took)), "loaded_mb": loaded_mb, "request_mb": _memory_mb() - loaded_mb}
    print(json.dumps(facts))


def _columns(plan: dict[str, int]) -> dict[str, np.ndarray]:
    """Generated histories over two years; ids of `_make_corpus` are the item indices."""
    rng, batch, events = np.random.default_rng(2), plan["batch"], plan["events"]
    own = rng.integers(2, plan["items"] * 9 // 10, [batch, max(events // 10, 1)])
    times = np.sort(_NOW - rng.integers(1, 730 * 86_400, [batch, events]), axis=1)
    return {
        "history_item_id": np.take_along_axis(own, rng.integers(0, own.shape[1], [batch, events]), 1),
        "history_timestamp": times,
        "request_timestamp": np.full(batch, _NOW),
        "num_interests": np.full(batch, 5, np.int32),
        "seed": np.ones(batch, np.int64),
    }


def _memory_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _plot(curves: dict[str, Any], path: str) -> None:
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(4 * len(curves), 6), layout="constrained")
    panels = canvas.subplots(2, len(curves), squeeze=False)
    for column, (axis, curve) in enumerate(curves.items()):
        for row, (name, label) in enumerate((("cpu_ms", "CPU ms per request"), ("request_mb", "MB per request"))):
            panel = panels[row][column]
            panel.loglog(curve["sizes"], np.maximum(curve[name], 1e-3), marker="o")
            slopes = f"exponent {curve[f'{name}_exponent']:.2f}, at last {curve[f'{name}_last_exponent']:.2f}"
            panel.set(xlabel=axis, ylabel=label, title=slopes)
            panel.grid(alpha=0.3)
    canvas.savefig(path, dpi=120)


if __name__ == "__main__":
    flags.run_command(main)
