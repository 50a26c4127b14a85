"""Writes a log in shards: by three passes over a user's own tables, or out of memory for the embedded logs."""

import concurrent.futures
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from longretriever_tf.common.errors import UserError, require
from longretriever_tf.common.files import explain_os_errors, read_json_object, require_writable, write_text_atomically
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.common.progress import Progress, stage
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets import accounts
from longretriever_tf.datasets.event_log.source import check_spec, own_context, settle_context, text_format
from longretriever_tf.datasets.event_log.tables import list_portions
from longretriever_tf.datasets.log_identity import fingerprint_shards, source_of
from longretriever_tf.datasets.preparation import histories, pieces, vocabulary
from longretriever_tf.datasets.sharded_log import (
    FORMAT,
    MANIFEST,
    Manifest,
    ShardedLog,
    ShardFile,
    read_action_flags,
    read_manifest,
    shard_path,
    split_users,
    write_items,
    write_manifest,
    write_shard,
)

SHARD_EVENTS = 2_000_000
"""Events of a shard if nobody says how many shards: a process holds some 400 MB while it makes their histories."""

WORK = "work"
"""The folder under --output of what is not finished yet."""

_NOT_OF_THE_LOG = ("data", "data_dir", "window_days", "skip_last_days", "numeric_bins")
_CURE = "delete {} and run the same command again"


Task = Callable[[], int]
"""A part of a pass: reads and writes files, and returns how many events it took. The order of tasks does not matter."""

Executor = Callable[[Sequence[Task]], Iterator[int]]
"""Runs the tasks of a pass somewhere, and yields what each returned as it ends."""


class _Target(NamedTuple):
    """Where the log goes: the directory, the folder of what is not finished yet, and the name of this build."""

    output: str
    work: str
    build: str


def prepare_log(config: DataConfig, output: str, num_shards: int, run_tasks: Executor) -> str:
    """Writes the log that the config names as shards under `output`; goes on where a stopped run stood.

    Args:
      config: the log's flags.
      output: the directory; it must be new, empty, or begun by the same flags.
      num_shards: K; 0: one for every 2 million events.
      run_tasks: where the tasks of a pass run: `in_processes`, or on Beam (`beam.on_beam`).

    Returns:
      What happened, in a sentence.

    Raises:
      UserError: the tables cannot be read, the directory holds another log, or the disk is full. What is written so
        far stays, and the same command goes on from there.
    """
    days = config.skip_last_days
    require(not days, f"--skip_last_days={days:g}: prepare writes the whole log; leave the flag out")
    require_writable(output)
    busy = f"{output!r} is being written by another process ({{}}): wait for it, or name another --output"
    with hold_lock(output, busy):
        build = _name_build(config, num_shards)
        if os.path.exists(os.path.join(output, MANIFEST)):
            _require_same_build(config, output, build, num_shards)
            return f"{output} holds this log already: nothing to do"
        target = _Target(output, _open_work(output, build), build)
        start = time.monotonic()
        actions: tuple[str, ...] = ()
        if config.dataset == "event_log":
            files, counts, actions = _write_tables(config, target, num_shards, run_tasks)
            context = own_context(settle_context(config))
        else:
            files, counts, context = _write_loaded(config, target, num_shards)
        with stage("writing the manifest"):
            manifest = _describe(config, target, context, files, counts, actions)
            write_manifest(output, manifest)
        shutil.rmtree(target.work, ignore_errors=True)
        num_events = sum(file.num_events for file in files)
        return (
            f"prepared: {output} ({num_events:,} events of {sum(file.num_users for file in files):,} users in "
            f"{len(files)} shards, {time.monotonic() - start:,.0f} s)"
        )


def _name_build(config: DataConfig, num_shards: int) -> str:
    source = source_of(config) or f"{config.dataset}-{config.movielens}"
    return f"{source}-{num_shards}-shards-format-{FORMAT}"


