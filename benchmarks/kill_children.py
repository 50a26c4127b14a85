"""Starts a command, waits for a line of its output, and kills it with all its children some seconds later."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class KillTime(NamedTuple):
    """When to kill: so many seconds after the first line of output that matches; from the start where it is ""."""

    line: str
    after_s: float


class Outcome(NamedTuple):
    """How a command ended: its exit status (None: killed), its output, and the seconds of the part asked about."""

    status: int | None
    text: str
    seconds: float


def run_and_kill(command: Sequence[str], kill_time: KillTime, environment: Mapping[str, str]) -> Outcome:
    """Runs the command up to the kill; it may end before."""
    with _start(command, environment) as child:
        assert child.stdout is not None
        lines: list[str] = []
        killer = threading.Timer(kill_time.after_s, _kill_all, [child])
        if not kill_time.line:
            killer.start()
        for line in child.stdout:
            lines.append(line)
            if not killer.is_alive() and kill_time.line and re.search(kill_time.line, line):
                killer.start()
                break
        rest = child.stdout.read()
        status = child.wait()
        if killer.ident is not None:
            killer.cancel()
            killer.join()
    return Outcome(None if status == -signal.SIGKILL else status, "".join(lines) + rest, kill_time.after_s)


def end_of(command: Sequence[str], environment: Mapping[str, str], begin: str = "", end: str = "") -> Outcome:
    """Runs the command to its end; how long it took from the line `begin` to the line `end`.

    Args:
      command: argument list.
      environment: of the process.
      begin, end: patterns of lines; "": its start, its end.
    """
    with _start(command, environment) as child:
        assert child.stdout is not None
        lines, first, last = [], time.monotonic(), None
        is_begun = not begin
        for line in child.stdout:
            lines.append(line)
            if not is_begun and re.search(begin, line):
                first, is_begun = time.monotonic(), True
            elif is_begun and last is None and end and re.search(end, line):
                last = time.monotonic()
        status = child.wait()
    return Outcome(status, "".join(lines), (last or time.monotonic()) - first)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(environment),
        start_new_session=True,
    )


def _kill_all(child: "subprocess.Popen[str]") -> None:
    """Kills the process first, so that it starts no more, then those that it had started."""
    if child.poll() is not None:
        return
    family = _descendants(child.pid)
    for pid in (child.pid, *family):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """Children of a process, and theirs, by Linux's /proc."""
    parent_of = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{name}/stat", encoding="utf-8") as f,
            ):
                parent_of[int(name)] = int(f.read().rpartition(")")[2].split()[1])
    descendants, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        children = [child for child, parent in parent_of.items() if parent == one]
        descendants += children
        waiting += children
    return descendants
