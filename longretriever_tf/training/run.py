"""One run from config to trained models; `train` is its command."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from longretriever_tf import __version__
from longretriever_tf.common.progress import stage
from longretriever_tf.common.provenance import describe_origin, git_hash
from longretriever_tf.config.actions import check_action_counts
from longretriever_tf.config.check import asks_text_clusters, unlearned_time
from longretriever_tf.config.config import Config, to_json
from longretriever_tf.config.event_features import check_event_examples
from longretriever_tf.data.batches.prepared_data import (
    Prepared,
    prepare,
    save_prepared,
)
from longretriever_tf.data.batches.tables import training_cut, training_cuts
from longretriever_tf.data.catalogue import save_catalogue
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.learned_context import with_trained_clusters
from longretriever_tf.data.window.window import Window
from longretriever_tf.datasets.load import with_action_flags
from longretriever_tf.datasets.log import ItemTable, LifelongLog
from longretriever_tf.datasets.log_identity import (
    LogIdentity,
    identify_log,
    identify_shards,
    read_identity,
    write_identity,
)
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.datasets.splits import Cuts
from longretriever_tf.models.build import Models
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.tracking.tracked_run import TrackedRun, track_run
from longretriever_tf.tracking.tracker import RunFacts
from longretriever_tf.training.charts import draw_training
from longretriever_tf.training.distributed.agreement import choose_groups, require_same_logs, require_same_settings
from longretriever_tf.training.distributed.checkpoints import SharedCheckpoints, share_checkpoints
from longretriever_tf.training.distributed.cluster import Cluster, start_cluster
from longretriever_tf.training.history import HISTORY_FILE, TrainingHistory
from longretriever_tf.training.log_on_disk import prepare_on_disk, read_log
from longretriever_tf.training.loop import Checkpoints, LoopOptions, LoopState, epoch_metrics, run_phase
from longretriever_tf.training.own_correction import fit_own_correction
from longretriever_tf.training.phases import Phase
from longretriever_tf.training.run_dir import (
    has_unchanged_source,
    is_finished,
    open_run_dir,
    require_same_corpus,
    require_same_log,
    write_config,
)
from longretriever_tf.training.score_weights import fit_score_weights
from longretriever_tf.training.setup import TrainingSetup, assemble, make_checkpoints, make_optimizer
from longretriever_tf.training.warm_start.earlier_run import (
    EarlierRun,
    open_earlier_run,
    require_continuation,
    require_other_directory,
)
from longretriever_tf.training.warm_start.update import Update, make_update, take_over, write_update


def train(config: Config) -> str:
    """Trains, or resumes, the run of `config`; everything lands in `config.train.run_dir`.

    Nothing there changes before the log, and the checkpoint of a run that goes on, have proved to belong to it.

    Returns:
      What happened, in a sentence: trained, or finished before.

    Raises:
      UserError: data, flags, directory or the other workers cannot be used.
    """
    require_other_directory(config)
    config = dataclasses.replace(config, data=with_action_flags(config.data))
    check_action_counts(config.model, dataclasses.replace(config.data, data=""))  # its targets are known now
    check_event_examples(config)
    if warning := unlearned_time(config):
        logging.warning("%s", warning)
    cluster = start_cluster(config.train.distribute)
    with contextlib.ExitStack() as held:
        held.enter_context(cluster.session())
        if not config.train.device_input:
            held.enter_context(_quiet_loop_optimizer())
        begun = cluster.gather(lambda: _begin(config, cluster, held))
        require_same_settings(begun)
        config = _with_groups(config, begun[0]["groups"])
        if begun[0]["finished"]:
            return _describe_finished(config.train.run_dir)
        return _train_on_log(config, cluster)


@contextlib.contextmanager
def _quiet_loop_optimizer() -> Iterator[None]:
    """Without TensorFlow's optimizer of loops: of a step that has none, it only says that it left a `cond` alone."""
    options = tf.config.optimizer
    before = options.get_experimental_options().get("loop_optimization", True)
    options.set_experimental_options({"loop_optimization": False})
    try:
        yield
    finally:
        options.set_experimental_options({"loop_optimization": before})


