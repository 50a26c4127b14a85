"""Exports of every index kind from one run: size, load, first and warm request, agreement with exact search.

  python benchmarks/bench_exports.py --run_dir=runs/demo --output=results/bench_exports.json

Each kind is exported by the command, checks included. A fresh process then loads it as the server does, without the
warm-up requests, and asks `serving_default` about made-up histories; another one asks every category about four of its
own items and compares with exact search (`fresh_recall`). `report` is the export's own: recall on user vectors that
tuning did not see, of the categories that ScaNN searches. Times are wall times; `load_average` says what else ran.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import flags as absl_flags
from fresh_process import ask_in_fresh_process

from longretriever_tf.config import flags
from longretriever_tf.config.config import load_config

_RUN_DIR = absl_flags.DEFINE_string("run_dir", "runs/demo", "Run directory of a finished training.")
_KINDS = absl_flags.DEFINE_list("bench_kinds", ["packed", "auto", "scann"], "Index kinds.")
_LENGTHS = absl_flags.DEFINE_list("bench_lengths", ["200", "20000"], "Events per history.")
_REQUESTS = absl_flags.DEFINE_integer("bench_requests", 20, "Warm requests per length; the median counts.", 1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin

    facts = describe_origin("python benchmarks/bench_exports.py", 1) | {"run_dir": _RUN_DIR.value}
    print(f"{'kind':8s} {'export s':>9s} {'MB':>6s} {'load s':>7s} {'first ms':>9s}  warm ms by events; recall")
    with tempfile.TemporaryDirectory() as folder:
        packed = _packed_index()
        for kind in _KINDS.value:
            one = facts[kind] = _export(kind, folder) | {"load_average": os.getloadavg()[0]}
            version = os.path.join(folder, kind, "1")
            lengths = list(map(int, _LENGTHS.value))
            one |= ask_in_fresh_process("bench_exports", version, lengths, _REQUESTS.value) | _check(version, packed)
            print(
                f"{kind:8s} {one['export_s']:9.1f} {one['mb']:6.1f} {one['load_s']:7.2f} {one['first_ms']:9.1f}  "
                f"{one['warm_ms']}; {one['fresh_recall']} {one['report']}",
                flush=True,
            )
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _packed_index() -> Any:
    """Every item of the run, to be searched exactly."""
    from longretriever_tf.models.build import load_for_export
    from longretriever_tf.models.retriever import embed_corpus
    from longretriever_tf.retrieval.index.exact import PackedIndex

    config = load_config(_RUN_DIR.value)
    corpus, arrays, models = load_for_export(config)
    vectors, bias = embed_corpus(models.retriever, corpus, arrays["item_stats"])
    return PackedIndex(vectors / config.model.temperature, bias, corpus.category_offset)


def _export(kind: str, folder: str) -> dict[str, Any]:
    """Runs the command; its time, and the size of what it wrote."""
    target = os.path.join(folder, kind)
    words = [f"--run_dir={_RUN_DIR.value}", f"--export_dir={target}", f"--index={kind}"]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "longretriever_tf.export", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    size = sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(target) for name in names)
    return {"export_s": time.perf_counter() - start, "mb": size / 1e6}


def _check(version: str, packed: Any) -> dict[str, Any]:
    """What a fresh process finds of every category, and what the export reports of those that ScaNN searches."""
    from longretriever_tf.retrieval.export.saved_model import load_index_report
    from longretriever_tf.retrieval.export.verify_index import measure_recall_in_fresh_process

    recalls = list(measure_recall_in_fresh_process(version, packed, {}).values())
    report = load_index_report(version)
    recall = [one["recall"] for one in report["categories"] if one["kind"] == "scann"]
    return {
        "fresh_recall": {"categories": len(recalls), "mean": float(np.mean(recalls)), "worst": float(np.min(recalls))},
        "report": {
            "by_scann": len(recall),
            "exact": len(report["categories"]) - len(recall),
            "target": report["target_recall"],
            **({"mean": float(np.mean(recall)), "worst": float(np.min(recall))} if recall else {}),
        },
    }


def ask(version: str, lengths: list[int], requests: int) -> None:
    """What the fresh process does: loads, asks; prints JSON."""
    from longretriever_tf.data.corpus import load_corpus
    from longretriever_tf.serving.server.loaded import LoadedModel

    corpus = load_corpus(os.path.join(version, "assets.extra", "corpus.npz"))
    before, start = _memory_mb(), time.perf_counter()
    model = LoadedModel("bench", 1, version)
    load_s = time.perf_counter() - start
    signature = model.signatures["serving_default"]
    rng, took = np.random.default_rng(1), {}
    for length in lengths:
        took[length] = []
        for _ in range(requests + 1):
            feeds = dict(signature.defaults) | {
                "history_item_id": rng.choice(corpus.item_id[2 : corpus.num_offered], [1, length]),
                "history_timestamp": np.sort(corpus.cut - rng.integers(1, 730 * 86_400, [1, length])),
                "request_timestamp": np.array([corpus.cut]),
                **{name: np.array([b""], object) for name in set(signature.inputs) & set(corpus.profile_values)},
            }
            start = time.perf_counter()
            model.run(signature, feeds)
            took[length].append(1000 * (time.perf_counter() - start))
    facts = {
        "load_s": load_s,
        "first_ms": took[lengths[0]][0],
        "warm_ms": {length: float(np.median(times[1:])) for length, times in took.items()},
        "memory_mb": _memory_mb() - before,
    }
    print(json.dumps(facts))


def _memory_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    flags.run_command(main)
