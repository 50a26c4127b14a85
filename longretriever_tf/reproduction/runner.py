"""Runs jobs as child processes: several at once, each with its own log; a failed one stops only those that need it."""

import contextlib
import dataclasses
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_os_errors
from longretriever_tf.common.provenance import git_hash
from longretriever_tf.reproduction.jobs import Job, State, expected_minutes

_POLL_S = 0.2
_REPORT_EVERY_S = 60.0
_GRACE_S = 20.0


@dataclasses.dataclass
class _Child:
    """A job that runs."""

    job: Job
    process: subprocess.Popen[bytes]
    started: float
    output_before: int | None  # time of an earlier output, which must not pass for this one's
    processor_s: float = 0.0  # of its processes, once it has ended

    def has_ended(self) -> bool:
        """Whether it has ended; if so, counts what it took of the processors."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if self.process.poll() is None:
            return False
        after = resource.getrusage(resource.RUSAGE_CHILDREN)  # grown by this child alone: poll() has waited for it
        self.processor_s = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
        return True


def _python_module(job: Job) -> list[str]:
    return [sys.executable, "-m", f"longretriever_tf.{job.module}"]


class JobRunner:
    """Runs what is not done yet, in an order that respects needs.

    Args:
      jobs: all the jobs of the plan.
      work_dir: holds their directories.
      parallel: processes at once; the machine's cores are split among them.
      any_code: jobs that other versions of the code finished count as done.
      program: the command of a job's module, without its flags.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job],
        work_dir: str,
        parallel: int = 1,
        any_code: bool = False,
        program: Callable[[Job], list[str]] = _python_module,
    ) -> None:
        self._jobs, self._work_dir, self._parallel, self._any_code = jobs, work_dir, parallel, any_code
        self._program = program
        self._running: list[_Child] = []

    def run(self, wanted: Mapping[str, Job]) -> dict[str, str]:
        """Runs the wanted jobs that are not done; returns why each failed one failed, by name.

        Raises:
          UserError: another process works in the same directory.
          KeyboardInterrupt: stopped; the children were stopped first.
        """
        failed: dict[str, str] = {}
        waiting = [job for job in wanted.values() if job.state(self._any_code) is not State.DONE]
        total = len(waiting)
        with self._only_here() as lock:
            try:
                while waiting or self._running:
                    self._skip_hopeless(waiting, failed)
                    self._start_ready(waiting, total, lock)
                    self._wait(waiting, failed)
            except BaseException:
                self._stop_all()
                raise
        return failed

    @contextlib.contextmanager
    def _only_here(self) -> Iterator[int]:
        """Holds the work directory's lock, which the children inherit: it is free when the last of them has ended."""
        path = os.path.join(self._work_dir, ".lock")
        with explain_os_errors(f"--work_dir={self._work_dir!r} is not writable"):
            os.makedirs(self._work_dir, exist_ok=True)
            lock = open(path, "w")  # noqa: SIM115 - closed below
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"--work_dir={self._work_dir!r} is in use by another command, or by a job that it left behind; "
                    "wait for it, stop it, or name another directory"
                ) from error
            yield lock.fileno()

    def _skip_hopeless(self, waiting: list[Job], failed: dict[str, str]) -> None:
        """Gives up the jobs that need a failed one."""
        for job in list(waiting):
            if broken := [name for name in job.needs if name in failed]:
                waiting.remove(job)
                failed[job.name] = f"not run, since {broken[0]} failed"
                _say(f"{job.name}: {failed[job.name]}")

    def _start_ready(self, waiting: list[Job], total: int, lock: int) -> None:
        for job in list(waiting):
            if len(self._running) >= self._parallel:
                return
            if all(self._jobs[name].state(self._any_code) is State.DONE for name in job.needs):
                waiting.remove(job)
                cost = duration(60 * expected_minutes(job, self._jobs))
                _say(f"[{total - len(waiting)}/{total}] {job.name}: about {cost}; log: {job.log}")
                self._running.append(self._start(job, lock))

    def _start(self, job: Job, lock: int) -> _Child:
        if job.state(self._any_code) is State.STALE:
            self._put_aside(job)
        with explain_os_errors(f"cannot write to {job.directory!r}"):
            os.makedirs(job.directory, exist_ok=True)
        before = _modified(job.output)
        job.write_stamp(outcome="started", commit=git_hash())
        with open(job.log, "ab") as log:
            log.write(f"$ {job.command}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [*self._program(job), *job.flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C reaches the children through us, once
            )
        return _Child(job, process, time.monotonic(), before)

    def _environment(self) -> dict[str, str]:
        """Ours, with the cores split fairly where several jobs share them."""
        environment = dict(os.environ)
        if self._parallel > 1:
            threads = str(max(1, (os.cpu_count() or 1) // self._parallel))
            for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
                environment[name] = threads
            environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # else the first one takes the whole GPU
        return environment

    def _put_aside(self, job: Job) -> None:
        """Moves the result of another command or code out of the way; it is kept."""
        old = os.path.join(self._work_dir, "superseded", f"{job.name.replace('/', '-')}-{job.stamp().get('key', '')}")
        with explain_os_errors(f"cannot move {job.directory!r} to {old!r}"):
            shutil.rmtree(old, ignore_errors=True)
            os.makedirs(os.path.dirname(old), exist_ok=True)
            os.rename(job.directory, old)
        _say(f"{job.name}: made by another command, flagfile or code; kept in {old}")

    def _wait(self, waiting: list[Job], failed: dict[str, str]) -> None:
        """Until a child ends; reports now and then that the others are alive."""
        said = time.monotonic()
        while self._running:
            ended = [child for child in self._running if child.has_ended()]
            for child in ended:
                self._running.remove(child)
                self._finish(child, failed)
            if ended:
                _say(f"{len(waiting)} waiting, {len(self._running)} running; {self._time_left(waiting)} left")
                return
            if time.monotonic() - said > _REPORT_EVERY_S:
                said = time.monotonic()
                for child in self._running:
                    _say(f"{child.job.name}: {duration(said - child.started)}: {last_line(child.job.log)}")
            time.sleep(_POLL_S)

    def _finish(self, child: _Child, failed: dict[str, str]) -> None:
        job, seconds, status = child.job, time.monotonic() - child.started, child.process.returncode
        facts: dict[str, Any] = {
            "seconds": round(seconds, 1),
            "processor_seconds": child.processor_s,
            "status": status,
            "commit": git_hash(),
        }
        if status == 0 and _modified(job.output) not in (None, child.output_before):
            job.write_stamp(outcome="done", **facts)
            _say(f"{job.name}: done in {duration(seconds)}")
            return
        reason = f"exit status {status}" if status else f"it wrote no {job.output}"
        failed[job.name] = f"{reason}: {last_line(job.log)} (log: {job.log})"
        job.write_stamp(outcome="failed", reason=failed[job.name], **facts)
        _say(f"{job.name}: FAILED, {failed[job.name]}")

    def _time_left(self, waiting: list[Job]) -> str:
        now = time.monotonic()
        seconds = sum(60 * expected_minutes(job, self._jobs) for job in waiting)
        for child in self._running:
            seconds += max(60 * expected_minutes(child.job, self._jobs) - (now - child.started), 0)
        return "about " + duration(seconds / self._parallel)

    def _stop_all(self) -> None:
        """Ends the children; a killed training resumes from its checkpoint at the next try."""
        for child in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGTERM)
        for child in self._running:
            try:
                child.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)
        self._running.clear()


def stop_on_signals() -> None:
    """SIGTERM and SIGINT become KeyboardInterrupt, on whose way out `JobRunner.run` stops the children.

    SIGINT too: shells start background jobs with it ignored.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)


def _modified(path: str) -> int | None:
    """When a file was last written, in ns; None where there is none."""
    return os.stat(path).st_mtime_ns if os.path.exists(path) else None


def last_line(path: str) -> str:
    """The last line of a log that says something, shortened."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        if lines:
            return lines[-1][:300]
    return "(nothing printed)"


def duration(seconds: float) -> str:
    """90 as 1m30s: short, and honest about its precision."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = seconds / 60
    return (
        f"{int(minutes)}m{int(seconds % 60):02d}s" if minutes < 60 else f"{int(minutes // 60)}h{int(minutes % 60):02d}m"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
