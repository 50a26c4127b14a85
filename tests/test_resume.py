"""Killed, stopped early, or started with other flags: what a run directory promises. Real commands where it matters."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from trained import ROOT, command, run_module

from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.training.loop import Checkpoints, LoopOptions, LoopState, run_phase
from longretriever_tf.training.phases import Phase


def final_weights(run_dir: str) -> dict[str, np.ndarray]:
    path = os.path.join(run_dir, "checkpoints", "final", "weights")
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


def kill_in_mid_training(arguments: list[str], run_dir: str) -> None:
    """Starts a training and kills it, as a lost machine would, once a checkpoint is there.

    Where the training ends before the kill (this process may be the slower one), it is begun again.
    """
    mark, final = (os.path.join(run_dir, "checkpoints", *part) for part in (("latest", "checkpoint"), ("final",)))
    for _ in range(20):
        child = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not os.path.exists(mark) and child.poll() is None:
            time.sleep(0.005)
        child.kill()
        _, errors = child.communicate()
        assert child.returncode in (-signal.SIGKILL, 0), errors.decode()
        if child.returncode and os.path.exists(mark) and not os.path.exists(final):
            return
        shutil.rmtree(run_dir)
    pytest.fail("the training ended before it could be killed, 20 times")


def test_killed_and_restarted_equals_uninterrupted(trained, tmp_path):
    run_dir = str(tmp_path / "run")
    flags = (*trained.flags, f"--run_dir={run_dir}", "--checkpoint_every_s=0.05")
    kill_in_mid_training(command("train", *flags), run_dir)
    again = run_module("train", *flags)
    assert again.returncode == 0 and "W0000" not in again.stderr, again.stderr  # TensorFlow's own words are not ours
    phase, epoch, step = map(int, re.search(r"resuming at phase (\d+), epoch (\d+), step (\d+)", again.stdout).groups())
    assert (phase, epoch, step) > (0, 0, 0)
    whole, resumed = final_weights(trained.run_dir), final_weights(run_dir)
    assert whole.keys() == resumed.keys() and len(whole) > 30
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    assert losses(run_dir) == losses(trained.run_dir), "the epoch that was killed keeps the loss of its first part"
    left = [name for _, folders, names in os.walk(run_dir) for name in (*folders, *names)]
    assert not [name for name in left if name.endswith((".aside", "_temp")) or ".tempstate" in name]


def losses(run_dir: str) -> dict[str, list[dict[str, float]]]:
    """The lines of training.json without their speeds."""
    with open(os.path.join(run_dir, "training.json"), encoding="utf-8") as file:
        history = json.load(file)["history"]
    return {
        phase: [{name: value for name, value in line.items() if name != "examples_per_s"} for line in lines]
        for phase, lines in history.items()
    }


def test_the_same_command_after_the_end_changes_nothing(trained):
    before = final_weights(trained.run_dir)
    done = run_module("train", *trained.flags, f"--run_dir={trained.run_dir}")
    assert done.returncode == 0, done.stderr
    after = final_weights(trained.run_dir)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    with open(os.path.join(trained.run_dir, "training.json"), encoding="utf-8") as file:
        history = json.load(file)["history"]
    assert [line["epoch"] for line in history["interest"]] == [1, 2, 3]


def test_another_config_is_refused_by_the_flag_that_differs(trained, tmp_path):
    config = os.path.join(trained.run_dir, "config.json")
    with open(config, encoding="utf-8") as file:
        before = file.read()
    done = run_module("train", *trained.flags, f"--run_dir={trained.run_dir}", "--dim=8")
    assert done.returncode == 2
    assert "--dim: 16 there, 8 here" in done.stderr and "--run_dir" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    with open(config, encoding="utf-8") as file:
        assert file.read() == before


class CountingModel:
    """One weight that counts its steps."""

    def __init__(self) -> None:
        self.weight = tf.Variable(0.0)
        self.trainable_variables = [self.weight]

    def compute_loss(self, inputs, training: bool = False) -> tf.Tensor:
        return -self.weight


class ThreeBatches:
    num_rows, element_spec = 3, None

    def num_batches(self) -> int:
        return 3

    def make_dataset(self, epoch: int, first: int = 0) -> tf.data.Dataset:
        return tf.data.Dataset.range(first, 3).map(lambda i: (i[None],))


@dataclasses.dataclass
class Script:
    """Validation metrics by the script, and the weight after each epoch that was validated."""

    metrics: list[float]
    model: CountingModel
    after_epoch: list[float] = dataclasses.field(default_factory=list)

    def __call__(self) -> float:
        self.after_epoch.append(float(self.model.weight))
        return self.metrics[len(self.after_epoch) - 1]


def run_scripted(metrics: list[float], directory, patience: int, is_validated: bool = True) -> tuple[Script, LoopState]:
    model, state = CountingModel(), LoopState.start()
    script = Script(metrics, model)
    phase = Phase("scripted", len(metrics), model, ThreeBatches(), 1, script if is_validated else None)
    optimizer = LazyAdamW(0.1, 0.0, 1000)
    optimizer.build(phase.variables())
    checkpoints = Checkpoints(
        str(directory), {"weight": tf.train.Checkpoint(value=model.weight), "adam_scripted": optimizer}, state
    )
    checkpoints.restore()
    options = LoopOptions(1e9, patience, False, tf.summary.create_noop_writer())
    if int(state.phase) == 0:
        run_phase(phase, 0, state, optimizer, checkpoints, options)
    return script, state


@pytest.mark.parametrize(
    "metrics, patience, epochs, best",
    [
        ([0.3, 0.5, 0.4, 0.9], 1, 3, 1),  # stops before the .9 it cannot know
        ([0.3, 0.2, 0.5, 0.4], 2, 4, 2),  # two bad epochs in a row are needed
        ([0.3, 0.3, 0.3], 1, 2, 0),  # no worse is no better
        ([0.1, 0.2, 0.3], 1, 3, 2),
    ],
)
def test_early_stopping_restores_the_best_epoch(tmp_path, metrics, patience, epochs, best):
    script, state = run_scripted(metrics, tmp_path, patience)
    assert len(script.after_epoch) == len(set(script.after_epoch)) == epochs
    assert float(script.model.weight) == script.after_epoch[best]
    assert (int(state.phase), int(state.epoch), int(state.step)) == (1, 0, 0)
    again, _ = run_scripted(metrics, tmp_path, patience)
    assert float(again.model.weight) == script.after_epoch[best] and again.after_epoch == []


def test_without_validation_the_last_epoch_stays(tmp_path):
    validated, _ = run_scripted([0.1, 0.2], tmp_path / "validated", 1)
    plain, _ = run_scripted([0.1, 0.2], tmp_path / "plain", 1, is_validated=False)
    assert plain.after_epoch == [] and float(plain.model.weight) == validated.after_epoch[1]
