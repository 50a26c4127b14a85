"""Trackers hear of a run, and of nothing twice as two runs; nothing that they do can stop it.

What needs the packages themselves runs in an environment of its own: `make test-trackers`.
"""

import glob
import json
import os
import pathlib
import signal
import struct
import subprocess
import threading
import time

import pytest
from trained import ROOT, command, run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import load_config
from longretriever_tf.evaluation.track import results_of_run, table_of, track_evaluation
from longretriever_tf.tracking import tracked_run
from longretriever_tf.tracking.tracked_run import TrackedRun, track_run
from longretriever_tf.tracking.tracker import RunFacts

NEEDS = "needs the extras wandb and mlflow: make test-trackers"


class Recorder:
    """A tracker that keeps what it hears, and fails where it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.heard, self._fails = [], fails

    def _hear(self, name, *values):
        if name == self._fails:
            raise ConnectionError("the server is gone\nand more lines")
        self.heard.append((name, *values))

    def log(self, *values):
        self._hear("log", *values)

    def log_results(self, *values):
        self._hear("log_results", *values)

    def finish(self, *values):
        self._hear("finish", *values)


def test_every_tracker_hears_everything_in_order(tmp_path):
    one, other = Recorder(), Recorder()
    there = tmp_path / "there.json"
    there.write_text("{}")
    run = TrackedRun({"one": one, "other": other})
    for step in (20, 40):
        run.log("towers", step, {"loss": 1 / step})
    run.log_results("train", {"x": 1.0}, files=[str(there), str(tmp_path / "not_there.png")])
    run.finish(is_good=True)
    expected = [("log", "towers", 20, {"loss": 0.05}), ("log", "towers", 40, {"loss": 0.025})]
    expected += [("log_results", "train", {"x": 1.0}, None, [str(there)]), ("finish", True)]
    assert one.heard == other.heard == expected


def test_a_tracker_that_fails_is_left_out_with_one_line_and_the_others_go_on(capsys):
    broken, whole = Recorder(fails="log"), Recorder()
    run = TrackedRun({"broken": broken, "whole": whole})
    for step in (1, 2, 3):
        run.log("towers", step, {"loss": 1.0})
    run.finish(is_good=False)
    assert broken.heard == [] and [one[0] for one in whole.heard] == ["log", "log", "log", "finish"]
    warned = capsys.readouterr().err.splitlines()
    assert warned == ["warning: tracker: broken hears no more of this run (ConnectionError: the server is gone)"]


def test_nothing_waits_for_a_tracker_that_hangs(capsys):
    released = threading.Event()

    class Hanging(Recorder):
        def log(self, *values):
            released.wait()

    run = TrackedRun({"hanging": Hanging()}, patience_s=0.1)
    for step in range(20_000):  # more than may wait
        run.log("towers", step, {"loss": 1.0})
    run.finish(is_good=True)
    released.set()
    first, second = capsys.readouterr().err.splitlines()
    assert "10,000 calls wait for it; what follows is left out" in first
    assert "hanging took longer than 0 s: not everything is delivered" in second


def test_the_id_is_kept_before_the_tracker_hears_of_the_run(tmp_path, monkeypatch, capsys):
    seen = []

    def fail(facts, run_id, *more):
        stored = json.loads((tmp_path / "trackers.json").read_text())
        seen.append((facts.run_dir, run_id, stored["wandb"]["id"]))
        raise ConnectionError("no route to https://me:secret@host/api")

    monkeypatch.setattr("longretriever_tf.tracking.wandb_tracker.WandbTracker", fail)
    for _ in range(2):
        with track_run(["wandb"], lambda: RunFacts(str(tmp_path), {}, {}), str(tmp_path)) as run:
            run.log("towers", 1, {"loss": 1.0})
    assert len(seen) == 2 and len(set(seen)) == 1 and seen[0][1] == seen[0][2]
    words = "wandb will not hear of this run (ConnectionError: no route to https://***@host/api)"
    assert capsys.readouterr().err.count(words) == 2


def test_a_run_that_fails_ends_as_failed(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(tracked_run, "_open", lambda *arguments: recorder)
    with pytest.raises(ZeroDivisionError), track_run(["wandb"], lambda: None, str(tmp_path)):
        raise ZeroDivisionError
    assert recorder.heard == [("finish", False)]


def test_an_evaluation_hands_on_what_it_wrote(trained, tmp_path, monkeypatch):
    """The run's own metrics, the table of all models, the files; of a run without trackers, nothing."""
    recorder = Recorder()
    monkeypatch.setattr(tracked_run, "_open", lambda *arguments: recorder)
    models = {"ours": {"all": {"recall@100": 0.5}, "novel": {"recall@100": 0.25}}, "theirs": {"all": {}}}
    metrics = {"split": "test", "models": models}
    track_evaluation(trained.run_dir, metrics, 0, [])
    assert recorder.heard == []
    (tmp_path / "trackers.json").write_text('{"wandb": {"id": "x"}}')
    picture, lists = tmp_path / "metrics.png", tmp_path / "lists.parquet"
    for path in (picture, lists):
        path.touch()
    track_evaluation(str(tmp_path), metrics, 300, [str(picture), str(lists)])
    heard = ("log_results", "evaluate/test_first_300_users", results_of_run(metrics), table_of(metrics), [str(picture)])
    assert recorder.heard == [heard, ("finish", True)]
    assert results_of_run(metrics) == {"all/recall@100": 0.5, "novel/recall@100": 0.25}
    rows = table_of(metrics).rows
    assert [row[0] for row in rows] == ["ours", "theirs"] and rows[0][2] == 0.5 and rows[1][2] is None


