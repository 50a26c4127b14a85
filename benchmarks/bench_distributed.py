"""Examples per second of one process and of several, in one run, and what a reduction costs.

  python benchmarks/bench_distributed.py --flagfile=configs/demo.flags --batches_per_step=2 [--bench_steps=200]
  python benchmarks/bench_distributed.py --flagfile=configs/demo.flags --device_input --xla --mixed_precision \
      --materialise_gb=4 --batches_per_step=32 --bench_processes=1,2 --output=results/bench_distributed.json

For each number of processes it starts as many (each on a GPU of its own, where there are any), trains the towers for
--bench_steps steps (device_input: calls) after as many to compile, and times the all-reduce of three sizes of buffer.
--batches_per_step must be a multiple of every number of processes: all make the same steps, so their losses agree.
Prints one line per number, then JSON with command, commit, machine and sizes.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags

flags.define_config_flags("data", "model", "train", "retrieval")
_PROCESSES = absl_flags.DEFINE_list("bench_processes", ["1", "2"], "Numbers of processes to compare.")
_STEPS = absl_flags.DEFINE_integer("bench_steps", 200, "Steps (device_input: calls) per measurement.", lower_bound=1)
_REPEATS = absl_flags.DEFINE_integer("bench_repeats", 3, "Measurements; the median counts.", lower_bound=1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")
_WORKER_OUTPUT = "LONGRETRIEVER_BENCH_WORKER"
_SIZES = (1_000, 100_000, 10_000_000)
"""Numbers in the buffers that are reduced, float32."""


def main(argv: list[str]) -> None:
    """Runs the benchmark; in a worker, its part."""
    del argv
    if path := os.environ.get(_WORKER_OUTPUT):
        _work(path)
        return
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.training.distributed.launcher import launch_module

    config = flags.config_from_flags()
    facts = {**describe_origin("python benchmarks/bench_distributed.py", config.train.seed), "gpus": _gpu_names()}
    found: dict[str, Any] = {}
    for count in map(int, _PROCESSES.value):
        if config.train.batches_per_step % count:
            raise UserError(
                f"--batches_per_step={config.train.batches_per_step} is not a multiple of {count}, a number of "
                "--bench_processes; name one that is a multiple of all"
            )
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "facts.json")
            os.environ[_WORKER_OUTPUT] = path
            status = launch_module([os.path.abspath(__file__)], count, sys.argv[1:])
            del os.environ[_WORKER_OUTPUT]
            if status:
                raise UserError(f"the benchmark of {count} processes failed with status {status}: see above")
            with open(path, encoding="utf-8") as file:
                found[str(count)] = json.load(file)
        rate = found[str(count)]["examples_per_s"]
        print(f"{count} processes: {rate:,.0f} examples/s, last loss {found[str(count)]['last_loss']:.4f}", flush=True)
    first = found[_PROCESSES.value[0]]["examples_per_s"]
    facts |= {
        "by_processes": found,
        "speedup_over_the_first": {count: one["examples_per_s"] / first for count, one in found.items()},
    }
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _gpu_names() -> list[str]:
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    except (OSError, subprocess.CalledProcessError):
        return []


def _work(path: str) -> None:
    """A worker: the chief writes what it measured."""
    from tower_start import start_towers

    from longretriever_tf.data.batches.on_device import DeviceSource
    from longretriever_tf.models.optimizer import LazyAdamW
    from longretriever_tf.training.distributed.cluster import start_cluster
    from longretriever_tf.training.distributed.grouped_device_phase import GroupedDevicePhase
    from longretriever_tf.training.distributed.grouping import group_phase

    config = flags.config_from_flags()
    cluster = start_cluster("multi_worker")
    begun, train = start_towers(config), config.train
    phase: Any = group_phase(begun.phase, begun.source, config, cluster)
    if train.device_input:
        source = DeviceSource(config, begun.prepared, begun.source)
        source.epochs = 1
        phase = GroupedDevicePhase("towers", 1, begun.models.retriever, source, train.seed, None, cluster)
    step = phase.make_step(LazyAdamW(train.learning_rate, 0.0, 10_000), train.xla)
    batches = list(itertools.islice(phase.source.make_dataset(0), _STEPS.value))
    start = shown = time.perf_counter()
    for made, batch in enumerate(batches, 1):
        loss = float(step(batch))  # traces and compiles
        if cluster.is_chief and (made == len(batches) or time.perf_counter() - shown > 10):
            shown = time.perf_counter()
            print(f"first time: {made} of {len(batches)} calls, {shown - start:.0f} s", flush=True)
    count = sum(phase.batch_examples(batch) for batch in batches)
    rates = []
    for _ in range(_REPEATS.value):
        start = time.perf_counter()
        for batch in batches:
            loss = step(batch)
        loss = float(loss)
        rates.append(count / (time.perf_counter() - start))
    facts = {
        "examples": count,
        "steps": len(batches),
        "examples_per_s": statistics.median(rates),
        "of_each_repeat": rates,
        "last_loss": loss,
        "reduce_ms": {str(size): _reduce_ms(cluster, size) for size in _SIZES},
    }
    if cluster.is_chief:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(facts, file)
    cluster.exchange("done")


def _reduce_ms(cluster: Any, size: int) -> float:
    """Milliseconds of the all-reduce of a buffer, in a graph as the step has it."""
    import tensorflow as tf

    buffer = tf.Variable(tf.ones([size]))
    reduce = tf.function(lambda: cluster.run(lambda _: cluster.sum(buffer * 1.0)[0]))
    float(reduce())
    spent = []
    for _ in range(20):
        start = time.perf_counter()
        float(reduce())
        spent.append(1000 * (time.perf_counter() - start))
    return statistics.median(spent)


if __name__ == "__main__":
    flags.run_command(main)
