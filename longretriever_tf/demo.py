"""Runs the whole chain on 1.47 million real purchases: train, evaluate, export, one household explained.

  longretriever demo
  longretriever demo -- --epochs=2        # what follows -- are flags of `train`, after those of configs/demo.flags

What the commands print goes into demo.log of the run directory; the screen gets what was made, three figures, and the
command that opens the explorer page. The same command goes on after a stop.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import read_json_object, require_writable
from longretriever_tf.config import flags

_RUN_DIR = absl_flags.DEFINE_string("run_dir", "runs/demo", "Where the run goes.")
_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/longretriever", "Where the SavedModel goes.")
_USER = absl_flags.DEFINE_string("user", "1", "The household whose list is explained.")
_of_train: list[str] = []

_SERVED = "longretriever, as served"
_SHOWN_ITEMS = 5
_SHOWN_LINES = 15  # of the log, where a step fails


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    del argv
    run_dir, export_dir = _RUN_DIR.value, _EXPORT_DIR.value
    require_writable(run_dir)
    household, users = (os.path.join(run_dir, name) for name in (f"household_{_USER.value}.txt", "users.json"))
    run, export = f"--run_dir={run_dir}", f"--export_dir={export_dir}"
    steps = (
        ("training, the longest step", "train", ["--flagfile=demo", *_of_train, run]),
        ("evaluating on the test window", "evaluate", [run, "--split=test"]),
        ("exporting a SavedModel", "export", [run, export]),
        ("explaining a household's list", "recommend", [export, f"--user={_USER.value}"]),
        ("drawing households for the explorer", "sample_users", [export, f"--output={users}"]),
    )
    said = {}
    for number, (what, command, given) in enumerate(steps, 1):
        print(f"{number}/{len(steps)} {what} ...", end="", flush=True)
        said[command], status, minutes = _run(command, given, os.path.join(run_dir, "demo.log"))
        print(f" {minutes:.1f} min" if status == 0 else " failed", flush=True)
        if status:
            print("\n".join(said[command].splitlines()[-_SHOWN_LINES:]), file=sys.stderr)
            return status
    with open(household, "w", encoding="utf-8") as file:
        file.write(said["recommend"])
    print(summary(run_dir, export_dir, household, users))
    return 0


def _run(command: str, given: list[str], log_path: str) -> tuple[str, int, float]:
    """Runs a command; returns what it printed, its status, and the minutes that it took.

    Progress bars go to a terminal, where there is one, and all else into the log.
    """
    begin = time.monotonic()
    with open(log_path, "a+", encoding="utf-8") as log:
        start = log.seek(0, os.SEEK_END)
        bars = sys.stderr.isatty() and command == "train"
        if bars:
            print(flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"longretriever_tf.{command}", *given], stdout=log, stderr=None if bars else log
        )
        log.seek(start)
        return log.read(), done.returncode, (time.monotonic() - begin) / 60


def summary(run_dir: str, export_dir: str, household: str, users: str) -> str:
    """What was made, the figures to expect, the head of an explained list, and the next command.

    Args:
      run_dir: of the run, evaluated.
      export_dir: of its export.
      household: file that `recommend` filled.
      users: file that `sample_users` wrote.

    Raises:
      UserError: the metrics are not there or not whole.
    """
    path = os.path.join(run_dir, "metrics.json")
    metrics = read_json_object(path, "evaluate the run again")
    with open(household, encoding="utf-8") as file:
        explained = file.read().splitlines()
    head = [line for line in explained if line.startswith(("user ", "history:"))]
    merged = explained[explained.index("merged list") + 2 :][:_SHOWN_ITEMS]
    return "\n".join(
        [
            "",
            "made",
            f"  {run_dir}: config, checkpoints, TensorBoard, training.png, metrics.json, metrics.png, demo.log",
            f"  {export_dir}: a SavedModel: raw ids and times in, a list with its interests out",
            f"  {household}: one list, explained step by step; its head:",
            *(f"    {line}" for line in (*head, *merged)),
            "",
            f"recall on the {metrics['split']} window, {metrics['num_users']:,} users",
            *_figures(metrics["models"]),
            "",
            "next: the explorer page, where each list says how it came about: http://localhost:8501/explorer/",
            f"  {_script()} serve --model_name=longretriever \\",
            f"      --model_base_path={export_dir} --rest_api_port=8501 --explorer --explorer_users={users}",
        ]
    )


def _script() -> str:
    """`longretriever` as it can be typed here: by its path, where its environment is not activated."""
    beside = os.path.join(os.path.dirname(sys.executable), "longretriever")
    found = shutil.which("longretriever")
    if not os.path.exists(beside):
        return f"{sys.executable} -m longretriever_tf"
    if found and os.path.samefile(found, beside):
        return "longretriever"
    return os.path.relpath(beside) if beside.startswith(os.getcwd() + os.sep) else beside


def _figures(models: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    lines = []
    for section, metric, what in (
        ("all", "recall@100", "of what a user takes is among 100 items"),
        ("novel", "recall@100", "of what is new to the user is among 100 items"),
        ("within_category", "recall@20", "is among 20 items of its own category"),
    ):
        try:
            ours = models[_SERVED][section][metric]
        except KeyError as error:
            raise UserError(f"the metrics lack {error} of {_SERVED!r}: evaluate the run again") from error
        others = {name: one[section][metric] for name, one in models.items() if not name.startswith("longretriever")}
        best = max(others, key=lambda name: others[name], default="")
        against = f" (best simple baseline, {best}: {others[best]:.3f})" if best else ""
        lines.append(f"  {ours:.3f} {what}{against}")
    return lines


if __name__ == "__main__":
    _of_train[:] = flags.take_after_dashes(sys.argv)
    flags.run_command(main)