def _begin(config: Config, cluster: Cluster, held: contextlib.ExitStack) -> dict[str, Any]:
    """Takes the run directory, where this is the chief; what the workers must agree on."""
    run_dir, finished = config.train.run_dir, False
    if cluster.is_chief:
        config = _with_groups(config, choose_groups(config, cluster.num_replicas))
        held.enter_context(open_run_dir(config))
        finished = is_finished(run_dir) and has_unchanged_source(config)
    code = f"longretriever_tf {__version__}, commit {git_hash() or 'unknown'}, TensorFlow {tf.__version__}"
    groups = config.train.batches_per_step
    return {"groups": groups, "finished": finished, "code": code, "config": json.loads(to_json(config))}


def _with_groups(config: Config, groups: int) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batches_per_step=groups))


def _train_on_log(config: Config, cluster: Cluster) -> str:
    """What `train` does once flags, directory and workers are known to belong together."""
    run_dir = config.train.run_dir
    earlier = open_earlier_run(config) if config.update.warm_start else None

    def read() -> tuple[LifelongLog | ShardedLog, LogIdentity]:
        with stage("reading the log"):
            log = read_log(config)
            return log, identify_shards(log) if isinstance(log, ShardedLog) else identify_log(log, config.data)

    log, identity = cluster.each(read)
    require_same_logs(cluster.exchange(identity.describe()))

    def check() -> bool:
        if not cluster.is_chief:
            return False
        require_same_log(config, identity)
        if is_finished(run_dir):
            write_identity(run_dir, identity)  # the same log in files that were written anew
            return True
        return False

    if cluster.gather(check)[0]:
        return _describe_finished(run_dir)
    _train(config, log, identity, cluster, earlier)
    return f"trained: {run_dir}"


def _items_of(config: Config, log: LifelongLog | ShardedLog, corpus: Corpus) -> ItemTable:
    """The items of the log, in their text clusters where these are the context: a catalogue keeps no texts."""
    if not asks_text_clusters(corpus.context):
        return log.items
    return with_trained_clusters(log.items, log.context, corpus, config.data.text_columns)


def _describe_finished(run_dir: str) -> str:
    identity = read_identity(run_dir)
    of_what = f" on the log {identity.describe()}" if identity else ""
    return f"{run_dir} has finished training{of_what}: nothing to do (to train once more, name another --run_dir)"


def _train(
    config: Config, log: LifelongLog | ShardedLog, identity: LogIdentity, cluster: Cluster, earlier: EarlierRun | None
) -> None:
    """What `train` does once the run directory and the log are known to belong together."""
    ends = [identity.first, identity.last] if log.num_events else []
    run_dir, cuts = config.train.run_dir, training_cuts(config, np.array(ends))
    prepared, num_events, update = _prepare(config, log, cuts, earlier)
    print(
        f"{config.data.data or config.data.dataset}: {log.num_users:,} users, {num_events:,} events before the cut "
        f"({np.datetime64(prepared.corpus.cut, 's')} UTC), {prepared.corpus.num_items - 2:,} items, "
        f"{prepared.corpus.num_categories - 2:,} categories ({prepared.corpus.context})",
        flush=True,
    )
    if cluster.is_chief:
        require_same_corpus(run_dir, prepared)
    with stage("finding the training examples and their histories"):
        since = None if earlier is None else earlier.corpus.cut
        parts = assemble(config, log, cuts, prepared, cluster, since)
    state = LoopState.start()
    with cluster.scope():
        optimizers = [make_optimizer(config, phase) for phase in parts.phases]
    checkpoints = _make_checkpoints(config, parts, optimizers, state, cluster)
    if checkpoints.restore():
        print(f"resuming at phase {int(state.phase)}, epoch {int(state.epoch)}, step {int(state.step)}", flush=True)
    else:
        _begin_weights(config, parts, optimizers, update)
        cluster.copy_from_chief([variable for model in parts.models.values() for variable in model.variables])
    if not cluster.is_chief:
        _run_phases(config, parts.phases, optimizers, state, checkpoints, cluster, None)
        return
    history = TrainingHistory(run_dir, config.train.seed)
    with stage("writing what export and evaluate need of the training window"):
        write_config(config)
        write_identity(run_dir, identity)
        save_catalogue(run_dir, _items_of(config, log, prepared.corpus), prepared.corpus)
        if update is None:
            save_prepared(run_dir, prepared, identity.fingerprint)
        else:
            save_prepared(run_dir, prepared, identity.fingerprint, update.generation, update.svd["cut"])
            write_update(update, config, parts.num_new, parts.phases[0].source.num_rows)
    with track_run(config.train.tracker, lambda: _describe(config), run_dir) as tracked:
        _run_phases(config, parts.phases, optimizers, state, checkpoints, cluster, (history, tracked))
        if update is None:  # an update keeps the weights of the run that it goes on from
            fit_score_weights(config, log, cuts, prepared.corpus.cut, cluster)
        fit_own_correction(config, log)
        chart = draw_training(run_dir)
        tracked.log_results("train", {}, files=[chart, os.path.join(run_dir, HISTORY_FILE)])
    print(f"written: {chart}")


