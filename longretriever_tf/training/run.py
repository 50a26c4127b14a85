"""One run from config to trained models; `train` is its command."""

import json
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from longretriever_tf.baseline_config import LONGRETRIEVER
from longretriever_tf.config import Config
from longretriever_tf.data.batches import BatchSource
from longretriever_tf.data.interest_batches import InterestSource, LifeReader
from longretriever_tf.data.log import LifelongLog
from longretriever_tf.data.prepared import (
    Prepared,
    example_tastes,
    load_split,
    prepare,
    prepare_examples,
    save_prepared,
    training_cut,
)
from longretriever_tf.data.splits import Cuts
from longretriever_tf.evaluation.evaluator import evaluate_users
from longretriever_tf.files import write_text_atomically
from longretriever_tf.models.build import Models, build_models, set_interest_scale, set_token_scale
from longretriever_tf.models.optimizer import SplitAdam
from longretriever_tf.provenance import describe_origin
from longretriever_tf.retrieval.scorer import LongRetrieverScorer
from longretriever_tf.training.assemble import Assembly, assemble_baseline, validation_truth
from longretriever_tf.training.charts import draw_training
from longretriever_tf.training.device_phase import make_device_phase
from longretriever_tf.training.loop import Checkpoints, LoopOptions, LoopState, Phase, run_phase
from longretriever_tf.training.phases import InterestPhase, TowerPhase
from longretriever_tf.training.run_dir import open_run_dir


def train(config: Config) -> None:
    """Trains, or resumes, the run of `config`; everything lands in `config.train.run_dir`.

    Raises:
      UserError: data, flags or directory cannot be used.
    """
    open_run_dir(config)
    log, cuts = load_split(config)
    prepared = prepare(config, log, training_cut(config, cuts))
    print(
        f"{config.data.dataset}: {prepared.log.num_users:,} users, {len(prepared.log.item):,} events before the cut "
        f"({np.datetime64(prepared.corpus.cut, 's')} UTC), {prepared.corpus.num_items - 2:,} items, "
        f"{prepared.corpus.num_categories - 2:,} categories ({prepared.corpus.context})"
    )
    save_prepared(config.train.run_dir, prepared)
    parts = assemble(config, log, cuts, prepared)
    phases = parts.phases
    optimizers = [
        SplitAdam(
            phase.variables(),
            config.train.learning_rate,
            config.train.weight_decay,
            max(1, phase.epochs * phase.num_steps()),
        )
        for phase in phases
    ]
    state = LoopState.start()
    checkpoints = Checkpoints(
        os.path.join(config.train.run_dir, "checkpoints"),
        {
            **parts.models,
            **{f"adam_{phase.name}": optimizer for phase, optimizer in zip(phases, optimizers, strict=True)},
        },
        state,
    )
    if checkpoints.restore():
        print(f"resuming at phase {int(state.phase)}, epoch {int(state.epoch)}, step {int(state.step)}")
    else:
        parts.set_scales()
    options = LoopOptions(
        config.train.checkpoint_every_s,
        config.train.patience,
        config.train.xla,
        tf.summary.create_file_writer(os.path.join(config.train.run_dir, "tensorboard")),
    )
    history = {}
    for index in range(int(state.phase), len(phases)):
        history[phases[index].name] = run_phase(phases[index], index, state, optimizers[index], checkpoints, options)
    checkpoints.save_weights("final")
    options.writer.close()
    _write_history(config, history)
    print(f"written: {draw_training(config.train.run_dir)}")


def assemble(config: Config, log: LifelongLog, cuts: Cuts, prepared: Prepared) -> Assembly:
    """What `config.model.model` trains, in which phases.

    Args:
      config: the run's config.
      log: the whole log; read beyond the cut for the validation figure alone.
      cuts: its cuts.
      prepared: the window before the training cut.

    Raises:
      UserError: the training window makes no example.
    """
    if config.model.model != LONGRETRIEVER:
        return assemble_baseline(config, log, cuts, prepared)
    models = build_models(config, prepared.corpus, prepared.item_svd)
    phases, set_scales = _make_phases(config, log, cuts, prepared, models)
    trained = {"retriever": models.retriever, "interest": models.interest}
    return Assembly(phases, trained, set_scales)


def _make_phases(
    config: Config, log: LifelongLog, cuts: Cuts, prepared: Prepared, models: Models
) -> tuple[list[Phase], Callable[[], None]]:
    """The phases, and what sets the models' feature scales."""
    examples, snapshots = prepare_examples(config, prepared)
    source = BatchSource(config, prepared, examples)
    history_events = config.model.history_events
    reader = LifeReader(prepared.corpus, prepared.log, prepared.stats, config.retrieval.day_floor, history_events)
    tastes = source.tastes if snapshots is examples else example_tastes(config, prepared, snapshots)
    interest_source = InterestSource(prepared, snapshots, tastes, reader, config.train.seed)
    validate = None
    if config.train.cut == "validation":
        truth = validation_truth(log, cuts, prepared)

        def validate() -> float:
            scorer = LongRetrieverScorer(config, prepared, models.retriever, models.interest, config.retrieval)
            rank = evaluate_users(scorer, truth, prepared.corpus.category_offset, chunk=512).all.rank
            figure = float(np.mean(1.0 / (1.0 + rank)))
            print(f"validation: within-category MRR {figure:.4f}, recall@20 {np.mean(rank < 20):.4f}")
            return figure

    towers = TowerPhase(config, models.retriever, source, examples, prepared.corpus.category_offset, validate)
    interest = InterestPhase(config, models.interest, interest_source)
    first: Phase = towers
    if config.train.device_input:
        first = make_device_phase(config, towers, models.retriever, prepared, examples, source)
    return [first, interest], lambda: _set_scales(models, towers, interest)


def _set_scales(models: Models, towers: TowerPhase, interest: InterestPhase) -> None:
    set_token_scale(models.retriever, towers.make_dataset(0, 0).take(64))
    set_interest_scale(models.interest, interest.make_dataset(0, 0).take(4))


def _write_history(config: Config, history: dict[str, list[dict[str, float]]]) -> None:
    """Adds this session's epochs to `training.json`, which also describes the run."""
    path = os.path.join(config.train.run_dir, "training.json")
    stored = {"run": describe_origin("python -m longretriever_tf.train", config.train.seed), "history": {}}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            stored["history"] = json.load(file)["history"]
    for phase, lines in history.items():
        stored["history"].setdefault(phase, []).extend(lines)
    write_text_atomically(path, json.dumps(stored, indent=2) + "\n")
