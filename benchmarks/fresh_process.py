"""A measurement in a process of its own: nothing is loaded, traced or cached from before."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
AS_SERVED = {"TF_ENABLE_ONEDNN_OPTS": "0"}
"""What `longretriever_tf.serve` sets before TensorFlow is imported."""


def ask_in_fresh_process(
    module: str, *arguments: Any, python: str = "", environment: Mapping[str, str] | None = None
) -> Any:
    """What `module.ask(*arguments)` prints as JSON, `module` a file of this folder.

    Args:
      module: its name.
      arguments: whatever `repr` writes out.
      python: another interpreter, which then sees its own packages and this folder alone; empty: this one.
      environment: variables to set in addition to this process's.

    Raises:
      RuntimeError: it failed; the end of what it wrote to stderr.
    """
    here = [os.path.dirname(os.path.abspath(__file__)), *([] if python else sys.path)]
    code = f"import sys; sys.path[:0] = {here!r}; import {module}; {module}.ask(*{arguments!r})"
    kept = {name: value for name, value in os.environ.items() if not python or name != "PYTHONPATH"}
    kept |= environment or {}
    done = subprocess.run([python or sys.executable, "-c", code], capture_output=True, text=True, env=kept)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])
