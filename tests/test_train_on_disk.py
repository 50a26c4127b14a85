"""Training from a log on disk is training in memory, to the bit; killed and started again as well."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from sharded import write_log
from test_resume import final_weights
from trained import FLAGS, ROOT, command, run_module
from worlds import block_world

from longretriever_tf.common.text import as_text
from longretriever_tf.data.batches.prepared_data import load_saved
from longretriever_tf.data.window.sample import events_that_fit, read_sample
from longretriever_tf.datasets.sharded_log import ShardedLog

SHARED = (
    *(flag for flag in FLAGS if "dataset" not in flag and "_features" not in flag),
    "--recipe=full",
    "--examples=both",
)
FROM_DISK = ("--max_memory_gb=0.001", "--num_workers=1")
IN_MEMORY = ("--materialise_gb=0",)
"""Histories that are searched once differ in their last digits from those that each batch searches, as from disk."""


def world(is_text: bool):
    log = block_world(num_users=41, num_items=60, events_per_user=40)
    if is_text:
        items = dataclasses.replace(log.items, item_id=as_text(f"ü {i:04d}" for i in range(len(log.items.item_id))))
        log = dataclasses.replace(log, user_id=as_text(f"u {i:04d}" for i in range(log.num_users)), items=items)
    return log


@dataclasses.dataclass(frozen=True)
class InMemory:
    """A log in three shards, and the run that a training in memory made of it."""

    data: str
    run_dir: str
    flags: tuple[str, ...]


@pytest.fixture(scope="module", params=[False, True], ids=["int", "text"])
def in_memory(request, tmp_path_factory) -> InMemory:
    directory = tmp_path_factory.mktemp("on_disk")
    data, run_dir = str(directory / "log"), str(directory / "memory")
    write_log(data, world(request.param), 3)
    extra = ("--validation_users=0.3", "--cut=none") if request.param else ()
    flags = (*SHARED, *extra, f"--data={data}")
    done = run_module("train", *flags, *IN_MEMORY, f"--run_dir={run_dir}")
    assert done.returncode == 0, done.stderr
    assert "training in memory\n" in done.stdout and not os.path.exists(os.path.join(data, "windows"))
    return InMemory(data, run_dir, flags)


def assert_same_run(run_dir: str, expected: str) -> None:
    weights, wanted = final_weights(run_dir), final_weights(expected)
    assert weights.keys() == wanted.keys() and len(weights) > 30
    for name, value in wanted.items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
    (corpus, arrays), (own, others) = load_saved(run_dir), load_saved(expected)
    for field in dataclasses.fields(corpus):
        np.testing.assert_equal(getattr(corpus, field.name), getattr(own, field.name), field.name)
    for name, array in arrays.items():
        assert array.tobytes() == others[name].tobytes(), name
    for name in ("log.json", "items_without_events.parquet"):
        with open(os.path.join(run_dir, name), "rb") as one, open(os.path.join(expected, name), "rb") as other:
            assert one.read() == other.read(), name
    assert validations(run_dir) == validations(expected) != []


def validations(run_dir: str) -> list[str]:
    with open(os.path.join(run_dir, "training.json"), encoding="utf-8") as file:
        return re.findall(r'"(?:loss|validation)": [0-9.e-]+', file.read())


def test_a_run_from_disk_is_the_run_in_memory(in_memory, tmp_path):
    if "--cut=none" in in_memory.flags:
        pytest.skip("the next test has this log's run be the one in memory, killed twice on its way")
    run_dir = str(tmp_path / "disk")
    done = run_module("train", *in_memory.flags, *FROM_DISK, f"--run_dir={run_dir}")
    assert done.returncode == 0, done.stderr
    assert "so from disk" in done.stdout
    assert_same_run(run_dir, in_memory.run_dir)
    # A finished run does nothing more; a finished window is not made again.
    window = os.path.join(in_memory.data, "windows")
    before = [os.stat(os.path.join(path, name)).st_mtime_ns for path, _, names in os.walk(window) for name in names]
    assert "nothing to do" in run_module("train", *in_memory.flags, *FROM_DISK, f"--run_dir={run_dir}").stdout
    after = [os.stat(os.path.join(path, name)).st_mtime_ns for path, _, names in os.walk(window) for name in names]
    assert before == after and len(before) >= 6


def test_killed_in_the_window_and_in_training_and_started_again(in_memory, tmp_path):
    if "--cut=none" not in in_memory.flags:
        pytest.skip("one of the two logs is enough")
    data, run_dir = str(tmp_path / "log"), str(tmp_path / "run")
    shutil.copytree(in_memory.data, data, ignore=shutil.ignore_patterns("windows"))
    flags = (*in_memory.flags[:-1], f"--data={data}", *FROM_DISK, f"--run_dir={run_dir}", "--checkpoint_every_s=0.05")
    windows = os.path.join(data, "windows")
    kill_once(lambda: any("tables" in names for _, _, names in os.walk(windows)), command("train", *flags))
    kill_once(
        lambda: os.path.exists(os.path.join(run_dir, "checkpoints", "latest", "checkpoint")), command("train", *flags)
    )
    done = run_module("train", *flags)
    assert done.returncode == 0, done.stderr
    assert_same_run(run_dir, in_memory.run_dir)


def kill_once(is_time, arguments: list[str]) -> None:
    """Starts a training and kills it once the condition holds, or lets it end if it is quicker."""
    child = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not is_time() and child.poll() is None:
        time.sleep(0.002)
    child.kill()
    _, errors = child.communicate()
    assert child.returncode in (-signal.SIGKILL, 0), errors.decode()


def test_evaluation_of_a_sample_gives_each_user_what_evaluation_of_all_gives(in_memory, tmp_path):
    if "--cut=none" in in_memory.flags:
        pytest.skip("a run on everything has no window to evaluate")
    users = {}
    for name, more in (("all", ()), ("some", ("--max_memory_gb=0.001",))):
        output = str(tmp_path / f"{name}.json")
        flags = (f"--run_dir={in_memory.run_dir}", "--baselines=none", "--noplots", f"--output={output}", *more)
        done = run_module("evaluate", *flags)
        assert done.returncode == 0, done.stderr
        assert ("evaluated on a sample of" in done.stdout) == bool(more)
        with np.load(str(tmp_path / f"{name}.per_user.npz")) as stored:
            users[name] = dict(stored)
    log = ShardedLog(in_memory.data)
    sampled = read_sample(log, events_that_fit(0.001), "asked").user_id[users["some"]["user"]]
    everyone = log.read_whole().user_id[users["all"]["user"]]
    assert 0 < len(sampled) < len(everyone)
    at = np.searchsorted(everyone, sampled)
    for name in ("history_length", "repeat_share", "all/recall@100", "novel/recall@100", "all/ndcg@100"):
        one, other = (np.atleast_2d(users[which][name]) for which in ("some", "all"))
        np.testing.assert_allclose(one, other[:, at], rtol=1e-5, err_msg=name)
