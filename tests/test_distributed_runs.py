"""Several processes and devices against one: the same weights to the last digit, whatever is killed on the way."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from command_server import Started, run_command
from trained import ROOT, command, run_module, write_tables
from worlds import crowded_world

pytestmark = pytest.mark.slow

FLAGS = (
    "--recipe=compact",
    "--dataset=event_log",
    "--item_features=brand",
    "--user_features=age",
    "--window_days=14",
    "--horizon_days=14",
    "--num_snapshots=5",
    "--batch_size=16",
    "--dim=8",
    "--num_heads=2",
    "--ff_dim=16",
    "--svd_dim=4",
    "--item_id",
    "--dropout=0.3",
    "--unknown_rate=0.1",
    "--epochs=2",
    "--interest_epochs=1",
)
"""Text ids; dropout on."""

PAPER = ("--loss=in_batch", "--norepeat_term", "--noitem_stats", "--nouser_context", "--small_category=4")
FORMS = {
    "full": (),
    "in_batch": PAPER,
    "full, tables by category": ("--item_tables=by_category",),
    "a baseline": ("--model=two_tower",),
}


@dataclasses.dataclass(frozen=True)
class Place:
    flags: tuple[str, ...]
    directory: pathlib.Path

    def run_dir(self, name: str) -> str:
        return str(self.directory / name.replace(" ", "_").replace(",", ""))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    directory = tmp_path_factory.mktemp("workers")
    log = crowded_world(num_users=41, num_items=43, num_categories=6)
    return Place((*write_tables(log, directory), *FLAGS), directory)


@pytest.fixture(scope="module")
def one_process(place) -> dict[str, str]:
    """Run directories of one process that takes two batches a step, by form; made when first asked for."""

    class Runs(dict):
        def __missing__(self, form: str) -> str:
            self[form] = place.run_dir(f"one {form}")
            finish(run_module("train", *place.flags, *FORMS[form], "--batches_per_step=2", f"--run_dir={self[form]}"))
            return self[form]

    return Runs()


def finish(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stderr[-3000:]


def launch(*flags: str) -> list[str]:
    return command("launch", "--num_processes=2", "--", *flags)


def read_weights(run_dir: str) -> dict[str, np.ndarray]:
    path = os.path.join(run_dir, "checkpoints", "final", "weights")
    names = [name for name, _ in tf.train.list_variables(path) if name.endswith("VARIABLE_VALUE")]
    return {name: tf.train.load_variable(path, name) for name in names}


def assert_same_run(run_dir: str, other: str) -> None:
    """Weights, losses and validation metrics are equal, to the last digit."""
    one, two = read_weights(run_dir), read_weights(other)
    assert one.keys() == two.keys() and len(one) > 20
    for name, value in one.items():
        np.testing.assert_array_equal(two[name], value, err_msg=name)
    assert metrics(run_dir) == metrics(other)


def metrics(run_dir: str) -> dict[str, list[dict[str, float]]]:
    with open(os.path.join(run_dir, "training.json"), encoding="utf-8") as file:
        history = json.load(file)["history"]
    return {
        phase: [{name: value for name, value in line.items() if name != "examples_per_s"} for line in lines]
        for phase, lines in history.items()
    }


@pytest.mark.parametrize("form", FORMS)
def test_two_workers_make_the_run_of_one_process(place, one_process, form):
    """The first by the launcher, whose workers import TensorFlow anew; the others as forked workers."""
    run_dir = place.run_dir(f"two {form}")
    flags = (*place.flags, *FORMS[form], f"--run_dir={run_dir}")
    if form == "full":
        done = subprocess.run(launch(*flags), cwd=ROOT, capture_output=True, text=True, timeout=1800)
        finish(done)
        said = done.stdout
    else:
        worker = ["-m", "longretriever_tf.train", *flags, "--distribute=multi_worker"]
        both = [one.finish(1800) for one in start_workers([worker, worker])]
        for done in both:
            finish(done)
        said = both[0].stdout + both[1].stdout
    assert_same_run(one_process[form], run_dir)
    towers = next(iter(metrics(run_dir).values()))
    assert said.count("validation:") == len(towers), "the chief alone prints"
    with open(os.path.join(run_dir, "config.json"), encoding="utf-8") as file:
        assert json.load(file)["train"]["batches_per_step"] == 2


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers(arguments: list[list[str]]) -> list[Started]:
    """Processes that find each other by TF_CONFIG alone."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(arguments))]
    workers = []
    for index, words in enumerate(arguments):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(Started(words, ROOT, {**os.environ, "TF_CONFIG": json.dumps(task)}))
    return workers


