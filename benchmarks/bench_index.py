"""Every kind of category index alongside the plain design, in one run: size, load, first and warm request, recall.

  python benchmarks/bench_index.py --bench_sizes=complete_journey [--bench_kinds=packed,auto,scann,plain]
  python benchmarks/bench_index.py --bench_sizes=250000,250000,250000,250000
  python benchmarks/bench_index.py --bench_sizes=zipf:1000000:300 --output=results/bench_index.json

Each kind is saved, then loaded and asked in a fresh process: the interests of one request, each in a category of its
own. `plain` is the comparison: one TFRS layer per category, ScaNN with TFRS's own settings from 100 items on and brute
force below, a Python loop over the categories, a SavedModel per layer (in one they would mix: retrieval/index/scann.py
says why). `plain_reordered` searches all leaves of small categories, three in ten of those from 1,000 items on, and
reorders 1,000 candidates. Item vectors are generated: clusters of unequal size, with biases; user vectors lean to one.
"""

import gc
import json
import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import plain_design
from absl import flags as absl_flags
from fresh_process import ask_in_fresh_process
from zipf_sizes import zipf_sizes

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags

flags.define_config_flags("index")
_SIZES = absl_flags.DEFINE_list(
    "bench_sizes",
    ["complete_journey"],
    "Items per category, comma separated; complete_journey: the sizes of that log's own categories; "
    "zipf:ITEMS:CATEGORIES: sizes by Zipf's law, as --bench_zipf has it.",
)
_ZIPF = absl_flags.DEFINE_float("bench_zipf", 0.6, "Size of the category of rank r is proportional to r ** -this.")
_KINDS = absl_flags.DEFINE_list(
    "bench_kinds", ["packed", "auto", "scann", "plain", "plain_reordered"], "What is measured."
)
_INTERESTS = absl_flags.DEFINE_integer("bench_interests", 20, "R: categories searched per request.", lower_bound=1)
_REQUESTS = absl_flags.DEFINE_integer("bench_requests", 30, "Warm requests; the median counts.", lower_bound=1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")
_DIM = 64
_K = plain_design.K


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin

    config = flags.config_from_flags().index
    offset = np.concatenate([[0, 1, 2], 2 + np.cumsum(_category_sizes())])
    vectors, bias, queries = _make_world(offset)
    facts: dict[str, Any] = {
        **describe_origin("python benchmarks/bench_index.py", 1),
        "items": int(offset[-1]) - 2,
        "categories": len(offset) - 3,
        "largest": int(np.diff(offset).max()),
    }
    print(json.dumps(facts))
    header = (
        f"{'kind':15s} {'searchers':>9s} {'build s':>8s} {'MB':>7s} {'load s':>7s} {'first ms':>9s} {'warm ms':>8s}"
    )
    print(f"{header} {'recall':>7s} {'worst':>7s} {'memory MB':>9s}")
    for kind in _KINDS.value:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            count = _save(kind, config, vectors, bias, offset, queries, folder)
            build_s = time.perf_counter() - start
            np.savez(os.path.join(folder, "asked.npz"), vectors=vectors, bias=bias, offset=offset, queries=queries)
            asked = ask_in_fresh_process("bench_index", kind, folder, _INTERESTS.value, _REQUESTS.value)
            facts[kind] = asked | {"searchers": count, "build_s": build_s}
        one = facts[kind]
        print(
            f"{kind:15s} {count:9d} {build_s:8.1f} {one['mb']:7.1f} {one['load_s']:7.2f} {one['first_ms']:9.1f} "
            f"{one['warm_ms']:8.2f} {one['recall']:7.4f} {one['worst_recall']:7.4f} {one['memory_mb']:9.0f}",
            flush=True,
        )
    for plain in ("plain", "plain_reordered"):
        for kind in ("packed", "auto", "scann"):
            if plain in facts and kind in facts:
                ratio = facts[plain]["warm_ms"] / facts[kind]["warm_ms"]
                print(f"{kind}: {ratio:.2f} times the speed of {plain} (recall {facts[plain]['recall']:.3f})")
    facts["load_average"] = os.getloadavg()[0]
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _category_sizes() -> list[int]:
    if _SIZES.value[0].startswith("zipf:"):
        numbers = _SIZES.value[0].split(":")[1:]
        if len(numbers) != 2 or not all(number.isdigit() and int(number) for number in numbers):
            raise UserError(
                f"--bench_sizes={_SIZES.value[0]}: expected zipf:ITEMS:CATEGORIES, such as zipf:1000000:300"
            )
        items, categories = map(int, numbers)
        return zipf_sizes(items, categories, _ZIPF.value).tolist()
    if _SIZES.value != ["complete_journey"]:
        return [int(size) for size in _SIZES.value]
    from longretriever_tf.config.config import DataConfig
    from longretriever_tf.datasets.load import load_log

    log = load_log(DataConfig())
    rows = np.unique(log.item_row)
    return np.unique(log.items.features[log.context][rows], return_counts=True)[1].tolist()


def _make_world(offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Item vectors [V, D], biases [V], user vectors [64, D]."""
    rng = np.random.default_rng(1)
    centers = rng.standard_normal([500, _DIM]).astype(np.float32)
    cluster = np.minimum(rng.zipf(1.3, offset[-1]), 500) - 1
    vectors = centers[cluster] + rng.standard_normal([offset[-1], _DIM]).astype(np.float32)
    bias = rng.normal(0, 1.5, offset[-1]).astype(np.float32)
    queries = centers[rng.integers(0, 500, 64)] * 0.3 + 0.3 * rng.standard_normal([64, _DIM]).astype(np.float32)
    return 0.3 * vectors, bias, queries.astype(np.float32)


def _save(
    kind: str, config: Any, vectors: np.ndarray, bias: np.ndarray, offset: np.ndarray, queries: np.ndarray, folder: str
) -> int:
    """Saves an index under `folder`; returns how many ScaNN searchers it holds."""
    import dataclasses

    import tensorflow as tf

    from longretriever_tf.retrieval.index.build import build_index, searched_by_scann
    from longretriever_tf.retrieval.index.exact import PackedIndex
    from longretriever_tf.retrieval.index.scann_tuning import CheckQueries

    if kind.startswith("plain"):
        return plain_design.save_layers(kind, vectors, bias, offset, folder, range(2, len(offset) - 1))
    packed = PackedIndex(vectors, bias, offset)
    config = dataclasses.replace(config, index=kind)
    asked = {c: CheckQueries(queries[::2], queries[1::2], 0) for c in searched_by_scann(config, offset)}
    index, report = build_index(config, packed, _corpus(offset), asked)
    holder = tf.Module()
    holder.index = index
    tf.saved_model.save(holder, os.path.join(folder, "model"))
    return sum(one.kind == "scann" for one in report.categories)


def _corpus(offset: np.ndarray) -> Any:
    from longretriever_tf.data.corpus import Corpus

    names, none = np.array([f"c{c}" for c in range(len(offset) - 1)]), np.zeros(0)
    return Corpus(0, "category", none, none, none, none, offset, np.diff(offset), names, {}, {})


def ask(kind: str, folder: str, interests: int, requests: int) -> None:
    """What the fresh process does: loads, asks, compares; prints JSON."""
    import longretriever_tf  # noqa: F401, I001 - selects Keras 2 before TensorFlow is imported
    import tensorflow_recommenders  # noqa: F401 - registers ScaNN's operations for the plain design

    from longretriever_tf.retrieval.index.scann_ops import load_ops
    from longretriever_tf.retrieval.index.scann_tuning import recall_of

    load_ops()
    with np.load(os.path.join(folder, "asked.npz")) as stored:
        world = dict(stored)
    offset, queries = world["offset"], world["queries"]
    before = _memory_mb()
    start = time.perf_counter()
    search = _load_plain(folder) if kind.startswith("plain") else _load_index(folder)
    load_s = time.perf_counter() - start
    gc.collect()
    gc.freeze()  # else Python's collector walks through hundreds of loaded layers again and again
    sizes = np.diff(offset)
    rng = np.random.default_rng(2)
    share = np.sqrt(sizes[2:]) / np.sqrt(sizes[2:]).sum()  # large categories are asked more often
    plans = [
        2 + rng.choice(len(share), interests, replace=interests > len(share), p=share) for _ in range(requests + 1)
    ]
    times, recall = [], []

    def request(plan: np.ndarray) -> None:
        asked = queries[rng.integers(0, len(queries), interests)]
        start = time.perf_counter()
        search(asked, plan.astype(np.int32))
        times.append(1000 * (time.perf_counter() - start))

    request(plans[0])
    for category in range(2, len(offset) - 1):
        low, high = offset[category : category + 2]
        k = int(min(_K, high - low))
        asked = queries[1::2]  # those that tuning holds a searcher to
        item = np.asarray(search(asked, np.full(len(asked), category, np.int32)))[:, :k]
        search(asked[:1], np.array([category], np.int32))  # a loaded layer traces itself anew for each number of rows
        logits = asked @ world["vectors"][low:high].T + world["bias"][low:high]
        recall.append(recall_of(np.where((item >= low) & (item < high), item - low, -1), logits, k))
    for plan in plans[1:]:  # by now every category has been asked: nothing is built or traced any more
        request(plan)
    memory = _memory_mb() - before
    folder = os.path.join(folder, "model")
    size = sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(folder) for name in names)
    facts = {
        "mb": size / 1e6,
        "load_s": load_s,
        "first_ms": times[0],
        "warm_ms": statistics.median(times[1:]),
        "recall": float(np.mean(recall)),
        "worst_recall": float(np.min(recall)),
        "memory_mb": memory,
    }
    print(json.dumps(facts))


def _load_index(folder: str) -> Any:
    import tensorflow as tf

    model = tf.saved_model.load(os.path.join(folder, "model"))
    return lambda asked, category: model.index.ask(asked, category, np.int32(_K)).item.numpy()


def _load_plain(folder: str) -> Any:
    """The loop over categories that a first version would be."""
    layers = plain_design.load_layers(folder)

    def search(asked: np.ndarray, category: np.ndarray) -> np.ndarray:
        item = np.zeros([len(asked), _K], np.int32)
        for one in np.unique(category):
            rows = np.flatnonzero(category == one)
            vectors = np.pad(asked[rows], ((0, 0), (0, 1)), constant_values=1.0)
            best = layers[one](vectors)[1].numpy()
            item[rows, : best.shape[1]] = best
        return item

    return search


def _memory_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    flags.run_command(main)
