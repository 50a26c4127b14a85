"""Bad input as a user meets it: one line on stderr that names the value and the cure, status 2, nothing lost."""

import concurrent.futures
import dataclasses
import errno
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from trained import run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.data.corpus import load_corpus, save_corpus
from longretriever_tf.models.build import load_for_export
from longretriever_tf.retrieval.export import saved_model
from longretriever_tf.retrieval.index.build import build_index
from longretriever_tf.retrieval.multi_context import MultiContextRetriever

AT_ONCE = 2
"""Child processes at a time."""


def without(directory: str, copy: str, *parts: str) -> str:
    """A copy of a run directory that lacks some of its parts, as a kill would leave it."""
    shutil.copytree(directory, copy)
    for part in parts:
        path = os.path.join(copy, part)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    return copy


def cases(trained, directory) -> dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Per case: the command, its flags, and what its one line must say."""
    run, export = f"--run_dir={trained.run_dir}", f"--export_dir={trained.export_dir}"
    a_file = directory / "a_file"
    a_file.write_text("not a directory")
    unfinished = without(trained.run_dir, str(directory / "unfinished"), "checkpoints/final")
    begun = without(trained.run_dir, str(directory / "begun"), "checkpoints", "corpus.npz", "as_of_cut.npz")
    half = without(trained.export_dir, str(directory / "half"), "1/saved_model.pb")
    bare = without(trained.export_dir, str(directory / "bare"), "1/assets.extra/corpus.npz")
    other = without(trained.export_dir, str(directory / "other"))
    corpus = load_corpus(f"{other}/1/assets.extra/corpus.npz")
    names = {"item_id": corpus.item_id + 9**9, "category_name": np.array([f"a {c}" for c in corpus.category_name])}
    save_corpus(dataclasses.replace(corpus, **names), f"{other}/1/assets.extra/corpus.npz")
    return {
        "unknown flag": ("train", ("--dimm=3",), ("dimm",)),
        "flag of another command": ("evaluate", ("--context=brand",), ("'context'", "the run has its own", "leave")),
        "no such choice": ("train", ("--loss=hinge",), ("hinge", "full")),
        "nothing to divide by": ("train", (*trained.flags, "--num_heads=0"), ("--num_heads=0", "above 0")),
        "negative seed": ("train", (*trained.flags, "--seed=-3", f"--run_dir={directory}/new"), ("--seed=-3",)),
        "no GPU to mirror": ("train", ("--distribute=mirrored",), ("--distribute=mirrored", "TensorFlow sees none")),
        "no TF_CONFIG": (
            "train",
            ("--distribute=multi_worker",),
            ("TF_CONFIG", "is not set", "longretriever launch"),
        ),
        "launch nothing": ("launch", ("--num_processes=2",), ("--num_processes=2 -- --flagfile",)),
        "launch nobody": ("launch", ("--num_processes=0", "--", "--dim=8"), ("--num_processes=0", "at least 1")),
        "run dir below a file": ("train", (*trained.flags, f"--run_dir={a_file}/run"), (str(a_file), "file")),
        "evaluate no run": ("evaluate", (f"--run_dir={directory}/none",), ("none", "longretriever train")),
        "evaluate unfinished": ("evaluate", (f"--run_dir={unfinished}",), ("unfinished", "longretriever train")),
        "evaluate just begun": ("evaluate", (f"--run_dir={begun}",), ("begun", "longretriever train")),
        "evaluate no such split": ("evaluate", (run, "--split=train"), ("train", "validation", "test")),
        "evaluate into a file": ("evaluate", (run, f"--output={a_file}/m.json"), (str(a_file),)),
        "evaluate N above M": (
            "evaluate",
            (run, "--num_interests=9", "--top_interests=4"),
            ("--num_interests=9", "--top_interests=4", "N <= M"),
        ),
        "export no run": ("export", (f"--run_dir={directory}/none",), ("none", "longretriever train")),
        "export below a file": ("export", (run, f"--export_dir={a_file}/e"), (str(a_file), "name another")),
        "export N below 0": ("export", (run, "--num_interests=-1"), ("--num_interests=-1", "at least 0")),
        "export into a run": (
            "export",
            (run, f"--export_dir={trained.run_dir}"),
            ("is a run directory", "name another"),
        ),
        "export over another log": (
            "export",
            (run, f"--export_dir={other}"),
            ("another catalogue", "version 1, 0 are among", "name another --export_dir"),
        ),
        "export many shards": (
            "export",
            (run, f"--export_dir={directory}/shards", "--category_shards=500"),
            ("--category_shards=500", "categories have items"),
        ),
        "export over another kind": (
            "export",
            (run, export, "--category_shards=2"),
            ("--category_shards=2", "one SavedModel"),
        ),
        "recommend no export": ("recommend", (f"--export_dir={directory}/none",), ("none", "longretriever export")),
        "recommend half": ("recommend", (f"--export_dir={half}", "--user=1001"), ("half/1", "export again")),
        "recommend bare": ("recommend", (f"--export_dir={bare}", "--user=1001"), ("bare/1", "export again")),
        "recommend unknown user": ("recommend", (export, "--user=nobody"), ("--user='nobody'", "53 users", "1000")),
        "recommend no time": ("recommend", (export, "--as_of=yesterday"), ("--as_of='yesterday'", "2017-12-04")),
        "recommend k of 0": ("recommend", (export, "--k=0"), ("--k=0",)),
        "recommend k below 0": ("recommend", (export, "--k=-5"), ("--k=-5",)),
        "recommend k beyond the limit": (
            "recommend",
            (export, "--k=1000000"),
            ("`k` must be at most 10000", "1000000"),
        ),
        "recommend not a time": ("recommend", (export, "--as_of=NaT"), ("--as_of='NaT'", "2017-12-04")),
        "evaluate into a directory": ("evaluate", (run, f"--output={directory}"), (str(directory), "is a directory")),
        "baselines into a directory": ("evaluate_baselines", (f"--output={directory}",), ("is a directory",)),
        "funnel into a directory": ("funnel", (run, f"--output={directory}"), (str(directory), "is a directory")),
        "users into a directory": ("sample_users", (export, f"--output={directory}"), ("is a directory",)),
        "run dir of no name": ("evaluate", ("--run_dir=",), ("--run_dir=: it is empty",)),
        "contexts no items": ("contexts", (f"--output={directory}/c.parquet", "--model=m"), ("--items is missing",)),
        "contexts of no kind": (
            "contexts",
            (f"--output={directory}/c.xlsx", "--model=m", f"--items={a_file}"),
            ("c.xlsx", ".parquet or .csv"),
        ),
        "recommend N above M": (
            "recommend",
            (export, "--num_interests=9", "--top_interests=4"),
            ("--num_interests=9", "--top_interests=4"),
        ),
    }


NAMES = """unknown flag,flag of another command,export into a run,export over another log,
no such choice,nothing to divide by,negative seed,no GPU to mirror,no TF_CONFIG,
launch nothing,launch nobody,run dir below a file,evaluate no run,
evaluate unfinished,evaluate just begun,evaluate no such split,evaluate into a file,evaluate N above M,export no run,
export below a file,export N below 0,export many shards,export over another kind,
recommend no export,recommend half,recommend bare,
recommend unknown user,recommend no time,recommend k of 0,recommend k below 0,recommend N above M,
recommend k beyond the limit,recommend not a time,evaluate into a directory,baselines into a directory,
funnel into a directory,users into a directory,run dir of no name,contexts no items,contexts of no kind"""
NAMES = [name.strip() for name in NAMES.replace("\n", "").split(",")]


@pytest.fixture(scope="module")
def outcomes(trained, tmp_path_factory) -> dict[str, tuple[int, str, tuple[str, ...]]]:
    """Status, stderr and wanted words of every case; the children run side by side."""
    waiting = cases(trained, tmp_path_factory.mktemp("bad"))
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        running = {name: pool.submit(run_module, module, *flags) for name, (module, flags, _) in waiting.items()}
        done = {name: child.result() for name, child in running.items()}
    return {name: (done[name].returncode, done[name].stderr, words) for name, (_, _, words) in waiting.items()}


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_line_and_status_2(outcomes, name):
    assert set(outcomes) == set(NAMES)
    status, stderr, words = outcomes[name]
    assert "Traceback" not in stderr, stderr
    assert status == 2, stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    for word in words:
        assert word in lines[0]
    others = [line for line in stderr.splitlines() if line and not line.startswith(("error: ", "help: "))]
    assert others == []


def test_a_window_that_the_run_has_seen_is_refused(trained, tmp_path):
    from longretriever_tf.evaluation.evaluate_run import evaluate_run

    config = trained.config
    seen = dataclasses.replace(config.data, window_days=20.0)  # its validation window begins before the run's cut
    with pytest.raises(UserError, match="--split=validation.*--split=test"):
        evaluate_run(dataclasses.replace(config, data=seen), "validation")


def test_recommend_explains_each_step(trained):
    done = run_module("recommend", f"--export_dir={trained.export_dir}", "--user=1007", "--k=3", "--num_interests=2")
    assert done.returncode == 0, done.stderr
    for words in (
        "user 1007 as of",
        "interests: 2 drawn (*) of the top 5, seed 1",
        "best of its own index",
        "merged list",
    ):
        assert words in done.stdout
    merged = done.stdout.split("merged list")[1].strip().splitlines()[1:]
    assert [line.split()[0] for line in merged] == ["1", "2", "3"]


@pytest.fixture(scope="module")
def served(trained):
    corpus, arrays, models = load_for_export(trained.config)
    model = MultiContextRetriever(trained.config, corpus, models.retriever, models.interest, arrays)
    model.index, report = build_index(trained.config.index, model.index, corpus, {})
    return model, corpus, report


FULL_DISK = [
    tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
    OSError(errno.ENOSPC, "No space left on device"),
]


@pytest.mark.parametrize("error", FULL_DISK, ids=["tensorflow", "os"])
@pytest.mark.parametrize("version", [0, 1])
def test_a_full_disk_while_exporting_leaves_the_earlier_version_whole(
    trained, served, tmp_path, monkeypatch, error, version
):
    export_dir = str(tmp_path / "export")
    shutil.copytree(trained.export_dir, export_dir)
    before = contents(export_dir)

    def half_written(model, path, **kwargs):
        os.makedirs(os.path.join(path, "variables"))
        with open(os.path.join(path, "saved_model.pb"), "wb") as file:
            file.write(b"half")
        raise error

    monkeypatch.setattr(tf.saved_model, "save", half_written)
    model, corpus, report = served
    with pytest.raises(UserError, match="No space left on device.*another --export_dir"):
        saved_model.export_model(model, trained.config, corpus, report, export_dir, version)
    assert contents(export_dir) == before
    assert saved_model.latest_version(export_dir) == os.path.join(export_dir, "1")


def test_a_full_disk_at_the_last_file_of_an_export_loses_nothing(trained, served, tmp_path, monkeypatch):
    export_dir = str(tmp_path / "export")
    shutil.copytree(trained.export_dir, export_dir)
    before = contents(export_dir)

    def fail(corpus, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saved_model, "save_corpus", fail)
    monkeypatch.setattr(tf.saved_model, "save", lambda model, path, **kwargs: os.makedirs(path))
    model, corpus, report = served
    with pytest.raises(UserError, match="No space left"):
        saved_model.export_model(model, trained.config, corpus, report, export_dir, 0)
    assert contents(export_dir) == before


def contents(directory: str) -> dict[str, bytes]:
    found = {}
    for root, folders, names in os.walk(directory):
        for name in folders:
            found[os.path.join(root, name)] = b""
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                found[os.path.join(root, name)] = file.read()
    return found


def test_a_full_disk_while_saving_a_checkpoint_says_so(tmp_path, monkeypatch):
    from longretriever_tf.training.loop import Checkpoints, LoopState

    checkpoints = Checkpoints(str(tmp_path), {"weight": tf.train.Checkpoint(w=tf.Variable(1.0))}, LoopState.start())
    checkpoints.save()
    kept = contents(str(tmp_path))
    for error in FULL_DISK:

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(tf.train.CheckpointManager, "save", fail)
        monkeypatch.setattr(tf.train.Checkpoint, "write", fail)
        for write in (checkpoints.save, lambda: checkpoints.save_weights("final")):
            with pytest.raises(UserError, match="cannot write a checkpoint.*No space left.*same command again"):
                write()
    assert contents(str(tmp_path)) == kept
    assert checkpoints.restore()
