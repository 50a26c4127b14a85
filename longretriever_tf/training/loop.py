"""The training loop: phases of epochs of steps, resumable to the step.

A position is (phase, epoch, step). Batches are a function of the position and dropout is a function of the step, so a
run that is killed and started again by the same command makes the same steps as one that was not.
"""

import contextlib
import dataclasses
import glob
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import first_line
from longretriever_tf.common.progress import Progress
from longretriever_tf.models.build import CHECKPOINT_ERRORS
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.training.phases import Phase

_REPORT_EVERY = 20
_OF_EPOCH = ("epoch", "loss", "validation")
_LATER_STATE = ("loop_loss_sum", "loop_num_losses")
"""Parts of the state that checkpoints of earlier versions lack."""


@dataclasses.dataclass
class LoopState:
    """Where a run stands; saved in every checkpoint.

    Attributes:
      phase, epoch, step: the position, int64.
      best, best_epoch: the best validation metric of the phase (-1.0: none yet) and its epoch (-1).
      loss_sum, num_losses: over the steps of the epoch so far, float64 and int64: an epoch's mean loss survives a kill.
    """

    phase: tf.Variable
    epoch: tf.Variable
    step: tf.Variable
    best: tf.Variable
    best_epoch: tf.Variable
    loss_sum: tf.Variable
    num_losses: tf.Variable

    @classmethod
    def start(cls) -> "LoopState":
        """The position before the first step."""
        phase, epoch, step = (tf.Variable(0, dtype=tf.int64, trainable=False) for _ in range(3))
        best, best_epoch = tf.Variable(-1.0, trainable=False), tf.Variable(-1, dtype=tf.int64, trainable=False)
        loss_sum = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        return cls(phase, epoch, step, best, best_epoch, loss_sum, tf.Variable(0, dtype=tf.int64, trainable=False))


class Checkpoints:
    """Checkpoints of a run: the latest position, and the best epoch's weights of the current phase.

    Args:
      directory: where they go.
      objects: what is saved, by name.
      state: the position, saved with it.

    Raises:
      UserError: the file that names the latest checkpoint is damaged.
    """

    def __init__(self, directory: str, objects: dict[str, Any], state: LoopState) -> None:
        self._directory = directory
        tracked = {f"loop_{field.name}": getattr(state, field.name) for field in dataclasses.fields(state)}
        self._saved = {**objects, **tracked}
        latest = os.path.join(directory, "latest")
        with self._explain_read_errors(os.path.join(latest, "checkpoint")):
            self._latest = tf.train.CheckpointManager(tf.train.Checkpoint(**self._saved), latest, max_to_keep=2)
        self._weights = tf.train.Checkpoint(**{name: value for name, value in objects.items() if "adam" not in name})

    def restore(self) -> bool:
        """Goes back to the latest position; False where there is none.

        Raises:
          UserError: the checkpoint is damaged, or of a run of other shapes.
        """
        path = self._latest.latest_checkpoint
        if path is None:
            if glob.glob(os.path.join(glob.escape(self._directory), "latest", "ckpt-*.index")):
                raise UserError(
                    f"{os.path.join(self._directory, 'latest', 'checkpoint')} does not say which of the checkpoints "
                    f"next to it is the latest; restore it from a copy, or delete {self._directory} to train anew"
                )
            return False
        with self._explain_read_errors(path):
            names = {name for name, _ in tf.train.list_variables(path)}
            kept = {  # a run that an earlier version began has no sums of losses
                name: value
                for name, value in self._saved.items()
                if name not in _LATER_STATE or f"{name}/.ATTRIBUTES/VARIABLE_VALUE" in names
            }
            checkpoint = self._latest.checkpoint if len(kept) == len(self._saved) else tf.train.Checkpoint(**kept)
            checkpoint.restore(path).assert_existing_objects_matched()
        return True

    @contextlib.contextmanager
    def _explain_read_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except CHECKPOINT_ERRORS as error:
            raise UserError(
                f"the checkpoint {path} cannot be taken up ({first_line(error)}): it is damaged, or of a run with "
                f"other items or categories. Nothing was changed; train elsewhere with --run_dir=..., or delete "
                f"{self._directory} to train anew here"
            ) from error

    def save(self) -> None:
        """Saves the position. TensorFlow writes aside and renames, so the last good checkpoint outlives a full disk."""
        with self._explain_write_errors():
            self._latest.save()

    def save_weights(self, name: str) -> None:
        """Saves the weights alone, under `name` (say, final)."""
        with self._explain_write_errors():
            self._weights.write(os.path.join(self._directory, name, "weights"))

    def has_weights(self, name: str) -> bool:
        """Whether `save_weights` has ended under this name: TensorFlow writes the index last."""
        return os.path.exists(os.path.join(self._directory, name, "weights.index"))

    @contextlib.contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        try:
            yield
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"cannot write a checkpoint under {self._directory!r}: {error.__class__.__name__}: "
                f"{first_line(error)}. The one before it is whole: free disk space (or mend the "
                "permissions) and run the same command again"
            ) from error

    def restore_weights(self, name: str) -> None:
        """Reads weights that `save_weights` wrote.

        Raises:
          UserError: they are damaged.
        """
        path = os.path.join(self._directory, name, "weights")
        with self._explain_read_errors(path):
            self._weights.read(path).assert_existing_objects_matched()

    def restore_best(self, epoch: int) -> None:
        """Reads the weights of the best epoch."""
        name = _best(epoch)
        self.restore_weights(name if self.has_weights(name) else "best")  # of an earlier version: one for all epochs

    def remove_best(self, but: int = -1) -> None:
        """Removes the weights of best epochs that were, all but those of the epoch `but`."""
        for path in glob.glob(os.path.join(glob.escape(self._directory), _best("*"))):
            if os.path.basename(path) != _best(but):
                shutil.rmtree(path, ignore_errors=True)


