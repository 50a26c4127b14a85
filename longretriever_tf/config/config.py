"""Frozen configuration. Each default is written once, in a dataclass; flags are derived from it.

A field's help text says what it does and what keeps it: a measurement (recall on the validation window of Complete
Journey unless it says otherwise: results/ablations, docs/tuning.md), the paper, or a limit. Imports no TensorFlow.
"""

import dataclasses
import json
import os
from typing import Any, TypeVar

from longretriever_tf.common.errors import UserError, require
from longretriever_tf.common.files import explain_damage, read_json_object
from longretriever_tf.config.baselines import BaselineConfig
from longretriever_tf.config.check import check_config
from longretriever_tf.config.data import DataConfig
from longretriever_tf.config.field import setting as _field
from longretriever_tf.config.former import to_present
from longretriever_tf.config.model import ModelConfig
from longretriever_tf.config.retrieval import IndexConfig, RetrievalConfig
from longretriever_tf.config.update import UpdateConfig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Examples, in-context batches, loss, optimizer."""

    cut: str = _field(
        "validation",
        "Where training data ends. validation: before the validation window, which then "
        "guides early stopping. test: before the test window (a final fit: a fixed number of epochs, no "
        "early stopping). none: all events, for production: no window is left to evaluate the run on, so evaluate the "
        "same flags with another cut first; a fixed number of epochs, or early stopping by --validation_users.",
        ("validation", "test", "none"),
    )
    validation_users: float = _field(
        0.0,
        "cut=none: hold out this share of the users, who give no training example; their last --window_days guide "
        "early stopping. Their events still count in vocabularies, item statistics and the SVD. 0: nobody, and no "
        "early stopping.",
        least=0,
        most=0.9,
    )
    examples: str = _field(
        "both",
        "event: one example per event, its history strictly before it (the paper). "
        "snapshot: at times --snapshot_every_days apart, all the items that a user takes from a "
        "category within the next --horizon_days; the learned interest score always learns from these. "
        "both: the two together. Measured: recall@100 0.297 (both, one epoch), 0.296 (event) and 0.294 (snapshot), "
        "two epochs each.",
        ("snapshot", "event", "both"),
    )
    snapshot_every_days: float = _field(0.0, "Days between snapshots; 0: 10 for a horizon of 28, and so on.", least=0)
    num_snapshots: int = _field(
        25, "How many snapshots, counted back from the cut; cover the seasons of the log.", above=0
    )
    horizon_days: float = _field(
        0.0, "Snapshots: how far ahead the targets lie; 0: as far as --window_days, what is asked.", least=0
    )
    loss: str = _field(
        "full",
        "full: softmax over all the items of the category (baselines: of the corpus). in_batch: TFRS Retrieval over "
        "the batch's own items (the paper); categories of at most --small_category items still use the full "
        "softmax, since a batch of theirs would hold too few negatives. Measured: recall@100 0.297 (full), 0.263 "
        "(in_batch, which has no repeat term and no item statistics).",
        ("full", "in_batch"),
    )
    small_category: int = _field(
        64,
        "loss=in_batch: up to this many items a category is scored whole. 64 in every result of the paper's form.",
        hidden=True,
        least=0,
    )
    in_context: bool = _field(
        True,
        "One category per batch (the paper). False: mixed batches, the ablation; with loss=full their softmax is over "
        "the whole corpus, which is slow. Measured with loss=in_batch: recall@100 0.263 against 0.245 on all items, "
        "0.090 against 0.095 on novel ones.",
    )
    logq: bool = _field(
        True,
        "loss=in_batch: correct by log Q(item | category), the item's share of the examples' targets. Measured in a "
        "study before this code: 0.07 to 0.12 of recall@20 within the category.",
    )
    vector_loss_weight: float = _field(
        0.3,
        "repeat_term: weight of a second loss, the same softmax without the repeat term, of a user vector that serves "
        "training alone. Targets that the repeat term explains give the towers no gradient; this loss restores it. 0: "
        "none. Measured: 0.3 against 0 gains 0.003 of novel recall@100.",
        least=0,
    )
    batch_size: int = _field(
        256,
        "Examples in a batch, at most; fewer where the category is large or short, or where an epoch would have fewer "
        "than 1,000 batches (down to 32, with loss=full). Small batches learn more per pass, "
        "large ones are quicker and give loss=in_batch its negatives.",
        above=0,
    )
    max_logits: int = _field(
        4_000_000,
        "loss=full, and baselines: a batch has at most (baselines: about) this many scores; bounds memory.",
        above=0,
    )
    epochs: int = _field(
        0, "Passes over the examples, at most; 0: as many as show the towers 800,000 of them, from 1 to 4.", least=0
    )
    interest_epochs: int = _field(
        4,
        "Passes over the snapshots for the learned interest score; 0: eq. 3 alone, at the cost that --interest names.",
        least=0,
    )
    learning_rate: float = _field(
        3e-3,
        "Peak learning rate of AdamW; warmed up, then decayed along a cosine. Measured: the baselines gain 0.008 to "
        "0.037 of recall@100 over 1e-3.",
        above=0,
    )
    patience: int = _field(
        1,
        "cut=validation, or --validation_users: stop after this many epochs without a better MRR on the validation "
        "window.",
        least=0,
    )
    history_folds: int = _field(
        4,
        "user_context: a history's token is read through an SVD fitted without the users of its fold, one of so many; "
        "the first events of the history decide the fold. An export holds as many tables of --svd_dim numbers per "
        "item. 0: through the SVD of all, which saw the user's future in training and the user's past in requests.",
        least=0,
    )
    cross_fit_items: bool = _field(
        False,
        "Let the item tower train on the SVDs of --history_folds, too: a batch holds users of one fold, and its items' "
        "rows have not seen what these users take next; requests read the SVD of all. Measured (seed 1): recall@100 "
        "0.298 against 0.297 without, on novel items 0.097 against 0.102; within the category recall@20 0.636 against "
        "0.638.",
    )
    score_weights_users: int = _field(
        2000,
        "Where the log has at most so many users, fit what the parts of a score weigh (towers, popularity, repeats, "
        "interest score) after training: a second model, of the events before the last --window_days of the training "
        "window, is asked what users took in them. A small log teaches the towers too little to weigh the parts "
        "themselves. Takes as long as the training; needs --loss=full, memory for the log, and one device. 0: never.",
        least=0,
    )
    score_weights_events: int = _field(
        300_000,
        "As --score_weights_users, for logs of more users with at most so many events: many users of a few events each "
        "teach the towers as little. 0: the users alone decide.",
        least=0,
    )
    own_correction: bool = _field(
        True,
        "After training, fit a correction of the merged scores of the user's own items (those of the subsequences) on "
        "the last snapshot, near the cut of a list: where among all others the items belong that the user takes again. "
        "Lists of novel items and of one category stay. Costs one pass over at most 4,000 users; needs --repeat_term, "
        "--loss=full, --merge=calibrated, memory for the log, and one device.",
    )
    seed: int = _field(
        1, "Seed of weights, order, dropout: same seed, same run; on a GPU, to rounding.", least=0, most=2**32 - 1
    )
    mixed_precision: bool = _field(
        False, "Compute the Transformer in bfloat16: for a GPU. Changes speed, results slightly.", hidden=True
    )
    xla: bool = _field(
        False,
        "Compile the training step with XLA, once per batch shape: for long GPU runs alone. Changes speed alone.",
        hidden=True,
    )
    materialise_gb: float = _field(
        1.0,
        "Search all histories once, before the first epoch, and keep their tokens where they fill at most so many "
        "gigabytes (80 bytes a token; 8 to 16 with subsequence=events: complete_journey's demo takes 0.3); else, or at "
        "0, every batch searches its own. Changes speed and memory alone.",
        least=0,
    )
    max_memory_gb: float = _field(
        0.0,
        "--data: train from disk where the log in memory would take more than so many gigabytes, by an estimate that "
        "is printed; 0: half of this machine's memory. From disk, memory does not grow with the log: a training window "
        "is made beside it, shard by shard, and every batch searches its own histories, as with --materialise_gb=0. "
        "Changes speed and memory alone.",
        least=0,
    )
    num_workers: int = _field(
        0, "--data, from disk: processes that make the training window; 0: one for each core.", least=0
    )
    device_input: bool = _field(
        False,
        "Keep all examples on the training device and gather batches there, in a few fixed shapes, many steps to a "
        "call: for a GPU, with --xla. Needs --loss=full and histories within --materialise_gb. Same loss; batches are "
        "bucketed more coarsely and come in another order. Measured: 1.58 million examples a second on one H100.",
        hidden=True,
    )
    steps_per_call: int = _field(16, "device_input: steps that one call to the device makes.", hidden=True, above=0)
    batches_per_step: int = _field(
        1,
        "G: batches, each of its own category, whose mean gradient makes one step. A batch is never split: with "
        "--distribute each device takes G / devices of them, and 1 means one for each; a run that goes on keeps its G. "
        "device_input: fills a GPU without padding small categories. Changes results as a larger batch does.",
        hidden=True,
        above=0,
    )
    distribute: str = _field(
        "none",
        "Devices that train together. none: one. mirrored: all GPUs of this machine, in one process. multi_worker: a "
        "process for each worker that the environment variable TF_CONFIG names, on one machine or several; "
        "`longretriever launch` starts those of one machine. The chief, worker 0, alone writes --run_dir. See "
        "docs/scaling.md.",
        ("none", "mirrored", "multi_worker"),
    )
    item_tables: str = _field(
        "replicated",
        "Item ids and item biases, the tables with a row for each item. replicated: each device moves all rows. "
        "by_category: each of the --batches_per_step groups has a range of the categories and takes batches of these "
        "alone, so that rows of items move with their owner and are never exchanged; needs in-context batches. Changes "
        "the order of batches.",
        ("replicated", "by_category"),
        hidden=True,
    )
    checkpoint_every_s: float = _field(120.0, "Seconds between checkpoints within an epoch.", hidden=True, above=0)
    tracker: tuple[str, ...] = _field(
        (),
        "Experiment trackers that also hear of the run: wandb (Weights & Biases), mlflow, or both (wandb,mlflow). "
        "Each is an extra (pip install 'longretriever_tf[wandb]') and obeys its own environment variables "
        "(WANDB_MODE=offline, MLFLOW_TRACKING_URI). `evaluate` tells them its results too. None of them can stop a "
        "training. See docs/tuning.md.",
    )
    run_dir: str = _field("runs/default", "Where the run leaves config.json, checkpoints, TensorBoard and metrics.")

    def weighs_parts(self, num_users: int, num_events: int) -> bool:
        """Whether a log is so small that the parts of its scores are weighed: --score_weights_users and _events."""
        few = self.score_weights_users
        return few > 0 and (0 < num_users <= few or 0 < num_events <= self.score_weights_events)


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole of a run; `config.json` in a run directory is this, as JSON."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    retrieval: RetrievalConfig = dataclasses.field(default_factory=RetrievalConfig)
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)
    baseline: BaselineConfig = dataclasses.field(default_factory=BaselineConfig)
    update: UpdateConfig = dataclasses.field(default_factory=UpdateConfig)

    def __post_init__(self) -> None:
        check_config(self)


def to_json(config: Any) -> str:
    """The config as JSON text, keys in the order of the fields."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_dict(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
    """Builds `cls` from a JSON object; former names are accepted, absent keys take the default.

    Raises:
      UserError: a key that `cls` does not have, or a removed setting whose value was not its default.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = to_present(values, where)
    unknown = sorted(set(values) - set(fields))
    require(not unknown, f"{where}: unknown key {', '.join(map(repr, unknown))}; known: {', '.join(fields)}")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name].type):
            value = from_dict(fields[name].type, value, f"{where}.{name}")  # type: ignore[arg-type]
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return cls(**arguments)


def load_config(run_dir: str) -> Config:
    """Reads `config.json` of a run directory.

    Raises:
      UserError: there is none, or it is not a config of this version.
    """
    path = os.path.join(run_dir, "config.json")
    if not os.path.exists(path):
        raise UserError(
            f"{run_dir!r} is not a run directory: {path} does not exist. Train one first: "
            f"longretriever train --run_dir={run_dir}"
        )
    cure = "restore it from a copy, or train again in another --run_dir"
    values = read_json_object(path, cure)
    with explain_damage(path, cure):
        config = from_dict(Config, values, path)
    # The directory may have been moved or copied since: it is where it is.
    return dataclasses.replace(config, train=dataclasses.replace(config.train, run_dir=run_dir))
