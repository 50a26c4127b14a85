"""Columns of --event_features: which can be read, and what they are called in a request. Imports no TensorFlow."""

from typing import Any

from longretriever_tf.common.errors import require
from longretriever_tf.config.input_names import input_of_profile

_ROLES = (
    *("user_column", "item_column", "timestamp_column", "weight_column", "basket_column", "action_column"),
    *("context", "item_name_column", "embedding_column", "item_features", "numeric_features", "text_columns"),
)
"""Settings that name columns of another meaning; those of the item would tell the target."""

_FIELDS = ("profile", "event_features")
"""What a client's request calls its columns of text; no column itself can be called so."""


def check_event_features(config: Any) -> None:
    """Refuses columns that cannot be features of a request.

    Args:
      config: a whole `Config`.

    Raises:
      UserError: names the flag, the column and the cure.
    """
    data, columns = config.data, config.data.event_features
    if not columns:
        return
    named = f"--event_features={','.join(columns)}"
    require(not data.data, f"{named} with --data={data.data}: {NOT_PREPARED}")
    require(data.dataset == "event_log", f"{named} names columns of your own tables: use --dataset=event_log")
    for column in columns:
        _check_column(data, column)


def check_event_examples(config: Any) -> None:
    """Refuses examples from which a value, or its absence, would not be learned.

    Args:
      config: a whole `Config`, of a training: its snapshots for the interest score are another matter.

    Raises:
      UserError: names the flags and the cure.
    """
    train, named = config.train, f"--event_features={','.join(config.data.event_features)}"
    if not config.data.event_features:
        return
    require(
        train.examples != "snapshot",
        f"{named} with --examples=snapshot: a snapshot has no event of its own, so no value would be learned; add "
        "--examples=both",
    )
    require(
        train.examples != "event" or config.model.unknown_rate > 0,
        f"{named} with --examples=event and --unknown_rate=0: no example stands for a request that says nothing; leave "
        "--unknown_rate out",
    )


NOT_PREPARED = (
    "a log that `prepare` writes keeps no such columns; train from the tables (--events=...), or leave "
    "--event_features out"
)
"""Why a log on disk is refused."""


def _check_column(data: Any, column: str) -> None:
    named = f"--event_features: the column {column!r}"
    require(data.event_features.count(column) == 1, f"{named} is there twice; name it once")
    roles = [name for name in _ROLES if column in _listed(getattr(data, name))]
    require(
        not roles,
        f"{named} is named by --{roles[0] if roles else ''} too; expected a column that says something else of the "
        "event, such as its device: leave it out of one of the two",
    )
    require(
        input_of_profile(column) == column and column not in _FIELDS,
        f"{named} cannot be an input of a request: expected ASCII letters, digits and _ after a letter, and no name "
        "that a request has already (k, goal, category, ...); rename the column in the events table",
    )
    others = [*(one for one in data.event_features if one != column), *data.user_features]
    twin = next((one for one in others if input_of_profile(one).lower() == column.lower()), None)
    require(
        twin is None,
        f"{named} would be the same input of a request as the column {twin!r} of "
        f"{'--user_features' if twin in data.user_features else '--event_features'}; rename one of them in its table",
    )


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def event_values(entries: tuple[str, ...] | list[str], flag: str) -> dict[str, str]:
    """Values by column, of entries NAME:VALUE.

    >>> event_values(["device:mobile", "channel:a:b"], "--event_values")
    {'device': 'mobile', 'channel': 'a:b'}

    Raises:
      UserError: an entry without a name or a colon.
    """
    values = {}
    for entry in entries:
        name, colon, value = entry.partition(":")
        require(bool(name and colon), f"{flag}: {entry!r} is no NAME:VALUE; expected such as device:mobile")
        values[name] = value
    return values
