"""A measurement in a process of its own: nothing is loaded, traced or cached from before."""

import json
import os
import subprocess
import sys
from typing import Any


def ask_in_fresh_process(module: str, *arguments: Any) -> Any:
    """What `module.ask(*arguments)` prints as JSON, `module` a file of this folder.

    Raises:
      RuntimeError: it failed; the end of what it wrote to stderr.
    """
    here = [os.path.dirname(os.path.abspath(__file__)), *sys.path]
    code = f"import sys; sys.path[:0] = {here!r}; import {module}; {module}.ask(*{arguments!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])
