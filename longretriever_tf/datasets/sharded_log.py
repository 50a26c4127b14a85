"""A log on disk in shards of users: what `prepare` writes and `--data=DIR` reads. Imports no TensorFlow.

    DIR/manifest.json                   what the log is, and its shards; written last
    DIR/items.npz                       the item table
    DIR/log/shard-00000-of-00016.npz    whole histories of a range of users

Users lie in the order of their ids, and a shard holds a range of them, so that all shards one after the other are the
log that `datasets.load.load_log` reads into memory, event by event. Nothing here depends on a machine or on a number
of processes.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import (
    explain_damage,
    explain_os_errors,
    read_arrays,
    read_json_object,
    require_npz,
    save_arrays,
    write_text_atomically,
)
from longretriever_tf.common.ranges import offset_of
from longretriever_tf.common.text import as_text, pack_text, unpack_text
from longretriever_tf.config.actions import settle_actions
from longretriever_tf.config.data import DataConfig
from longretriever_tf.datasets.build_log import fill_missing_context
from longretriever_tf.datasets.item_texts import split_columns
from longretriever_tf.datasets.log import ItemTable, LifelongLog

MANIFEST = "manifest.json"
FORMAT = 1
_ITEMS, _FOLDER = "items.npz", "log"
_CURE = "run `prepare` once more with its own flags, which writes what is missing"


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """One shard of the log.

    Attributes:
      num_users, num_events: what it holds.
      first, last: seconds UTC of its events; 0 without any.
      num_bytes: size of the file.
      sha256: of the file.
    """

    num_users: int
    num_events: int
    first: int
    last: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What manifest.json says.

    Attributes:
      build: name of this build of the log: of its source, its flags and its number of shards. Every file carries it.
      fingerprint: of the log's contents, as `log_identity.fingerprint_log` makes it of the log in memory.
      context: the column of the items that is the category; "" for none.
      counts: what became of every row that was read (`accounts`).
      data: the flags that the log was read with.
      num_items, num_items_without_events: of the item table.
      shards: in order of users.
      format: version of this layout.
      actions: names of the events' actions, sorted; empty where they have none.
    """

    build: str
    fingerprint: str
    context: str
    counts: dict[str, int]
    data: dict[str, Any]
    num_items: int
    num_items_without_events: int
    shards: tuple[ShardFile, ...]
    format: int = FORMAT
    actions: tuple[str, ...] = ()


