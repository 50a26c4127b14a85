"""What a command takes: CPU seconds of all its processes, and the memory of the largest."""

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

_CODE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("USED", used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(status)
"""


class Used(NamedTuple):
    """What a command took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def run_measured(command: Sequence[str]) -> tuple[Used, str]:
    """Runs a command; what it took, and its output.

    Raises:
      RuntimeError: it failed; the end of its output.
    """
    start = time.monotonic()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([sys.executable, "-c", _CODE, *command], **pipes)
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:])
    output, _, used = done.stdout.rpartition("USED")
    peak_kb, cpu_s = used.split()
    return Used(time.monotonic() - start, float(cpu_s), int(peak_kb) * 1024 / 1e6), output
