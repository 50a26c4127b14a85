"""What ties a run directory to its log, its files and its one training; damage is named in one line."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from trained import ROOT, command, run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.config.config import Config, load_config
from longretriever_tf.data.batches.prepared_data import load_saved
from longretriever_tf.data.catalogue import CATALOGUE_FILE, load_catalogue
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets.log_identity import LOG_FILE, fingerprint_log, identify_log, read_identity
from longretriever_tf.evaluation.open_run import open_run
from longretriever_tf.models.build import load_for_export
from longretriever_tf.retrieval.export import saved_model
from longretriever_tf.retrieval.export.catalogue_version import export_version
from longretriever_tf.retrieval.fingerprint import read_fingerprint
from longretriever_tf.training.charts import draw_training
from longretriever_tf.training.history import TrainingHistory
from longretriever_tf.training.run import train


def contents(directory: str) -> dict[str, bytes]:
    """Every file of a directory but the lock, by path."""
    found = {}
    for root, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                found[os.path.relpath(os.path.join(root, name), directory)] = file.read()
    found.pop(".lock", None)
    return found


def without(directory: str, *parts: str) -> None:
    for part in parts:
        path = os.path.join(directory, part)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


@pytest.fixture
def moved(trained, tmp_path) -> Config:
    """The trained run and its tables in copies of their own, so that both may change."""
    run_dir, tables = str(tmp_path / "run"), tmp_path / "tables"
    shutil.copytree(trained.run_dir, run_dir)
    tables.mkdir()
    paths = {name: str(tables / f"{name}.parquet") for name in ("events", "items", "users")}
    for name, path in paths.items():
        shutil.copy(getattr(trained.config.data, name), path)
    data = dataclasses.replace(trained.config.data, **paths, data_dir=str(tmp_path / "tfds"))
    config = dataclasses.replace(
        trained.config, data=data, train=dataclasses.replace(trained.config.train, run_dir=run_dir)
    )
    with open(os.path.join(run_dir, "config.json"), "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(config), file)
    return config


def add_event(config: Config, **changes) -> None:
    """A later event, of a new item where `changes` say so."""
    events = pd.read_parquet(config.data.events)
    last = events.iloc[[-1]].assign(timestamp=events.timestamp.max() + 3600, **changes)
    pd.concat([events, last]).to_parquet(config.data.events)


@pytest.mark.parametrize("state", ["finished", "stopped", "of an earlier version"])
def test_the_same_command_after_the_log_changed_is_refused_and_changes_nothing(moved, state):
    run_dir = moved.train.run_dir
    if state != "finished":
        without(run_dir, "checkpoints/final", "training.png")
    if state == "of an earlier version":
        without(run_dir, LOG_FILE)
    add_event(moved)
    before = contents(run_dir)
    with pytest.raises(UserError) as caught:
        train(moved)
    assert contents(run_dir) == before
    assert run_dir in str(caught.value) and "--run_dir=" in str(caught.value)
    if state != "of an earlier version":
        here = identify_log(load_log(moved.data), moved.data).fingerprint
        assert read_identity(run_dir).fingerprint in str(caught.value) and here in str(caught.value)


def test_a_new_category_is_no_traceback_even_where_no_log_and_no_corpus_is_kept(moved):
    """All that is left to tell is the shapes of the checkpoint."""
    run_dir = moved.train.run_dir
    without(run_dir, "checkpoints/final", "training.png", LOG_FILE, "corpus.npz", "as_of_cut.npz")
    items = pd.read_parquet(moved.data.items)
    items.loc[items.item_id == 100, "category"] = "a new one"
    items.to_parquet(moved.data.items)
    before = contents(run_dir)
    with pytest.raises(UserError, match=r"checkpoint .* cannot be taken up.*other items or categories.*--run_dir"):
        train(moved)
    assert contents(run_dir) == before


def test_the_same_log_in_files_written_anew_is_the_same_run(moved):
    """Other bytes, other order of rows, other times: the fingerprint is of what the tables hold."""
    run_dir = moved.train.run_dir
    events = pd.read_parquet(moved.data.events)
    distinct = events.drop_duplicates(["user_id", "timestamp"])
    assert len(distinct) == len(events), "ties would be read in the order of rows"
    events.sample(frac=1, random_state=5).to_parquet(moved.data.events, compression=None)
    before = contents(run_dir)
    assert "has finished training" in train(moved)
    after = contents(run_dir)
    assert before.pop(LOG_FILE) != after.pop(LOG_FILE), "the files' new stamp is kept, so that they are read once"
    assert before == after
    shutil.rmtree(moved.data.data_dir)  # nothing of the log is read again
    assert "has finished training" in train(moved)


def test_a_finished_run_says_so_and_what_comes_next(trained, capsys):
    before = contents(trained.run_dir)
    done = run_module("train", *trained.flags, f"--run_dir={trained.run_dir}")
    assert done.returncode == 0, done.stderr
    assert "has finished training" in done.stdout and "reading the log" not in done.stdout
    assert f"next: longretriever evaluate --run_dir={trained.run_dir}" in done.stdout
    assert contents(trained.run_dir) == before


def test_the_fingerprint_follows_ids_times_features_and_weights(trained):
    log = load_log(trained.config.data)
    known = fingerprint_log(log)
    assert read_identity(trained.run_dir).fingerprint == known
    items = log.items
    brand = items.features["brand"].astype(object)
    brand[3] = "another"
    others = [
        dataclasses.replace(log, timestamp=log.timestamp + 1),
        dataclasses.replace(log, item_row=np.roll(log.item_row, 1)),
        dataclasses.replace(log, weight=log.weight * 2),
        dataclasses.replace(log, user_id=log.user_id + 1),
        dataclasses.replace(log, items=dataclasses.replace(items, item_id=items.item_id + 1)),
        dataclasses.replace(log, items=dataclasses.replace(items, features={**items.features, "brand": brand})),
    ]
    assert len({known, *map(fingerprint_log, others)}) == 1 + len(others)
    as_objects = {name: column.astype(object) for name, column in items.features.items()}
    same = dataclasses.replace(log, items=dataclasses.replace(items, features=as_objects, name=items.name[::-1]))
    assert fingerprint_log(same) == known  # held otherwise, named otherwise


def test_another_log_is_not_judged_unless_asked_for(moved):
    """New events may be what one wants to be evaluated on: then --other_log says so."""
    from longretriever_tf.evaluation.open_run import open_window

    add_event(moved)
    with pytest.raises(UserError, match=r"another log than this one.*--other_log"):
        open_run(moved.train.run_dir, "test")
    assert open_window(moved, "test", "--split={}", other_log=True).truth.num_users > 0


def test_two_trainings_of_one_directory_are_one_training(trained, tmp_path):
    run_dir = str(tmp_path / "run")
    flags = (*trained.flags, "--epochs=1", "--interest_epochs=1", "--nouser_context", f"--run_dir={run_dir}")
    children = [
        subprocess.Popen(
            command("train", *flags), cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = {child.pid: (child.communicate()[1], child.returncode) for child in children}
    statuses = sorted(status for _, status in said.values())
    (winner,) = [pid for pid, (_, status) in said.items() if status == 0] if statuses[0] != statuses[1] else [0]
    if winner:  # they overlapped: the second was refused by the name of the first
        (refusal,) = [stderr for stderr, status in said.values() if status == 2]
        assert f"in use by another training (process {winner} on" in refusal and "Traceback" not in refusal
    else:  # the first had ended before the second began
        assert statuses == [0, 0]
    with open(os.path.join(run_dir, "training.json"), encoding="utf-8") as file:
        history = json.load(file)["history"]
    assert {phase: [line["epoch"] for line in lines] for phase, lines in history.items()} == {
        "towers": [1],
        "interest": [1],
    }


def test_a_directory_in_use_is_refused_before_anything_is_read(trained):
    before = contents(trained.run_dir)
    with hold_lock(trained.run_dir, "{}"), pytest.raises(UserError, match=rf"in use.*process {os.getpid()} on"):
        train(trained.config)
    assert contents(trained.run_dir) == before


def test_a_failed_start_leaves_no_run_behind(trained, tmp_path):
    """The next try has other flags: no config of the failed one may stand in its way."""
    run_dir = str(tmp_path / "run")
    data = dataclasses.replace(trained.config.data, window_days=1000.0)
    config = dataclasses.replace(
        trained.config, data=data, train=dataclasses.replace(trained.config.train, run_dir=run_dir)
    )
    with pytest.raises(UserError, match="--window_days"):
        train(config)
    assert contents(run_dir) == {}


TORN = ("", "{", "[1, 2]", '{"a": null}', "\x00 garbage \x7f" * 40)


def torn_contents(whole: bytes) -> list[bytes]:
    return [text.encode() for text in TORN] + [whole[: len(whole) // 2], whole[:-1]]


def readers(run_dir: str) -> dict:
    return {
        "config.json": lambda: load_config(run_dir),
        LOG_FILE: lambda: read_identity(run_dir),
        "training.json": lambda: (TrainingHistory(run_dir, 1), draw_training(run_dir)),
        "corpus.npz": lambda: load_saved(run_dir),
        "as_of_cut.npz": lambda: load_saved(run_dir),
        CATALOGUE_FILE: lambda: load_catalogue(run_dir),
        "checkpoints/final/weights.index": lambda: load_for_export(load_config(run_dir)),
        "checkpoints/final/weights.data-00000-of-00001": lambda: load_for_export(load_config(run_dir)),
    }


HARMLESS = {"config.json", LOG_FILE, "training.json"}
"""JSON ends in a line break: without it nothing is lost."""


@pytest.mark.parametrize("name", readers("").keys())
def test_a_torn_file_of_a_run_is_named_in_one_line(trained, tmp_path, name):
    run_dir = str(tmp_path / "run")
    shutil.copytree(trained.run_dir, run_dir)
    path = os.path.join(run_dir, name)
    with open(path, "rb") as file:
        whole = file.read()
    for content in torn_contents(whole):
        with open(path, "wb") as file:
            file.write(content)
        if content == whole[:-1] and name in HARMLESS:
            readers(run_dir)[name]()
            continue
        with pytest.raises(UserError) as caught:
            readers(run_dir)[name]()
        assert len(str(caught.value).splitlines()) == 1
        assert os.path.basename(name).split(".")[0] in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "index.json", "fingerprint.json", "corpus.npz"])
def test_a_torn_file_of_an_export_is_named_in_one_line(trained, tmp_path, name):
    version = str(tmp_path / "1")
    shutil.copytree(os.path.join(trained.export_dir, "1"), version)
    extra = saved_model.extra_config_dir(version)
    reader = {
        "config.json": lambda: load_config(extra),
        "index.json": lambda: saved_model.load_index_report(version),
        "fingerprint.json": lambda: read_fingerprint(extra),
        "corpus.npz": lambda: saved_model.load_extra(version),
    }[name]
    path = os.path.join(extra, name)
    with open(path, "rb") as file:
        whole = file.read()
    for content in torn_contents(whole):
        with open(path, "wb") as file:
            file.write(content)
        if content == whole[:-1] and name != "corpus.npz":
            reader()
            continue
        with pytest.raises(UserError) as caught:
            reader()
        assert len(str(caught.value).splitlines()) == 1 and name.split(".")[0] in str(caught.value)


def test_a_torn_latest_checkpoint_does_not_start_the_run_anew(moved):
    """TensorFlow takes a list of checkpoints that it cannot read for none."""
    latest = os.path.join(moved.train.run_dir, "checkpoints", "latest")
    without(moved.train.run_dir, "checkpoints/final", "training.png")
    for content in (b"", b"{", b"\xff\xfe"):
        with open(os.path.join(latest, "checkpoint"), "wb") as file:
            file.write(content)
        before = contents(moved.train.run_dir)
        with pytest.raises(UserError, match="latest/checkpoint"):
            train(moved)
        assert contents(moved.train.run_dir) == before


@pytest.fixture(scope="module")
def on_everything(trained, tmp_path_factory) -> Config:
    """A small run with --cut=none over a catalogue with three items that no one ever took."""
    directory = tmp_path_factory.mktemp("everything")
    items = pd.read_parquet(trained.config.data.items)
    rest = pd.DataFrame({"item_id": [900, 901, 902], "category": ["c1", "c2", "zz"], "brand": ["b1", "b0", "b1"]})
    pd.concat([items, rest]).to_parquet(directory / "items.parquet")
    data = dataclasses.replace(
        trained.config.data, items=str(directory / "items.parquet"), data_dir=str(directory / "tfds")
    )
    settings = dataclasses.replace(
        trained.config.train,
        cut="none",
        validation_users=0.3,
        epochs=2,
        interest_epochs=1,
        run_dir=str(directory / "r"),
    )
    config = dataclasses.replace(trained.config, data=data, train=settings)
    train(config)
    return config


def test_cut_none_learns_from_all_events_and_stops_by_held_out_users(on_everything):
    log, run_dir = load_log(on_everything.data), on_everything.train.run_dir
    corpus, arrays = load_saved(run_dir)
    assert corpus.cut == log.timestamp.max() + 1
    assert arrays["item_stats"][2:, 0].min() > 0
    with open(os.path.join(run_dir, "training.json"), encoding="utf-8") as file:
        history = json.load(file)["history"]
    assert all(0 < line["validation"] <= 1 for line in history["towers"])


def test_cut_none_cannot_be_judged_and_says_so(on_everything):
    with pytest.raises(UserError, match=r"--cut=none.*no window is left.*--cut=test"):
        open_run(on_everything.train.run_dir, "test")


@pytest.mark.parametrize(("flags", "words"), [(("--cut=test",), "--cut=none"), (("--model=mind",), "--model=mind")])
def test_validation_users_belong_to_cut_none(flags, words):
    wanted = ("--dataset=event_log", "--cut=none", "--validation_users=0.1", *flags)
    done = run_module("train", *wanted, "--events=none.csv", "--run_dir=unused")
    assert done.returncode == 2 and "--validation_users=0.1" in done.stderr and words in done.stderr
    assert not os.path.exists(ROOT / "unused")


def test_an_export_holds_the_whole_catalogue_and_says_what_it_left_out(on_everything):
    source, holds = export_version(on_everything)  # auto: all, of a run on all events
    assert source.corpus.num_offered - 2 == 99
    assert "holds 99 of 100 items of the catalogue" in holds and "left out: 1 of categories" in holds
    found = source.corpus.find_items(np.array([900, 901, 902]))
    assert (source.corpus.category_name[source.corpus.item_category[found]] == ["c1", "c2", "(unknown)"]).all()
    tower = source.models.retriever.item_tower
    vectors = tower(np.arange(source.corpus.num_items, dtype=np.int32)).numpy()
    assert np.isfinite(vectors).all() and np.abs(vectors[found[:2]]).max(1).min() > 0
    seen, said = export_version(on_everything, "seen")
    assert seen.corpus.num_offered - 2 == 97 and seen.towers == source.towers
    assert "holds 97 of 100" in said and "left out: 3" in said and "--catalogue=all" in said
    typical, _ = export_version(on_everything, "all", "typical")
    assert typical.arrays["item_stats"][found[0], 0] > source.arrays["item_stats"][found[0], 0]


def test_an_export_of_a_run_with_a_window_holds_what_is_judged(trained):
    source, holds = export_version(trained.config)
    assert source.corpus.num_items == load_saved(trained.run_dir)[0].num_items
    assert f"holds {source.corpus.num_offered - 2} of 97 items of the catalogue" in holds


RACE = """
import os, sys, time
from longretriever_tf.retrieval.export import saved_model
def write(model, config, corpus, report, directory):
    os.makedirs(directory)
    for part in range(20):
        with open(os.path.join(directory, f"part{part}"), "w", encoding="utf-8") as file:
            file.write(str(os.getpid()))
        time.sleep(0.005)
