import html.parser
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.evaluation.per_user import per_user_path
from longretriever_tf.evaluation.ranking import paired_bootstrap
from longretriever_tf.reproduction import runner
from longretriever_tf.reproduction.jobs import Job, State, make_jobs, select_jobs
from longretriever_tf.reproduction.plan import load_plan
from longretriever_tf.reproduction.report import make_report, write_report
from longretriever_tf.reproduction.results import Line, Results
from longretriever_tf.reproduction.runner import JobRunner
from longretriever_tf.reproduction.series import ratio_interval, read_scalars
from longretriever_tf.reproduction.statements import paired_difference

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLAN = """
    title = "Tests & <tags>"

    [runs.ours]
    flags = ["--flagfile={flagfile}"]
    seeds = [1, 2]
    minutes = 7.0

    [runs.other]
    flags = ["--noise=2.0"{other}]

    [measures.test]
    runs = ["ours", "other"]
    flags = ["--split=validation"]

    [measures.baselines]
    runs = ["ours"]
    seeds = [1]
    flags = ["--baselines", "--alongside={{run:other}}"]

    [rows.ours]
    label = "Ours"
    run = "ours"
    measure = "test"

    [rows.other]
    label = "Other"
    run = "other"
    measure = "test"

    [rows.baselines]
    run = "ours"
    measure = "baselines"
    model = "*"
    skip = "longretriever*"

    [rows.lift]
    run = "ours"
    measure = "baselines"
    model = "*"
    at = "lift.rows"

    [[tables]]
    title = "Recall"
    rows = ["ours", "other", "baselines"]
    columns = ["all recall@20", "novel ndcg@20", "within_category recall@10"]

    [[tables]]
    title = "Lift"
    rows = ["lift"]
    columns = ["figures AER"]

    [[comparisons]]
    ours = "ours"
    against = ["baselines", "other"]
    metrics = ["all ndcg@100", "within_category recall@1"]
    claim = "ours leads"
    targets = {{"all ndcg@100" = 0.1}}

    [[findings]]
    title = "Directions"
    run = "ours"
    measure = "baselines"
    at = "lift.directions"
"""
PLOTS = """
    [[plots]]
    title = "{kind} <plot>"
    kind = "{kind}"
    rows = ["ours", "other", "baselines"]
    metric = "all recall@100"
"""
KINDS = ("bars", "history_length", "category_size", "repeat_novel", "calibration")


def write_plan(directory: pathlib.Path, other: str = "") -> str:
    flagfile = directory / "ours.flags"
    if not flagfile.exists():
        flagfile.write_text("--noise=0.3\n# a comment\n")
    text = PLAN.format(flagfile=flagfile, other=other) + "".join(PLOTS.format(kind=kind) for kind in KINDS)
    (directory / "plan.toml").write_text(textwrap.dedent(text))
    return str(directory / "plan.toml")


def fake(job: Job) -> list[str]:
    """The fake reads no flagfiles: it is handed what the file says."""
    extra = [
        line
        for flag in job.flags
        if flag.startswith("--flagfile=")
        for line in pathlib.Path(flag[11:]).read_text().split("\n")
    ]
    return [
        sys.executable,
        str(ROOT / "tests/fake_jobs.py"),
        job.module,
        *(line for line in extra if line.startswith("--")),
    ]


@pytest.fixture(autouse=True)
def package_on_the_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run_plan(path: str, work_dir: str, only=(), **options) -> tuple[dict[str, Job], dict[str, str]]:
    jobs = make_jobs(load_plan(path), work_dir)
    failed = JobRunner(jobs, work_dir, program=fake, **options).run(select_jobs(jobs, only))
    return jobs, failed