def _require_same_build(config: DataConfig, output: str, build: str, num_shards: int) -> None:
    manifest = read_manifest(output)
    if manifest.build == build:
        _require_same_actions(config, output, manifest)
        return
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    differing = [
        f"--{name}: {manifest.data.get(name)!r} there, {value!r} here"
        for name, value in wanted.items()
        if name not in _NOT_OF_THE_LOG and manifest.data.get(name, value) != value
    ]
    if not differing and manifest.build.split("-shards-")[0] != build.split("-shards-")[0]:
        count = manifest.build.rpartition("-shards-")[0].rpartition("-")[2]
        differing = [f"--num_shards: {count} there, {num_shards} here"] if count != str(num_shards) else []
    why = "; ".join(differing) or "its tables have changed since"
    raise UserError(f"{output!r} holds another log ({why}): name another --output, or delete this directory")


def _require_same_actions(config: DataConfig, output: str, manifest: Manifest) -> None:
    """Refuses weights and targets that the prepared log would not keep: they are no part of its build."""
    kept = read_action_flags(manifest)
    for name in ("action_weights", "target_actions"):
        here, there = getattr(config, name), getattr(kept, name)
        require(
            here in ((), there),
            f"--{name}={','.join(here)}: {output!r} holds this log, prepared "
            f"{f'with --{name}=' + ','.join(there) if there else 'without it'}; leave the flag out here, and give it "
            "to the commands that read --data",
        )


def _open_work(output: str, build: str) -> str:
    """The folder of what is not finished yet; what another build left there is removed."""
    work = os.path.join(output, WORK)
    path = os.path.join(work, "build.json")
    if os.path.exists(path):
        if read_json_object(path, _CURE.format(work)).get("build") == build:
            print(f"going on in {work}", flush=True)
            return work
        print(f"{work} is of other tables or flags: it is made anew", flush=True)
    elif set(os.listdir(output)) - {".lock"}:
        raise UserError(f"--output={output} is not empty and no prepared log: name a new directory")
    shutil.rmtree(work, ignore_errors=True)
    with explain_os_errors(f"cannot write {work!r}"):
        os.makedirs(work)
    write_text_atomically(path, json.dumps({"build": build}) + "\n")
    return work


def _write_tables(
    config: DataConfig, target: _Target, num_shards: int, run_tasks: Executor
) -> tuple[list[ShardFile], dict[str, int], tuple[str, ...]]:
    """The three passes over the tables of --dataset=event_log."""
    work = target.work
    check_spec(config)
    config = settle_context(config)
    source, now = f"--events={config.events}", time.time()
    located, portions = list_portions(source, config.events, text_format("events", config), pieces.PIECE_ROWS)
    left = [n for n in range(len(portions)) if not os.path.exists(pieces.task_path(work, n))]
    tasks = [functools.partial(pieces.write_pieces, config, located, portions[n], n, work, now) for n in left]
    _run_all("reading the events", "portions", tasks, len(portions), run_tasks)
    infos = [info for n in range(len(portions)) for info in pieces.read_task(work, n)]
    if not infos:
        raise UserError(f"{source}: no rows")
    found = vocabulary.read_vocabulary(work)
    if found is None:
        with stage("joining users and items"):
            num_rows = sum(info.num_rows for info in infos)
            count = num_shards or math.ceil(num_rows / SHARD_EVENTS)
            found, items = vocabulary.make_vocabulary(config, infos, work, count)
            if config.format:
                other = sum(pieces.read_num_left_out(work, n) for n in range(len(portions)))
                found.counts.update({accounts.ROWS: num_rows + other, "other_action": other})
            write_items(target.output, target.build, items)
            vocabulary.write_vocabulary(work, found)
    num_shards = len(found.user_offset) - 1
    left = [k for k in range(num_shards) if not _is_written(target, k, num_shards)]
    tasks = [functools.partial(_write_shard, config, infos, found, target, k) for k in left]
    _run_all("making whole histories", "shards", tasks, num_shards, run_tasks)
    parts = [read_json_object(_marker(work, k), _CURE.format(work)) for k in range(num_shards)]
    counts = accounts.add_up((part["counts"] for part in parts), found.counts)
    return [ShardFile(**part["file"]) for part in parts], counts, tuple(found.actions)