saved_model.write_version = write
print("ready", flush=True)
sys.stdin.readline()
for _ in range(4):
    saved_model.export_model(None, None, None, None, sys.argv[1], int(sys.argv[2]))
"""


@pytest.mark.parametrize("version", [0, 3])
def test_versions_that_are_written_at_once_do_not_mix(tmp_path, version):
    """Two processes, started on a word, write version after version: each holds the files of one of them."""
    export_dir = str(tmp_path / "export")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, export_dir, str(version)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, stderr = child.communicate()
        assert child.returncode == 0, stderr
    assert saved_model.versions(export_dir) == ([version] if version else list(range(1, 9)))
    owners = []
    for number in saved_model.versions(export_dir):
        parts = contents(os.path.join(export_dir, str(number)))
        assert len(parts) == 20 and len(set(parts.values())) == 1
        owners.append(next(iter(parts.values())))
    assert set(owners) <= {str(child.pid).encode() for child in children} and (version or len(set(owners)) == 2)
    assert not [name for name in os.listdir(export_dir) if name.endswith((".aside", ".old"))]


@pytest.mark.slow
def test_two_exports_at_once_are_two_whole_versions(trained, tmp_path):
    """Their processes overlap for as long as a SavedModel takes; each used to write into the other's folder."""
    export_dir = str(tmp_path / "export")
    flags = (f"--run_dir={trained.run_dir}", f"--export_dir={export_dir}", "--nocheck")
    with ThreadPoolExecutor(2) as threads:  # each waits for a process of its own
        for done in threads.map(lambda _: run_module("export", *flags), range(2)):
            assert done.returncode == 0, done.stderr
    assert saved_model.versions(export_dir) == [1, 2]
    assert not [name for name in os.listdir(export_dir) if name.endswith((".aside", ".old"))]
    first, second = (contents(os.path.join(export_dir, name)) for name in ("1", "2"))
    assert first.keys() == second.keys()
    for name in ("assets.extra/corpus.npz", "assets.extra/fingerprint.json", "assets.extra/index.json"):
        assert first[name] == second[name]
    for name in ("1", "2"):
        saved_model.load_extra(os.path.join(export_dir, name))
        assert saved_model.load_version(os.path.join(export_dir, name)).signatures["serving_default"]