class ShardedLog:
    """Reads a directory that `prepare` has finished.

    Args:
      directory: that holds the manifest.
      context: the column of the items that is the category; "": the log's own.
      manifest: what the directory holds, where its file is not written yet.
      actions: names weights of actions and those that are to be retrieved; None, or where it names none: those that the
        log was prepared with.

    Attributes:
      directory: as given.
      manifest: what it says.
      context: the column that is the category; "" where the log has none.
      items: the item table, in memory, with a category for every item.
      actions: the actions of the events.
      user_offset: shard k holds the users `user_offset[k]:user_offset[k + 1]` of the whole log, [K + 1] int64.

    Raises:
      UserError: there is no manifest, or it is torn or of another version, or the item table is; or it has no such
        column or action.
    """

    def __init__(
        self, directory: str, context: str = "", manifest: Manifest | None = None, actions: DataConfig | None = None
    ) -> None:
        self.directory = directory
        self.manifest = manifest or read_manifest(directory)
        items = _read_items(directory, self.manifest.build)
        items = split_columns(items, read_column_flags(self.manifest), self.manifest.context)
        self.context = context or self.manifest.context
        if self.context and self.context not in items.features:
            raise UserError(
                f"--context={self.context!r} is not a column of the items of --data={directory}; columns: "
                f"{', '.join(sorted(items.features))}"
            )
        self.items = fill_missing_context(items, self.context)
        kept, asked = read_action_flags(self.manifest), actions or DataConfig()
        weights, targets = asked.action_weights or kept.action_weights, asked.target_actions or kept.target_actions
        self.actions = settle_actions(self.manifest.actions, weights, targets, f"--data={directory}")
        self.user_offset = np.concatenate([[0], np.cumsum([shard.num_users for shard in self.manifest.shards])])

    @property
    def num_shards(self) -> int:
        return len(self.manifest.shards)

    @property
    def num_users(self) -> int:
        return int(self.user_offset[-1])

    @property
    def num_events(self) -> int:
        return sum(shard.num_events for shard in self.manifest.shards)

    @property
    def first(self) -> int:
        """Time of the first event, seconds UTC."""
        return min(shard.first for shard in self.manifest.shards if shard.num_events)

    @property
    def last(self) -> int:
        """Time of the last event, seconds UTC."""
        return max(shard.last for shard in self.manifest.shards if shard.num_events)

    def read_shard(self, k: int) -> LifelongLog:
        """Shard k as a log of its own: its users, and all items.

        Raises:
          UserError: the file is missing, torn, or of another build.
        """
        path = shard_path(self.directory, k, self.num_shards)
        expected = self.manifest.shards[k]
        arrays = _read(path, self.manifest.build)
        with explain_damage(path, _CURE):
            if (len(arrays["user_id"]), len(arrays["item_row"])) != (expected.num_users, expected.num_events):
                raise ValueError(f"the manifest says {expected.num_users} users and {expected.num_events} events")
            profile = {str(name): arrays[f"profile/{name}"] for name in arrays["profile.names"]}
            columns: dict[str, Any] = {name: arrays[name] for name in self._columns}
        columns |= {"items": self.items, "context": self.context, "actions": self.actions}
        return LifelongLog(**columns, profile=profile)

    @property
    def _columns(self) -> tuple[str, ...]:
        return (*_COLUMNS, "action") if self.manifest.actions else _COLUMNS

    def read_column(self, k: int, name: str) -> np.ndarray:
        """One column of shard k, and nothing else of its file: `user_id`, `timestamp`, `profile/...`, as it is stored.

        Raises:
          UserError: as `read_shard`.
        """
        path = shard_path(self.directory, k, self.num_shards)
        require_npz(path, _CURE)
        with explain_damage(path, _CURE), np.load(path, allow_pickle=False) as stored:
            names = [name] if name in stored else [key for key in stored if key.rpartition(".")[0] == name]
            return unpack_text({key: stored[key] for key in names})[name]

    def read_shards(self) -> Iterator[LifelongLog]:
        """One shard after the other."""
        return (self.read_shard(k) for k in range(self.num_shards))

    def read_whole(self) -> LifelongLog:
        """The whole log in memory: the log that was prepared.

        Raises:
          UserError: as `read_shard`.
        """
        return self.join(list(self.read_shards()))

    def join(self, shards: Sequence[LifelongLog]) -> LifelongLog:
        """The users of several shards, or of parts of them, as one log; at least one."""
        parts = {name: [getattr(shard, name) for shard in shards] for name in self._columns}
        joined: dict[str, Any] = {name: np.concatenate(columns) for name, columns in parts.items()}
        joined["offset"] = offset_of(np.concatenate([np.diff(shard.offset) for shard in shards]))
        profile = {name: np.concatenate([shard.profile[name] for shard in shards]) for name in shards[0].profile}
        joined |= {"items": self.items, "context": self.context, "actions": self.actions}
        return LifelongLog(**joined, profile=profile, counts=self.manifest.counts)


_COLUMNS = ("user_id", "offset", "item_row", "timestamp", "basket_id", "weight")


def read_column_flags(manifest: Manifest) -> DataConfig:
    """The flags that say which of the item table's columns are numbers, and which text alone; older logs have none."""
    return DataConfig(
        item_features=tuple(manifest.data.get("item_features", ())),
        numeric_features=tuple(manifest.data.get("numeric_features", ())),
        text_columns=tuple(manifest.data.get("text_columns", ())),
        embedding_column=manifest.data.get("embedding_column", ""),
    )


def read_action_flags(manifest: Manifest) -> DataConfig:
    """The flags of actions that a log was prepared with; a log of before there were any has none."""
    return DataConfig(
        action_column=manifest.data.get("action_column", ""),
        action_weights=tuple(manifest.data.get("action_weights", ())),
        target_actions=tuple(manifest.data.get("target_actions", ())),
    )


def shard_path(directory: str, k: int, num_shards: int) -> str:
    """Where shard k of `num_shards` lies."""
    return os.path.join(directory, _FOLDER, f"shard-{k:05d}-of-{num_shards:05d}.npz")


