"""The jobs of a plan: command lines, what each needs, and whether it is done."""

import dataclasses
import enum
import fnmatch
import functools
import glob
import hashlib
import json
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import longretriever_tf
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_os_errors, write_text_atomically
from longretriever_tf.config.shipped import find_shipped
from longretriever_tf.reproduction.plan import PLACEHOLDER, Plan

STAMP = "job.json"
"""The file in a job's directory that holds its key, command, cost and outcome."""

_IDLE_PARTS = ("reproduction", "reproduce.py", "tuning", "tune.py", "serving", "serve.py", "doctor.py")
"""Parts of the package that no metric depends on: changing them makes no job stale."""

_TABLES = ("events", "items", "users", "lists")
"""Flags that name tables: those of a log, and other systems' lists (as NAME:FILE)."""


class State(enum.Enum):
    """The state of a job."""

    DONE = "done"
    STARTED = "to resume"
    FAILED = "failed before"
    STALE = "to do again"  # done, or begun, by another command, flagfile or code
    NEW = "to do"


@dataclasses.dataclass(frozen=True)
class Job:
    """One subprocess.

    Attributes:
      name: "RUN/seed1", or "MEASURE/RUN/seed1".
      kind: "RUN" or "MEASURE/RUN"; jobs of one kind cost about the same.
      module: of this package.
      flags: all of them.
      directory: of its own.
      output: path of the file that it writes.
      needs: names of jobs that must be done before.
      key: hash of command, flagfiles, code and the keys of what it needs.
      minutes: declared cost.
      seed: of the run.
    """

    name: str
    kind: str
    module: str
    flags: tuple[str, ...]
    directory: str
    output: str
    needs: tuple[str, ...]
    key: str
    minutes: float
    seed: int

    @property
    def command(self) -> str:
        """As one would type it."""
        return shlex.join(["longretriever", self.module.rpartition(".")[2], *self.flags])

    @property
    def log(self) -> str:
        """Path of what it prints."""
        return os.path.join(self.directory, "log.txt")

    def stamp(self) -> dict[str, Any]:
        """What it left, {} if nothing."""
        try:
            with open(os.path.join(self.directory, STAMP), encoding="utf-8") as file:
                stamp = json.load(file)
        except (OSError, ValueError):
            return {}
        return stamp if isinstance(stamp, dict) else {}

    def write_stamp(self, **facts: Any) -> None:
        """Replaces its stamp."""
        values = {"key": self.key, "command": self.command, **facts}
        write_text_atomically(os.path.join(self.directory, STAMP), json.dumps(values, indent=2) + "\n")

    def state(self, any_code: bool = False) -> State:
        """Its state.

        Args:
          any_code: a job that another version of the code finished counts as done if command and flagfiles agree.
        """
        stamp = self.stamp()
        if not stamp:
            return State.NEW
        command_key, code_key = self.key.split("-")
        is_ours = stamp.get("key") == self.key
        if any_code and stamp.get("outcome") == "done":
            is_ours = str(stamp.get("key")).split("-")[0] == command_key
        if not is_ours:
            return State.STALE
        if stamp.get("outcome") == "done" and os.path.exists(self.output):
            return State.DONE
        return State.FAILED if stamp.get("outcome") == "failed" else State.STARTED


def make_jobs(plan: Plan, work_dir: str) -> dict[str, Job]:
    """All the jobs of a plan by name, each after what it needs."""
    jobs: dict[str, Job] = {}
    for name, run in plan.runs.items():
        for seed in run.seeds:
            directory = os.path.join(work_dir, "runs", name, f"seed{seed}")
            needs = _named_runs(plan, run.flags, seed)
            flags = [_fill(flag, needs, jobs) for flag in run.flags]
            flags += [f"--seed={seed}"] if run.directory_flag == "run_dir" else []
            flags.append(f"--{run.directory_flag}={directory}")
            job = Job(
                name=f"{name}/seed{seed}",
                kind=name,
                module=run.command,
                flags=tuple(flags),
                directory=directory,
                output=os.path.join(directory, run.output),
                needs=tuple(needs.values()),
                key="",
                minutes=run.minutes,
                seed=seed,
            )
            jobs[job.name] = _with_key(job, jobs, work_dir)
    for name, measure in plan.measures.items():
        for run_name in measure.runs:
            for seed in plan.runs[run_name].seeds:
                if not measure.seeds or seed in measure.seeds:
                    job = _measure_job(plan, jobs, work_dir, name, run_name, seed)
                    jobs[job.name] = _with_key(job, jobs, work_dir)
    return jobs


def _measure_job(plan: Plan, jobs: Mapping[str, Job], work_dir: str, name: str, run_name: str, seed: int) -> Job:
    """The job of a measure of a run and seed, still without its key."""
    measure = plan.measures[name]
    directory = os.path.join(work_dir, "measures", name, run_name, f"seed{seed}")
    output = os.path.join(directory, measure.output)
    needs = {run_name: _job_of_run(plan, run_name, seed), **_named_runs(plan, measure.flags, seed)}
    flags = [_fill(flag, needs, jobs) for flag in measure.flags]
    flags += [f"--run_dir={jobs[needs[run_name]].directory}", f"--output={output}"]
    return Job(
        name=f"{name}/{run_name}/seed{seed}",
        kind=f"{name}/{run_name}",
        module=measure.command,
        flags=tuple(flags),
        directory=directory,
        output=output,
        needs=tuple(needs.values()),
        key="",
        minutes=measure.minutes,
        seed=seed,
    )


