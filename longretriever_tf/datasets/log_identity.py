"""The identity of a log: a hash of its contents, and the facts by which people recognise it.

A run directory keeps it as log.json, so that no other log is taken for the one that the run was trained on.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_damage, read_json_object, write_text_atomically
from longretriever_tf.common.ranges import offset_of
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets import event_log
from longretriever_tf.datasets.log import ItemTable, LifelongLog
from longretriever_tf.datasets.sharded_log import ShardedLog, read_manifest

LOG_FILE = "log.json"
_LENGTH = 32


@dataclasses.dataclass(frozen=True)
class LogIdentity:
    """A log, without its events.

    Attributes:
      fingerprint: hexadecimal hash of users, items, their features, and events; not of names, nor of the order of rows.
      source: of the files it was read from, by size and time: equal ones need not be read to know that nothing changed.
      num_users, num_items, num_events: sizes; items without an event among them.
      num_items_without_events: of these.
      first, last: seconds UTC of the events.
    """

    fingerprint: str
    source: str
    num_users: int
    num_items: int
    num_events: int
    num_items_without_events: int
    first: int
    last: int

    def describe(self) -> str:
        """For the words of a refusal."""
        first, last = (np.datetime64(second, "s").astype("datetime64[D]") for second in (self.first, self.last))
        return (
            f"{self.fingerprint} ({self.num_users:,} users, {self.num_items:,} items, {self.num_events:,} events from "
            f"{first} to {last})"
        )


def identify_shards(log: ShardedLog) -> LogIdentity:
    """The identity of a log on disk: that of the same log in memory, but for its source."""
    manifest = log.manifest
    is_own = log.context == manifest.context
    return LogIdentity(
        fingerprint=manifest.fingerprint if is_own else fingerprint_shards(log),
        source=manifest.build,
        num_users=log.num_users,
        num_items=manifest.num_items,
        num_events=log.num_events,
        num_items_without_events=manifest.num_items_without_events,
        first=log.first,
        last=log.last,
    )


def identify_log(log: LifelongLog, config: DataConfig) -> LogIdentity:
    """The identity of a log that `load_log(config)` read."""
    has_events = np.zeros(len(log.items.item_id), bool)
    has_events[log.item_row] = True
    return LogIdentity(
        fingerprint=fingerprint_log(log),
        source=source_of(config),
        num_users=log.num_users,
        num_items=len(log.items.item_id),
        num_events=log.num_events,
        num_items_without_events=int((~has_events).sum()),
        first=int(log.timestamp.min()) if log.num_events else 0,
        last=int(log.timestamp.max()) if log.num_events else 0,
    )


def fingerprint_log(log: LifelongLog) -> str:
    """Hash of what training reads of a log: equal wherever and however the same log is stored."""
    events = {name: [getattr(log, name)] for name in _EVENT_COLUMNS}
    if log.action is not None:
        events[_action_key(log.actions.name)] = [log.action]
    for name, column in sorted(log.event_features.items()):
        events[json.dumps(["event", name, *column.value.tolist()])] = [column.row]
    return _fingerprint({"user_id": [log.user_id]}, _listed(log.profile), log.items, log.offset, events)


def fingerprint_shards(log: ShardedLog) -> str:
    """The hash that `fingerprint_log` makes of the same log in memory; one column of one shard is read at a time."""
    shards = range(log.num_shards)

    def read(name: str) -> Iterable[np.ndarray]:
        return (log.read_column(k, name) for k in shards)

    names = log.read_column(0, "profile.names").tolist()
    offset = offset_of(np.concatenate([np.diff(part) for part in read("offset")]))
    users = {"user_id": list(read("user_id"))}
    profile = {name: list(read(f"profile/{name}")) for name in names}
    events = {name: read(name) for name in _EVENT_COLUMNS}
    if log.manifest.actions:
        events[_action_key(log.actions.name)] = read("action")
    return _fingerprint(users, profile, log.items, offset, events)


_EVENT_COLUMNS = ("item_row", "timestamp", "weight")


def _action_key(names: Sequence[str]) -> str:
    """What the column of actions is called in the hash: its codes mean these names."""
    return json.dumps(["action", *names])


def _listed(columns: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    return {name: [column] for name, column in columns.items()}


def _fingerprint(
    users: Mapping[str, list[np.ndarray]],
    profile: Mapping[str, list[np.ndarray]],
    items: ItemTable,
    offset: np.ndarray,
    events: Mapping[str, Iterable[np.ndarray]],
) -> str:
    """Hash of the columns of a log, each in one part or several."""
    digest = hashlib.sha256()
    columns = {
        **users,
        **{f"profile/{name}": profile[name] for name in sorted(profile)},
        "item_id": [items.item_id],
        **{f"feature/{name}": [items.features[name]] for name in sorted(items.features)},
        **{f"text/{name}": [items.texts[name]] for name in sorted(items.texts)},
        **{f"number/{name}": [items.numbers[name].view(np.int64)] for name in sorted(items.numbers)},  # every digit
        "offset": [offset],
    }
    for name, parts in columns.items():
        _digest(digest, name, sum(map(len, parts)), parts)
    for name, stream in events.items():
        _digest(digest, name, int(offset[-1]), stream)
    return digest.hexdigest()[:_LENGTH]


def _digest(digest: Any, name: str, length: int, parts: Iterable[np.ndarray]) -> None:
    """Adds a column of `length` values; text comes in parts that may be read twice."""
    digest.update(f"{name} {length}\n".encode())
    texts: list[bytes] = []
    for values in parts:
        kind = getattr(values.dtype, "kind", "O")
        if kind in "iu":
            digest.update(np.asarray(values).astype("<i8").tobytes())
        elif kind == "f":
            digest.update(np.asarray(values).astype("<f4").tobytes())
        else:
            texts += [str(value).encode("utf-8", "surrogatepass") for value in values.tolist()]
    if texts:  # lengths first, so that no text can pass for two
        digest.update(np.fromiter(map(len, texts), "<i8", len(texts)).tobytes())
        digest.update(b"".join(texts))


def source_of(config: DataConfig) -> str:
    """Name of the files that the config reads, by size and time; "" where a log has no files that could change.

    Raises:
      UserError: a file does not exist, or --data names no prepared log.
    """
    if config.data:
        return read_manifest(config.data).build
    return event_log.make_config(config, "users").name if config.dataset == "event_log" else ""


def write_identity(run_dir: str, identity: LogIdentity) -> None:
    """Writes log.json, unless it says so already.

    Raises:
      UserError: the file cannot be written.
    """
    text = json.dumps(dataclasses.asdict(identity), indent=2) + "\n"
    path = os.path.join(run_dir, LOG_FILE)
    if not os.path.exists(path) or read_identity(run_dir) != identity:
        write_text_atomically(path, text)


def read_identity(run_dir: str) -> LogIdentity | None:
    """The log that a run was trained on; None for a run of a version that did not keep it.

    Raises:
      UserError: log.json is torn.
    """
    path = os.path.join(run_dir, LOG_FILE)
    if not os.path.exists(path):
        return None
    cure = "restore it from a copy; without it, the log that the run was trained on is unknown"
    values: dict[str, Any] = read_json_object(path, cure)
    with explain_damage(path, cure):
        identity = LogIdentity(**values)
        for field in dataclasses.fields(LogIdentity):
            if not isinstance(getattr(identity, field.name), field.type):  # type: ignore[arg-type]
                raise ValueError(f"{field.name} is {getattr(identity, field.name)!r}")
        return identity


def require_log_of_run(run_dir: str, here: LogIdentity, cure: str) -> None:
    """Refuses another log than the one that a run was trained on.

    Args:
      run_dir: of the run; one of an earlier version, which kept no identity, accepts any.
      here: the log of today.
      cure: what to do: ends the error's line.

    Raises:
      UserError: names both fingerprints.
    """
    there = read_identity(run_dir)
    if there is not None and there.fingerprint != here.fingerprint:
        raise UserError(
            f"{run_dir!r} was trained on another log than this one: {there.describe()} there, {here.describe()} here. "
            f"{cure}"
        )
