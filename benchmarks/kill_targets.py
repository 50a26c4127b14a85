"""What the kill trials kill: which command, in which part, from which state, and how its result is compared."""

import concurrent.futures
import csv
import dataclasses
import glob
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from kill_children import end_of

_DAY_S = 86_400
_FLAGS = """--recipe=compact --dataset=event_log --item_features=brand --window_days=14 --horizon_days=14
--num_snapshots=6 --batch_size=32 --max_logits=600 --dim=16 --num_heads=2 --ff_dim=32 --svd_dim=8 --interest_epochs=3
--num_interests=5 --top_interests=5 --checkpoint_every_s=0.05""".split()
_ONE_THREAD = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PLAN = """title = "Kill trials"
[runs.ours]
flags = ["--flagfile={flagfile}"]
minutes = 0.5
[measures.validation]
runs = ["ours"]
flags = ["--split=validation", "--noplots"]
minutes = 0.2
[rows.ours]
run = "ours"
measure = "validation"
[[tables]]
title = "Recall"
rows = ["ours"]
"""


@dataclasses.dataclass(frozen=True)
class World:
    """The uninterrupted runs, below `folder`, and how long each target's part took there."""

    folder: str
    environment: dict[str, str]
    parts: dict[str, "Part"]

    def path(self, *parts: str) -> str:
        return os.path.join(self.folder, *parts)


@dataclasses.dataclass(frozen=True)
class Target:
    """A part of a command.

    Attributes:
      name: of the part.
      begin, end: patterns of the lines between which it runs; "": the start and the end of the command.
      start: prepares a folder and returns the command that works there.
      compare: what differs there from the uninterrupted run, a sentence each.
      needs_export: whether it starts from an export, or is compared with one.
    """

    name: str
    begin: str
    end: str
    start: Callable[[World, str], list[str]]
    compare: Callable[[World, str], list[str]]
    needs_export: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
    """How long a part took."""

    seconds: float


def make_world(folder: str, targets: Sequence[Target], parallel: int) -> World:
    """Writes the log, and runs every command once without a kill.

    Raises:
      RuntimeError: one of them failed.
    """
    environment = os.environ | dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}  # lines must come when they are printed
    world = World(folder, environment, {})
    _write_log(world)
    made = {"train": _train_flags(world, "run"), "export": _export_flags(world, "run", "export")}
    for module in ("train", "export") if any(target.needs_export for target in targets) else ("train",):
        _require(end_of(_command(module, *made[module]), environment).status, module)
    folders = {target.name: os.path.join(folder, "whole", target.name) for target in targets}
    for path in folders.values():
        os.makedirs(path)

    def run_whole(target: Target) -> Part:
        outcome = end_of(target.start(world, folders[target.name]), environment, target.begin, target.end)
        _require(outcome.status, f"{target.name}: {outcome.text[-2000:]}")
        return Part(outcome.seconds)

    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        for target, part in zip(targets, pool.map(run_whole, targets), strict=True):
            world.parts[target.name] = part
    return world


def _require(status: int | None, what: str) -> None:
    if status:
        raise RuntimeError(f"status {status} without any kill: {what}")


