"""`tune`: spaces are checked by name; a stopped search goes on as if it had not been; it leaves flags to paste."""

import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading
import time

import pytest
from trained import ROOT, run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, load_config
from longretriever_tf.reproduction.jobs import Job
from longretriever_tf.tuning.report import best_of, text_report, write_report
from longretriever_tf.tuning.space import load_space
from longretriever_tf.tuning.trials import Question

SPACE = """
[dropout]
low = 0.0
high = 0.9

[dim]
choices = [30, 64]

[repeat_term]
choices = [true, false]
"""
QUESTION = Question(("--dataset=event_log",), 3, ("all recall@20", "novel recall@20"), 0)


def space_of(directory: pathlib.Path, text: str = SPACE) -> str:
    (directory / "space.toml").write_text(text)
    return str(directory / "space.toml")


def fake(job: Job, *more: str) -> list[str]:
    """A job of tests/fake_jobs.py that ranks the worse, the higher the dropout is."""
    dropout = next((flag.partition("=")[2] for flag in job.flags if flag.startswith("--dropout=")), "0")
    return [sys.executable, str(ROOT / "tests/fake_jobs.py"), job.module, f"--noise={0.2 + 3 * float(dropout)}", *more]


def search(directory: pathlib.Path, question: Question = QUESTION, text: str = SPACE, **options):
    pytest.importorskip("optuna", reason="needs the extra tune: pip install 'longretriever_tf[tune]'")
    from longretriever_tf.tuning.study import Search

    work_dir = directory / "search"
    work_dir.mkdir(exist_ok=True)
    space = load_space(space_of(directory, text))
    return Search(Config(), space, question, str(work_dir), **{"program": fake} | options)


@pytest.fixture(autouse=True)
def package_on_the_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search of five trials that nothing stopped: its trials and its directory."""
    os.environ["PYTHONPATH"] = str(ROOT)
    directory = tmp_path_factory.mktemp("whole")
    done = search(directory)
    done.run(5)
    return done.trials(), directory


def test_trials_have_the_value_of_their_metrics_and_the_first_has_the_flags_as_they_are(whole):
    trials, directory = whole
    assert [trial.number for trial in trials] == list(range(5))
    first = trials[0]
    assert first.settings == {"dropout": Config().model.dropout, "dim": 64, "repeat_term": True}
    for trial in trials:
        if trial.settings["dim"] == 30:  # 4 heads do not divide it
            assert trial.outcome == "refused" and "--dim=30" in trial.reason and not trial.run_dir
            continue
        output = directory / f"search/measures/validation/trial{trial.number:04d}/seed3/metrics.json"
        metrics = json.loads(output.read_text())["models"]["longretriever"]
        parts = metrics["all"]["recall@20"], metrics["novel"]["recall@20"]
        assert trial.outcome == "done" and trial.value == pytest.approx((parts[0] * parts[1]) ** 0.5, rel=1e-12)
        trained = json.loads(pathlib.Path(trial.run_dir, "training.json").read_text())
        assert trained["dropout"] == str(trial.settings["dropout"]) and trained["seed"] == "3"
        assert ("norepeat_term" in trained) != trial.settings["repeat_term"]
    done = [trial for trial in trials if trial.outcome == "done"]
    assert len(done) >= 2 and {trial.outcome for trial in trials} == {"done", "refused"}
    assert min(done, key=lambda trial: trial.settings["dropout"]) == best_of(trials)


def test_the_report_has_flags_to_paste(whole, tmp_path):
    trials, directory = whole
    best = best_of(trials)
    written = write_report(trials, load_space(space_of(directory)), QUESTION, str(tmp_path))
    assert {os.path.basename(path) for path in written} == {"trials.json", "best.flags", "tune.png"}
    lines = (tmp_path / "best.flags").read_text().splitlines()
    flags = [line for line in lines if not line.startswith("#")]
    sign = "" if best.settings["repeat_term"] else "no"
    assert flags == [
        "--dataset=event_log",
        "--seed=3",
        f"--dropout={best.settings['dropout']}",
        f"--dim={best.settings['dim']}",
        f"--{sign}repeat_term",
    ]
    facts = json.loads((tmp_path / "trials.json").read_text())
    assert facts["best"] == best.number and [one["value"] for one in facts["trials"]] == [t.value for t in trials]
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
    assert f"{best.value:.4f}" in text_report(trials, QUESTION)


@pytest.fixture
def interruptible():
    """Ctrl-C works, even where the shell that started the tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_stopped_search_makes_the_trials_of_one_that_was_not(whole, tmp_path):
    expected, _ = whole
    last = max(trial.number for trial in expected if trial.outcome == "done")
    name = f"trial{last:04d}"

    def slow(job: Job) -> list[str]:
        return fake(job, *(["--sleep_first=100"] if name in job.name else []))

    marker = tmp_path / f"search/runs/{name}/seed3/started"
    threading.Thread(target=interrupt_when, args=(marker,), daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, program=slow).run(5)
    assert search(tmp_path).trials()[last].outcome == "begun"
    resumed = search(tmp_path, program=slow)
    resumed.run(5)
    here, there = ([dataclasses.replace(one, run_dir="") for one in trials] for trials in (resumed.trials(), expected))
    assert here == there
    assert json.loads((marker.parent / "training.json").read_text())["resumed"] is True