def _marker(work: str, k: int) -> str:
    return os.path.join(work, f"shard-{k:05d}.json")


def _is_written(target: _Target, k: int, num_shards: int) -> bool:
    return os.path.exists(_marker(target.work, k)) and os.path.exists(shard_path(target.output, k, num_shards))


def _write_shard(
    config: DataConfig, infos: list[pieces.PieceInfo], found: vocabulary.Vocabulary, target: _Target, k: int
) -> int:
    """Pass 3 for one shard; how many events it has."""
    log = histories.build_shard(config, infos, found, target.work, k)
    file = write_shard(target.output, target.build, k, len(found.user_offset) - 1, log)
    marked = {"file": dataclasses.asdict(file), "counts": log.counts}
    write_text_atomically(_marker(target.work, k), json.dumps(marked) + "\n")
    return log.num_events


def _write_loaded(config: DataConfig, target: _Target, num_shards: int) -> tuple[list[ShardFile], dict[str, int], str]:
    """Shards of a log that fits into memory: one of the embedded data sets."""
    from longretriever_tf.datasets.load import load_log  # TFDS: not for workers

    with stage("reading the log"):
        log = load_log(config)
    count = num_shards or math.ceil(log.num_events / SHARD_EVENTS)
    bounds = split_users(np.diff(log.offset), count)
    with stage("writing the shards"):
        write_items(target.output, target.build, log.items)
        parts = (log.of_users(slice(*bounds[k : k + 2])) for k in range(count))
        files = [write_shard(target.output, target.build, k, count, part) for k, part in enumerate(parts)]
    return files, log.counts, log.context


def _describe(
    config: DataConfig,
    target: _Target,
    context: str,
    files: list[ShardFile],
    counts: dict[str, int],
    actions: tuple[str, ...],
) -> Manifest:
    """The manifest of shards that are all written."""
    data = dataclasses.asdict(config)
    manifest = Manifest(target.build, "", context, counts, data, 0, 0, tuple(files), actions=actions)
    log = ShardedLog(target.output, manifest=manifest)
    has_event = np.zeros(len(log.items.item_id), bool)
    for k in range(log.num_shards):
        has_event[log.read_column(k, "item_row")] = True
    without = int((~has_event).sum())
    return dataclasses.replace(
        manifest,
        fingerprint=fingerprint_shards(log),
        num_items=len(has_event),
        num_items_without_events=without,
    )


def _run_all(what: str, unit: str, tasks: Sequence[Task], total: int, run_tasks: Executor) -> None:
    """Runs the tasks; each returns how many events it took.

    Raises:
      UserError: of the first task that failed; tasks that had ended stay done.
    """
    progress, num_events, start = Progress(what, total, unit, total - len(tasks)), 0, time.monotonic()
    for count in run_tasks(tasks):
        num_events += count
        progress.update(1, f"{num_events / max(time.monotonic() - start, 1e-9):,.0f} events/s")
    progress.close()


def in_processes(num_workers: int) -> Executor:
    """Runs tasks in so many processes of this machine, or in this process for one worker; 0: one for each core."""
    return functools.partial(_in_processes, num_workers or os.cpu_count() or 1)


def _in_processes(num_workers: int, tasks: Sequence[Task]) -> Iterator[int]:
    if min(num_workers, len(tasks)) <= 1:
        yield from (task() for task in tasks)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with concurrent.futures.ProcessPoolExecutor(min(num_workers, len(tasks)), context, _start_worker) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a process of the preparation was killed, perhaps because memory ran out: run the same command with "
                "fewer --num_workers; it goes on where it stood"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    pa.set_cpu_count(1)  # each process has one core
