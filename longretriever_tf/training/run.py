"""One run from config to trained models; `train` is its command."""

import os

import numpy as np
import tensorflow as tf

from longretriever_tf.common.progress import stage
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.prepared_data import (
    Prepared,
    prepare,
    save_prepared,
)
from longretriever_tf.data.batches.tables import training_cut, training_cuts
from longretriever_tf.data.catalogue import save_catalogue
from longretriever_tf.data.window.window import Window
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.log_identity import (
    LogIdentity,
    identify_log,
    identify_shards,
    read_identity,
    write_identity,
)
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.datasets.splits import Cuts
from longretriever_tf.models.optimizer import WEIGHT_DECAY, LazyAdamW
from longretriever_tf.training.charts import draw_training
from longretriever_tf.training.history import TrainingHistory
from longretriever_tf.training.log_on_disk import prepare_on_disk, read_log
from longretriever_tf.training.loop import Checkpoints, LoopOptions, LoopState, run_phase
from longretriever_tf.training.phases import Phase
from longretriever_tf.training.run_dir import (
    has_unchanged_source,
    is_finished,
    open_run_dir,
    require_same_corpus,
    require_same_log,
    write_config,
)
from longretriever_tf.training.setup import assemble


def train(config: Config) -> str:
    """Trains, or resumes, the run of `config`; everything lands in `config.train.run_dir`.

    Nothing there changes before the log, and the checkpoint of a run that goes on, have proved to belong to it.

    Returns:
      What happened, in a sentence: trained, or finished before.

    Raises:
      UserError: data, flags or directory cannot be used.
    """
    run_dir = config.train.run_dir
    with open_run_dir(config):
        if is_finished(run_dir) and has_unchanged_source(config):
            return _describe_finished(run_dir)
        with stage("reading the log"):
            log = read_log(config)
            identity = identify_shards(log) if isinstance(log, ShardedLog) else identify_log(log, config.data)
        require_same_log(config, identity)
        if is_finished(run_dir):
            write_identity(run_dir, identity)  # the same log in files that were written anew
            return _describe_finished(run_dir)
        _train(config, log, identity)
        return f"trained: {run_dir}"


def _describe_finished(run_dir: str) -> str:
    identity = read_identity(run_dir)
    of_what = f" on the log {identity.describe()}" if identity else ""
    return f"{run_dir} has finished training{of_what}: nothing to do (to train once more, name another --run_dir)"


def _train(config: Config, log: LifelongLog | ShardedLog, identity: LogIdentity) -> None:
    """What `train` does once the run directory and the log are known to belong together."""
    ends = [identity.first, identity.last] if log.num_events else []
    run_dir, cuts = config.train.run_dir, training_cuts(config, np.array(ends))
    prepared, num_events = _prepare(config, log, cuts)
    print(
        f"{config.data.data or config.data.dataset}: {log.num_users:,} users, {num_events:,} events before the cut "
        f"({np.datetime64(prepared.corpus.cut, 's')} UTC), {prepared.corpus.num_items - 2:,} items, "
        f"{prepared.corpus.num_categories - 2:,} categories ({prepared.corpus.context})",
        flush=True,
    )
    require_same_corpus(run_dir, prepared)
    with stage("finding the training examples and their histories"):
        parts = assemble(config, log, cuts, prepared)
    state = LoopState.start()
    optimizers = [_make_optimizer(config, phase) for phase in parts.phases]
    adams = {f"adam_{phase.name}": adam for phase, adam in zip(parts.phases, optimizers, strict=True)}
    checkpoints = Checkpoints(os.path.join(run_dir, "checkpoints"), {**parts.models, **adams}, state)
    if checkpoints.restore():
        print(f"resuming at phase {int(state.phase)}, epoch {int(state.epoch)}, step {int(state.step)}", flush=True)
    else:
        parts.set_scales()
    history = TrainingHistory(run_dir, config.train.seed)
    with stage("writing what export and evaluate need of the training window"):
        write_config(config)
        write_identity(run_dir, identity)
        save_catalogue(run_dir, log.items, prepared.corpus)
        save_prepared(run_dir, prepared, identity.fingerprint)
    _run_phases(config, parts.phases, optimizers, state, checkpoints, history)
    print(f"written: {draw_training(run_dir)}")


def _prepare(config: Config, log: LifelongLog | ShardedLog, cuts: Cuts) -> tuple[Prepared | Window, int]:
    """The training window, and its number of events."""
    if isinstance(log, ShardedLog):
        window = prepare_on_disk(config, log)
        return window, int(window.item_count.sum())
    with stage("preparing vocabularies, item statistics and the items' SVD"):
        prepared = prepare(config, log, training_cut(config, cuts))
    return prepared, len(prepared.log.item)


def _make_optimizer(config: Config, phase: Phase) -> LazyAdamW:
    num_steps = max(1, phase.epochs * phase.num_steps())
    optimizer = LazyAdamW(config.train.learning_rate, WEIGHT_DECAY, num_steps)
    optimizer.build(phase.variables())
    return optimizer


def _run_phases(
    config: Config,
    phases: list[Phase],
    optimizers: list[LazyAdamW],
    state: LoopState,
    checkpoints: Checkpoints,
    history: TrainingHistory,
) -> None:
    options = LoopOptions(
        config.train.checkpoint_every_s,
        config.train.patience,
        config.train.xla,
        tf.summary.create_file_writer(os.path.join(config.train.run_dir, "tensorboard")),
        history.add,
    )
    for index in range(int(state.phase), len(phases)):
        run_phase(phases[index], index, state, optimizers[index], checkpoints, options)
    if not checkpoints.has_weights("final"):
        checkpoints.save_weights("final")
    options.writer.close()
    history.write()
