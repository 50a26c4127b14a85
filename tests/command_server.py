"""Commands in processes of their own that need not import TensorFlow again: forked from one that has only imported it.

A test of a command spends most of its time on imports. The process that forks (`multiprocessing`'s fork server) has
imported libraries and has done nothing with them: it has no TensorFlow context, no flags and no state of a test. A
child then runs `longretriever_tf.NAME` as `__main__`, as `python -m` does, with its own arguments and streams.
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from multiprocessing import forkserver
from typing import Any

_CONTEXT: Any = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["command_imports"])
_LOCK = threading.Lock()


class Started:
    """A command that runs; `run_command` waits for one.

    Args:
      arguments: of `python`; the first two are `-m` and a module.
      cwd: where it runs.
      environment: of the process.
    """

    def __init__(self, arguments: list[str], cwd: pathlib.Path, environment: dict[str, str]) -> None:
        self._arguments, self._folder = arguments, tempfile.TemporaryDirectory(prefix="command.")
        self._paths = [os.path.join(self._folder.name, name) for name in ("stdout", "stderr")]
        with _LOCK:
            _start_server()
            self._child = _CONTEXT.Process(target=_run, args=(arguments, str(cwd), environment, *self._paths))
            self._child.start()

    def is_running(self) -> bool:
        return self._child.exitcode is None

    def kill(self) -> None:
        """As `kill -9` does."""
        self._child.kill()

    def finish(self, timeout: float) -> subprocess.CompletedProcess:
        """What it has said when it ends.

        Raises:
          subprocess.TimeoutExpired: it took longer; it is killed.
        """
        with self._folder:
            self._child.join(timeout)
            if self.is_running():
                self._child.kill()
                self._child.join()
                raise subprocess.TimeoutExpired(self._arguments, timeout)
            stdout, stderr = (pathlib.Path(path).read_text(encoding="utf-8") for path in self._paths)
            arguments = [sys.executable, *self._arguments]
            return subprocess.CompletedProcess(arguments, self._child.exitcode, stdout, stderr)


def run_command(arguments: list[str], cwd: pathlib.Path, timeout: float) -> subprocess.CompletedProcess:
    """Runs `python ARGUMENTS`, whose first two are `-m` and a module, to its end.

    Raises:
      subprocess.TimeoutExpired: it took longer; it is killed.
    """
    return Started(arguments, cwd, dict(os.environ)).finish(timeout)


def _start_server() -> None:
    """Starts the process that forks, if there is none; it finds what to import by PYTHONPATH alone."""
    before = os.environ.get("PYTHONPATH")
    tests = pathlib.Path(__file__).resolve().parent
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(tests), str(tests.parent), before)))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        os.environ |= {} if before is None else {"PYTHONPATH": before}


def _run(arguments: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str) -> None:
    """In the child."""
    for number, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)
    os.chdir(cwd)
    sys.path.insert(0, cwd)  # as `python -m` does
    os.environ.clear()
    os.environ.update(environment)
    module = arguments[1]
    sys.argv = [module, *arguments[2:]]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # a forked process leaves without them, and with what they would remove
        sys.stdout.flush()
        sys.stderr.flush()