class CheckpointStore(Protocol):
    """What the loop asks of checkpoints: `Checkpoints`, or those that several processes share."""

    def save(self) -> None:
        """Saves the position."""

    def save_weights(self, name: str) -> None:
        """Saves the weights alone, under `name`."""

    def restore_best(self, epoch: int) -> None:
        """Reads the weights of the best epoch."""

    def remove_best(self, but: int = -1) -> None:
        """Removes the weights of best epochs that were, all but those of the epoch `but`."""


def _best(epoch: int | str) -> str:
    """Each best epoch has a name of its own: what the latest checkpoint speaks of is never overwritten."""
    return f"best-{epoch}"


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How the loop runs; none of it changes what is learned, but `patience`.

    Attributes:
      checkpoint_every_s: seconds between checkpoints.
      patience: epochs without a better validation metric before a phase stops.
      xla: compile the step.
      writer: TensorBoard.
      on_epoch: takes the phase's name and the epoch's metrics, before the run's position passes the epoch; may be
        called twice for an epoch, with the same metrics but the speed.
      on_report: takes the phase's name, the step of its optimizer and metrics, every few steps and after an epoch.
      agree: of several processes, whether the chief wants a checkpoint; they ask at the steps that report. None: one
        process, which saves whenever it is time.
    """

    checkpoint_every_s: float
    patience: int
    xla: bool
    writer: tf.summary.SummaryWriter
    on_epoch: Callable[[str, dict[str, float]], None] = lambda phase, line: None
    on_report: Callable[[str, int, dict[str, float]], None] = lambda phase, step, metrics: None
    agree: Callable[[bool], bool] | None = None


def run_phase(
    phase: Phase, index: int, state: LoopState, optimizer: LazyAdamW, checkpoints: CheckpointStore, options: LoopOptions
) -> None:
    """Trains one phase from where `state` stands to its end."""
    step_function = phase.make_step(optimizer, options.xla)
    while int(state.epoch) < phase.epochs and not _has_stalled(state, options.patience):
        epoch = int(state.epoch)
        line = _run_epoch(phase, epoch, state, step_function, optimizer, checkpoints, options)
        state.step.assign(phase.source.num_batches())
        checkpoints.save()  # before validation, which may take minutes or fail
        if phase.validate is not None:
            metric = phase.validate()
            line["validation"] = metric
            with options.writer.as_default(int(optimizer.iterations.numpy())):
                tf.summary.scalar(f"{phase.name}/validation", metric)
            if metric > float(state.best):
                state.best.assign(metric)
                state.best_epoch.assign(epoch)
                checkpoints.save_weights(_best(epoch))
        options.on_epoch(phase.name, line)
        options.on_report(phase.name, int(optimizer.iterations.numpy()), epoch_metrics(line))
        _start_epoch(state, epoch + 1)
        checkpoints.save()
        checkpoints.remove_best(but=int(state.best_epoch))
    if int(state.best_epoch) >= 0:
        print(f"{phase.name}: keeping the weights of epoch {int(state.best_epoch) + 1}, the best on validation")
        checkpoints.restore_best(int(state.best_epoch))
    state.phase.assign(index + 1)
    state.best.assign(-1.0)
    state.best_epoch.assign(-1)
    _start_epoch(state, 0)
    checkpoints.save()
    checkpoints.remove_best()


def epoch_metrics(line: Mapping[str, float]) -> dict[str, float]:
    """What listeners to `LoopOptions.on_report` hear of a finished epoch, of its line in training.json."""
    return {f"epoch_{name}" if name == "loss" else name: line[name] for name in _OF_EPOCH if name in line}


def _start_epoch(state: LoopState, epoch: int) -> None:
    state.epoch.assign(epoch)
    for variable in (state.step, state.loss_sum, state.num_losses):
        variable.assign(tf.zeros_like(variable))


def _has_stalled(state: LoopState, patience: int) -> bool:
    """Whether the last `patience` epochs brought no better validation metric."""
    return int(state.best_epoch) >= 0 and int(state.epoch) - 1 - int(state.best_epoch) >= patience


def _run_epoch(
    phase: Phase,
    epoch: int,
    state: LoopState,
    step_function: Callable[[Any], tf.Tensor],
    optimizer: LazyAdamW,
    checkpoints: CheckpointStore,
    options: LoopOptions,
) -> dict[str, float]:
    first = int(state.step)
    done = round(phase.source.num_rows * first / max(phase.source.num_batches(), 1))
    progress = Progress(f"{phase.name} epoch {epoch + 1}/{phase.epochs}", phase.source.num_rows, "examples", done)
    recent: list[tf.Tensor] = []
    seen, saved = 0.0, time.monotonic()
    for step, batch in enumerate(phase.source.make_dataset(epoch, first), start=first):
        recent.append(step_function(batch))
        seen += phase.batch_examples(batch)
        is_due = time.monotonic() - saved > options.checkpoint_every_s
        reports = (step + 1) % _REPORT_EVERY == 0 or step + 1 == phase.source.num_batches()
        if options.agree is not None:
            is_due = reports and options.agree(is_due)
        if reports or is_due:
            losses = tf.stack(recent).numpy().astype(np.float64)  # the only wait for the device
            state.loss_sum.assign_add(losses.sum())
            state.num_losses.assign_add(len(losses))
            progress.update(seen, f"loss {losses.mean():.3f}")
            recent, seen = [], 0.0
            position = int(optimizer.iterations.numpy())
            rate = float(optimizer.learning_rate)
            metrics = {"loss": losses.mean(), "learning_rate": rate, "examples_per_s": progress.rate()}
            with options.writer.as_default(position):
                for name, value in metrics.items():
                    tf.summary.scalar(f"{phase.name}/{name}", value)
            options.on_report(phase.name, position, metrics)
        if is_due:
            state.step.assign(step + 1)
            checkpoints.save()
            saved = time.monotonic()
    progress.close()
    # To 6 decimals: a sum in two sessions is rounded in other places. No loss, where an earlier version was stopped
    # after the last step of an epoch.
    loss = {"loss": round(float(state.loss_sum) / int(state.num_losses), 6)} if int(state.num_losses) else {}
    return {"epoch": epoch + 1, **loss, "examples_per_s": progress.rate()}
