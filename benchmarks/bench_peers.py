"""Training against peers on the same log and validation users: examples/s, and seconds to the same recall@100.

  PYTHONPATH=PEERS python benchmarks/bench_peers.py --flagfile=configs/mind.flags --cut=validation [--budget_s=120]

PEERS holds DeepMatch (benchmarks/peer_deepmatch.py says how to install it); it is no dependency of this package. Ours
is what the flags name (a --model that reads recent events, so that both learn from the same rows). One row of ours
holds all targets of a user's snapshot; the peer gets each (snapshot, target) pair as a row: compare with our pairs.
"""

import importlib.util
import json
import os
import tempfile
import time
from typing import Any

from absl import flags as absl_flags
from fresh_process import ask_in_fresh_process

from longretriever_tf import flags
from longretriever_tf.errors import UserError

flags.define_config_flags("data", "model", "train", "retrieval", "baseline")
_BUDGET = absl_flags.DEFINE_float("budget_s", 120.0, "Seconds of training for each.", lower_bound=1.0)
_PEER_BATCH = absl_flags.DEFINE_integer("peer_batch_size", 512, "Rows in a batch of the peer's.", lower_bound=1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    if importlib.util.find_spec("deepmatch") is None:
        print("skipped: DeepMatch is not installed; benchmarks/peer_deepmatch.py says how")
        return
    config = flags.config_from_flags()
    if config.model.model == "longretriever" or config.train.cut != "validation":
        raise UserError("name a baseline and --cut=validation: --flagfile=configs/mind.flags --cut=validation")
    from longretriever_tf.data.prepared import load_split, prepare, training_cut
    from longretriever_tf.data.user_examples import build_user_examples
    from longretriever_tf.files import write_text_atomically
    from longretriever_tf.provenance import describe_origin
    from longretriever_tf.training.assemble import validation_truth

    log, cuts = load_split(config)
    prepared = prepare(config, log, training_cut(config, cuts))
    examples = build_user_examples(config, prepared.log, prepared.stats.time)
    truth = validation_truth(log, cuts, prepared)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "arrays.npz")
        _write_arrays(path, config, prepared, examples, truth)
        sides = {"deepmatch_mind": ask_in_fresh_process("peer_deepmatch", path)}
    sides[config.model.model] = _train_ours(config, prepared, examples, truth)
    goal = min(max(recall for _, recall in side["curve"]) for side in sides.values())
    for side in sides.values():
        side["seconds_to_the_same_recall"] = next(s for s, recall in side["curve"] if recall >= goal)
    facts = {
        **describe_origin("python benchmarks/bench_peers.py", config.train.seed),
        "data": config.data.dataset,
        "validation_users": truth.num_users,
        "recall_at_100": goal,
        "sides": sides,
    }
    text = json.dumps(facts, indent=2) + "\n"
    print(text)
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, text)


def _write_arrays(path: str, config: Any, prepared: Any, examples: Any, truth: Any) -> None:
    """One row per (snapshot, event within its horizon), histories newest last; and the asked users."""
    import numpy as np

    from longretriever_tf.data.ranges import flat_ranges

    length, log = config.baseline.recent_length, prepared.log

    def pad(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        made = np.zeros((len(start), length), np.int32)
        row, at = flat_ranges(start, stop)
        made[row, at - start[row]] = log.item[at]
        return made

    owner, position = flat_ranges(examples.stop, examples.target_stop)
    keep = np.sort(np.random.default_rng(config.train.seed).permutation(len(owner))[:400_000])
    owner, position = owner[keep], position[keep]
    stop = log.offset[truth.users + 1]
    start = np.maximum(log.offset[truth.users], stop - length)
    np.savez(
        path,
        history=pad(examples.start, examples.stop)[owner],
        length=(examples.stop - examples.start)[owner],
        target=log.item[position],
        asked_history=pad(start, stop),
        asked_length=stop - start,
        asked_offset=truth.offset,
        asked_item=truth.item,
        num_items=prepared.corpus.num_items,
        batch_size=_PEER_BATCH.value,
        dim=config.model.dim,
        budget_s=_BUDGET.value,
    )


def _train_ours(config: Any, prepared: Any, examples: Any, truth: Any) -> dict[str, Any]:
    """The baseline by this package: the budget is spent in chunks, recall measured between them, off the clock."""
    import tensorflow as tf

    from longretriever_tf.data.user_batches import UserBatchSource
    from longretriever_tf.evaluation.evaluator import evaluate_scorer
    from longretriever_tf.models.baselines.recent_retriever import build_baseline
    from longretriever_tf.models.build import assign_scale
    from longretriever_tf.models.optimizer import SplitAdam
    from longretriever_tf.retrieval.recent_scorer import RecentScorer
    from longretriever_tf.training.loop import make_step
    from longretriever_tf.training.phases import BaselinePhase

    model = build_baseline(config, prepared.corpus, prepared.item_svd)
    source = UserBatchSource(config, prepared.corpus, prepared.log, examples, prepared.stats.first_time)
    phase = BaselinePhase(config, model, source, None)
    sample = next(iter(phase.make_dataset(0)))
    assign_scale(model.event_embedding, tf.boolean_mask(sample.features, sample.token_item > 0).numpy())
    step = make_step(phase, SplitAdam(phase.variables(), config.train.learning_rate, 0.01, 10_000), config.train.xla)
    step(sample)
    spent, seen, pairs, curve, epoch = 0.0, 0, 0, [], 0
    while spent < _BUDGET.value:
        due = spent + _BUDGET.value / 8
        start = time.perf_counter()
        for batch in phase.make_dataset(epoch):
            float(step(batch))
            seen, pairs = seen + phase.batch_examples(batch), pairs + int(batch.target_row.shape[0])
            if spent + time.perf_counter() - start > due:
                break
        spent, epoch = spent + time.perf_counter() - start, epoch + 1
        scorer = RecentScorer(config, prepared, model)
        made = evaluate_scorer(scorer, truth, prepared.corpus.category_offset, ks=(100,), chunk=512)
        curve.append((spent, float(made["all"]["recall@100"])))
    return {"examples_per_s": seen / spent, "pairs_per_s": pairs / spent, "curve": curve}


if __name__ == "__main__":
    flags.run_command(main)