def split_users(num_events: np.ndarray, num_shards: int) -> np.ndarray:
    """Bounds of `num_shards` ranges of users with about as many events each, [K + 1] int64; some may be empty.

    Args:
      num_events: of each user, in the order of their ids, [U].
      num_shards: K.

    >>> split_users(np.array([5, 1, 1, 1, 4]), 3).tolist()
    [0, 1, 4, 5]
    """
    before = np.cumsum(num_events) - np.asarray(num_events) / 2  # a user belongs where the middle of the history lies
    total = max(int(np.sum(num_events)), 1)
    inner = np.searchsorted(before, total * np.arange(1, num_shards) / num_shards)
    return np.concatenate([[0], inner, [len(num_events)]]).astype(np.int64)


def write_shard(directory: str, build: str, k: int, num_shards: int, log: LifelongLog) -> ShardFile:
    """Writes the histories of a range of users as shard k.

    Raises:
      UserError: the disk is full, or not writable. Then no file of this name is there, or the one of before.
    """
    path = shard_path(directory, k, num_shards)
    arrays: dict[str, np.ndarray] = {name: getattr(log, name) for name in _COLUMNS}
    if log.action is not None:
        arrays["action"] = log.action
    arrays["profile.names"] = as_text(log.profile)
    arrays |= {f"profile/{name}": column for name, column in log.profile.items()}
    return _describe(path, _write(path, build, arrays), log)


def _describe(path: str, sha256: str, log: LifelongLog) -> ShardFile:
    first, last = (int(log.timestamp.min()), int(log.timestamp.max())) if log.num_events else (0, 0)
    return ShardFile(log.num_users, log.num_events, first, last, os.path.getsize(path), sha256)


def write_items(directory: str, build: str, items: ItemTable) -> None:
    """Writes the item table.

    Raises:
      UserError: as `write_shard`.
    """
    arrays = {"item_id": items.item_id, "name": items.name, "feature.names": as_text(items.features)}
    arrays |= {f"feature/{name}": column for name, column in items.features.items()}
    _write(os.path.join(directory, _ITEMS), build, arrays)


def write_manifest(directory: str, manifest: Manifest) -> None:
    """Writes manifest.json, which makes the directory a prepared log.

    Raises:
      UserError: as `write_shard`.
    """
    text = json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False) + "\n"
    write_text_atomically(os.path.join(directory, MANIFEST), text)


def read_manifest(directory: str) -> Manifest:
    """Reads manifest.json.

    Raises:
      UserError: it is missing, torn, or of another version of the layout.
    """
    path = os.path.join(directory, MANIFEST)
    if not os.path.exists(path):
        raise UserError(
            f"--data={directory} is no prepared log ({MANIFEST} is missing): make one with "
            f"longretriever prepare --output={directory} ..., or let it finish by the same command"
        )
    values = read_json_object(path, _CURE)
    with explain_damage(path, _CURE):
        if values.get("format") != FORMAT:
            raise UserError(
                f"{path} has format {values.get('format')!r}, and this version reads {FORMAT}: prepare the log anew"
            )
        shards = tuple(ShardFile(**shard) for shard in values.pop("shards"))
        actions = tuple(values.pop("actions", ()))
        return Manifest(**values, shards=shards, actions=actions)


def _read_items(directory: str, build: str) -> ItemTable:
    path = os.path.join(directory, _ITEMS)
    arrays = _read(path, build)
    with explain_damage(path, _CURE):
        features = {str(name): arrays[f"feature/{name}"] for name in arrays["feature.names"]}
        return ItemTable(arrays["item_id"], features, arrays["name"])


def _read(path: str, build: str) -> dict[str, np.ndarray]:
    """The arrays of a file of this build, text unpacked."""
    arrays = unpack_text(read_arrays(path, _CURE))
    with explain_damage(path, _CURE):
        if arrays["build"].tolist() != [build]:
            raise UserError(f"{path} belongs to another build of the log than its {MANIFEST}: {_CURE}")
    return arrays


def _write(path: str, build: str, arrays: dict[str, np.ndarray]) -> str:
    """Writes an .npz file aside and renames it; its sha256."""
    with explain_os_errors(f"cannot write {path!r}"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    save_arrays(path, pack_text({**arrays, "build": as_text([build])}))
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