def report_of(path: str, work_dir: str) -> tuple[str, str]:
    plan = load_plan(path)
    jobs = make_jobs(plan, work_dir)
    paths = write_report(make_report(plan, jobs, Results(plan, jobs)), work_dir)
    return pathlib.Path(paths[0]).read_text("utf-8"), pathlib.Path(paths[1]).read_text("utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plan, all of whose jobs are done: its path, its work directory, its jobs."""
    directory = tmp_path_factory.mktemp("finished")
    os.environ["PYTHONPATH"] = str(ROOT)
    path, work_dir = write_plan(directory), str(directory / "made")
    jobs, failed = run_plan(path, work_dir, parallel=2)
    assert failed == {}
    return path, work_dir, jobs


def metrics_of(jobs: dict[str, Job], name: str) -> dict:
    return json.loads(pathlib.Path(jobs[name].output).read_text())


class Cells(html.parser.HTMLParser):
    """The metrics of the page by (row label, column), and every attribute that could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.metrics, self.fetched, self._label, self._in_first = {}, [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.fetched += [attrs[name] for name in ("src", "href", "action", "srcset") if name in attrs]
        assert tag not in ("script", "link", "iframe", "object")
        if tag == "tr":
            self._label = ""
        if tag == "td" and not self._label:
            self._in_first = True
        if tag == "td" and "data-value" in attrs:
            self.metrics[self._label, attrs["data-column"]] = float(attrs["data-value"])

    def handle_data(self, data):
        if self._in_first:
            self._label, self._in_first = data, False


def test_the_page_holds_the_metrics_of_metrics_json_and_fetches_nothing(finished):
    path, work_dir, jobs = finished
    page, markdown = report_of(path, work_dir)
    cells = Cells(page)
    ours = [metrics_of(jobs, f"test/ours/seed{seed}")["models"]["longretriever"] for seed in (1, 2)]
    baselines = metrics_of(jobs, "baselines/ours/seed1")["models"]
    for section, metric in (("all", "recall@20"), ("novel", "ndcg@20"), ("within_category", "recall@10")):
        values = [one[section][metric] for one in ours]
        assert cells.metrics["Ours", f"{section} {metric}"] == pytest.approx(np.mean(values), rel=1e-12)
        assert f"±{np.std(values, ddof=1):.4f}" in page and f"±{np.std(values, ddof=1):.4f}" in markdown
        for name in ("popularity | decayed", "own items"):
            assert cells.metrics[name, f"{section} {metric}"] == baselines[name][section][metric]
            assert f"{baselines[name][section][metric]:.4f}" in markdown
    assert ("longretriever", "all recall@20") not in cells.metrics
    assert cells.metrics["a b", "figures AER"] == 0.25 and "x &lt; y holds" in page
    assert cells.fetched and all(link.startswith("#") for link in cells.fetched)
    assert "http" not in page and "url(" not in page.replace("url(#", "") and "<tags>" not in page
    assert (
        page.count("<svg") == 1 + 2 + 2 + 2 + 1
    )  # bars, history and repeats, size of both tasks, tasks and pairs, one
    for job in jobs.values():
        assert job.command.replace("&", "&amp;") in page and job.command in markdown
    assert "Incomplete" not in page + markdown


def test_statements_are_the_paired_bootstrap_of_the_users(finished):
    path, work_dir, jobs = finished
    page, _ = report_of(path, work_dir)
    users = {name: np.load(per_user_path(jobs[name].output)) for name in jobs if "/" in name and name.count("/") == 2}
    ours = np.mean([users[f"test/ours/seed{seed}"]["all/ndcg@100"][0] for seed in (1, 2)], axis=0)
    rivals = {"Other": users["test/other/seed1"]["all/ndcg@100"][0]}
    table = users["baselines/ours/seed1"]
    rivals |= dict(zip(table["model"][1:], table["all/ndcg@100"][1:], strict=True))
    best = max(rivals, key=lambda name: np.nanmean(rivals[name]))
    mean, low, high = paired_bootstrap(ours, rivals[best], 1, 2000)
    assert low > 0, "the fake world is made so that ours leads"
    assert f"Ours ({np.nanmean(ours):.4f}) is ahead of {best} ({np.nanmean(rivals[best]):.4f}) by {mean:.4f} (" in page
    assert f"95% from {low:+.4f} to {high:+.4f}" in page.replace("&#43;", "+")
    assert f"Target 0.1 reached by {np.nanmean(ours) - 0.1:.4f}" in page
    assert "ours leads: holds here" in page


def test_a_difference_counts_the_users_that_it_is_over():
    """Not those whom one side was asked for more: an item that its training has not seen."""

    def line(label, recall, pair_user):
        users = {"user": np.array(["ann", "ben", "cem", "dot"]), "all/recall@100": np.array(recall)}
        users["pair_user"] = np.array(pair_user)
        return Line(label, ({},), (users,), None, ())

    ours = line("ours", [0.5, 0.4, 0.3, np.nan], [0, 0, 1, 2])
    theirs = line("theirs", [0.2, 0.4, 0.1, np.nan], [0, 1, 2])  # asked for less of ann's
    assert (
        paired_difference(ours, line("theirs", [0.2, 0.4, 0.1, np.nan], [0, 0, 1, 2]), "all recall@100").num_users == 3
    )
    interval, num_users = paired_difference(ours, theirs, "all recall@100")
    assert num_users == 2 and interval.mean == pytest.approx(0.1)


def test_a_claim_names_the_rivals_that_have_not_run(tmp_path):
    path, work_dir = write_plan(tmp_path), str(tmp_path / "made")
    run_plan(path, work_dir, only=["test"], parallel=2)
    page, _ = report_of(path, work_dir)
    assert "ours leads: holds here against what ran (not yet: baselines)" in page


def test_what_is_done_is_skipped_and_a_changed_flag_or_flagfile_runs_again(finished, tmp_path):
    path, work_dir, jobs = finished
    before = {name: os.stat(job.output).st_mtime_ns for name, job in jobs.items()}
    run_plan(path, work_dir)
    assert {name: os.stat(job.output).st_mtime_ns for name, job in jobs.items()} == before

    path, work_dir = write_plan(tmp_path), str(tmp_path / "made")
    run_plan(path, work_dir, parallel=2)
    write_plan(tmp_path, other=', "--extra"')
    stale = {name for name, job in make_jobs(load_plan(path), work_dir).items() if job.state() is State.STALE}
    assert stale == {"other/seed1", "test/other/seed1", "baselines/ours/seed1"}  # the last is asked alongside `other`
    (tmp_path / "ours.flags").write_text("--noise=0.4\n")
    jobs = make_jobs(load_plan(path), work_dir)
    assert {job.state() for job in jobs.values()} == {State.STALE}
    run_plan(path, work_dir, parallel=2)
    assert {job.state() for job in jobs.values()} == {State.DONE}
    kept = pathlib.Path(work_dir, "superseded")
    assert len(list(kept.iterdir())) == len(jobs)
    assert json.loads(pathlib.Path(jobs["ours/seed1"].output).read_text())["noise"] == "0.4"


def test_a_table_that_changed_makes_the_jobs_stale_that_read_it(tmp_path):
    """By what it holds: a file that was merely written anew changes nothing."""
    events, folder = tmp_path / "events.csv", tmp_path / "parts"
    folder.mkdir()
    for path in (events, folder / "part-0"):
        path.write_text("user_id,item_id\n1,2\n")
    (tmp_path / "ours.flags").write_text(f"--noise=0.3\n--events={folder}\n")
    path = write_plan(tmp_path, other=f', "--events={events}"')
    before = {name: job.key for name, job in make_jobs(load_plan(path), "made").items()}

    def changed() -> set[str]:
        return {name for name, job in make_jobs(load_plan(path), "made").items() if job.key != before[name]}

    os.utime(events, (1, 1))
    assert changed() == set()
    events.write_text("user_id,item_id\n1,3\n")
    assert {name for name in changed() if name.startswith("ours")} == set() and "other/seed1" in changed()
    (folder / "part-1").write_text("user_id,item_id\n1,4\n")
    assert changed() == set(before)


def test_lists_that_changed_make_the_job_stale_that_evaluates_them(tmp_path):
    lists = tmp_path / "theirs.csv"
    lists.write_text("user,item,rank\n1,2,1\n")
    path = write_plan(tmp_path, other=f', "--lists=theirs:{lists}"')
    before = {name: job.key for name, job in make_jobs(load_plan(path), "made").items()}
    lists.write_text("user,item,rank\n1,3,1\n")
    changed = {name for name, job in make_jobs(load_plan(path), "made").items() if job.key != before[name]}
    assert "other/seed1" in changed and not any(name.startswith("ours") for name in changed)


def test_other_code_makes_jobs_stale_unless_told_otherwise(finished, monkeypatch):
    path, work_dir, _ = finished
    monkeypatch.setattr("longretriever_tf.reproduction.jobs.code_fingerprint", lambda: "other")
    jobs = make_jobs(load_plan(path), work_dir)
    assert {job.state() for job in jobs.values()} == {State.STALE}
    assert {job.state(any_code=True) for job in jobs.values()} == {State.DONE}


def test_a_failed_job_stops_only_what_needs_it_and_the_report_says_so(tmp_path):
    path, work_dir = write_plan(tmp_path, other=', "--fail"'), str(tmp_path / "made")
    jobs, failed = run_plan(path, work_dir, parallel=2)
    assert set(failed) == {"other/seed1", "test/other/seed1", "baselines/ours/seed1"}
    assert "exit status 2: error: --fail was given" in failed["other/seed1"]
    assert "not run, since other/seed1 failed" == failed["test/other/seed1"]
    assert jobs["test/ours/seed2"].state() is State.DONE
    page, markdown = report_of(path, work_dir)
    for text in (page, markdown):
        assert "3 of 7 jobs have no result" in text and "error: --fail was given" in text
    assert Cells(page).metrics.keys() == {
        ("Ours", c) for c in ("all recall@20", "novel ndcg@20", "within_category recall@10")
    }
    assert "Claim: ours leads: not measured." in page

    write_plan(tmp_path)
    assert run_plan(path, work_dir)[1] == {}


@pytest.fixture
def interruptible():
    """Ctrl-C works, even where the shell that started the tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_killed_plan_goes_on_where_it_stood(tmp_path):
    path, work_dir = write_plan(tmp_path, other=', "--sleep_first=100"'), str(tmp_path / "made")
    jobs = make_jobs(load_plan(path), work_dir)
    marker = pathlib.Path(jobs["other/seed1"].directory, "started")
    threading.Thread(target=_interrupt_when, args=(marker,), daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        JobRunner(jobs, work_dir, program=fake).run(select_jobs(jobs, ("ours", "other")))
    assert {name: jobs[name].state() for name in ("ours/seed2", "other/seed1")} == {
        "ours/seed2": State.DONE,
        "other/seed1": State.STARTED,
    }
    done = os.stat(jobs["ours/seed1"].output).st_mtime_ns
    assert JobRunner(jobs, work_dir, program=fake).run(select_jobs(jobs, ("other",))) == {}
    assert json.loads(pathlib.Path(jobs["other/seed1"].output).read_text())["resumed"] is True
    assert os.stat(jobs["ours/seed1"].output).st_mtime_ns == done


def _interrupt_when(marker: pathlib.Path) -> None:
    while not marker.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_two_cannot_work_in_one_directory(tmp_path):
    path, work_dir = write_plan(tmp_path), str(tmp_path / "made")
    jobs = make_jobs(load_plan(path), work_dir)
    runner = JobRunner(jobs, work_dir, program=fake)
    with runner._only_here(), pytest.raises(UserError, match="in use by another"):
        JobRunner(jobs, work_dir, program=fake).run(jobs)


def test_only_takes_what_it_needs_along(tmp_path):
    jobs = make_jobs(load_plan(write_plan(tmp_path)), "made")
    assert list(select_jobs(jobs, ("test/other/*",))) == ["other/seed1", "test/other/seed1"]
    assert list(select_jobs(jobs, ("baselines",))) == ["ours/seed1", "other/seed1", "baselines/ours/seed1"]
    assert "--alongside=made/runs/other/seed1" in jobs["baselines/ours/seed1"].flags
    with pytest.raises(UserError, match="--only=nothing.*ours, other, test, baselines"):
        select_jobs(jobs, ("nothing",))


def test_processor_seconds_are_those_of_the_job_alone():
    busy = "import time\nwhile time.process_time() < {}: pass"
    commands = [[sys.executable, "-c", busy.format(seconds)] for seconds in (1.5, 0.5)]
    children = [runner._Child(None, subprocess.Popen(command), 0.0, None) for command in commands]
    while not all([child.processor_s or child.has_ended() for child in children]):
        time.sleep(0.02)
    long, short = (child.processor_s for child in children)
    assert 1.5 <= long < 2 and 0.5 <= short < 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('title = "Recall"', 'titel = "Recall"', ("tables", "title")),
        ("minutes = 7.0", "minuts = 7.0", ("runs.ours", "minuts", "minutes")),
        ("seeds = [1, 2]", "seeds = 2", ("runs.ours", "seeds = 2", "list")),
        ("seeds = [1, 2]", "seeds = []", ("runs.ours", "at least one")),
        ('runs = ["ours", "other"]', 'runs = ["ours", "mind"]', ("measures.test", "'mind'", "ours, other")),
        ('rows = ["lift"]', 'rows = ["lifts"]', ("'Lift'", "'lifts'", "baselines, lift")),
        ('kind = "bars"', 'kind = "pie"', ("'pie'", "history_length")),
        ("{run:other}", "{run:nobody}", ("measures.baselines", "'nobody'")),
        ("[runs.other]", "[runs.test]", ("'test'", "a run and a measure")),
        ("title =", "title", ("not TOML",)),
    ],
)
def test_a_wrong_plan_is_refused_by_name(tmp_path, old, new, words):
    path = pathlib.Path(write_plan(tmp_path))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_plan(str(path))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/reproduce").glob("*.toml")), ids=lambda path: path.stem)
