"""Training against the plain TensorFlow Recommenders way, side by side in one run; and its matrix-multiply rate.

  python benchmarks/bench_plain_training.py --flagfile=configs/demo.flags --cut=validation --num_layers=2 [--output=...]

Both read the same examples of the same log (L = --max_length, d = --dim). Plain: benchmarks/plain_training.py. Ours:
what `train` runs. Measurements alternate; medians count. Per CPU second: all threads together, what one core does.
Before that, both are trained on --evaluated_examples of them and evaluated on the validation window, every category
searched, lists merged by eq. 3's shares for both: the interest score is not what is compared.
"""

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags

flags.define_config_flags("data", "model", "train", "retrieval")
_EXAMPLES = absl_flags.DEFINE_integer("bench_examples", 20_000, "Examples per measurement of ours.", lower_bound=1)
_PLAIN = absl_flags.DEFINE_integer("plain_examples", 5_000, "Examples per measurement of plain.", lower_bound=1)
_REPEATS = absl_flags.DEFINE_integer("bench_repeats", 5, "Measurements per part; the median counts.", lower_bound=1)
_EVALUATED = absl_flags.DEFINE_integer(
    "evaluated_examples",
    100_000,
    "Examples that both are trained on before recall is measured; 0: neither.",
    lower_bound=0,
)
absl_flags.DEFINE_alias("judged_examples", "evaluated_examples")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    config = flags.config_from_flags()
    from tower_start import start_towers

    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin

    if _EVALUATED.value and config.train.cut != "validation":
        raise UserError(
            f"--cut={config.train.cut}: --evaluated_examples={_EVALUATED.value} needs the validation window, "
            "which training must not see; add --cut=validation, or leave that part out: --evaluated_examples=0"
        )
    begun = start_towers(config)
    evaluated = _train_and_evaluate(config, begun) if _EVALUATED.value else {}
    sides = {"ours": _ours(config, begun), "plain": _plain(config, begun)}
    measured: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    for _ in range(_REPEATS.value):
        for name, side in sides.items():
            for part, rates in side["measure"]().items():
                measured[name].setdefault(part, []).append(rates)
    facts: dict[str, Any] = {
        **describe_origin("python benchmarks/bench_plain_training.py", config.train.seed),
        "data": config.data.dataset,
        "equal_examples": evaluated,
        "sizes": {"max_length": config.model.max_length, "dim": config.model.dim, "layers": config.model.num_layers},
    }
    for name, parts in measured.items():
        facts[name] = {**sides[name]["facts"], **{part: statistics.median(rates) for part, rates in parts.items()}}
    facts["times_as_fast"] = {part: facts["ours"][part] / facts["plain"][part] for part in measured["ours"]}
    facts["matrix_multiply"] = _matrix_multiply(config, sides["ours"]["batches"], sides["ours"]["step"])
    text = json.dumps(facts, indent=2) + "\n"
    print(text)
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, text)


