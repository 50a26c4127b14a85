"""The training report of a run: loss, learning rate, speed and validation metric as one PNG. Imports no TensorFlow."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_damage, read_json_object, write_bytes_atomically
from longretriever_tf.plots.board import read_scalars, write_image
from longretriever_tf.plots.panels import Panel, Series

FILE = "training.png"
_METRICS = ("loss", "validation", "learning_rate", "examples_per_s")
"""What `training.loop` leaves in TensorBoard by step, and (but for the learning rate) in training.json by epoch."""
_LABELS = {"loss": "loss", "learning_rate": "learning rate", "examples_per_s": "examples per second"}
_PHASES = {"interest": "interest score"}
_VALIDATION = {"towers": "validation: MRR within the category"}
_VALIDATION_ELSE = "validation: recall, all items"

Scalars = Mapping[str, Sequence[tuple[float, float]]]


def training_panels(training: Mapping[str, Any], scalars: Scalars) -> tuple[Panel, ...]:
    """The panels of a run, phase by phase; what a phase measured once is text in a panel of its own, not a lone dot.

    Args:
      training: `training.json`: the mean metrics of each epoch, by phase.
      scalars: of the run's TensorBoard files by tag, (step, value); where a phase has none, the means of its epochs
        stand in for them.

    Raises:
      UserError: `training` has no history, or there are no metrics at all.
    """
    history = training.get("history")
    if not isinstance(history, dict):
        raise UserError("training.json has no 'history': an older version wrote it. Train again to draw the run")
    panels = []
    # A session that was killed is in TensorBoard alone.
    for phase in dict.fromkeys([*history, *(tag.rpartition("/")[0] for tag in scalars)]):
        labels = {**_LABELS, "validation": _VALIDATION.get(phase, _VALIDATION_ELSE)}
        title, once = _PHASES.get(phase, phase), []
        for name in _METRICS:
            by_step = scalars.get(f"{phase}/{name}", ())
            epochs = [line for line in history.get(phase, ()) if name in line]
            by_epoch = {line["epoch"]: line[name] for line in epochs}  # run again: the later counts
            points, unit = (
                (by_step, "step") if len(by_step) > 1 or not by_epoch else (sorted(by_epoch.items()), "epoch")
            )
            label = labels[name]
            if len(points) > 1:
                x, y = zip(*points, strict=True)
                series = Series(title, tuple(map(float, x)), tuple(map(float, y)))
                is_loss, from_zero = name == "loss", name in ("learning_rate", "examples_per_s")
                panels.append(Panel(f"{title}: {label}", "lines", unit, label, (series,), (), is_loss, from_zero))
            elif points:
                once.append((unit, Series(label, (float(points[0][0]),), (float(points[0][1]),))))
        for unit in dict.fromkeys(unit for unit, _ in once):
            values = tuple(series for own, series in once if own == unit)
            panels.append(Panel(f"{title}: measured once", "numbers", unit, "", values))
    if not panels:
        raise UserError(
            f"training.json has no epoch (phases: {', '.join(history) or 'none'}): let the same `train` command "
            "finish first"
        )
    return tuple(panels)


def draw_training(run_dir: str) -> str:
    """Writes `training.png` into the run directory, and the same picture into its TensorBoard; returns the path.

    Raises:
      UserError: the run has no training.json, or one without metrics; or the files cannot be written.
    """
    from longretriever_tf.plots.page import draw_page

    path = os.path.join(run_dir, "training.json")
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist: training writes it when it ends. Let the same `train` command finish")
    cure = "move it away, and let the same `train` command write it again"
    training = read_json_object(path, cure)
    board = os.path.join(run_dir, "tensorboard")
    with explain_damage(path, cure):
        panels = training_panels(training, read_scalars(board))
    origin = training.get("run", {})
    note = ", ".join(f"{key} {origin[key]}" for key in ("seed", "date", "machine") if origin.get(key))
    columns = max(Counter(panel.title.split(":")[0] for panel in panels).values())  # a row per phase
    if any(panel.is_noisy for panel in panels):
        note = ". ".join(filter(None, ("Loss: pale, each value; strong, its running mean", note)))
    png = draw_page(f"Training of {os.path.normpath(run_dir)}", panels, note, columns)
    write_bytes_atomically(os.path.join(run_dir, FILE), png)
    write_image(board, "report/training", png)
    return os.path.join(run_dir, FILE)