def results(workers: list[Started]) -> list[tuple[int, str]]:
    """Status and stderr of each, in order."""
    done = [worker.finish(1800) for worker in workers]
    return [(one.returncode, one.stderr) for one in done]


def test_larger_tables_are_gathered_row_by_row_between_processes_and_devices(place, one_process):
    """Two processes and two devices of one process, each table larger than the limit: the same run."""
    script = ["-m", "worker_of_test"]
    processes, devices = place.run_dir("gathered by processes"), place.run_dir("gathered by devices")
    worker = [*script, "1", "1", *place.flags, "--distribute=multi_worker", f"--run_dir={processes}"]
    for status, errors in results(start_workers([worker, worker])):
        assert status == 0, errors[-3000:]
    mirrored = [*script, "2", "1", *place.flags, "--distribute=mirrored", f"--run_dir={devices}"]
    finish(run_command(mirrored, ROOT, 1800))
    assert_same_run(processes, devices)
    for name, value in read_weights(one_process["full"]).items():
        if "key_value/bias" not in name:  # its gradient is rounding alone, which Adam blows up
            np.testing.assert_allclose(read_weights(devices)[name], value, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("killed, form", [(1, "full"), (0, "full, tables by category")], ids=["a worker", "the chief"])
def test_a_killed_worker_ends_all_and_the_run_goes_on_as_if_nothing_had_been(place, one_process, killed, form):
    """kill -9 ends both within a minute, with a line that says so; one process takes up what two began."""
    run_dir = place.run_dir(f"killed {killed}")
    flags = (*place.flags, *FORMS[form], f"--run_dir={run_dir}", "--checkpoint_every_s=0.01")
    worker = ["-m", "longretriever_tf.train", *flags, "--distribute=multi_worker"]
    workers = start_workers([worker, worker])
    latest = os.path.join(run_dir, "checkpoints", "latest", "checkpoint")
    while not os.path.exists(latest) and all(one.is_running() for one in workers):
        time.sleep(0.01)
    workers[killed].kill()
    begun = time.monotonic()
    found = results(workers)
    assert time.monotonic() - begun < 60, "a deadline against a hang: the contract says a minute"
    assert found[killed][0] == -signal.SIGKILL
    status, errors = found[1 - killed]
    last = errors.strip().splitlines()[-1]
    assert status == 2 and "Traceback" not in errors, errors[-3000:]
    assert re.match(rf"error: worker {1 - killed} has lost another worker, one of {killed} \(127\.0\.0\.1", last), last
    assert "the same command" in last and not os.path.exists(os.path.join(run_dir, "checkpoints", "final"))
    if killed == 0:
        done = subprocess.run(launch(*flags), cwd=ROOT, capture_output=True, text=True, timeout=1800)
    else:
        done = run_module("train", *flags, "--batches_per_step=2")
    finish(done)
    assert re.search(r"resuming at phase \d+, epoch \d+, step \d+", done.stdout)
    assert_same_run(one_process[form], run_dir)


def test_workers_that_differ_refuse_before_training(place):
    run_dir = place.run_dir("differing")
    words = ["-m", "longretriever_tf.train", *place.flags, "--distribute=multi_worker", f"--run_dir={run_dir}"]
    for status, errors in results(start_workers([words, [*words, "--learning_rate=0.5"]])):
        assert status == 2 and "--learning_rate: 0.003 on worker 0, 0.5 on worker 1" in errors, errors[-2000:]
    assert not os.path.exists(os.path.join(run_dir, "config.json"))


def test_a_worker_that_cannot_begin_stops_all_with_its_reason(place):
    run_dir = place.run_dir("no data")
    words = ["-m", "longretriever_tf.train", *place.flags, "--distribute=multi_worker", f"--run_dir={run_dir}"]
    other = [*words, f"--data_dir={place.directory}/elsewhere", "--events=/nowhere/events.parquet"]
    found = results(start_workers([words, other]))
    for status, errors in found:
        assert status == 2 and "Traceback" not in errors, errors[-2000:]
        assert "--events" in errors.strip().splitlines()[-1]


def test_the_launcher_refuses_a_step_that_cannot_be_shared(place):
    flags = (*place.flags, f"--run_dir={place.run_dir('uneven')}", "--batches_per_step=3")
    done = subprocess.run(launch(*flags), cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 2
    assert "--batches_per_step=3 is not a multiple of 2" in done.stderr and "Traceback" not in done.stderr
    assert "worker 1: error: " in done.stderr
