"""An update of an earlier run: its SVD goes on, its weights move into grown tables; warm_start.json says how."""

import dataclasses
import json
import os
import shutil
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import (
    aside_path,
    explain_damage,
    explain_os_errors,
    first_line,
    read_json_object,
    write_text_atomically,
)
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.prepared_data import Prepared, SvdTables, prepare
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.number_bins import describe_bins
from longretriever_tf.data.recipe.history_embedding import fit_folds, grow_folds, refit_folds
from longretriever_tf.data.recipe.item_svd import DistinctPairs, refit_pairs_svd
from longretriever_tf.data.recipe.row_keys import CorpusGrowth, grow_corpus
from longretriever_tf.data.recipe.score_weights import FILE as SCORE_WEIGHTS_FILE
from longretriever_tf.data.recipe.svd_growth import align_rows, earlier_rows, fold_in_rows, mean_cosine
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.models.build import CHECKPOINT_ERRORS, Models, load_models
from longretriever_tf.models.growth import grow_models, grow_moments
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.retrieval.fingerprint import fingerprint_towers
from longretriever_tf.training.warm_start.earlier_run import EarlierRun, changed_settings, with_trained_context

FILE = "warm_start.json"


@dataclasses.dataclass(frozen=True)
class Update:
    """What an update takes over from an earlier run, and on what it goes on.

    Attributes:
      run: the earlier run.
      models: its models, as trained.
      towers: their fingerprint.
      prepared: the training window of the update.
      growth: of the vocabularies.
      svd: what became of the items' SVD: `refit` or not, the `cut` of the last fit, and how near shared items lie to
        their earlier rows (`mean_cosine`).
    """

    run: EarlierRun
    models: Models
    towers: str
    prepared: Prepared
    growth: CorpusGrowth
    svd: dict[str, Any]

    @property
    def generation(self) -> int:
        """Of the update."""
        return self.run.generation + 1

    def lines(self, config: Config) -> list[str]:
        """What the update does, for people."""
        run, cut = self.run, self.prepared.corpus.cut
        new = {name: source.num_new for name, source in self.growth.named().items() if source.num_new}
        since, fitted = np.datetime64(self.svd["cut"], "s"), self.svd["mean_cosine"]
        changed, bins = changed_settings(run.config, config), describe_bins(run.corpus.feature_edges)
        return [
            f"warm start from {run.describe()}: {(cut - run.corpus.cut) / DAY_S:.1f} new days",
            f"settings that differ from its own: {'; '.join(changed) or 'none'}",
            f"new rows: {_count(new)}; no longer in the log: {_count(self.growth.lost)}",
            f"items' SVD: fitted anew and rotated onto the earlier one, to a mean cosine of {fitted:.3f}"
            if self.svd["refit"]
            else f"items' SVD: of the events before {since} UTC, {new.get('items', 0):,} new items folded in",
            *([bins] if bins else []),
        ]


def _count(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items()) or "none"


def make_update(run: EarlierRun, config: Config, log: LifelongLog, cut: int) -> Update:
    """Prepares the training window of an update, with the earlier run's contexts and in the basis of its SVD.

    Args:
      run: the earlier run.
      config: of the update.
      log: the whole log, which goes on from that run's (`require_continuation`).
      cut: where the training data end, seconds UTC.

    Raises:
      UserError: the earlier run's weights cannot be read.
    """
    models = load_models(run.config, run.corpus, run.arrays["item_svd"])
    towers = fingerprint_towers(run.config, run.corpus, models, run.arrays)
    _require_same_run(run, config, towers)
    svd_cut = int(run.arrays["svd_cut"])
    is_refit = cut - svd_cut >= config.update.svd_refit_days * DAY_S

    fit = _GrownSvd(run, is_refit)
    prepared = prepare(config, with_trained_context(log, run), cut, fit, run.corpus.feature_edges)
    earlier = earlier_rows(run.arrays["item_svd"], fit.growth.items.row)
    cosine = round(mean_cosine(prepared.item_svd, earlier), 4)
    svd = {"refit": is_refit, "cut": cut if is_refit else svd_cut, "mean_cosine": cosine}
    return Update(run, models, towers, prepared, fit.growth, svd)


class _GrownSvd:
    """The `FitSvd` of an update: from the earlier run's SVD.

    Args:
      run: the earlier run.
      is_refit: whether to fit the SVD anew.

    Attributes:
      growth: of the vocabularies, once the SVD is made.
    """

    growth: CorpusGrowth

    def __init__(self, run: EarlierRun, is_refit: bool) -> None:
        self._run, self._make = run, _refit if is_refit else _fold_in

    def __call__(self, config: Config, pairs: DistinctPairs, corpus: Corpus, user_fold: np.ndarray) -> SvdTables:
        self.growth = grow_corpus(self._run.corpus, corpus)
        return self._make(self._run, config, pairs, self.growth.items.row, user_fold)


def _refit(run: EarlierRun, config: Config, pairs: DistinctPairs, row: np.ndarray, user_fold: np.ndarray) -> SvdTables:
    """The SVD of all days, rotated onto the earlier one; `row` as of `CorpusGrowth.items`."""
    seed, start = config.train.seed, earlier_rows(run.arrays["item_svd"], row)
    item_svd = align_rows(refit_pairs_svd(pairs, start, seed), start)
    if not config.model.reads_history_embedding:
        return SvdTables(item_svd, item_svd[None, :, :0])
    if not _has_tables(run, config):
        return SvdTables(item_svd, fit_folds(pairs, item_svd, user_fold, config.train.history_folds, seed))
    starts = np.stack([earlier_rows(table, row) for table in run.arrays["taste_rows"]])
    return SvdTables(item_svd, refit_folds(pairs, item_svd, starts, user_fold, seed))


