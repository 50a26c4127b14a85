"""What a run trains, in which phases: the parts that `training.run` drives."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.baselines import LONGRETRIEVER
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import held_out_users
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.interests import InterestSource
from longretriever_tf.data.batches.on_device import DeviceSource
from longretriever_tf.data.batches.prepared_data import (
    Prepared,
    example_history_embeddings,
    prepare_examples,
    prepare_requests,
)
from longretriever_tf.data.batches.update_examples import UpdateChoice
from longretriever_tf.data.corpus import encode_log
from longretriever_tf.data.window.sources import WindowInterestSource, WindowSource
from longretriever_tf.data.window.window import Window
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.datasets.splits import Cuts
from longretriever_tf.evaluation.evaluator import evaluate_scorer, ranks_within_category
from longretriever_tf.evaluation.ground_truth import Truth, build_truth
from longretriever_tf.evaluation.live_scorer import LiveScorer
from longretriever_tf.models.baselines.batches import UserBatchSource
from longretriever_tf.models.baselines.examples import build_user_examples
from longretriever_tf.models.baselines.model import RecentRetriever, build_baseline
from longretriever_tf.models.baselines.scorer import RecentScorer
from longretriever_tf.models.build import Models, build_models, set_interest_scale, set_token_scale
from longretriever_tf.models.optimizer import WEIGHT_DECAY, LazyAdamW
from longretriever_tf.training.device_phase import DevicePhase
from longretriever_tf.training.distributed.cluster import Cluster
from longretriever_tf.training.distributed.grouped_device_phase import GroupedDevicePhase
from longretriever_tf.training.distributed.grouping import (
    BY_CATEGORY,
    OwnedTables,
    chief_validation,
    group_phase,
    own_by_category,
)
from longretriever_tf.training.log_on_disk import held_out_on_disk, validation_on_disk
from longretriever_tf.training.loop import Checkpoints, LoopState
from longretriever_tf.training.phases import Phase

_VALIDATION_USERS = 1000
"""Users of the validation window that guide early stopping, at most."""

_VALIDATION_K = 100

_ENOUGH_EXAMPLES, _MOST_EPOCHS = 800_000, 4
"""Examples that an epoch, or several, show the towers where flags give no number of epochs, and the most epochs."""

_LEAST_STEPS, _LEAST_BATCH = 1000, 32
"""Steps of an epoch of the towers, if need be by batches down to so many examples. Measured on 300 users of Jakarta
(validation, seed 1): batches of 64 for 256 take recall@100 from 0.644 to 0.661, within the category recall@20 from
0.838 to 0.847, and on novel items recall@100 from 0.342 to 0.337."""


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """The parts of a run.

    Attributes:
      phases: in order.
      models: what checkpoints hold, by name.
      set_scales: sets the frozen feature scales; called before the first step.
      owned: tables of the first phase whose rows belong to a worker each.
      num_new: of an update, the examples of the first phase that are of the new days.
    """

    phases: list[Phase]
    models: dict[str, tf.Module]
    set_scales: Callable[[], None]
    owned: OwnedTables | None = None
    num_new: int = 0


def assemble(
    config: Config,
    log: LifelongLog | ShardedLog,
    cuts: Cuts,
    prepared: Prepared | Window,
    cluster: Cluster,
    since: int | None = None,
) -> TrainingSetup:
    """What `config.model.model` trains, in which phases.

    Args:
      config: the run's config.
      log: the whole log, in memory or on disk; read beyond the cut for the validation metric alone.
      cuts: its cuts.
      prepared: the window before the training cut.
      cluster: the devices that train.
      since: the cut of the run that an update goes on from, seconds UTC: it learns from the days after it and a share
        of the others (`data.batches.update_examples`). None: from all.

    Raises:
      UserError: there are no training examples.
    """
    if config.model.model != LONGRETRIEVER:
        assert isinstance(log, LifelongLog) and isinstance(prepared, Prepared), "baselines train in memory"
        return _assemble_baseline(config, log, cuts, prepared, cluster)
    with cluster.scope():
        fold_svd = prepared.history_embedding_rows if config.train.cross_fit_items else None
        models = build_models(config, prepared.corpus, prepared.item_svd, fold_svd)
    source, interest_source, num_new = _make_sources(config, prepared, since)
    config, seed = with_epochs(config, source.num_rows), config.train.seed
    epochs = config.train.epochs
    validate = _validate_towers(config, log, cuts, prepared, models)
    towers = Phase("towers", epochs, models.retriever, source, seed, validate)
    interest = Phase("interest", config.train.interest_epochs, models.interest, interest_source, seed)
    owned = None
    if config.train.item_tables == BY_CATEGORY:
        owned = own_by_category(config, source, models.retriever.item_tower, prepared.corpus.category_offset)
    if config.train.device_input:
        assert isinstance(prepared, Prepared) and isinstance(source, BatchSource), "device_input trains in memory"
        device = DeviceSource(config, prepared, source)
        towers = DevicePhase("towers", epochs, models.retriever, device, seed, validate)
        if cluster.strategy is not None:
            validate = chief_validation(validate, cluster)
            towers = GroupedDevicePhase("towers", epochs, models.retriever, device, seed, validate, cluster)
            interest = group_phase(interest, interest_source, config, cluster)
    else:
        towers = group_phase(towers, source, config, cluster, owned)
        interest = group_phase(interest, interest_source, config, cluster)

    def set_scales() -> None:
        set_token_scale(models.retriever.user_tower, source.make_dataset(0).take(64))
        set_interest_scale(models.interest, interest_source.make_dataset(0).take(4))

    trained = {"retriever": models.retriever, "interest": models.interest}
    return TrainingSetup([towers, interest], trained, set_scales, owned, num_new)


def make_optimizer(config: Config, phase: Phase) -> LazyAdamW:
    """The optimizer of a phase, with its variables built."""
    num_steps = max(1, phase.epochs * phase.num_steps())
    rate, is_carried = config.train.learning_rate, False
    if config.update.warm_start:
        rate, is_carried = config.update.warm_learning_rate, config.update.warm_optimizer == "carry"
    optimizer = LazyAdamW(rate, WEIGHT_DECAY, num_steps, carries_moments=is_carried)
    optimizer.build(phase.variables())
    return optimizer


def make_checkpoints(
    directory: str, parts: TrainingSetup, optimizers: Sequence[LazyAdamW], state: LoopState
) -> Checkpoints:
    """Checkpoints of the models, of the optimizer of each phase, and of the position."""
    adams = {f"adam_{phase.name}": adam for phase, adam in zip(parts.phases, optimizers, strict=True)}
    return Checkpoints(directory, {**parts.models, **adams}, state)


def _make_sources(
    config: Config, prepared: Prepared | Window, since: int | None
) -> tuple[BatchSource | WindowSource, InterestSource | WindowInterestSource, int]:
    """Batches of the towers and of the interest score, the same ones from memory and from disk; `num_new`."""
    if isinstance(prepared, Window):
        config = _with_steps(config, prepared.num_examples)
        return WindowSource(config, prepared), WindowInterestSource(config, prepared), 0
    choice = None if since is None else UpdateChoice(config, prepared.log.user_id, since, prepared.corpus.cut)
    examples, snapshots = prepare_examples(config, prepared, choice)
    source = BatchSource(_with_steps(config, len(examples)), prepared, examples)
    embeddings = source.history_embeddings
    if snapshots is not examples:
        embeddings = example_history_embeddings(config, prepared, snapshots)
    seed, shown = config.train.seed, config.model.history_events
    return source, InterestSource(prepared, snapshots, embeddings, seed, shown), choice.num_new if choice else 0


def _with_steps(config: Config, num_examples: int) -> Config:
    """The config with smaller batches where an epoch would else be over after a few hundred steps.

    Batches of the in-batch loss stay: they are its negatives.
    """
    size = min(config.train.batch_size, max(_LEAST_BATCH, num_examples // _LEAST_STEPS))
    if config.train.loss != "full" or size == config.train.batch_size:
        return config
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=size))


def with_epochs(config: Config, num_examples: int) -> Config:
    """The config with a number of epochs: where flags give none, so many that small logs teach the towers, too.

    Args:
      config: the run's config.
      num_examples: of an epoch.
    """
    if config.train.epochs:
        return config
    epochs = min(max(round(_ENOUGH_EXAMPLES / max(num_examples, 1)), 1), _MOST_EPOCHS)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))


def _assemble_baseline(
    config: Config, log: LifelongLog, cuts: Cuts, prepared: Prepared, cluster: Cluster
) -> TrainingSetup:
    """The parts of a run of `--model=two_tower|mind|comirec`: one phase."""
    with cluster.scope():
        item_stats = prepared.stats.item if config.baseline.item_bias else None
        model = build_baseline(config, prepared.corpus, prepared.item_svd, item_stats)
    examples = build_user_examples(config, prepared.log, prepared.stats.time)
    source = UserBatchSource(config, prepared.corpus, prepared.log, examples, prepared.stats)
    config = with_epochs(config, len(examples))
    name, train = config.model.model, config.train
    print(
        f"{name}: {len(examples):,} examples with {int(examples.num_targets.sum()):,} targets, "
        f"{source.rows_per_batch} examples a batch"
    )
    phase = Phase(name, train.epochs, model, source, train.seed, _validate_baseline(config, log, cuts, prepared, model))

    def set_scales() -> None:
        set_token_scale(model.event_embedding, source.make_dataset(0).take(16))

    return TrainingSetup([group_phase(phase, source, config, cluster)], {"retriever": model}, set_scales)


def _validate_towers(
    config: Config, log: LifelongLog | ShardedLog, cuts: Cuts, prepared: Prepared | Window, models: Models
) -> Callable[[], float] | None:
    """Within-category MRR, which guides early stopping; None where no window or user is held out for it."""
    if config.train.cut != "validation" and not config.train.validation_users:
        return None
    requests, truth = _validation_requests(config, log, cuts, prepared)
    scorer: LiveScorer | None = None

    def validate() -> float:
        nonlocal scorer
        if scorer is None:  # traced once, for all epochs
            scorer = LiveScorer(config, requests, models)
        else:
            scorer.renew()
        rank = ranks_within_category(scorer, truth, requests.corpus.category_offset, chunk=512)
        scorer.forget()
        mrr = float(np.mean(1.0 / (1.0 + rank)))
        print(f"validation: within-category MRR {mrr:.4f}, recall@20 {np.mean(rank < 20):.4f}")
        return mrr

    return validate


def _validation_requests(
    config: Config, log: LifelongLog | ShardedLog, cuts: Cuts, prepared: Prepared | Window
) -> tuple[Prepared, Truth]:
    """Whom the validation metric asks about: their requests, and what they took."""
    is_window = config.train.cut == "validation"
    if isinstance(log, ShardedLog):
        assert isinstance(prepared, Window), "the window of a log on disk"
        if is_window:
            return validation_on_disk(log, cuts, prepared, _VALIDATION_USERS)
        return held_out_on_disk(config, log, prepared, _VALIDATION_USERS)
    assert isinstance(prepared, Prepared), "the window of a log in memory"
    return (prepared, validation_truth(log, cuts, prepared)) if is_window else held_out_truth(config, log, prepared)


def _validate_baseline(
    config: Config, log: LifelongLog, cuts: Cuts, prepared: Prepared, model: RecentRetriever
) -> Callable[[], float] | None:
    """Recall over all items, which guides early stopping; None without a validation window."""
    if config.train.cut != "validation":
        return None
    truth = validation_truth(log, cuts, prepared)
    k = max(1, min(_VALIDATION_K, truth.num_items // 10))  # a list of the whole of a small corpus would tell nothing

    def validate() -> float:
        scorer = RecentScorer(config, prepared, model)
        metrics = evaluate_scorer(scorer, truth, prepared.corpus.category_offset, ks=(k,), chunk=512)
        recall = {task: metrics[task].get(f"recall@{k}", 0.0) for task in ("all", "novel")}
        print(f"validation: recall@{k} all {recall['all']:.4f}, novel {recall['novel']:.4f}")
        return recall["all"]

    return validate


def validation_truth(log: LifelongLog, cuts: Cuts, prepared: Prepared) -> Truth:
    """Truth of the validation window for the users who guide early stopping."""
    corpus = prepared.corpus
    truth = build_truth(encode_log(log, corpus), corpus.num_items, corpus.cut, cuts.window_of("validation"))
    return truth.rows(0, min(truth.num_users, _VALIDATION_USERS))


def held_out_truth(config: Config, log: LifelongLog, prepared: Prepared) -> tuple[Prepared, Truth]:
    """What --validation_users asks about: the last --window_days of the users held out, and the log before these.

    Raises:
      UserError: none of them takes anything in those days.
    """
    corpus, stop = prepared.corpus, prepared.corpus.cut
    start = stop - round(config.data.window_days * DAY_S)
    arrays = {"item_svd": prepared.item_svd, "taste_rows": prepared.history_embedding_rows}
    requests = prepare_requests(log, corpus, arrays, start)
    whole = encode_log(log, corpus)
    is_asked = held_out_users(config, log.user_id)[whole.event_user()] | (whole.timestamp < start)
    truth = build_truth(whole.of_events(is_asked), corpus.num_items, start, (start, stop))
    return requests, truth.rows(0, min(truth.num_users, _VALIDATION_USERS))