def _train_and_evaluate(config: Any, begun: Any) -> dict[str, dict[str, float]]:
    """Both trained on as many examples: seconds, and recall on the validation window."""
    from plain_scorer import PlainLogits, make_plain_scorer
    from plain_training import PlainRetriever, make_plain_dataset
    from recall import measure_recall

    from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
    from longretriever_tf.models.optimizer import WEIGHT_DECAY, LazyAdamW
    from longretriever_tf.training.setup import validation_truth

    prepared, phase = begun.prepared, begun.phase
    total = max(1, phase.num_steps() * _EVALUATED.value // phase.source.num_rows)
    optimizer = LazyAdamW(config.train.learning_rate, WEIGHT_DECAY, total)
    step = phase.make_step(optimizer, config.train.xla)
    epochs = (batch for epoch in itertools.count() for batch in phase.source.make_dataset(epoch))
    ours = _train(epochs, lambda batch: int(batch.category.shape[0]), step)
    plain = PlainRetriever(config, prepared)
    dataset = make_plain_dataset(config, prepared, begun.examples, config.train.seed).repeat()
    costs = {"ours": ours, "plain": _train(dataset, lambda batch: int(batch[0].shape[0]), plain.make_step())}
    retrieval = dataclasses.replace(config.retrieval, interest="paper", merge="calibrated")
    scorer = LongRetrieverScorer(config, prepared, begun.models.retriever, begun.models.interest, retrieval)
    truth = validation_truth(begun.log, begun.cuts, prepared)
    scorers = {"ours": scorer, "plain": make_plain_scorer(scorer, retrieval, PlainLogits(config, prepared, plain))}
    return {
        name: costs[name] | measure_recall(one, truth, prepared.corpus.category_offset) for name, one in scorers.items()
    }


def _train(batches: Iterable[Any], size_of: Callable[[Any], int], step: Callable[[Any], Any]) -> dict[str, float]:
    """Trains on `--evaluated_examples`, the last batch whole; seconds include tracing."""
    start, seen = time.perf_counter(), 0
    for batch in _first(batches, size_of, _EVALUATED.value):
        float(step(batch))
        seen += size_of(batch)
    return {"examples": seen, "seconds": time.perf_counter() - start}


def _ours(config: Any, begun: Any) -> dict[str, Any]:
    from longretriever_tf.models.optimizer import LazyAdamW

    phase = begun.phase
    step = phase.make_step(LazyAdamW(config.train.learning_rate, 0.0, 10_000), config.train.xla)
    dataset = phase.source.make_dataset(0)
    batches = list(_first(dataset, lambda batch: int(batch.category.shape[0]), _EXAMPLES.value))
    facts = _padding(batch.token_item for batch in batches)
    measure = _measurer(dataset, batches, lambda batch: int(batch.category.shape[0]), step)
    return {"batches": batches, "facts": facts, "measure": measure, "step": step}


def _plain(config: Any, begun: Any) -> dict[str, Any]:
    from plain_training import PlainRetriever, make_plain_dataset

    model = PlainRetriever(config, begun.prepared)
    dataset = make_plain_dataset(config, begun.prepared, begun.examples, config.train.seed)
    batches = list(_first(dataset, lambda batch: int(batch[0].shape[0]), _PLAIN.value))
    measure = _measurer(dataset, batches, lambda batch: int(batch[0].shape[0]), model.make_step())
    return {"batches": batches, "facts": _padding(batch[0] for batch in batches), "measure": measure}


def _first(dataset: Iterable[Any], size_of: Callable[[Any], int], examples: int) -> Iterator[Any]:
    """Batches until they hold so many examples."""
    seen = 0
    for batch in dataset:
        yield batch
        seen += size_of(batch)
        if seen >= examples:
            return


def _padding(token_items: Iterable[Any]) -> dict[str, float]:
    import numpy as np

    arrays = [part.numpy() for part in token_items]
    tokens, slots = sum(int(np.count_nonzero(part)) for part in arrays), sum(part.size for part in arrays)
    rows = sum(len(part) for part in arrays)
    return {"tokens_per_example": tokens / rows, "slots_per_example": slots / rows, "padding": 1 - tokens / slots}


def _measurer(
    dataset: Iterable[Any], batches: list[Any], size_of: Callable[[Any], int], step: Callable[[Any], Any]
) -> Callable[[], dict[str, float]]:
    """A function that measures every part once: examples per second, by part."""
    count = sum(map(size_of, batches))
    for batch in batches:  # traces the step for every kind of shape
        step(batch)
    endless = iter(dataset.repeat())  # buffers filled once: a pipeline's start is not its rate

    def through(act: Callable[[Any], Any]) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        seen = 0
        for batch in endless:
            act(batch)
            seen += size_of(batch)
            if seen >= count:
                return seen / (time.perf_counter() - start), seen / (time.process_time() - cpu)
        raise AssertionError("an endless dataset ended")

    def measure() -> dict[str, float]:
        pipeline, per_cpu = through(lambda batch: None)
        start = time.perf_counter()
        for batch in batches:
            float(step(batch))
        alone = count / (time.perf_counter() - start)
        return {
            "pipeline": pipeline,
            "pipeline_per_cpu_s": per_cpu,
            "step": alone,
            "both": through(lambda batch: float(step(batch)))[0],
        }

    return measure


def _matrix_multiply(config: Any, batches: list[Any], step: Callable[[Any], Any]) -> dict[str, float]:
    """The step's rate on useful work alongside that of its matrix products alone, over some of the batches."""
    from matmul_rate import products_s, useful_products, work_of

    work, alone_s, step_s = 0.0, 0.0, 0.0
    for batch in batches[:: max(1, len(batches) // 16)]:
        products = useful_products(config.model, batch)
        work += work_of(products)
        alone_s += products_s(products)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            float(step(batch))
            times.append(time.perf_counter() - start)
        step_s += min(times)
    return {
        "useful_gflop_per_s_of_the_step": work / step_s / 1e9,
        "gflop_per_s_of_the_products_alone": work / alone_s / 1e9,
        "share": alone_s / step_s,
    }


if __name__ == "__main__":
    flags.run_command(main)
