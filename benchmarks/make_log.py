"""Writes a generated log of lifelong histories, of any size, as Parquet that `--dataset=event_log` reads.

  python benchmarks/make_log.py --output=/tmp/log --num_events=15000000 --num_users=25000 --files=16 --processes=2

manifest.json in the directory names the flags that read it.

Items lie in categories of sizes by Zipf's law; lengths of histories are log-normal, up to 100,000 events; interests
drift; people come back to their staples with a rhythm; a basket has one time, so most events are tied with others. A
file is a stretch of time, as logs are kept: every history is spread over all files. A file depends on the seed, the
sizes and its number alone; memory is bounded by one block of events (some 200 MB a process), whatever the size. A
command that was stopped goes on with the files that lack. --only makes some of the files, on several machines say.
With --actions each of these events is a purchase, and views and carts precede it (`shop_actions`).
"""

import json
import multiprocessing
import os
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import flags as absl_flags
from lifelong_world import MAX_EVENTS, LifelongWorld, LogRows, LogSizes
from shop_actions import ACTIONS, with_actions

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import open_aside, read_json_object, require_writable, write_text_atomically
from longretriever_tf.common.progress import Progress
from longretriever_tf.config import flags

_OUTPUT = absl_flags.DEFINE_string("output", None, "Directory to write; it is empty, or a part of the same log.")
_COUNTS = {
    "num_events": absl_flags.DEFINE_integer("num_events", 1_500_000, "Rows of the log.", lower_bound=1),
    "num_users": absl_flags.DEFINE_integer("num_users", 2_500, "Users; each has at least one event.", lower_bound=1),
    "num_items": absl_flags.DEFINE_integer("num_items", 68_000, "Items.", lower_bound=1),
    "num_categories": absl_flags.DEFINE_integer("num_categories", 300, "Categories.", lower_bound=1),
    "days": absl_flags.DEFINE_integer("days", 730, "Days that the log spans.", lower_bound=1, upper_bound=15_000),
    "files": absl_flags.DEFINE_integer("files", 4, "Files of events.", lower_bound=1, upper_bound=99_999),
    "seed": absl_flags.DEFINE_integer("seed", 1, "Seed: the same flags give the same bytes.", lower_bound=0),
}
_TEXT = absl_flags.DEFINE_bool("text_ids", False, "Ids are text with leading zeros; else int64.")
_ACTIONS = absl_flags.DEFINE_bool(
    "actions", False, "A column action: the events are purchases (buy), and views and carts come before them, besides."
)
_ONLY = absl_flags.DEFINE_list("only", [], "Numbers of the files of events to make; empty: all.")
_PROCESSES = absl_flags.DEFINE_integer("processes", 1, "Processes, each of which makes a file.", lower_bound=1)

_READ_BY = (
    "--dataset=event_log --events='DIR/events-*.parquet' --items=DIR/items.parquet --users=DIR/users.parquet "
    "--basket_column=basket_id --weight_column=quantity --item_features=brand,price_band,department "
    "--user_features=age,region"
)
"""Flags of this package's commands."""
_ROWS = 200_000
"""Of a row group."""