def _command(module: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", f"longretriever_tf.{module}", *flags]


def _write_log(world: World) -> None:
    """A log of 53 users who take items of their own brand in three categories each, and a catalogue to refresh by."""
    draw = random.Random(7)
    with open(world.path("events.csv"), "w", newline="", encoding="utf-8") as file:
        events = csv.writer(file)
        events.writerow(["user_id", "item_id", "timestamp", "category", "brand"])
        for user in range(53):
            own = draw.sample(range(7), 3)
            for _ in range(61):
                category, brand = draw.choice(own), user % 2 if draw.random() < 0.9 else draw.randrange(2)
                item = draw.choice([v for v in range(97) if v % 7 == category and v // 7 % 2 == brand])
                time = 1_600_000_000 + draw.randrange(140 * _DAY_S)
                events.writerow([f"u{user}", 100 + item, time, f"c{category}", f"b{brand}"])
    with open(world.path("items.csv"), "w", newline="", encoding="utf-8") as file:
        items = csv.writer(file)
        items.writerow(["item_id", "category", "brand"])
        items.writerows([100 + v, f"c{v % 7}", f"b{v // 7 % 2}"] for v in [*range(3, 97), *range(900, 905)])
    with open(world.path("demo.flags"), "w", encoding="utf-8") as file:
        file.write("\n".join([*_FLAGS, f"--events={world.path('events.csv')}", f"--data_dir={world.path('tfds')}"]))
    with open(world.path("plan.toml"), "w", encoding="utf-8") as file:
        file.write(_PLAN.format(flagfile=world.path("demo.flags")))


def _train_flags(world: World, *run: str) -> list[str]:
    return [f"--flagfile={world.path('demo.flags')}", f"--run_dir={world.path(*run)}"]


def _export_flags(world: World, run: str, export: str) -> list[str]:
    return [f"--run_dir={world.path(run)}", f"--export_dir={world.path(export)}"]


def _start_train(world: World, folder: str) -> list[str]:
    return _command("train", *_train_flags(world, os.path.join(folder, "run")))


def _start_prepare(world: World, folder: str) -> list[str]:
    """A training that has its records still to prepare."""
    return [*_start_train(world, folder), f"--data_dir={os.path.join(folder, 'tfds')}"]


def _start_export(world: World, folder: str) -> list[str]:
    return _command("export", *_export_flags(world, "run", os.path.join(folder, "export")))


def _start_refresh(world: World, folder: str) -> list[str]:
    shutil.copytree(world.path("export"), os.path.join(folder, "export"))
    return _command(
        "refresh",
        *_export_flags(world, "run", os.path.join(folder, "export")),
        f"--items={world.path('items.csv')}",
        "--version=2",
    )


def _start_evaluate(world: World, folder: str) -> list[str]:
    shutil.copytree(world.path("run"), os.path.join(folder, "run"))
    return _command("evaluate", f"--run_dir={folder}/run")


def _start_reproduce(world: World, folder: str) -> list[str]:
    return _command("reproduce", f"--plan={world.path('plan.toml')}", f"--work_dir={folder}/work")


def _compare_train(world: World, folder: str) -> list[str]:
    there, whole = os.path.join(folder, "run"), world.path("run")
    return [
        *_litter(folder),
        *_same_log(there, whole),
        *_same_arrays(there, whole, "corpus.npz", "as_of_cut.npz"),
        *_same_weights(there, whole),
        *_same_json(there, whole, "training.json", lambda content: _without_speed(content["history"])),
    ]


def _compare_export(world: World, folder: str, whole_dir: str = "") -> list[str]:
    """Every version there must be whole: a kill after the rename leaves a first one, and a second run makes another."""
    export, problems = os.path.join(folder, "export"), _litter(folder)
    numbers = sorted(int(name) for name in os.listdir(export) if name.isdigit())
    if not numbers:
        return [*problems, "no version"]
    for number in numbers:
        version, whole = os.path.join(export, str(number)), whole_dir or world.path("export", "1")
        extra, whole_extra = (os.path.join(path, "assets.extra") for path in (version, whole))
        problems += _same_arrays(extra, whole_extra, "corpus.npz")
        problems += _same_json(extra, whole_extra, "fingerprint.json", lambda content: content)
        problems += _same_json(extra, whole_extra, "index.json", lambda content: content)
        problems += _same_bytes(extra, whole_extra, "tf_serving_warmup_requests")
        problems += _same_weights_at(os.path.join(version, "variables", "variables"), f"{whole}/variables/variables")
    return problems


def _compare_refresh(world: World, folder: str) -> list[str]:
    whole = world.path("whole", "refresh", "export", "2")
    export = os.path.join(folder, "export")
    shutil.rmtree(os.path.join(export, "1"))  # what it was made from
    return _compare_export(world, folder, whole)


def _compare_evaluate(world: World, folder: str) -> list[str]:
    there, whole = os.path.join(folder, "run"), world.path("whole", "evaluate", "run")
    return [
        *_litter(folder),
        *_same_json(there, whole, "metrics.json", lambda content: (content["models"], content["num_users"])),
        *_same_arrays(there, whole, "metrics.per_user.npz"),
        *([] if os.path.getsize(os.path.join(there, "metrics.png")) else ["an empty metrics.png"]),
    ]


def _compare_reproduce(world: World, folder: str) -> list[str]:
    there, whole = os.path.join(folder, "work"), world.path("whole", "reproduce", "work")
    measure = os.path.join("measures", "validation", "ours", "seed1", "metrics.json")
    run = next(glob.iglob(os.path.join(glob.escape(there), "runs", "ours", "seed*")), os.path.join(there, "none"))
    return [
        *_litter(folder),
        *_same_json(there, whole, measure, lambda content: content["models"]),
        *_same_weights(run, run.replace(there, whole)),
        *([] if glob.glob(os.path.join(glob.escape(there), "*.html")) else ["no report"]),
    ]


def _litter(folder: str) -> list[str]:
    """What was written aside and should be gone."""
    left = []
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if name.endswith((".aside", ".old", "_temp")) or ".tempstate" in name or name.startswith("incomplete."):
                left.append(os.path.relpath(os.path.join(root, name), folder))
    return [f"left behind: {', '.join(left[:5])}"] if left else []


def _same_log(there: str, whole: str) -> list[str]:
    return _same_json(there, whole, "log.json", lambda content: {k: v for k, v in content.items() if k != "source"})


def _same_arrays(there: str, whole: str, *names: str) -> list[str]:
    problems = []
    for name in names:
        with np.load(os.path.join(there, name)) as ours, np.load(os.path.join(whole, name)) as theirs:
            if set(ours) != set(theirs):
                problems.append(f"{name}: other arrays")
            problems += [f"{name}: {key} differs" for key in theirs if not _equal(ours[key], theirs[key])]
    return problems


def _equal(ours: np.ndarray, theirs: np.ndarray) -> bool:
    has_nan = ours.dtype.kind == "f"
    return ours.dtype == theirs.dtype and np.array_equal(ours, theirs, equal_nan=has_nan)


def _same_weights(there: str, whole: str) -> list[str]:
    path = os.path.join("checkpoints", "final", "weights")
    return _same_weights_at(os.path.join(there, path), os.path.join(whole, path))


def _same_weights_at(there: str, whole: str) -> list[str]:
    import tensorflow as tf

    ours, theirs = tf.train.load_checkpoint(there), tf.train.load_checkpoint(whole)
    names = [name for name in theirs.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    if names != [name for name in ours.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]:
        if sorted(names) != sorted(n for n in ours.get_variable_to_shape_map() if n.endswith("VARIABLE_VALUE")):
            return [f"{os.path.basename(there)}: other variables"]
    return [f"{name} differs" for name in names if not np.array_equal(ours.get_tensor(name), theirs.get_tensor(name))]


def _same_json(there: str, whole: str, name: str, part: Callable[[Any], Any]) -> list[str]:
    contents = []
    for folder in (there, whole):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            contents.append(part(json.load(file)))
    return [] if contents[0] == contents[1] else [f"{name} differs"]


def _same_bytes(there: str, whole: str, name: str) -> list[str]:
    contents = []
    for folder in (there, whole):
        with open(os.path.join(folder, name), "rb") as file:
            contents.append(file.read())
    return [] if contents[0] == contents[1] else [f"{name} differs"]


def _without_speed(history: dict[str, list[dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
    return {
        phase: [{k: v for k, v in line.items() if "per_s" not in k} for line in lines]
        for phase, lines in history.items()
    }


_SAVE = "writing what export and evaluate need"
_TOWERS_END, _INTEREST_END = "keeping the weights of epoch", r"interest epoch \d+/\d+: done|training\.png"

TARGETS = {
    target.name: target
    for target in (
        Target("prepare", "reading the log", "preparing vocabularies", _start_prepare, _compare_train),
        Target("save", "finding the training examples", _SAVE, _start_train, _compare_train),
        Target("towers", _SAVE, _TOWERS_END, _start_train, _compare_train),
        Target("interest", _TOWERS_END, "", _start_train, _compare_train),
        Target("export", "reading the run", "", _start_export, _compare_export, True),
        Target("refresh", "laying", "", _start_refresh, _compare_refresh, True),
        Target("evaluate", "evaluating .*done", "", _start_evaluate, _compare_evaluate),
        Target("reproduce", "log: ", "", _start_reproduce, _compare_reproduce),
    )
}
