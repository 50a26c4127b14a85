"""The last phase of a small log's run: fits what the parts of a score weigh (`data.recipe.score_weights`).

Weights that were fitted on what the towers have learned from would trust the towers too much. So a second model is
trained in the same way, for as many epochs as the run kept, on the events before the last window of the training data,
and is asked what users took in that window: the question of serving, with answers that it has not seen. Its parts are
weighed so that these answers are likeliest (`training.weight_fit`), and the run serves under the same weights.
"""

import dataclasses
import json
import os
import shutil
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import write_text_atomically
from longretriever_tf.common.progress import stage
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.config.baselines import LONGRETRIEVER
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.prepared_data import Prepared, prepare
from longretriever_tf.data.corpus import encode_log
from longretriever_tf.data.recipe.score_weights import FILE, PLAIN, ScoreWeights
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.datasets.splits import Cuts
from longretriever_tf.evaluation.ground_truth import Truth, build_truth
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.training.distributed.cluster import Cluster
from longretriever_tf.training.history import TrainingHistory
from longretriever_tf.training.loop import LoopOptions, LoopState, run_phase
from longretriever_tf.training.setup import TrainingSetup, assemble, make_checkpoints, make_optimizer
from longretriever_tf.training.weight_choices import ITEM_TERMS, interest_choices, item_choices
from longretriever_tf.training.weight_fit import Choices, fit_weights, log_likelihood_per_target

_LEAST_USERS = 100
"""With fewer users to ask about, the parts count as they were learned."""

_MOST_USERS = 1000


def fit_score_weights(
    config: Config, log: LifelongLog | ShardedLog, cuts: Cuts, cut: int, cluster: Cluster
) -> ScoreWeights:
    """Fits the weights and writes score_weights.json, where the run asks for it and the log allows it; says why not.

    A run that was stopped here goes on where it stood.

    Args:
      config: of the run, which is trained.
      log: the whole log; nothing at or after `cut` is read.
      cuts: its cuts.
      cut: where the run's training data end, seconds UTC.
      cluster: the devices that train.

    Returns:
      The weights; `PLAIN` where none were fitted.
    """
    path = os.path.join(config.train.run_dir, FILE)
    if not _is_wanted(config, log) or os.path.exists(path):
        return PLAIN
    assert isinstance(log, LifelongLog)
    start = cut - round(config.data.window_days * schema.DAY_S)
    # Early stopping reads a window that this model must not see: `_train` takes the number of epochs from the run.
    train = dataclasses.replace(config.train, cut="test", validation_users=0.0)
    earlier = dataclasses.replace(config, train=train)
    try:
        prepared, truth = _prepare(earlier, log, start, cut)
        print(
            f"fitting what the parts of a score weigh: a model of the events before {np.datetime64(start, 's')} UTC is "
            f"asked what {truth.num_users:,} users took in the {config.data.window_days:g} days after it",
            flush=True,
        )
        parts = assemble(earlier, log, cuts, prepared, cluster)
    except UserError as error:
        print(f"the parts of a score keep the weights that were learned: {error}", flush=True)
        return PLAIN
    directory = os.path.join(config.train.run_dir, "score_weights")
    _train(earlier, parts, directory)
    with stage("weighing the parts of a score"):
        weights, report = _fit(earlier, prepared, parts, truth)
    origin = describe_origin("longretriever train", config.train.seed)
    window = {"start": start, "stop": cut, "num_users": truth.num_users, "num_pairs": truth.num_pairs}
    made = {"window": window, "epochs": parts.phases[0].epochs}
    content = {**origin, **made, "weights": weights._asdict(), "log_likelihood_per_target": report}
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    print("weights: " + ", ".join(f"{name} {value:.2f}" for name, value in weights._asdict().items()), flush=True)
    return weights


