"""A phase of a run: one model's training. First the towers, then the learned interest score; or a baseline alone."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import tensorflow as tf

from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.models.stateless_dropout import Groups, StatelessRng


class Source(Protocol):
    """Batches by their numbers: batch i of an epoch is a function of (seed, epoch, i) alone.

    Attributes:
      num_rows: examples in an epoch.
      element_spec: of a batch, where a dataset of TensorFlow's was made; else None.
    """

    num_rows: int

    @property
    def element_spec(self) -> Any:
        """As above."""

    def num_batches(self) -> int:
        """Batches in an epoch."""

    def make_dataset(self, epoch: int, first: int = 0) -> Iterable[Any]:
        """Batches of an epoch from number `first` on."""


class Model(Protocol):
    """What a phase trains: a Keras model or layer."""

    trainable_variables: list[tf.Variable]

    def compute_loss(self, inputs: tuple[Any, StatelessRng | None], training: bool = False) -> tf.Tensor:
        """Loss of a batch under the draws of a step, scalar."""


@dataclasses.dataclass
class Phase:
    """One model's training, as the loop sees it.

    Attributes:
      name: in checkpoints, training.json and TensorBoard.
      epochs: at most.
      model: is trained.
      source: of its batches.
      seed: of the dropout.
      validate: the validation metric after an epoch, higher is better; None: there is none.
    """

    name: str
    epochs: int
    model: Model
    source: Source
    seed: int
    validate: Callable[[], float] | None = None

    def variables(self) -> list[tf.Variable]:
        """What the optimizer moves."""
        return self.model.trainable_variables

    def num_steps(self) -> int:
        """Steps of the optimizer in an epoch."""
        return self.source.num_batches()

    def batch_examples(self, batch: Any) -> float:
        """Examples in a batch: the first column of every kind of batch has a row for each."""
        return int(batch[0].shape[0])

    def loss(self, batch: Any, step: tf.Tensor, groups: Groups | None = None) -> tf.Tensor:
        """Loss of a batch at a step of the phase; step and groups (`StatelessRng`) alone decide the draws."""
        return self.model.compute_loss((batch, StatelessRng(self.seed, step, groups)), training=True)

    def make_step(self, optimizer: LazyAdamW, xla: bool) -> Callable[[Any], tf.Tensor]:
        """One training step as a compiled function: batch in, loss out."""
        variables = self.variables()
        optimizer.build(variables)

        def step(batch: Any) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = self.loss(batch, optimizer.iterations)
            optimizer.apply(tape.gradient(loss, variables), whole_tables=xla)
            return loss

        @functools.cache
        def compiled() -> Callable[[Any], tf.Tensor]:
            # Once a batch is there, and what it looks like is known: one graph for all shapes. From shapes alone it
            # would be traced for the first ones, and again for each dimension that later ones differ in.
            spec = self.source.element_spec
            return tf.function(
                step, input_signature=None if spec is None else [spec], reduce_retracing=True, jit_compile=xla
            )

        return lambda batch: compiled()(batch)
