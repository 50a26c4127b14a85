"""Where a metric comes from: command, commit, versions, machine. Imports no TensorFlow."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

from longretriever_tf import __version__

_PACKAGES = ("tensorflow", "tf_keras", "tensorflow-recommenders", "tensorflow-datasets", "scann", "numpy")


def describe_origin(program: str, seed: int) -> dict[str, Any]:
    """What is stored with every metric: command line, seed, date, commit, versions, machine."""
    return {
        "command": " ".join([program, *sys.argv[1:]]),
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "commit": git_hash(),
        "longretriever_tf": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def git_hash() -> str:
    """Commit of the source tree, "+" appended where it has uncommitted changes; "" outside a git checkout."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