def _describe(config: Config) -> RunFacts:
    """The run as trackers know it."""
    origin = describe_origin("longretriever train", config.train.seed)
    return RunFacts(config.train.run_dir, json.loads(to_json(config)), origin)


def _begin_weights(config: Config, parts: TrainingSetup, optimizers: list[LazyAdamW], update: Update | None) -> None:
    """Weights, scales and moments before the first step."""
    if update is None:
        parts.set_scales()
        return
    models: dict[str, Any] = dict(parts.models)
    by_phase = {phase.name: optimizer for phase, optimizer in zip(parts.phases, optimizers, strict=True)}
    take_over(update, config, Models(models["retriever"], models["interest"]), by_phase)
    num_examples = parts.phases[0].source.num_rows
    print(
        f"examples of the towers: {parts.num_new:,} of the new days, {num_examples - parts.num_new:,} of earlier ones",
        flush=True,
    )


def _prepare(
    config: Config, log: LifelongLog | ShardedLog, cuts: Cuts, earlier: EarlierRun | None
) -> tuple[Prepared | Window, int, Update | None]:
    """The training window, its number of events, and what an update takes over."""
    if earlier is not None:
        cut = training_cut(config, cuts)
        require_continuation(earlier, config, log, cut)
        assert isinstance(log, LifelongLog), "held by require_continuation"
        with stage("preparing vocabularies, item statistics and the items' SVD"):
            update = make_update(earlier, config, log, cut)
        print("\n".join(update.lines(config)), flush=True)
        return update.prepared, len(update.prepared.log.item), update
    if isinstance(log, ShardedLog):
        window = prepare_on_disk(config, log)
        return window, int(window.item_count.sum()), None
    with stage("preparing vocabularies, item statistics and the items' SVD"):
        prepared = prepare(config, log, training_cut(config, cuts))
    return prepared, len(prepared.log.item), None


def _make_checkpoints(
    config: Config, parts: TrainingSetup, optimizers: list[LazyAdamW], state: LoopState, cluster: Cluster
) -> Checkpoints | SharedCheckpoints:
    """Checkpoints of this process, or what it shares of the chief's."""
    files = None
    if cluster.is_chief:
        files = make_checkpoints(os.path.join(config.train.run_dir, "checkpoints"), parts, optimizers, state)
    if files is not None and cluster.num_workers == 1:
        return files
    owned = parts.owned.states(optimizers[0], cluster) if parts.owned else []
    return share_checkpoints(files, parts.models, optimizers, state, owned, cluster)


def _run_phases(
    config: Config,
    phases: list[Phase],
    optimizers: list[LazyAdamW],
    state: LoopState,
    checkpoints: Checkpoints | SharedCheckpoints,
    cluster: Cluster,
    listeners: tuple[TrainingHistory, TrackedRun] | None,
) -> None:
    """All phases from where `state` stands; the chief alone has listeners."""
    options = LoopOptions(
        config.train.checkpoint_every_s,
        config.train.patience,
        config.train.xla,
        tf.summary.create_noop_writer(),
        agree=None if cluster.num_workers == 1 else lambda is_due: bool(cluster.from_chief(is_due)),
    )
    if listeners is not None:
        history, tracked = listeners
        writer = tf.summary.create_file_writer(os.path.join(config.train.run_dir, "tensorboard"))
        options = dataclasses.replace(options, writer=writer, on_epoch=history.add, on_report=tracked.log)
        for phase in phases:  # again, on the way on: what a killed session had said may not have been delivered
            for line in history.lines(phase.name):
                tracked.log(phase.name, int(line["epoch"]) * phase.num_steps(), epoch_metrics(line))
    for index in range(int(state.phase), len(phases)):
        run_phase(phases[index], index, state, optimizers[index], checkpoints, options)
    if not checkpoints.has_weights("final"):
        checkpoints.save_weights("final")
    options.writer.close()
    if listeners is not None:
        history.write()