def test_a_torn_file_of_ids_stops_no_evaluation_and_names_itself_to_a_training(tmp_path, capsys):
    (tmp_path / "trackers.json").write_text('{"wandb"')
    track_evaluation(str(tmp_path), {"split": "test", "models": {"ours": {}}}, 0, [])
    assert "warning: tracker:" in capsys.readouterr().err
    with pytest.raises(UserError, match="trackers.json is not JSON.*move it away"), track_run([], list, str(tmp_path)):
        pass


def test_a_wrong_or_missing_tracker_is_one_line_before_the_training(trained, tmp_path):
    run_dir = tmp_path / "run"
    wrong = run_module("train", *trained.flags, "--tracker=comet", f"--run_dir={run_dir}")
    assert wrong.returncode == 2 and "--tracker=comet: expected wandb or mlflow" in wrong.stderr
    try:
        import wandb  # noqa: F401
    except ImportError:
        missing = run_module("train", *trained.flags, "--tracker=wandb", f"--run_dir={run_dir}")
        assert missing.returncode == 2 and "pip install 'longretriever_tf[wandb]'" in missing.stderr
    assert not run_dir.exists()


@pytest.fixture(scope="module")
def tracked(trained, tmp_path_factory):
    """A run that was killed in its first epoch, went on, and was evaluated; W&B offline, MLflow in SQLite."""
    for name in ("wandb", "mlflow"):
        pytest.importorskip(name, reason=NEEDS)
    base = tmp_path_factory.mktemp("tracked")
    store = f"sqlite:///{base}/mlflow.db"
    environment = {**os.environ, "WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(ROOT)}
    run_dir = str(base / "run")
    flags = (*trained.flags, "--tracker=wandb,mlflow", f"--run_dir={run_dir}", "--score_weights_users=0", "--epochs=3")
    train = command("train", *flags, "--checkpoint_every_s=0.1", "--patience=9")
    first = subprocess.Popen(train, cwd=base, env=environment)
    while not os.path.exists(os.path.join(run_dir, "training.json")) and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, "it ended before it was killed"
    ids = json.loads(pathlib.Path(run_dir, "trackers.json").read_text())
    said = []
    for line in (train, command("evaluate", f"--run_dir={run_dir}", "--baselines=none")):
        done = subprocess.run(line, cwd=base, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
        said.append(done.stderr)
    assert json.loads(pathlib.Path(run_dir, "trackers.json").read_text()) == ids
    return run_dir, store, ids, said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow's own libraries
def test_mlflow_holds_one_run_with_all_of_it(tracked):
    from mlflow import MlflowClient

    run_dir, store, ids, said = tracked
    assert not [line for text in said for line in text.splitlines() if line.startswith("warning: tracker")]
    client = MlflowClient(store)
    (experiment,) = [one for one in client.search_experiments() if one.name == "longretriever_tf"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.tags["longretriever_tf.run"] == ids["mlflow"]["id"]
    config = load_config(run_dir)
    assert run.data.params["model.dim"] == str(config.model.dim)
    epochs = {point.value for point in client.get_metric_history(run.info.run_id, "towers/epoch")}
    assert epochs == {1.0, 2.0, 3.0}
    history = json.loads(pathlib.Path(run_dir, "training.json").read_text())["history"]
    assert run.data.metrics["towers/validation"] == pytest.approx(history["towers"][-1]["validation"])
    losses = client.get_metric_history(run.info.run_id, "towers/loss")
    by_step = {point.step: point.value for point in losses}
    assert all(by_step[point.step] == pytest.approx(point.value, rel=1e-5) for point in losses)  # the same steps again
    metrics = json.loads(pathlib.Path(run_dir, "metrics.json").read_text())
    first = next(iter(metrics["models"].values()))
    assert run.data.metrics["evaluate/validation/all/recall_at_100"] == pytest.approx(first["all"]["recall@100"])
    artifacts = {one.path for group in ("train", "evaluate/validation") for one in _list(client, run, group)}
    assert artifacts == {
        *("train/training.png", "train/training.json", "evaluate/validation/table.json"),
        *("evaluate/validation/metrics.png", "evaluate/validation/metrics.json"),
    }


def _list(client, run, path):
    return client.list_artifacts(run.info.run_id, path)


@pytest.mark.slow
def test_wandb_holds_one_run_offline(tracked):
    """Three sessions of one id: the killed one, the one that went on, the evaluation."""
    run_dir, _, ids, _ = tracked
    sessions = glob.glob(os.path.join(run_dir, "wandb", "offline-run-*"))
    assert len(sessions) == 3 and {path.rpartition("-")[2] for path in sessions} == {ids["wandb"]["id"]}
    records = [record for path in sessions for record in _records(path)]
    history = [_values(record.history.item) for record in records if record.WhichOneof("record_type") == "history"]
    assert {1, 2, 3} <= {one.get("towers/epoch") for one in history}
    metrics = json.loads(pathlib.Path(run_dir, "metrics.json").read_text())
    recall = next(iter(metrics["models"].values()))["all"]["recall@100"]
    summaries = [_values(one.summary.update) for one in records if one.WhichOneof("record_type") == "summary"]
    assert any(one.get("evaluate/validation/all/recall@100") == pytest.approx(recall) for one in summaries)
    assert any("evaluate/validation/table/_type" in one for one in history)
    assert any("evaluate/validation/metrics.png/_type" in one for one in history)


def _values(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(session: str) -> list:
    """What a session wrote: LevelDB's log format after a head of 7 bytes; chunks of a record never cross 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    (path,) = glob.glob(os.path.join(session, "*.wandb"))
    content, at, held, records = pathlib.Path(path).read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768  # padding
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)  # after the checksum
        held += content[at + 7 : at + 7 + length]
        at += 7 + length
        if at > len(content) or kind not in (1, 2, 3, 4):
            break  # cut short by the kill
        if kind in (1, 4):  # whole, or its last chunk
            records.append(wandb_internal_pb2.Record.FromString(held))
            held = b""
    return records


@pytest.mark.slow
def test_a_tracker_out_of_reach_stops_no_training(trained, tmp_path):
    pytest.importorskip("mlflow", reason=NEEDS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    environment |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    flags = (*trained.flags, "--tracker=mlflow", f"--run_dir={tmp_path}/run", "--score_weights_users=0", "--epochs=1")
    done = subprocess.run(
        command("train", *flags, "--interest_epochs=1"),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0 and "warning: tracker: mlflow will not hear of this run" in done.stderr
    assert "trained:" in done.stdout
