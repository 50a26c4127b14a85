"""What a config must hold to: each value in its range, and values that go together. Imports no TensorFlow."""

import dataclasses
import math
import operator
from typing import Any

from longretriever_tf.common.errors import require
from longretriever_tf.config.actions import check_action_counts, check_actions
from longretriever_tf.config.baselines import LONGRETRIEVER, check_baselines
from longretriever_tf.config.event_features import check_event_features
from longretriever_tf.config.input_names import check_profile_columns
from longretriever_tf.config.snapshots import snapshot_every_days
from longretriever_tf.config.update import check_update
from longretriever_tf.tracking.names import check_names

CLUSTERS, TEXT_CLUSTERS = "clusters:", "text_clusters:"
"""--context=clusters:N, text_clusters:N: the context is learned, from who takes what or from what is written."""

AUTO = "auto"
"""In place of N: as many clusters as fit the number of items."""

_ITEMS_OF_CLUSTER, _FEWEST_CLUSTERS, _MOST_CLUSTERS = 64, 2, 300
"""Of `AUTO`. A made log of 600 users and 2,643 items has recall@100 .531 (novel .475) with 41 clusters, and .514 (.434)
with 300 (results/small_logs.json, validation, seed 1)."""

REQUEST_FEATURES = ("hour", "weekday")
"""What --request_features can name."""

_BOUNDS = {
    "above": ("a value above", operator.gt),
    "least": ("at least", operator.ge),
    "most": ("at most", operator.le),
}
"""Bounds of `field.setting`: how an error names one, and what holds where it is kept."""