def _is_wanted(config: Config, log: LifelongLog | ShardedLog) -> bool:
    train = config.train
    if config.model.model != LONGRETRIEVER or train.loss != "full" or not train.interest_epochs:
        return False
    in_memory = isinstance(log, LifelongLog) and train.distribute == "none"
    is_small = train.weighs_parts(log.num_users, log.num_events)
    if is_small and not in_memory:
        print(
            f"--score_weights_users={train.score_weights_users} --score_weights_events={train.score_weights_events}: "
            "weights are fitted for a log in memory, on one device; the parts of a score keep the weights that were "
            "learned",
            flush=True,
        )
    return is_small and in_memory


def _prepare(config: Config, log: LifelongLog, start: int, stop: int) -> tuple[Prepared, Truth]:
    """The window before `start`, and what users took in [start, stop).

    Raises:
      UserError: too few users took anything.
    """
    if not (log.timestamp < start).any():
        raise UserError(f"the log has no events before {np.datetime64(start, 's')} UTC")
    prepared = prepare(config, log, start)
    corpus = prepared.corpus
    truth = build_truth(encode_log(log, corpus), corpus.num_items, start, (start, stop))
    if truth.num_users < _LEAST_USERS:
        raise UserError(
            f"{truth.num_users} users took anything in the last {config.data.window_days:g} days of the training "
            f"window; at least {_LEAST_USERS} are needed to weigh them anew"
        )
    return prepared, truth.rows(0, min(truth.num_users, _MOST_USERS))


def _train(config: Config, parts: TrainingSetup, directory: str) -> None:
    """Trains the second model as the run was trained; its checkpoints lie in `directory`."""
    state = LoopState.start()
    optimizers = [make_optimizer(config, phase) for phase in parts.phases]  # rates fall over all epochs, as the run's
    towers = parts.phases[0]
    towers.epochs = min(towers.epochs, _kept_epochs(config) or towers.epochs)
    checkpoints = make_checkpoints(directory, parts, optimizers, state)
    if not checkpoints.restore():
        parts.set_scales()
    writer = tf.summary.create_noop_writer()
    options = LoopOptions(config.train.checkpoint_every_s, config.train.patience, config.train.xla, writer)
    for index in range(int(state.phase), len(parts.phases)):
        run_phase(parts.phases[index], index, state, optimizers[index], checkpoints, options)


def _kept_epochs(config: Config) -> int:
    """How many epochs made the towers that the run kept; 0 where no validation chose among them.

    Towers that went on learning are surer of themselves than those that stopped early, and would be weighed less.
    """
    lines = TrainingHistory(config.train.run_dir, config.train.seed).lines("towers")
    judged = [line for line in lines if line.get("validation", -1.0) > -1.0]
    return int(max(judged, key=lambda line: line["validation"])["epoch"]) if judged else 0


def _fit(config: Config, prepared: Prepared, parts: TrainingSetup, truth: Truth) -> tuple[ScoreWeights, dict[str, Any]]:
    """The weights, and by part how likely a target is under the learned weights and under the fitted ones, nats."""
    retrieval = dataclasses.replace(config.retrieval, interest="learned", search="category", merge="calibrated")
    models: dict[str, Any] = dict(parts.models)
    scorer = LongRetrieverScorer(config, prepared, models["retriever"], models["interest"], retrieval)
    item = item_choices(scorer, prepared, truth, config.train.seed, config.model.repeat_term)
    every, novel = (interest_choices(scorer, prepared, truth, task) for task in ("all", "novel"))
    found, report = [], {}
    for name, choices in (("item", item), ("interest", every), ("interest_novel", novel)):
        weights, report[name] = _fit_part(choices)
        found.append(weights)
    names = (ITEM_TERMS, ("interest", "category_popularity"), ("interest_novel", "category_popularity_novel"))
    fitted = (zip(few, values.tolist(), strict=False) for few, values in zip(names, found, strict=True))
    return ScoreWeights(**{name: value for part in fitted for name, value in part}), report


def _fit_part(choices: Choices) -> tuple[np.ndarray, dict[str, float]]:
    prior = np.eye(1, choices.terms.shape[1])[0]  # the first term is what was learned
    weights = fit_weights(choices, prior)
    ways = {"learned": prior, "fitted": weights}
    return weights, {name: round(log_likelihood_per_target(choices, one), 4) for name, one in ways.items()}
