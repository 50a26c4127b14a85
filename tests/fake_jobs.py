"""Stands in for the commands of a plan in tests of `reproduce`: same files, no TensorFlow, a second each.

python tests/fake_jobs.py MODULE --run_dir=... --seed=3 [--noise=0.5] [--fail] [--sleep=60]
"""

import json
import os
import pathlib
import sys
import time

import numpy as np
from small_histories import NUM_ITEMS, encode, random_histories

from longretriever_tf.common.files import write_text_atomically
from longretriever_tf.evaluation.calibration import CalibrationMeter
from longretriever_tf.evaluation.evaluator import TaskScorer, evaluate_many
from longretriever_tf.evaluation.ground_truth import build_truth
from longretriever_tf.evaluation.per_user import per_user_path, tabulate_users, write_users

CUT, WINDOW = 70, (70, 90)
OFFSET = np.array([0, 1, 2, 5, 8, 19, NUM_ITEMS])


class Noisy(TaskScorer):
    """Log probabilities that know the truth, under noise."""

    is_probability = True

    def __init__(self, name: str, truth, noise: float, seed: int) -> None:
        self.name = name
        scores = noise * np.random.default_rng(seed).normal(size=(truth.users.max() + 1, NUM_ITEMS))
        scores[truth.users[truth.pair_row()], truth.item] += 1.0
        self._scores = (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)

    def score(self, users: np.ndarray) -> np.ndarray:
        return self._scores[users]


def evaluate(flags: dict[str, str]) -> None:
    with open(os.path.join(flags["run_dir"], "training.json"), encoding="utf-8") as file:
        trained = json.load(file)
    if "export_dir" in flags:
        with open(os.path.join(flags["export_dir"], "1", "saved_model.pb"), encoding="utf-8") as file:
            trained |= json.load(file)
    seed, noise = int(trained["seed"]), float(trained.get("noise", 0.5))
    log = encode(random_histories(8, 61))
    truth = build_truth(log, NUM_ITEMS, CUT, WINDOW)
    scorers = [Noisy("longretriever", truth, noise, seed)]
    if "baselines" in flags:
        scorers += [Noisy("popularity | decayed", truth, 3.0, 11), Noisy("own items", truth, 1.0, 13)]
    scorers[0] = meter = CalibrationMeter(scorers[0], truth)
    made = evaluate_many(scorers, truth, OFFSET)
    table = tabulate_users(made, truth, log, OFFSET, CUT)
    write_users(per_user_path(flags["output"]), table | {"calibration": meter.tally})
    models = {name: evaluation.summary() for name, evaluation in made.items()}
    facts = {"command": "evaluate", "seed": seed, "date": "2031-02-03", "split": "validation", "data": "toy <world>"}
    lift = {"rows": {"a b": {"figures": {"AER": [0.25, 0.2, 0.3]}}}, "directions": [{"statement": "x < y holds"}]}
    write_text_atomically(flags["output"], json.dumps({**facts, "models": models, "lift": lift}))


def main(module: str, *arguments: str) -> int:
    pairs = [argument.lstrip("-").partition("=") for argument in arguments]
    flags = {name: value for name, _, value in pairs}
    if module in ("export", "refresh"):
        assert "seed" not in flags and os.path.exists(os.path.join(flags["run_dir"], "training.json"))
        target = flags.get("to_dir", flags["export_dir"])
        assert target == flags["export_dir"] or os.path.exists(os.path.join(flags["export_dir"], "1"))
        noise = {"noise": flags["noise"]} if "noise" in flags else {}
        write_text_atomically(os.path.join(target, "1", "saved_model.pb"), json.dumps(noise))
        return 0
    marker = pathlib.Path(flags.get("run_dir", "."), "started")
    first, _ = not marker.exists(), print(f"{module} in {flags['run_dir']}")
    if module == "train":
        marker.touch()
    if "fail" in flags:
        print("error: --fail was given")
        return 2
    if "sleep_first" in flags and first:
        time.sleep(float(flags["sleep_first"]))
    if module == "train":
        write_text_atomically(
            os.path.join(flags["run_dir"], "training.json"), json.dumps(flags | {"resumed": not first})
        )
    else:
        evaluate(flags)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