def num_clusters(context: str, num_items: int) -> int:
    """N of the context "clusters:N" or "text_clusters:N"; 0 where it is a column of the log, or N is no number.

    >>> [num_clusters(context, 3_000) for context in ("clusters:90", "clusters:auto", "brand")]
    [90, 46, 0]

    Args:
      context: as --context says it.
      num_items: that are to be clustered, which say what "auto" is.
    """
    number = context.rpartition(":")[2]
    if not asks_clusters(context):
        return 0
    if number == AUTO:
        return min(max(num_items // _ITEMS_OF_CLUSTER, _FEWEST_CLUSTERS), _MOST_CLUSTERS)
    return int(number) if number.isascii() and number.isdigit() else 0


def asks_clusters(context: str) -> bool:
    """Whether the context is learned; `num_clusters` says how many clusters, where that is a number."""
    return context.startswith((CLUSTERS, TEXT_CLUSTERS))


def asks_text_clusters(context: str) -> bool:
    """Whether the context is learned from texts or vectors of the items alone."""
    return context.startswith(TEXT_CLUSTERS)


def evaluation_only(config: Any) -> str:
    """What of a run `evaluate` alone can ask, in one line; "" where an export serves all of it.

    Args:
      config: a whole `Config`.
    """
    if config.model.model != LONGRETRIEVER:
        return (
            f"--model={config.model.model} is a baseline: `evaluate` measures it; it is never exported or asked for "
            "recommendations"
        )
    if config.retrieval.search != "category":
        return (
            f"--search={config.retrieval.search} is for evaluation alone: an export searches categories; export with "
            "--search=category"
        )
    return ""


def check_config(config: Any) -> None:
    """Refuses values that cannot work.

    Args:
      config: a whole `Config`.

    Raises:
      UserError: names the flag, its value and the cure.
    """
    _check_values(config)
    check_names(config.train.tracker)
    check_baselines(config)
    check_update(config)
    _check_combinations(config)


def _check_values(config: Any) -> None:
    """Each value on its own: one of its choices, a finite number, within its bounds."""
    for section in dataclasses.fields(config):
        for field in dataclasses.fields(section.type):  # type: ignore[arg-type]
            check_value(field, getattr(getattr(config, section.name), field.name))
    require(
        not set('"\r\n') & set(config.data.delimiter),
        f"--delimiter={config.data.delimiter!r}: expected no quote and no end of line in it",
    )


def check_value(field: Any, value: Any) -> None:
    """Refuses a value that its setting does not take, whatever the others are.

    Args:
      field: the setting's dataclass field.
      value: of the setting's own type.

    Raises:
      UserError: names the flag, the value and what is expected.
    """
    choices, named = field.metadata["choices"], f"--{field.name}={value!r}: expected"
    require(not choices or value in choices, f"{named} one of {', '.join(choices)}")
    require(not isinstance(value, float) or math.isfinite(value), f"{named} a finite number")
    for bound, limit in field.metadata["bounds"].items():
        word, holds = _BOUNDS[bound]
        require(holds(value, limit), f"{named} {word} {limit}")


def _check_combinations(config: Any) -> None:
    """Values that do not go together."""
    model, train, retrieval = config.model, config.train, config.retrieval
    given = [name for name in ("events", "items", "users") if config.data.data and getattr(config.data, name)]
    require(
        not given,
        f"--data={config.data.data} is a prepared log and takes no --{'/--'.join(given)}: leave one of the two out",
    )
    kind = config.data.context.partition(":")[0] + ":"
    require(
        not asks_clusters(config.data.context) or num_clusters(config.data.context, num_items=0) > 0,
        f"--context={config.data.context}: expected {kind} and a number above 0, such as {kind}300, or {kind}{AUTO}",
    )
    _check_texts(config.data)
    check_actions(config.data)
    _check_numbers(config.data)
    _check_request_features(model)
    check_event_features(config)
    require(
        model.dim % model.num_heads == 0 or model.model in ("mind", "comirec"),
        f"--dim={model.dim} is not a multiple of --num_heads={model.num_heads}; pick a divisor of {model.dim}",
    )
    require(
        train.history_folds != 1,
        "--history_folds=1: expected 0 or at least 2; one fold would leave nobody to learn from",
    )
    require(
        retrieval.max_candidates >= retrieval.max_k,
        f"--max_candidates={retrieval.max_candidates}: expected at least --max_k={retrieval.max_k}, one list of it",
    )
    require(
        retrieval.num_interests <= retrieval.top_interests,
        f"--num_interests={retrieval.num_interests} is above --top_interests={retrieval.top_interests}: "
        "N interests are drawn from the top M, so N <= M",
    )
    require(
        not train.validation_users or train.cut == "none",
        f"--validation_users={train.validation_users:g} with --cut={train.cut}: that cut keeps windows apart for all "
        "users; add --cut=none, or leave the flag out",
    )
    require(
        not train.validation_users or model.model == LONGRETRIEVER,
        f"--validation_users={train.validation_users:g} with --model={model.model}: only longretriever holds users "
        "out; leave the flag out",
    )
    if model.model == LONGRETRIEVER:  # else `check_baselines` has seen to the rest
        _check_longretriever(config)


def _check_texts(data: Any) -> None:
    """Where --context=text_clusters:N finds what is written of the items."""
    columns, vectors = ",".join(data.text_columns), data.embedding_column
    require(
        not (columns and vectors),
        f"--text_columns={columns} with --embedding_column={vectors}: clusters rest on one of the two; leave one out",
    )
    require(
        not vectors or data.dataset == "event_log" or bool(data.data),
        f"--embedding_column={vectors} names a column of your own tables: use --dataset=event_log",
    )
    used = {data.user_column, data.item_column, data.timestamp_column, data.context, *data.item_features}
    require(
        vectors not in used or not vectors,
        f"--embedding_column={vectors} is a column of ids, times or categories already: name the column of vectors",
    )


def _check_numbers(data: Any) -> None:
    """Columns of --numeric_features are numbers and nothing else."""
    require(
        not data.numeric_features or data.dataset == "event_log" or bool(data.data),
        f"--numeric_features={','.join(data.numeric_features)} names columns of your own tables: use "
        "--dataset=event_log",
    )
    used = dict.fromkeys(data.item_features, "--item_features") | dict.fromkeys(data.text_columns, "--text_columns")
    names = ("embedding_column", "context", "item_name_column", "item_column", "user_column", "timestamp_column")
    used |= {getattr(data, name): f"--{name}" for name in names}
    for column in data.numeric_features:
        require(
            column not in used,
            f"--numeric_features={column} is named by {used.get(column)} too: a column is a number or a category, not "
            "both; leave it out of one of the two",
        )


def _check_request_features(model: Any) -> None:
    """What is known of a request's time."""
    names = model.request_features
    odd = next((name for name in names if name not in REQUEST_FEATURES or names.count(name) > 1), None)
    require(
        odd is None,
        f"--request_features={','.join(names)}: expected {', '.join(REQUEST_FEATURES)} or both, each once, not {odd!r}",
    )
    require(
        bool(names) or not model.timezone_offset_hours,
        f"--timezone_offset_hours={model.timezone_offset_hours:g} is read with --request_features alone; leave it out",
    )


def unlearned_time(config: Any) -> str:
    """A warning where no example but of one hour or weekday is there to learn --request_features from; else "".

    Args:
      config: a whole `Config`.
    """
    train, names = config.train, config.model.request_features
    days = {"hour": 1, "weekday": 7}
    same = [name for name in names if train.examples == "snapshot" and not snapshot_every_days(config) % days[name]]
    if not same:
        return ""
    return (
        f"--request_features={','.join(names)} with --examples=snapshot: snapshots every "
        f"{snapshot_every_days(config):g} days share one {' and one '.join(same)}, and no other is learned; use "
        "--examples=both, or leave it out"
    )


def _check_longretriever(config: Any) -> None:
    """Values of LongRetriever's own that do not go together."""
    model, train, retrieval = config.model, config.train, config.retrieval
    if model.profile and config.data.dataset == "event_log":
        check_profile_columns(config.data.user_features)
    require(
        model.svd_dim > 0 or not model.reads_history_embedding,
        "--user_context reads the items' SVD: add --nouser_context, or leave --svd_dim above 0",
    )
    require(
        not train.cross_fit_items or (model.reads_history_embedding and train.history_folds > 1),
        f"--cross_fit_items reads the SVDs that --history_folds={train.history_folds} fits for --user_context: give at "
        "least --history_folds=2 and no --nouser_context, or leave it out",
    )
    check_action_counts(model, config.data)
    require(
        train.loss == "full" or not (model.repeat_term or model.item_stats),
        "--loss=in_batch scores by inner products alone: add --norepeat_term --noitem_stats, or use --loss=full",
    )
    require(
        train.loss == "full" or not train.device_input,
        f"--device_input with --loss={train.loss}: batches on the device hold whole categories; use --loss=full",
    )
    require(
        train.item_tables == "replicated" or train.in_context,
        f"--item_tables={train.item_tables} with --noin_context: a mixed batch reads items of all categories; use "
        "--item_tables=replicated",
    )
    require(
        train.distribute != "mirrored" or not train.device_input,
        "--distribute=mirrored with --device_input: the input of a process lies on one device; use "
        "--distribute=multi_worker, a process for each GPU (longretriever launch starts them)",
    )
    require(
        train.distribute != "mirrored" or train.item_tables == "replicated",
        f"--distribute=mirrored with --item_tables={train.item_tables}: the devices of a process hold the same tables; "
        "use --distribute=multi_worker, or --item_tables=replicated",
    )
    require(
        train.item_tables == "replicated" or not train.device_input,
        f"--item_tables={train.item_tables} with --device_input: batches on the device are laid out by their shapes, "
        "not by ranges of categories; leave one of the two out",
    )
    require(
        train.in_context or not train.device_input,
        "--device_input with --noin_context (mixed batches): batches on the device are of one category each; leave one "
        "of the two out",
    )
    require(
        retrieval.search == "category" or retrieval.merge in ("raw", "round_robin"),
        f"--search=corpus with --merge={retrieval.merge}: lists of the whole corpus hold the same items, which have no "
        "share of a category; use --merge=raw or --merge=round_robin",
    )
    require(
        train.interest_epochs > 0 or retrieval.interest == "paper",
        "--interest_epochs=0 trains no interest score: add --interest=paper (eq. 3), or let it train",
    )
