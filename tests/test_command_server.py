"""Commands that are forked from a process with the libraries: the status, the streams, and a state of their own."""

import os
import subprocess
import sys

import pytest
from command_server import run_command
from trained import ROOT, command, run_module


@pytest.mark.parametrize("flags", [("train", "--dimm=3"), ("evaluate", "--run_dir=/none"), ("plan", "--help")])
def test_a_forked_command_says_what_a_command_of_the_shell_says(flags):
    forked = run_module(*flags)
    started = subprocess.run(command(*flags), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert forked.returncode == started.returncode
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)


def test_a_forked_command_knows_nothing_of_the_one_before(tmp_path, monkeypatch):
    """Modules, directory, environment, what is done at exit; and an error that nobody caught is status 1."""
    (tmp_path / "probe.py").write_text(
        "import atexit, os, sys\n"
        "print(__name__, sys.argv[1:], os.getcwd(), os.environ.get('PROBE'), 'longretriever_tf.train' in sys.modules)\n"
        "print('tensorflow' in sys.modules, file=sys.stderr)\n"
        "sys.modules['longretriever_tf.train'] = None\n"
        "atexit.register(lambda: print('exit', file=sys.stderr))\n"
        "raise SystemExit(int(sys.argv[1])) if sys.argv[1].isdigit() else RuntimeError('probe')\n"
    )
    monkeypatch.setenv("PROBE", "é")
    for status in ("3", "0"):
        done = run_command(["-m", "probe", status], tmp_path, 600)
        assert (done.returncode, done.stderr) == (int(status), "True\nexit\n")
        assert done.stdout == f"__main__ ['{status}'] {tmp_path} é False\n"
    failed = run_command(["-m", "probe", "x"], tmp_path, 600)
    assert failed.returncode == 1 and "RuntimeError: probe" in failed.stderr
    assert os.getcwd() != str(tmp_path) and "probe" not in sys.modules
