"""Examples per second: the input pipeline alone, the training step alone, both together. The base line of later work.

  python benchmarks/bench_training.py --flagfile=configs/demo.flags [--bench_batches=200] [--output=...]

Prints one line per part (median of the repeats), then JSON with command, commit, machine and sizes.
"""

import json
import statistics
import time
from collections.abc import Callable

from absl import flags as absl_flags

from longretriever_tf import flags

flags.define_config_flags("data", "model", "train", "retrieval")
_BATCHES = absl_flags.DEFINE_integer("bench_batches", 200, "Batches per measurement.", lower_bound=1)
_REPEATS = absl_flags.DEFINE_integer("bench_repeats", 3, "Measurements per part; the median counts.", lower_bound=1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    config = flags.config_from_flags()
    from longretriever_tf.data.batches import BatchSource, plan_epoch
    from longretriever_tf.data.prepared import load_split, prepare, prepare_examples, training_cut
    from longretriever_tf.files import write_text_atomically
    from longretriever_tf.models.build import build_models, set_token_scale
    from longretriever_tf.models.optimizer import SplitAdam
    from longretriever_tf.provenance import describe_origin
    from longretriever_tf.training.loop import make_step
    from longretriever_tf.training.phases import TowerPhase

    log, cuts = load_split(config)
    start = time.perf_counter()
    prepared = prepare(config, log, training_cut(config, cuts))
    examples, _ = prepare_examples(config, prepared)
    prepare_s = time.perf_counter() - start
    models = build_models(config, prepared.corpus, prepared.item_svd)
    source = BatchSource(config, prepared, examples)
    offset = prepared.corpus.category_offset
    phase = TowerPhase(config, models.retriever, source, examples, offset, None)
    plan = plan_epoch(config, examples, offset, 0)
    set_token_scale(models.retriever, source.make_dataset(plan).take(16))
    step = make_step(phase, SplitAdam(phase.variables(), config.train.learning_rate, 0.0, 10_000), config.train.xla)

    batches = list(source.make_dataset(plan).take(_BATCHES.value))
    count = sum(int(batch.category.shape[0]) for batch in batches)
    slots = sum(int(batch.token_item.shape[0] * batch.token_item.shape[1]) for batch in batches)
    tokens = int(sum((batch.token_item.numpy() > 0).sum() for batch in batches))
    for batch in batches:  # traces the step for every kind of shape
        step(batch)

    def pipeline() -> None:
        for _ in source.make_dataset(plan).take(_BATCHES.value):
            pass

    def steps() -> None:
        for batch in batches:
            float(step(batch))

    def both() -> None:
        for batch in source.make_dataset(plan).take(_BATCHES.value):
            float(step(batch))

    result = {name: count / _median_s(part) for name, part in (("pipeline", pipeline), ("step", steps), ("both", both))}
    for name, rate in result.items():
        print(f"{name:>8}: {rate:10,.0f} examples/s")
    facts = {
        **describe_origin("python benchmarks/bench_training.py", config.train.seed),
        "data": config.data.dataset,
        "batches": len(batches),
        "examples": count,
        "tokens_per_example": tokens / count,
        "padding_share": 1 - tokens / max(slots, 1),
        "prepare_s": prepare_s,
        "examples_per_s": result,
    }
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _median_s(part: Callable[[], None]) -> float:
    times = []
    for _ in range(_REPEATS.value):
        start = time.perf_counter()
        part()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    flags.run_command(main)
