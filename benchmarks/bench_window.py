"""The training window of a log on disk: what making it takes, and its batches against those in memory; JSON.

  python -m longretriever_tf.prepare --output=/tmp/prepared --num_shards=2
  python benchmarks/bench_window.py --data=/tmp/prepared --output=results/bench_window.json

The window of the default flags is made anew, in a process of its own with --num_workers processes; then the stages of
shard 0 alone, one after the other. Batches are read from disk, from memory with kept histories, and from memory with
histories that every batch searches: in turn, --rounds times, the same batches of the first epoch.
"""

import json
import os
import resource
import shutil
import statistics
import time
from typing import Any

import numpy as np
from absl import flags as absl_flags
from fresh_process import ask_in_fresh_process

from longretriever_tf.config import flags

_DATA = absl_flags.DEFINE_string("data", "", "A prepared log.")
_WORKERS = absl_flags.DEFINE_integer("num_workers", 2, "Processes that make the window.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")
_BATCHES = absl_flags.DEFINE_integer("bench_batches", 1500, "Batches to read.")
_ROUNDS = absl_flags.DEFINE_integer("rounds", 3, "How often each kind is read.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin

    facts: dict[str, Any] = describe_origin("python benchmarks/bench_window.py", 1)
    given = json.dumps({"data": _DATA.value, "workers": _WORKERS.value})
    facts["made"] = ask_in_fresh_process("bench_window", "make", given)
    rounds = [ask_in_fresh_process("bench_window", "read", given, _BATCHES.value) for _ in range(_ROUNDS.value)]
    facts["examples_per_cpu_s"] = {kind: statistics.median(one[kind] for one in rounds) for kind in rounds[0]}
    facts["rounds"] = rounds
    facts["load_average"] = os.getloadavg()[0]
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def ask(what: str, given: str, num_batches: int = 0) -> None:
    """One measurement, printed as JSON."""
    from longretriever_tf.datasets.sharded_log import ShardedLog

    settings = json.loads(given)
    log = ShardedLog(settings["data"])
    print(json.dumps(_make(log, settings["workers"]) if what == "make" else _read(log, num_batches)))


def _make(log: Any, workers: int) -> dict[str, Any]:
    from longretriever_tf.config.config import Config
    from longretriever_tf.data.batches.tables import training_cut, training_cuts
    from longretriever_tf.data.window.build import build_window
    from longretriever_tf.data.window.layout import STAGES, layout_of
    from longretriever_tf.data.window.worker import Worker

    config = Config()
    layout = layout_of(config, log)
    shutil.rmtree(layout.directory, ignore_errors=True)
    start = time.monotonic()
    build_window(config, log, workers)
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    files = [os.path.join(path, name) for path, _, names in os.walk(layout.directory) for name in names]
    size = sum(map(os.path.getsize, files))
    facts = {
        "events": log.num_events,
        "shards": log.num_shards,
        "workers": workers,
        "wall_s": time.monotonic() - start,
        "cpu_s": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "peak_mb": {"first process": own.ru_maxrss / 1e3, "largest of the others": children.ru_maxrss / 1e3},
        "bytes_per_event": size / log.num_events,
    }
    cut = training_cut(config, training_cuts(config, np.array([log.first, log.last])))
    worker, stages = Worker(config, log, layout, cut), {}
    for stage in STAGES:
        worker.make(stage, 0)  # once before, so that what all shards read is open
        start = time.process_time()
        num_events = worker.make(stage, 0)
        stages[stage] = num_events / (time.process_time() - start)
    for stage in STAGES[:2]:  # a finished window has no use for them
        shutil.rmtree(layout.path(stage))
    return facts | {"events_per_cpu_s": stages}


def _read(log: Any, num_batches: int) -> dict[str, float]:
    from longretriever_tf.config.config import Config, TrainConfig
    from longretriever_tf.data.batches.in_context import BatchSource
    from longretriever_tf.data.batches.prepared_data import Prepared, prepare_examples
    from longretriever_tf.data.corpus import encode_log
    from longretriever_tf.data.recipe.history_embedding import fold_of_users, item_keys
    from longretriever_tf.data.search.behavior_index import build_category_order
    from longretriever_tf.data.window.build import build_window
    from longretriever_tf.data.window.sources import WindowSource
    from longretriever_tf.data.window.window import open_window

    window = open_window(build_window(Config(), log), log.num_users)
    found = {"disk": _speed(WindowSource(Config(), window), num_batches)}
    found["peak_mb_disk"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    encoded = encode_log(log.read_whole(), window.corpus).before(window.corpus.cut)
    fold = fold_of_users(encoded, item_keys(window.corpus.item_id), len(window.history_embedding_rows))
    tables = window.corpus, window.stats, window.item_svd, window.history_embedding_rows
    prepared = Prepared(*tables, encoded, build_category_order(encoded, window.corpus), fold)
    for kind, gigabytes in (("memory, searched", 0.0), ("memory, kept", 8.0)):
        config = Config(train=TrainConfig(materialise_gb=gigabytes))
        found[kind] = _speed(BatchSource(config, prepared, prepare_examples(config, prepared)[0]), num_batches)
    return found


def _speed(source: Any, num_batches: int) -> float:
    """Examples per CPU second of the pipeline alone."""
    batches = iter(source.make_dataset(0))
    next(batches)
    start, count = time.process_time(), 0
    for _, batch in zip(range(num_batches), batches, strict=False):
        count += int(batch.category.shape[0])
    return count / (time.process_time() - start)


if __name__ == "__main__":
    flags.run_command(main)
