"""The training loop: phases of epochs of steps, resumable to the step.

A position is (phase, epoch, step). Batches are a function of the position and dropout is a function of the step, so a
run that is killed and started again by the same command makes the same steps as one that was not.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from longretriever_tf.errors import UserError
from longretriever_tf.models.optimizer import SplitAdam
from longretriever_tf.progress import Progress

_REPORT_EVERY = 20


class Phase(Protocol):
    """One model's training: what the loop needs to know of it."""

    name: str
    epochs: int

    def num_batches(self) -> int:
        """Batches of an epoch: calls of the step's function."""

    def num_steps(self) -> int:
        """Steps of the optimizer in an epoch."""

    def num_examples(self) -> int:
        """Examples of an epoch."""

    def make_dataset(self, epoch: int, first: int) -> tf.data.Dataset:
        """Batches of an epoch from `first` on."""

    def batch_examples(self, batch: Any) -> int:
        """Examples in a batch."""

    def loss(self, batch: Any, step: tf.Tensor) -> tf.Tensor:
        """Loss of a batch at a global step of the phase."""

    def variables(self) -> list[tf.Variable]:
        """Trainable variables."""

    def on_epoch_end(self, epoch: int) -> float | None:
        """A validation figure, higher is better; None where there is none."""


@runtime_checkable
class OwnStep(Protocol):
    """A phase that compiles its own step: its batches are blocks of many steps."""

    def make_step(self, optimizer: SplitAdam, xla: bool) -> Callable[[Any], tf.Tensor]:
        """The function from a block to the mean loss of its steps."""


@dataclasses.dataclass
class LoopState:
    """Where a run stands; saved in every checkpoint."""

    phase: tf.Variable
    epoch: tf.Variable
    step: tf.Variable
    best: tf.Variable
    best_epoch: tf.Variable

    @classmethod
    def start(cls) -> "LoopState":
        """The position before the first step."""
        phase, epoch, step = (tf.Variable(0, dtype=tf.int64, trainable=False) for _ in range(3))
        best, best_epoch = tf.Variable(-1.0, trainable=False), tf.Variable(-1, dtype=tf.int64, trainable=False)
        return cls(phase, epoch, step, best, best_epoch)