def main(argv: list[str]) -> None:
    """Writes the log."""
    del argv
    if not _OUTPUT.value:
        raise UserError("--output is missing: expected a directory for the log")
    sizes = LogSizes(**{name: flag.value for name, flag in _COUNTS.items()})
    _check(sizes)
    folder = _OUTPUT.value
    require_writable(folder)
    asked = sizes._asdict() | {"text_ids": _TEXT.value} | ({"actions": True} if _ACTIONS.value else {})
    _claim(folder, asked)
    jobs = [(folder, sizes, _TEXT.value, _ACTIONS.value, file) for file in _asked(sizes.files)]
    progress, start = Progress("events", sizes.num_events * len(jobs) // sizes.files, "events"), time.monotonic()
    rows, made = 0, 0
    with multiprocessing.get_context("spawn").Pool(_PROCESSES.value) as pool:
        for count, is_new in pool.imap_unordered(_write_events, jobs):
            rows, made = rows + count, made + count * is_new
            progress.update(count)
        if not _ONLY.value:
            pool.starmap(_write_table, [(folder, sizes, _TEXT.value, name) for name in ("items", "users")])
    progress.close()
    rate = made / max(time.monotonic() - start, 1e-9)
    print(f"{folder}: {rows:,d} events in {len(jobs)} files, {made:,d} of them made now, {rate:,.0f} a second")


def _check(sizes: LogSizes) -> None:
    """Refuses sizes that contradict each other."""
    least, most = sizes.num_users, sizes.num_users * MAX_EVENTS // 2
    if not least <= sizes.num_events <= most:
        raise UserError(
            f"--num_events={sizes.num_events}: expected {least} to {most}, 1 to {MAX_EVENTS // 2:,d} a user on average "
            f"for --num_users={sizes.num_users}"
        )
    if sizes.num_categories * 2 > sizes.num_items:
        raise UserError(
            f"--num_categories={sizes.num_categories}: expected at most half of --num_items={sizes.num_items}"
        )


def _asked(files: int) -> list[int]:
    """The numbers of the files to make."""
    for text in _ONLY.value:
        if not text.isdecimal() or int(text) >= files:
            raise UserError(f"--only: {text!r} is no file's number; expected 0 to {files - 1}, comma separated")
    return sorted(map(int, set(_ONLY.value))) or list(range(files))


def _claim(folder: str, asked: dict[str, Any]) -> None:
    """Writes the manifest, or holds an older one to what is asked for now.

    Raises:
      UserError: the directory holds another log, or something else.
    """
    path = os.path.join(folder, "manifest.json")
    if os.path.exists(path):
        former = read_json_object(path, "name an empty directory").get("sizes")
        if former != asked:
            raise UserError(f"--output={folder} holds the log of {former}; asked for: {asked}; name another directory")
        return
    if strangers := [name for name in os.listdir(folder) if not name.startswith(".")]:
        raise UserError(f"--output={folder} holds {strangers[0]!r}, which is no part of a log; name an empty directory")
    command = " ".join(["python benchmarks/make_log.py", *sys.argv[1:]])
    manifest = {
        "command": command,
        "read_by": _READ_BY + (" --action_column=action --target_actions=buy" if asked.get("actions") else ""),
        "sizes": asked,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }
    write_text_atomically(path, json.dumps(manifest, indent=2) + "\n")


def _write_events(job: tuple[str, LogSizes, bool, bool, int]) -> tuple[int, bool]:
    """Writes a file unless it is there; its rows, and whether they are new."""
    folder, sizes, is_text, has_actions, file = job
    path = os.path.join(folder, f"events-{file:05d}-of-{sizes.files:05d}.parquet")
    if os.path.exists(path):
        return pq.read_metadata(path).num_rows, False
    rows, waiting, world = 0, [], LifelongWorld(sizes)
    rng = np.random.default_rng([sizes.seed, file])
    schema = _as_table([], is_text, has_actions).schema
    with open_aside(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for events in world.events(file):
            bought = np.zeros(len(events.user), np.int64)
            waiting.append(with_actions(events, world.offset, rng) if has_actions else (events, bought))
            if sum(len(some.user) for some, _ in waiting) >= _ROWS:
                rows += _flush(writer, waiting, is_text, has_actions)
                waiting = []
        rows += _flush(writer, waiting, is_text, has_actions)
    return rows, True


def _flush(writer: pq.ParquetWriter, pieces: list[tuple[LogRows, np.ndarray]], is_text: bool, has_actions: bool) -> int:
    table = _as_table(pieces, is_text, has_actions)
    writer.write_table(table, row_group_size=2 * _ROWS)
    return table.num_rows


def _as_table(pieces: list[tuple[LogRows, np.ndarray]], is_text: bool, has_actions: bool) -> pa.Table:
    """The pieces, each with its events' actions, in order of time; a basket below 0 is none."""
    nothing = np.empty(0, np.int64)
    pieces = pieces or [(LogRows(*([nothing] * 4), np.empty(0, np.float32)), nothing)]
    columns = [np.concatenate(column) for column in zip(*((*rows, action) for rows, action in pieces), strict=True)]
    order = np.argsort(columns[2], kind="stable")
    user, item, timestamp, basket, quantity, action = (column[order] for column in columns)
    actions = {"action": pa.array(ACTIONS).take(pa.array(action))} if has_actions else {}
    return pa.table(
        {
            "user_id": _ids(user, "U", is_text),
            "item_id": _ids(item, "SKU-", is_text),
            "timestamp": timestamp,
            "basket_id": pa.array(basket, mask=basket < 0) if has_actions else basket,
            "quantity": quantity,
            **actions,
        }
    )


def _ids(index: np.ndarray, prefix: str, is_text: bool) -> pa.Array:
    """Ids as people have them: numbers from a million on, or text with leading zeros."""
    if not is_text:
        return pa.array(index + 1_000_000)
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(pa.array(index).cast(pa.string()), 9, "0"), "")


def _write_table(folder: str, sizes: LogSizes, is_text: bool, name: str) -> None:
    """Writes items.parquet or users.parquet unless it is there."""
    path, world = os.path.join(folder, f"{name}.parquet"), LifelongWorld(sizes)
    total, prefix = (sizes.num_items, "SKU-") if name == "items" else (sizes.num_users, "U")
    if os.path.exists(path):
        return
    with open_aside(path) as aside:
        writer = None
        for first in range(0, total, 500_000):
            rows = np.arange(first, min(first + 500_000, total))
            values = (world.item_features if name == "items" else world.user_features)(rows)
            if name == "items":
                values["department"] = values["category"] // 10
            columns = {"item_id" if name == "items" else "user_id": _ids(rows, prefix, is_text)}
            columns |= {column: _names(column, index) for column, index in values.items()}
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(aside, table.schema, compression="zstd")
            writer.write_table(table)
        writer.close()


def _names(column: str, index: np.ndarray) -> pa.Array:
    """Values of a feature as text, null where the index is negative."""
    return pc.binary_join_element_wise(column, pa.array(index, mask=index < 0).cast(pa.string()), "-")


if __name__ == "__main__":
    flags.run_command(main)