def _named_runs(plan: Plan, flags: Sequence[str], seed: int) -> dict[str, str]:
    """The jobs of the runs that flags name, by run."""
    return {name: _job_of_run(plan, name, seed) for flag in flags for name in PLACEHOLDER.findall(flag)}


def _fill(flag: str, needs: Mapping[str, str], jobs: Mapping[str, Job]) -> str:
    """A flag with the directories of the runs that it names."""
    return PLACEHOLDER.sub(lambda match: jobs[needs[match[1]]].directory, flag)


def _job_of_run(plan: Plan, name: str, seed: int) -> str:
    """The run's job of the same seed, or of its first where it has no such seed."""
    seeds = plan.runs[name].seeds
    return f"{name}/seed{seed if seed in seeds else seeds[0]}"


def _with_key(job: Job, jobs: Mapping[str, Job], work_dir: str) -> Job:
    """Two hashes, "command-code": of command, flagfiles and tables (independent of the work directory), and of the
    code.
    """
    flags = [flag.replace(work_dir, "") for flag in job.flags]
    texts = _flagfile_texts(job.flags)
    asked = [
        job.module,
        *flags,
        *texts,
        *_data_hashes([*job.flags, *texts]),
        *(jobs[name].key.split("-")[0] for name in job.needs),
    ]
    command = hashlib.sha256("\0".join(asked).encode()).hexdigest()[:16]
    return dataclasses.replace(job, key=f"{command}-{code_fingerprint()}")


def _flagfile_texts(flags: Sequence[str]) -> list[str]:
    """What the flagfiles among the flags say: editing one makes a job stale."""
    texts = []
    for flag in flags:
        name, _, path = flag.lstrip("-").partition("=")
        if name != "flagfile":
            continue
        try:
            with open(find_shipped("--flagfile", path), encoding="utf-8") as file:
                lines = [line.strip() for line in file if line.strip() and not line.lstrip().startswith(("#", "//"))]
        except OSError as error:
            raise UserError(f"--flagfile={path}, which the plan names: {error.strerror}") from error
        texts += [*lines, *_flagfile_texts(lines)]
    return texts


def _data_hashes(flags: Sequence[str]) -> list[str]:
    """What the tables hold that the flags name: a log that changed makes a job stale."""
    hashes = []
    for flag in flags:
        name, _, path = flag.lstrip("-").partition("=")
        if name not in _TABLES:
            continue
        path = path.partition(":")[2] if name == "lists" else path
        within = sorted(glob.glob(os.path.join(glob.escape(path), "**"), recursive=True)) if os.path.isdir(path) else []
        for one in within or sorted(glob.glob(path)) or [path]:
            if os.path.isfile(one):  # the job itself reports one that is missing
                hashes.append(_hash_file(one, os.stat(one).st_mtime_ns, os.stat(one).st_size))
    return hashes


@functools.lru_cache(maxsize=256)
def _hash_file(path: str, modified: int, size: int) -> str:
    del modified, size  # a file that was written meanwhile is read again
    digest = hashlib.sha256()
    with explain_os_errors(f"cannot read {path!r}"), open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@functools.cache
def code_fingerprint() -> str:
    """Hash of the version and of every source file of this package that a metric may depend on."""
    root = pathlib.Path(longretriever_tf.__file__).parent
    digest = hashlib.sha256(longretriever_tf.__version__.encode())
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if inside.parts[0] not in _IDLE_PARTS:
            digest.update(inside.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def select_jobs(jobs: Mapping[str, Job], only: Sequence[str]) -> dict[str, Job]:
    """The jobs that patterns name, and what those need.

    Args:
      only: names of runs, measures or jobs, `*` and `?` allowed; empty: all.

    Raises:
      UserError: a pattern names nothing.
    """
    chosen: set[str] = set() if only else set(jobs)
    for pattern in only:
        matching = {
            name
            for name, job in jobs.items()
            if any(fnmatch.fnmatchcase(known, pattern) for known in (name, job.kind, job.kind.split("/")[0]))
        }
        if not matching:
            kinds = dict.fromkeys(job.kind.split("/")[0] for job in jobs.values())
            raise UserError(f"--only={pattern}: no job has that name; there are {', '.join(kinds)} (and RUN/seedN)")
        chosen |= matching
    for name in reversed(list(jobs)):  # jobs come after those that they need
        if name in chosen:
            chosen |= set(jobs[name].needs)
    return {name: job for name, job in jobs.items() if name in chosen}


def expected_minutes(job: Job, jobs: Mapping[str, Job]) -> float:
    """Cost of a job: the mean over the jobs of its kind that are done here, or else what the plan declares."""
    stamps = [other.stamp() for other in jobs.values() if other.kind == job.kind]
    measured = [stamp["seconds"] / 60 for stamp in stamps if stamp.get("outcome") == "done"]
    return sum(measured) / len(measured) if measured else job.minutes