def _fold_in(
    run: EarlierRun, config: Config, pairs: DistinctPairs, row: np.ndarray, user_fold: np.ndarray
) -> SvdTables:
    """The earlier SVD with rows for new items."""
    item_svd = fold_in_rows(pairs, run.arrays["item_svd"], row)
    if not config.model.reads_history_embedding:
        return SvdTables(item_svd, item_svd[None, :, :0])
    if not _has_tables(run, config):
        return SvdTables(item_svd, fit_folds(pairs, item_svd, user_fold, config.train.history_folds, config.train.seed))
    return SvdTables(item_svd, grow_folds(pairs, run.arrays["taste_rows"], row, user_fold))


def _has_tables(run: EarlierRun, config: Config) -> bool:
    """Whether the run kept a table for each fold; an earlier version kept one in all."""
    return len(run.arrays["taste_rows"]) == max(1, config.train.history_folds)


def _require_same_run(run: EarlierRun, config: Config, towers: str) -> None:
    """Refuses to resume an update whose earlier run has been trained anew since."""
    run_dir = config.train.run_dir
    path = os.path.join(run_dir, FILE)
    if not os.path.exists(path):
        return
    cure = f"delete {run_dir} and run the same command again"
    values = read_json_object(path, cure)
    with explain_damage(path, cure):
        began = str(values["towers"])
    if began != towers:
        raise UserError(
            f"{run_dir!r} began as an update of towers with the fingerprint {began}, and those of "
            f"--warm_start={run.run_dir} have {towers}: that run was trained anew since; {cure}"
        )


def take_over(update: Update, config: Config, models: Models, optimizers: dict[str, LazyAdamW]) -> None:
    """Gives the models of an update the weights of the earlier run, and their optimizers its moments.

    Args:
      update: the update.
      config: of the update.
      models: built for its corpus.
      optimizers: by phase, built.

    Raises:
      UserError: the earlier run has kept no state of its optimizers, and --warm_optimizer asks for it.
    """
    run = update.run
    pairs = grow_models(update.models, run.corpus, models, update.prepared.corpus, update.growth)
    if config.update.warm_optimizer == "carry":
        for phase, earlier in _read_optimizers(run, update.models).items():
            grow_moments(pairs, earlier, optimizers[phase])


def _read_optimizers(run: EarlierRun, models: Models) -> dict[str, LazyAdamW]:
    """The optimizers of the earlier run's phases, with their moments."""
    trained: dict[str, tf.keras.layers.Layer] = {"towers": models.retriever, "interest": models.interest}
    optimizers = {phase: LazyAdamW(1.0, 0.0, 1) for phase in trained}
    for phase, model in trained.items():
        optimizers[phase].build(model.trainable_variables)
    directory = os.path.join(run.run_dir, "checkpoints", "latest")
    cure = "start with --warm_optimizer=reset, which does without it"
    path = tf.train.latest_checkpoint(directory)
    if path is None:
        raise UserError(f"--warm_start={run.run_dir} has no state of its optimizers ({directory} is empty): {cure}")
    checkpoint = tf.train.Checkpoint(**{f"adam_{phase}": optimizer for phase, optimizer in optimizers.items()})
    try:
        checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
    except CHECKPOINT_ERRORS as error:
        raise UserError(
            f"the state of the optimizers of --warm_start={run.run_dir} cannot be read from {path} "
            f"({first_line(error)}): {cure}"
        ) from error
    return optimizers


def write_update(update: Update, config: Config, num_new: int, num_examples: int) -> None:
    """Writes warm_start.json into the run directory of the update, and takes over score_weights.json.

    Args:
      update: the update.
      config: of the update.
      num_new: examples of the new days.
      num_examples: all examples of the towers.

    Raises:
      UserError: a file cannot be written.
    """
    run, run_dir = update.run, config.train.run_dir
    weights = os.path.join(run.run_dir, SCORE_WEIGHTS_FILE)
    if os.path.exists(weights):
        aside = aside_path(os.path.join(run_dir, SCORE_WEIGHTS_FILE))
        with explain_os_errors(f"cannot write into the run directory {run_dir!r}"):
            shutil.copyfile(weights, aside)
            os.replace(aside, os.path.join(run_dir, SCORE_WEIGHTS_FILE))
    content = {
        **describe_origin("longretriever train", config.train.seed),
        "warm_start": os.path.abspath(run.run_dir),
        "towers": update.towers,
        "generation": update.generation,
        "new_days": {"start": run.corpus.cut, "stop": update.prepared.corpus.cut},
        "changed": changed_settings(run.config, config),
        "new_rows": {name: source.num_new for name, source in update.growth.named().items()},
        "lost_rows": update.growth.lost,
        "svd": update.svd,
        "examples": {"new_days": num_new, "replayed": num_examples - num_new},
    }
    write_text_atomically(os.path.join(run_dir, FILE), json.dumps(content, indent=2) + "\n")
