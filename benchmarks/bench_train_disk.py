"""Training from disk against training in memory on one prepared log: examples a second, memory, what begins it; JSON.

  python -m longretriever_tf.prepare --output=/tmp/prepared
  python benchmarks/bench_train_disk.py --data=/tmp/prepared --output=results/bench_train_disk.json

Each kind is what `train` does up to its first steps, in a fresh process: from disk, in memory with kept histories, in
memory with histories that every batch searches (--materialise_gb=0, the same run as from disk). Then --bench_steps
steps of the towers after a tenth as many, pipeline included. Kinds take turns, --rounds times. A log that memory does
not hold is asked with --kinds=disk. The window of a log is made in the first round alone, and timed there.
"""

import itertools
import json
import os
import resource
import statistics
import time
from typing import Any

from absl import flags as absl_flags
from fresh_process import ask_in_fresh_process

from longretriever_tf.config import flags

flags.define_config_flags("data", "model", "train", "retrieval")
_KINDS = absl_flags.DEFINE_list("kinds", ["disk", "memory", "memory_searched"], "What to measure.")
_STEPS = absl_flags.DEFINE_integer("bench_steps", 1000, "Steps per measurement.", lower_bound=10)
_ROUNDS = absl_flags.DEFINE_integer("rounds", 3, "How often each kind is measured.", lower_bound=1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.config.config import to_json

    config = flags.config_from_flags()
    facts: dict[str, Any] = describe_origin("python benchmarks/bench_train_disk.py", config.train.seed)
    rounds = []
    for _ in range(_ROUNDS.value):
        rounds.append({})
        for kind in _KINDS.value:
            given = (to_json(config), kind, _STEPS.value)
            rounds[-1][kind] = ask_in_fresh_process("bench_train_disk", *given)
            print(kind, json.dumps(rounds[-1][kind]), flush=True)
    facts["examples_per_s"] = {
        kind: statistics.median(one[kind]["examples_per_s"] for one in rounds) for kind in _KINDS.value
    }
    facts["peak_mb"] = {kind: max(one[kind]["peak_mb"] for one in rounds) for kind in _KINDS.value}
    facts |= {"rounds": rounds, "load_average": os.getloadavg()[0]}
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def ask(config_json: str, kind: str, num_steps: int) -> None:
    """One measurement, printed as JSON."""
    import dataclasses

    import numpy as np

    from longretriever_tf.config.config import Config, from_dict
    from longretriever_tf.data.batches.prepared_data import prepare
    from longretriever_tf.data.batches.tables import training_cut, training_cuts
    from longretriever_tf.datasets.load import load_log, open_sharded_log
    from longretriever_tf.models.optimizer import LazyAdamW
    from longretriever_tf.training.distributed.cluster import start_cluster
    from longretriever_tf.training.log_on_disk import prepare_on_disk
    from longretriever_tf.training.setup import assemble

    config, start = from_dict(Config, json.loads(config_json)), time.monotonic()
    if kind == "memory_searched":
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, materialise_gb=0.0))
    log = open_sharded_log(config.data)
    cuts = training_cuts(config, np.array([log.first, log.last]))
    prepared: Any
    if kind == "disk":
        prepared = prepare_on_disk(config, log)
    else:
        log = load_log(config.data)
        prepared = prepare(config, log, training_cut(config, cuts))
    parts = assemble(config, log, cuts, prepared, start_cluster("none"))
    parts.set_scales()
    before_s = time.monotonic() - start
    phase = parts.phases[0]
    optimizer = LazyAdamW(config.train.learning_rate, 0.0, 10_000)
    optimizer.build(phase.variables())
    step, batches = phase.make_step(optimizer, config.train.xla), iter(phase.source.make_dataset(0))
    for batch in itertools.islice(batches, num_steps // 10):
        loss = step(batch)
    start, cpu, count = time.monotonic(), time.process_time(), 0
    for batch in itertools.islice(batches, num_steps):
        loss = step(batch)
        count += phase.batch_examples(batch)
    loss = float(loss)
    wall_s, cpu_s = time.monotonic() - start, time.process_time() - cpu
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    facts = {
        "events": log.num_events,
        "examples_of_an_epoch": phase.source.num_rows,
        "before_the_first_step_s": before_s,
        "examples": count,
        "examples_per_s": count / wall_s,
        "examples_per_cpu_s": count / cpu_s,
        "last_loss": loss,
        "peak_mb": max(own.ru_maxrss, children.ru_maxrss) / 1e3,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    flags.run_command(main)
