"""What notebooks share: readable plots, quiet libraries, and commands whose failures stop the notebook."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterable

from longretriever_tf.common.errors import UserError

_STYLE = {
    "figure.figsize": (8, 4.2),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "grid.color": "#eceff2",
}

BLUE, ORANGE, GREEN, GREY = "#2f6db3", "#e07b39", "#4c9a6a", "#9aa3ad"
"""Colours that keep apart in print and for the colour-blind."""


def set_up() -> None:
    """Makes plots readable and TensorFlow quiet; call it before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from absl import logging as absl_logging
    from matplotlib import rcParams

    from longretriever_tf.plots.axes import FRAME

    absl_logging.set_verbosity(absl_logging.ERROR)
    # In a notebook TensorFlow sets its own level when it is imported; a filter outlives that.
    logging.getLogger("tensorflow").addFilter(lambda record: record.levelno >= logging.ERROR)
    rcParams.update({**FRAME, **_STYLE})


def command(name: str, *flags: str, may_fail: bool = False) -> None:
    """Runs `longretriever COMMAND FLAGS` by this interpreter, showing the command and what it prints.

    Args:
      name: of the command: train, evaluate, inspect_log, ...
      *flags: as on the command line.
      may_fail: show a failure and go on.

    Raises:
      RuntimeError: the command failed; a notebook's `!python ...` would go on in silence.
    """
    print("$ " + " ".join(["longretriever", name, *flags]), flush=True)
    arguments = [sys.executable, "-m", "longretriever_tf", name, *flags]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=quiet) as process:
        assert process.stdout is not None
        for line in _without_noise(process.stdout):
            print(line, end="", flush=True)
    if process.returncode and not may_fail:
        raise RuntimeError(f"longretriever {name} ended with status {process.returncode}; it said why above")


def _without_noise(lines: Iterable[str]) -> Iterable[str]:
    """The lines that are the command's own: absl's early warnings about itself are not."""
    noise = ("WARNING: All log messages before absl", "I0000", "W0000", "E0000")
    return (line for line in lines if not line.startswith(noise))


def scalars(run_dir: str, tag: str) -> tuple[list[float], list[float]]:
    """A curve of a run, as TensorBoard shows it: steps and values.

    Args:
      run_dir: of the run.
      tag: towers/loss, towers/validation, interest/loss, ...

    Raises:
      UserError: the run has no such curve.
    """
    from longretriever_tf.plots.board import read_scalars

    scalars = read_scalars(os.path.join(run_dir, "tensorboard"))
    if tag not in scalars:
        raise UserError(f"tag={tag!r}: {run_dir!r} has {', '.join(sorted(scalars)) or 'no scalars'}")
    points = scalars[tag]
    return [step for step, _ in points], [value for _, value in points]