def interrupt_when(marker: pathlib.Path) -> None:
    while not marker.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_another_search_is_refused(whole):
    _, directory = whole
    for question, words in (
        (dataclasses.replace(QUESTION, objective=("all mrr@20",)), "objective"),
        (dataclasses.replace(QUESTION, flags=("--dataset=event_log", "--dim=8")), "flags"),
        (dataclasses.replace(QUESTION, seed=4), "seed"),
    ):
        with pytest.raises(UserError, match=f"another search: it differs in {words}.*another --output"):
            search(directory, question)
    with pytest.raises(UserError, match="differs in space"):
        search(directory, text=SPACE + "[seed]\n".replace("seed", "svd_dim") + "choices = [8, 16]\n")
    search(directory)


def test_other_code_is_refused_unless_told_otherwise(whole, monkeypatch):
    _, directory = whole
    monkeypatch.setattr("longretriever_tf.reproduction.jobs.code_fingerprint", lambda: "other")
    with pytest.raises(UserError, match="another version of this package.*--any_code"):
        search(directory)
    assert len(search(directory, any_code=True).trials()) == 5


def test_failed_trials_are_named_not_counted_and_stop_a_search_that_cannot_work(tmp_path):
    broken = search(tmp_path, program=lambda job: fake(job, "--fail"), text="[dropout]\nlow = 0.0\nhigh = 0.9\n")
    with pytest.raises(UserError, match="the first 3 trials failed.*--fail was given"):
        broken.run(5)
    mended = search(tmp_path, text="[dropout]\nlow = 0.0\nhigh = 0.9\n")
    mended.run(1)
    outcomes = [trial.outcome for trial in mended.trials()]
    assert outcomes == ["failed"] * 3 + ["done"]
    assert "failed: 3, the last since exit status 2: error: --fail was given" in text_report(mended.trials(), QUESTION)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dropout", ("not TOML",)),
        ("", ("no setting in it",)),
        ("dropout = 0.3", ("[dropout]", "expected a section")),
        ("[droput]\nlow = 0.1\nhigh = 0.2", ("[droput]", "no flag --droput", "--helpfull")),
        ("[dropout]\nlow = 0.1", ("[dropout]", "low and high")),
        ("[dropout]\nlow = 0.5\nhigh = 0.5", ("low = 0.5", "low below high")),
        ("[dropout]\nlow = 0.0\nhigh = 1.5", ("[dropout]: high", "--dropout=1.5", "at most 0.99")),
        ("[dropout]\nlow = 0.0\nhigh = 0.5\nlog = true", ("log = true with low = 0.0",)),
        ("[dropout]\nlow = 0.1\nhigh = 0.5\nsteps = 0.1", ("'steps'", "step")),
        ("[dropout]\nlow = 0.1\nhigh = 0.5\nstep = 0.6", ("step = 0.6",)),
        ("[dim]\nlow = 8.5\nhigh = 64", ("[dim]: low", "8.5", "whole numbers")),
        ("[dim]\nchoices = [8]", ("choices = [8]", "two")),
        ("[dim]\nchoices = [8, 8]", ("each once",)),
        ("[dim]\nchoices = [8, true]", ("True", "whole numbers")),
        ("[dim]\nchoices = [8, 16]\nlow = 3", ("choices stand alone",)),
        ("[profile]\nlow = false\nhigh = true", ("--profile is no number", "choices")),
        ('[loss]\nchoices = ["full", "hinge"]', ("hinge", "full, in_batch")),
        ("[window_days]\nlow = 7.0\nhigh = 28.0", ("--window_days", "which window", "leave it out")),
        ('[cut]\nchoices = ["test", "none"]', ("--cut", "--cut=validation")),
        ('[model]\nchoices = ["mind", "comirec"]', ("--model", "one model")),
        ("[seed]\nlow = 1\nhigh = 9", ("--seed is luck",)),
    ],
)
def test_a_wrong_space_is_refused_by_name(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        load_space(space_of(tmp_path, text))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/tune").glob("*.toml")), ids=lambda path: path.stem)
def test_every_space_of_the_repository_loads_and_holds_the_defaults(path):
    space = load_space(str(path))
    values = space.values_of(Config())
    assert all(setting.contains(values[name]) for name, setting in space.settings.items())


@pytest.mark.slow
def test_the_command_trains_evaluates_and_resumes(trained, tmp_path):
    pytest.importorskip("optuna", reason="needs the extra tune: pip install 'longretriever_tf[tune]'")
    space = space_of(tmp_path, "[learning_rate]\nlow = 1e-3\nhigh = 1e-2\nlog = true\n")
    flags = (*trained.flags, "--interest_epochs=1", "--num_snapshots=2", "--score_weights_users=0")
    flags = (*flags, f"--space={space}", "--trials=1", f"--output={tmp_path}/out", "--objective=all recall@20")
    done = run_module("tune", *flags)
    assert done.returncode == 0, done.stderr
    run_dir = f"{tmp_path}/out/runs/trial0000/seed1"
    assert load_config(run_dir).train.learning_rate == 3e-3 and load_config(run_dir).train.num_snapshots == 2
    metrics = json.loads((tmp_path / "out/measures/validation/trial0000/seed1/metrics.json").read_text())
    value = next(iter(metrics["models"].values()))["all"]["recall@20"]
    assert metrics["split"] == "validation" and f"best: trial 0, {value:.4f}; the flags as they are" in done.stdout
    assert "flags to add to yours: --learning_rate=0.003\n" in done.stdout
    before = os.stat(f"{run_dir}/training.json").st_mtime_ns
    again = run_module("tune", *flags)
    assert again.returncode == 0 and os.stat(f"{run_dir}/training.json").st_mtime_ns == before, again.stderr


def test_a_wrong_flag_is_one_line(tmp_path):
    for flags, words in (
        (("--cut=test",), ("--cut=test", "--cut=validation")),
        (("--distribute=multi_worker",), ("--distribute=multi_worker", "--parallel")),
        (("--objective=all recal@100",), ("--objective=all recal@100", "metrics of 'all': recall")),
        (("--objective=recall@100",), ("--objective=recall@100", "sections: all, novel")),
        ((f"--space={tmp_path}/none.toml",), ("none.toml", "it has recipe")),
    ):
        done = run_module("tune", *flags, f"--output={tmp_path}/out")
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and all(word in line for word in words), line


def test_without_optuna_it_says_what_to_install(tmp_path):
    try:
        import optuna  # noqa: F401
    except ImportError:
        done = run_module("tune", f"--output={tmp_path}/out")
        assert done.returncode == 2 and "pip install 'longretriever_tf[tune]'" in done.stderr
    else:
        pytest.skip("optuna is installed")
