"""Examples per second: the input pipeline alone, the training step alone, both together. The base line of later work.

  python benchmarks/bench_training.py --flagfile=configs/demo.flags [--bench_batches=200] [--output=...]
  python benchmarks/bench_training.py --flagfile=configs/demo.flags --num_layers=2 --device_input --xla \
      --mixed_precision --batches_per_step=16 --steps_per_call=16 [--bench_batches=1000000] [--output=...]

Prints one line per part (median of the repeats), then JSON with command, commit, machine and sizes. Per CPU second: all
threads together, what one core does. With --device_input: whole epochs, plan and transfer included, by the call.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import flags as absl_flags

from longretriever_tf.config import flags

flags.define_config_flags("data", "model", "train", "retrieval")
_BATCHES = absl_flags.DEFINE_integer(
    "bench_batches", 200, "Batches (device_input: calls) per measurement.", lower_bound=1
)
_REPEATS = absl_flags.DEFINE_integer("bench_repeats", 3, "Measurements per part; the median counts.", lower_bound=1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    config = flags.config_from_flags()
    import tensorflow as tf
    from tower_start import start_towers

    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.data.batches.on_device import DeviceSource
    from longretriever_tf.training.device_phase import DevicePhase

    begun = start_towers(config)
    facts = {
        **describe_origin("python benchmarks/bench_training.py", config.train.seed),
        "data": config.data.dataset,
        "devices": [_describe(device) for device in tf.config.list_physical_devices()],
        "prepare_s": begun.prepare_s,
        "source_s": begun.source_s,
        "histories": type(begun.source.histories).__name__,
    }
    if config.train.device_input:
        source = DeviceSource(config, begun.prepared, begun.source)
        device = DevicePhase("towers", begun.phase.epochs, begun.models.retriever, source, config.train.seed)
        facts.update(_measure_device(config, device))
    else:
        facts.update(_measure(config, begun.phase))
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _describe(device: Any) -> str:
    """What a GPU is called, or the device's own name."""
    import tensorflow as tf

    return tf.config.experimental.get_device_details(device).get("device_name", device.name)


def _measure(config: Any, phase: Any) -> dict[str, Any]:
    """Pipeline, step, both: over the first batches of an epoch."""
    from longretriever_tf.models.optimizer import LazyAdamW

    step = phase.make_step(LazyAdamW(config.train.learning_rate, 0.0, 10_000), config.train.xla)
    dataset = phase.source.make_dataset(0)
    batches = list(dataset.take(_BATCHES.value))
    count = sum(int(batch.category.shape[0]) for batch in batches)
    slots = sum(int(batch.token_item.shape[0] * batch.token_item.shape[1]) for batch in batches)
    tokens = int(sum((batch.token_item.numpy() > 0).sum() for batch in batches))
    for batch in batches:  # traces the step for every kind of shape
        step(batch)

    def pipeline() -> None:
        for _ in dataset.take(_BATCHES.value):
            pass

    def steps() -> None:
        for batch in batches:
            float(step(batch))

    def both() -> None:
        for batch in dataset.take(_BATCHES.value):
            float(step(batch))

    rates, per_cpu = {}, {}
    for part in (pipeline, steps, both):
        wall_s, cpu_s = _median_s(part)
        rates[part.__name__], per_cpu[part.__name__] = count / wall_s, count / cpu_s
        print(f"{part.__name__:>8}: {count / wall_s:10,.0f} examples/s, {count / cpu_s:10,.0f} per CPU second")
    return {
        "batches": len(batches),
        "examples": count,
        "tokens_per_example": tokens / count,
        "padding_share": 1 - tokens / max(slots, 1),
        "examples_per_s": rates,
        "examples_per_cpu_s": per_cpu,
    }


def _measure_device(config: Any, phase: Any) -> dict[str, Any]:
    """The first epoch by the call, with its losses and compilation; then later epochs whole, start to last step."""
    from longretriever_tf.models.optimizer import WEIGHT_DECAY, LazyAdamW

    optimizer = LazyAdamW(config.train.learning_rate, WEIGHT_DECAY, 10_000)
    step = phase.make_step(optimizer, config.train.xla)
    phase.source.epochs = _REPEATS.value + 1  # each is planned while the one before it runs, as in a long training
    seen, losses, compile_s = set(), [], 0.0
    for block in itertools.islice(phase.source.make_dataset(0), _BATCHES.value):
        start = time.perf_counter()
        losses.append(float(step(block)))
        if block[1].shape not in seen:
            seen.add(block[1].shape)
            compile_s += time.perf_counter() - start
            print(f"compiled {block[1].shape}: {time.perf_counter() - start:.1f} s", flush=True)
    rates, plan_s = [], []
    for repeat in range(_REPEATS.value):
        # A shape that a short first pass has not met would be compiled while the clock runs: then repeat that pass.
        epoch = 0 if _BATCHES.value < phase.source.num_batches() else repeat + 1
        start, count, loss = time.perf_counter(), 0, None
        for block in itertools.islice(phase.source.make_dataset(epoch), _BATCHES.value):
            if not count:
                plan_s.append(time.perf_counter() - start)
            loss = step(block)
            count += block[1].num_examples
        last = float(loss)
        rates.append(count / (time.perf_counter() - start))
        print(f"epoch {epoch}: {rates[-1]:,.0f} examples/s (plan and transfer {plan_s[-1]:.2f} s), loss {last:.3f}")
    return {
        "shapes": [list(shape) for shape in sorted(seen)],
        "compile_s": compile_s,
        "calls": phase.source.num_batches(),
        "steps": phase.num_steps(),
        "examples": count,
        "plan_s": statistics.median(plan_s),
        "examples_per_s": {"end_to_end": statistics.median(rates), "of_each_repeat": rates},
        "hours_for_1e10_examples": 1e10 / statistics.median(rates) / 3600,
        "losses_of_the_first_calls": losses[:200],
    }


def _median_s(part: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = [], []
    for _ in range(_REPEATS.value):
        start, busy = time.perf_counter(), time.process_time()
        part()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    return statistics.median(wall), statistics.median(cpu)


if __name__ == "__main__":
    flags.run_command(main)
