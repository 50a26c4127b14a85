"""Kills commands at random times, runs them again, and compares what they leave with an uninterrupted run.

  python benchmarks/kill_trials.py --kills=120 --parallel=14 --seed=1 --output=results/kill_trials.json

The log of a few dozen generated users is trained on, exported, refreshed, evaluated and reproduced once without a kill.
Then each trial starts one command in a copy of that state, waits for a line that says which part runs, sleeps for a
random share of the time that the part took before, and kills the process and its children (SIGKILL); this up to
`--kills_per_trial` times, and then lets the same command run to its end. What it leaves must be what the uninterrupted
run left, bit for bit: weights, corpus, statistics, history (but for speeds), metrics in all and by user, answers of the
exports. No output may hold a traceback, and nothing that was written aside may stay. A kill that came after the end is
not counted.
"""

import concurrent.futures
import json
import os
import random
import shutil
import sys
import tempfile
import time
from typing import Any

from absl import flags as absl_flags
from kill_children import KillTime, Outcome, end_of, run_and_kill
from kill_targets import TARGETS, Target, World, make_world

from longretriever_tf.config import flags

_KILLS = absl_flags.DEFINE_integer("kills", 100, "Kills to count.", 1)
_PER_TRIAL = absl_flags.DEFINE_integer("kills_per_trial", 2, "Kills of one command before it may run to its end.", 1)
_PARALLEL = absl_flags.DEFINE_integer("parallel", 2, "Trials at once.", 1)
_TARGETS = absl_flags.DEFINE_list("targets", list(TARGETS), f"Which parts to kill: {', '.join(TARGETS)}.")
_SEED = absl_flags.DEFINE_integer("seed", 1, "Of the times.")
_WORK_DIR = absl_flags.DEFINE_string("work_dir", "", "Keeps everything there; empty: a temporary folder, removed.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")


def main(argv: list[str]) -> int:
    """Runs the trials; status 1 if one of them went wrong."""
    del argv
    unknown = sorted(set(_TARGETS.value) - set(TARGETS))
    if unknown:
        raise ValueError(f"--targets: {', '.join(unknown)}: expected some of {', '.join(TARGETS)}")
    from longretriever_tf.common.provenance import describe_origin

    start = time.monotonic()
    folder = _WORK_DIR.value or tempfile.mkdtemp(prefix="kill_trials.")
    os.makedirs(folder, exist_ok=True)
    try:
        world = make_world(folder, [TARGETS[name] for name in _TARGETS.value], _PARALLEL.value)
        print(f"uninterrupted runs: {time.monotonic() - start:.0f} s", flush=True)
        trials = _run_trials(world)
    finally:
        if not _WORK_DIR.value:
            shutil.rmtree(folder, ignore_errors=True)
    report = {
        **describe_origin("python benchmarks/kill_trials.py", _SEED.value),
        "seconds": round(time.monotonic() - start, 1),
        "parallel": _PARALLEL.value,
        "kills": sum(len(trial["kills"]) for trial in trials),
        "trials": len(trials),
        "different": sum(bool(trial["problems"]) for trial in trials),
        "by_target": _by_target(trials),
        "problems": [trial for trial in trials if trial["problems"]],
        "moments": {name: [k for t in trials if t["target"] == name for k in t["kills"]] for name in _TARGETS.value},
    }
    if _OUTPUT.value:
        from longretriever_tf.common.files import write_text_atomically

        write_text_atomically(_OUTPUT.value, json.dumps(report, indent=2) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name not in ("moments", "by_target")}))
    _print_table(report)
    return 1 if report["different"] or report["kills"] < _KILLS.value else 0


def _run_trials(world: World) -> list[dict[str, Any]]:
    """Trials, target by target in turn, until enough kills are counted."""
    done: list[dict[str, Any]] = []
    running: set[concurrent.futures.Future[dict[str, Any]]] = set()
    number, most = 0, 3 * _KILLS.value + 10  # a target that always ends before its kill must not go on for ever
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL.value) as pool:
        while True:
            counted = sum(len(trial["kills"]) for trial in done)
            while (
                len(running) < _PARALLEL.value
                and counted + _PER_TRIAL.value * len(running) < _KILLS.value
                and number < most
            ):
                target = TARGETS[_TARGETS.value[number % len(_TARGETS.value)]]
                running.add(pool.submit(_trial, world, target, number))
                number += 1
            if not running:
                return done
            ended, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in ended:
                trial = future.result()
                done.append(trial)
                say = "; ".join(trial["problems"]) or "same"
                print(f"{trial['number']:4d} {trial['target']}: {len(trial['kills'])} kills, {say}", flush=True)


def _trial(world: World, target: Target, number: int) -> dict[str, Any]:
    """One command, killed and run to its end; what differs from the uninterrupted run."""
    draw = random.Random(f"{_SEED.value}/{number}")
    folder = os.path.join(world.folder, "trials", f"{number}")
    os.makedirs(folder)
    command, problems = target.start(world, folder), []
    part = world.parts[target.name]
    kills: list[dict[str, float]] = []
    outcome = Outcome(None, "", 0.0)
    for _ in range(_PER_TRIAL.value):
        wanted = draw.uniform(0.0, 1.2) * part.seconds
        outcome = run_and_kill(command, KillTime(target.begin, wanted), world.environment)
        if outcome.status is not None:
            break  # it ended first
        kills.append({"after_s": round(wanted, 3), "of_s": round(part.seconds, 3)})
        problems += _tracebacks(outcome, "killed")
    if outcome.status is None:
        outcome = end_of(command, world.environment)
    if outcome.status:
        problems.append(f"status {outcome.status}: {outcome.text[-500:]}")
    problems += _tracebacks(outcome, "run again")
    if not outcome.status:
        problems += target.compare(world, folder)
    if not problems and not _WORK_DIR.value:
        shutil.rmtree(folder, ignore_errors=True)
    return {"number": number, "target": target.name, "kills": kills, "problems": problems}


def _tracebacks(outcome: Outcome, when: str) -> list[str]:
    return [f"a traceback when {when}: {outcome.text[-800:]}"] if "Traceback (most" in outcome.text else []


def _by_target(trials: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for trial in trials:
        row = rows.setdefault(trial["target"], {"trials": 0, "kills": 0, "different": 0})
        row["trials"] += 1
        row["kills"] += len(trial["kills"])
        row["different"] += bool(trial["problems"])
    return rows


def _print_table(report: dict[str, Any]) -> None:
    print(f"\n{'killed in':12s} {'trials':>7s} {'kills':>6s} {'ended otherwise':>16s}")
    for name, row in report["by_target"].items():
        print(f"{name:12s} {row['trials']:7d} {row['kills']:6d} {row['different']:16d}")
    print(f"{'all':12s} {report['trials']:7d} {report['kills']:6d} {report['different']:16d}")
    print(f"in {report['seconds']:.0f} s")


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    flags.run_command(main)