def test_every_plan_of_the_repository_loads(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    jobs = make_jobs(load_plan(str(path)), "made")
    assert jobs and all(job.minutes > 0 for job in jobs.values())


@pytest.mark.parametrize("plan", ["ablations", "paper_tables"])
def test_runs_without_in_context_training_differ_in_nothing_else(plan, monkeypatch):
    """Mixed batches next to single-category ones, under either loss, seed by seed."""
    monkeypatch.chdir(ROOT)
    runs = load_plan(f"configs/reproduce/{plan}.toml").runs
    for ours, mixed in {"default": "mixed_full", "in_batch": "mixed_batches"}.items():
        added = [flag for flag in runs[mixed].flags if flag not in runs[ours].flags]
        assert set(runs[ours].flags) <= set(runs[mixed].flags)
        assert added == ["--noin_context", "--max_logits=17000000"][: len(added)]  # the latter keeps the batch size
        assert added and runs[ours].seeds == runs[mixed].seeds == (1, 2, 3)


def test_the_paper_tables_compare_runs_of_one_loss_and_one_seed(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = load_plan("configs/reproduce/paper_tables.toml")
    jobs = make_jobs(plan, "made")
    for seed in (1, 2, 3):
        for measure, mixed in {"funnel/default": "mixed_full", "funnel_in_batch/in_batch": "mixed_batches"}.items():
            channel = f"--channel_run=without_in_context=made/runs/{mixed}/seed{seed}"
            assert channel in jobs[f"{measure}/seed{seed}"].flags
    assert plan.runs["mind"].flags == ("--flagfile=configs/mind.flags", "--cut=validation")  # as it was tuned


def test_the_command_shows_costs_and_asks_for_what_is_missing(tmp_path):
    def reproduce(*flags: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "longretriever_tf.reproduce", f"--plan={path}", f"--work_dir={tmp_path}/made"]
        return subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=900)

    path = write_plan(tmp_path)
    dry = reproduce("--dry_run")
    assert dry.returncode == 0 and not os.path.exists(tmp_path / "made"), dry.stderr
    assert "7 jobs, 0 done; about 36 minutes of work left" in dry.stdout  # 2 x 7 + 10 + 4 x 3
    assert f"--flagfile={tmp_path}/ours.flags --seed=2 --run_dir={tmp_path}/made/runs/ours/seed2" in dry.stdout
    bare = reproduce("--report_only")
    assert bare.returncode == 2 and "7 of 7 jobs have no result yet: ours/seed1" in bare.stderr
    assert f"longretriever reproduce --plan={path} --work_dir={tmp_path}/made" in bare.stderr
    partial = reproduce("--report_only", "--partial")
    assert partial.returncode == 0, partial.stderr
    assert "7 of 7 jobs have no result" in (tmp_path / "made/report.html").read_text()


def test_scalars_are_read_from_event_files_whole_or_cut_short(tmp_path):
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    def write(name: str, points: list[tuple[int, str, float]], cut: int) -> None:
        path = tmp_path / f"events.out.tfevents.{name}"
        with open(path, "wb") as file:
            for step, tag, number in points:
                value = summary_pb2.Summary.Value(tag=tag, tensor=make_tensor_proto(np.float32(number)))
                event = event_pb2.Event(step=step, summary=summary_pb2.Summary(value=[value]))
                RecordWriter(file).write(event.SerializeToString())
        path.write_bytes(path.read_bytes()[: -cut or None])

    write("1", [(20, "towers/loss", 3.5), (40, "towers/loss", 2.5), (60, "towers/loss", 9.0)], cut=7)
    write("2", [(40, "towers/loss", 2.25), (40, "interest/loss", 7.0), (60, "towers/loss", 2.0)], cut=0)
    assert read_scalars(str(tmp_path)) == {
        "towers/loss": [(20.0, 3.5), (40.0, 2.25), (60.0, 2.0)],
        "interest/loss": [(40.0, 7.0)],
    }


def test_the_interval_of_a_mean_treats_pairs_of_a_user_as_one():
    random = np.random.default_rng(3)
    hits = random.random(400)
    mean, low, high = ratio_interval(hits, np.arange(400))
    assert mean == hits.mean()
    assert high - low == pytest.approx(2 * 1.96 * hits.std() / 20, rel=1e-9)
    doubled = ratio_interval(np.repeat(hits, 2), np.repeat(np.arange(400), 2))
    np.testing.assert_allclose(doubled, (mean, low, high), rtol=1e-9)  # the same users twice are no news


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_a_plan_in_the_background(number):
    """Shells start background jobs with SIGINT ignored; SIGTERM must not lean on it."""
    program = textwrap.dedent(f"""
        import os, signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from longretriever_tf.reproduction.runner import stop_on_signals
        stop_on_signals()
        try:
            os.kill(os.getpid(), {int(number)})
            time.sleep(300)
        except KeyboardInterrupt:
            print("stopped")
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.stdout == "stopped\n", done.stderr


def test_windows_are_averaged_and_compared_user_by_user(tmp_path):
    """A row of several runs is the mean over windows of the mean over seeds; users are drawn with all their windows."""
    flagfile = tmp_path / "ours.flags"
    flagfile.write_text("--noise=0.3\n")
    rows = 'runs = ["ours", "other"]\nmeasure = "test"'
    plan = f"""
title = "Windows"
[runs.ours]
flags = ["--flagfile={flagfile}"]
seeds = [1, 2]
[runs.other]
flags = ["--noise=2.0"]
seeds = [3, 4]
[runs.weak]
flags = ["--noise=9.0"]
[measures.test]
runs = ["ours", "other", "weak"]
[rows.windows]
label = "Windows"
{rows}
[rows.weak]
label = "Weak"
runs = ["weak", "weak"]
measure = "test"
[[tables]]
title = "Recall"
rows = ["windows", "weak"]
columns = ["all recall@20"]
[[comparisons]]
ours = "windows"
against = ["weak"]
metrics = ["all ndcg@100", "within_category recall@1"]
[[plots]]
title = "bars"
kind = "bars"
rows = ["windows", "weak"]
"""
    (tmp_path / "plan.toml").write_text(plan)
    path, work_dir = str(tmp_path / "plan.toml"), str(tmp_path / "made")
    jobs, failed = run_plan(path, work_dir, parallel=2)
    assert failed == {}
    page, markdown = report_of(path, work_dir)
    means = []
    for run, seeds in (("ours", (1, 2)), ("other", (3, 4))):
        found = [metrics_of(jobs, f"test/{run}/seed{seed}")["models"]["longretriever"] for seed in seeds]
        means.append(np.mean([one["all"]["recall@20"] for one in found]))
    assert Cells(page).metrics["Windows", "all recall@20"] == pytest.approx(np.mean(means), rel=1e-12)
    assert f"±{np.std(means, ddof=1):.4f}" in markdown and "2 windows of 2" in markdown
    assert "users in 2 windows" in markdown

    def users_of(name):
        with np.load(per_user_path(jobs[name].output)) as file:
            return {key: file[key] for key in file.files}

    def difference(runs):
        ours = np.mean([users_of(f"test/{run}/seed{seed}")["all/ndcg@100"][0] for run, seed in runs], axis=0)
        return ours - users_of("test/weak/seed1")["all/ndcg@100"][0]

    both = (difference([("ours", 1), ("ours", 2)]) + difference([("other", 3), ("other", 4)])) / 2
    expected = paired_bootstrap(both, np.zeros_like(both), seed=1)
    assert f"95% from {expected.low:+.4f} to {expected.high:+.4f}" in markdown


def test_a_row_is_of_a_run_or_of_windows(tmp_path):
    plan = '[runs.a]\nflags = []\n[measures.test]\nruns = ["a"]\n[rows.a]\nmeasure = "test"\n'
    for extra in ("", 'run = "a"\nruns = ["a"]\n'):
        (tmp_path / "plan.toml").write_text('title = "t"\n' + plan + extra)
        with pytest.raises(UserError, match="rows.a: expected either run or runs"):
            load_plan(str(tmp_path / "plan.toml"))


DAYS = """
    title = "Days"
    [runs.base]
    flags = ["--noise=1.0"]
    [runs.next]
    flags = ["--noise=0.2", "--warm_start={run:base}"]
    [runs.export]
    command = "export"
    directory_flag = "export_dir"
    flags = ["--run_dir={run:base}"]
    output = "1/saved_model.pb"
    [runs.refresh]
    command = "refresh"
    directory_flag = "to_dir"
    flags = ["--run_dir={run:base}", "--export_dir={run:export}", "--noise=0.1"]
    output = "1/saved_model.pb"
    [measures.day]
    runs = ["base", "next"]
    [measures.frozen]
    runs = ["base"]
    flags = ["--export_dir={run:export}"]
    [measures.fresh]
    runs = ["base"]
    flags = ["--export_dir={run:refresh}"]
    [rows.warm]
    label = "Warm"
    runs = ["base", "next"]
    measure = "day"
    [rows.refreshed]
    label = "Refreshed"
    run = "base"
    measures = ["frozen", "fresh"]
    [rows.frozen]
    label = "Frozen"
    run = "base"
    measures = ["frozen", "frozen"]
    [[tables]]
    title = "Days"
    rows = ["warm", "refreshed", "frozen"]
    columns = ["all recall@20", "minutes", "processor_minutes"]
    [[comparisons]]
    ours = "refreshed"
    against = ["frozen"]
    metrics = ["all ndcg@100"]
    [[plots]]
    title = "days"
    kind = "windows"
    metric = "all recall@20"
    rows = ["warm", "refreshed", "frozen"]
"""


def test_runs_grow_from_runs_and_a_row_is_the_mean_of_its_measures(tmp_path):
    """A warm start, an export and its refresh are jobs of their own; minutes are those of a window's own runs."""
    path, work_dir = tmp_path / "plan.toml", str(tmp_path / "made")
    path.write_text(textwrap.dedent(DAYS))
    jobs, failed = run_plan(str(path), work_dir)
    assert failed == {}
    assert f"--warm_start={jobs['base/seed1'].directory}" in jobs["next/seed1"].flags
    assert jobs["next/seed1"].needs == ("base/seed1",)
    assert jobs["refresh/seed1"].needs == ("base/seed1", "export/seed1")
    assert jobs["refresh/seed1"].flags[-1] == f"--to_dir={jobs['refresh/seed1'].directory}"
    page, markdown = report_of(str(path), work_dir)
    cells = Cells(page).metrics
    recall = {name: metrics_of(jobs, f"{name}/base/seed1")["models"]["longretriever"] for name in ("frozen", "fresh")}
    mean = np.mean([one["all"]["recall@20"] for one in recall.values()])
    assert cells["Refreshed", "all recall@20"] == pytest.approx(mean) and cells["Frozen", "all recall@20"] < mean
    seconds = {name: jobs[f"{name}/seed1"].stamp()["seconds"] for name in ("base", "next", "export", "refresh")}
    assert cells["Frozen", "minutes"] == 0
    assert cells["Refreshed", "minutes"] == pytest.approx((seconds["export"] + seconds["refresh"]) / 60 / 2)
    assert cells["Warm", "minutes"] == pytest.approx((seconds["base"] + seconds["next"]) / 60 / 2)
    processors = {name: jobs[f"{name}/seed1"].stamp()["processor_seconds"] for name in ("base", "next")}
    assert cells["Warm", "processor_minutes"] == pytest.approx(sum(processors.values()) / 60 / 2)
    assert page.count("<svg") == 2 and "Refreshed" in markdown and "users in 2 windows" in markdown
    assert "**0.0000**" in markdown.split("Frozen")[2].split("\n")[0], "the least cost is the best"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("--warm_start={run:base}", "--warm_start={run:refresh}", ("runs.next", "'refresh'", "there are: base")),
        ('measures = ["frozen", "fresh"]', "", ("rows.refreshed", "measures of one run")),
        ('measures = ["frozen", "fresh"]', 'measures = ["frozen", "day"]\nmeasure = "day"', ("measures of one run",)),
    ],
)
def test_a_plan_of_days_that_does_not_fit_together_is_refused(tmp_path, old, new, words):
    (tmp_path / "plan.toml").write_text(textwrap.dedent(DAYS).replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_plan(str(tmp_path / "plan.toml"))
    for word in words:
        assert word in str(caught.value)