class Checkpoints:
    """Checkpoints of a run: the latest position, and the best epoch's weights of the current phase.

    Args:
      directory: where they go.
      objects: what is saved, by name.
      state: the position, saved with it.
    """

    def __init__(self, directory: str, objects: dict[str, Any], state: LoopState) -> None:
        self._directory = directory
        tracked = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        self._latest = tf.train.CheckpointManager(
            tf.train.Checkpoint(**objects, **{f"loop_{name}": value for name, value in tracked.items()}),
            os.path.join(directory, "latest"),
            max_to_keep=2,
        )
        self._weights = tf.train.Checkpoint(**{name: value for name, value in objects.items() if "adam" not in name})

    def restore(self) -> bool:
        """Goes back to the latest position; False where there is none."""
        if self._latest.latest_checkpoint is None:
            return False
        self._latest.checkpoint.restore(self._latest.latest_checkpoint).assert_existing_objects_matched()
        return True

    def save(self) -> None:
        """Saves the position. TensorFlow writes aside and renames, so the last good checkpoint outlives a full disk."""
        with self._explain_write_errors():
            self._latest.save()

    def save_weights(self, name: str) -> None:
        """Saves the weights alone, under `name` (say, best)."""
        with self._explain_write_errors():
            self._weights.write(os.path.join(self._directory, name, "weights"))

    @contextlib.contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        try:
            yield
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"cannot write a checkpoint under {self._directory!r}: {error.__class__.__name__}: "
                f"{str(error).splitlines()[0]}. The one before it is whole: free disk space (or mend the "
                "permissions) and run the same command again"
            ) from error

    def restore_weights(self, name: str) -> None:
        """Reads weights that `save_weights` wrote."""
        self._weights.read(os.path.join(self._directory, name, "weights")).assert_existing_objects_matched()


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How the loop runs; none of it changes what is learned, but `patience`.

    Attributes:
      checkpoint_every_s: seconds between checkpoints.
      patience: epochs without a better validation figure before a phase stops.
      xla: compile the step.
      writer: TensorBoard.
    """

    checkpoint_every_s: float
    patience: int
    xla: bool
    writer: tf.summary.SummaryWriter


def run_phase(
    phase: Phase, index: int, state: LoopState, optimizer: SplitAdam, checkpoints: Checkpoints, options: LoopOptions
) -> list[dict[str, float]]:
    """Trains one phase from where `state` stands to its end; returns a line of figures per epoch run here."""
    step_function = make_step(phase, optimizer, options.xla)
    lines = []
    while int(state.epoch) < phase.epochs and not _has_stalled(state, options.patience):
        epoch = int(state.epoch)
        lines.append(_run_epoch(phase, epoch, state, step_function, optimizer, checkpoints, options))
        state.step.assign(phase.num_batches())
        checkpoints.save()  # before validation, which may take minutes or fail
        figure = phase.on_epoch_end(epoch)
        if figure is not None:
            lines[-1]["validation"] = figure
            with options.writer.as_default(int(optimizer.step)):
                tf.summary.scalar(f"{phase.name}/validation", figure)
            if figure > float(state.best):
                state.best.assign(figure)
                state.best_epoch.assign(epoch)
                checkpoints.save_weights("best")
        state.epoch.assign_add(1)
        state.step.assign(0)
        checkpoints.save()
    if int(state.best_epoch) >= 0:
        print(f"{phase.name}: keeping the weights of epoch {int(state.best_epoch) + 1}, the best on validation")
        checkpoints.restore_weights("best")
    state.phase.assign(index + 1)
    for variable, value in ((state.epoch, 0), (state.step, 0), (state.best, -1.0), (state.best_epoch, -1)):
        variable.assign(value)
    checkpoints.save()
    return lines


def _has_stalled(state: LoopState, patience: int) -> bool:
    """Whether the last `patience` epochs brought no better validation figure."""
    return int(state.best_epoch) >= 0 and int(state.epoch) - 1 - int(state.best_epoch) >= patience


def make_step(phase: Phase, optimizer: SplitAdam, xla: bool) -> Callable[[Any], tf.Tensor]:
    """One training step of the phase as a compiled function: batch in, loss out."""
    if isinstance(phase, OwnStep):
        return phase.make_step(optimizer, xla)
    variables = phase.variables()

    @tf.function(reduce_retracing=True, jit_compile=xla)
    def step(batch: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = phase.loss(batch, optimizer.step)
        gradients = tape.gradient(loss, variables)
        optimizer.apply(gradients, whole_tables=xla)
        return loss

    return step


def _run_epoch(
    phase: Phase,
    epoch: int,
    state: LoopState,
    step_function: Callable[[Any], tf.Tensor],
    optimizer: SplitAdam,
    checkpoints: Checkpoints,
    options: LoopOptions,
) -> dict[str, float]:
    first = int(state.step)
    done = round(phase.num_examples() * first / max(phase.num_batches(), 1))
    progress = Progress(f"{phase.name} epoch {epoch + 1}/{phase.epochs}", phase.num_examples(), "examples", done)
    recent, losses, seen, saved = [], [], 0, time.monotonic()
    for step, batch in enumerate(phase.make_dataset(epoch, first), start=first):
        recent.append(step_function(batch))
        seen += phase.batch_examples(batch)
        if len(recent) == _REPORT_EVERY or step + 1 == phase.num_batches():
            losses.append(float(tf.reduce_mean(recent)))  # the only wait for the device
            progress.update(seen, f"loss {losses[-1]:.3f}")
            recent, seen = [], 0
            with options.writer.as_default(int(optimizer.step)):
                tf.summary.scalar(f"{phase.name}/loss", losses[-1])
                tf.summary.scalar(f"{phase.name}/learning_rate", optimizer.learning_rate())
                tf.summary.scalar(f"{phase.name}/examples_per_s", progress.rate())
        if time.monotonic() - saved > options.checkpoint_every_s:
            state.step.assign(step + 1)
            checkpoints.save()
            saved = time.monotonic()
    progress.close()
    return {"epoch": epoch + 1, "loss": float(np.mean(losses or [np.nan])), "examples_per_s": progress.rate()}
