"""The phases of a run: the towers, then the learned interest score; or a neural baseline alone."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import Examples
from longretriever_tf.data.batches.in_context import Batch, BatchSource, EpochPlan, plan_epoch
from longretriever_tf.data.batches.interests import InterestBatch, InterestSource
from longretriever_tf.models.baselines.batches import UserBatch, UserBatchSource
from longretriever_tf.models.baselines.model import RecentRetriever
from longretriever_tf.models.interest_model import InterestModel
from longretriever_tf.models.retriever import LongRetriever
from longretriever_tf.models.stateless_dropout import StatelessRng


class TowerPhase:
    """Trains the two towers on in-context batches.

    Args:
      config: the run's config.
      model: the towers.
      source: batches from example rows.
      examples: the examples.
      category_offset: [C + 1].
      validate: validation figure after an epoch, or None.
    """

    name = "towers"

    def __init__(
        self,
        config: Config,
        model: LongRetriever,
        source: BatchSource,
        examples: Examples,
        category_offset: np.ndarray,
        validate: Callable[[], float] | None,
    ) -> None:
        self.epochs = config.train.epochs
        self._config, self._model, self._source, self._examples = config, model, source, examples
        self._category_offset, self._validate = category_offset, validate
        self._num_batches = len(self.plan(0).start)

    def plan(self, epoch: int) -> EpochPlan:
        """The batches of an epoch."""
        return plan_epoch(self._config, self._examples, self._category_offset, epoch)

    def num_batches(self) -> int:
        return self._num_batches

    def num_steps(self) -> int:
        return self._num_batches

    def num_examples(self) -> int:
        return len(self._examples)

    def make_dataset(self, epoch: int, first: int = 0) -> tf.data.Dataset:
        return self._source.make_dataset(self.plan(epoch), first)

    def batch_examples(self, batch: Batch) -> int:
        return int(batch.category.shape[0])

    def loss(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        return self._model.compute_loss((batch, StatelessRng(self._config.train.seed, step)))

    def variables(self) -> list[tf.Variable]:
        return self._model.trainable_variables

    def on_epoch_end(self, epoch: int) -> float | None:
        del epoch
        return None if self._validate is None else self._validate()


class InterestPhase:
    """Trains lambda(u, c) on snapshots of whole histories."""

    name = "interest"

    def __init__(self, config: Config, model: InterestModel, source: InterestSource) -> None:
        self.epochs, self._seed = config.train.interest_epochs, config.train.seed
        self._model, self._source = model, source

    def num_batches(self) -> int:
        return self._source.num_batches()

    def num_steps(self) -> int:
        return self._source.num_batches()

    def num_examples(self) -> int:
        return self._source.num_rows

    def make_dataset(self, epoch: int, first: int = 0) -> tf.data.Dataset:
        return self._source.make_dataset(epoch, first)

    def batch_examples(self, batch: InterestBatch) -> int:
        return int(batch.weight.shape[0])

    def loss(self, batch: InterestBatch, step: tf.Tensor) -> tf.Tensor:
        return self._model.loss(batch, StatelessRng(self._seed, step))

    def variables(self) -> list[tf.Variable]:
        return self._model.trainable_variables

    def on_epoch_end(self, epoch: int) -> float | None:
        del epoch
        return None


class BaselinePhase:
    """Trains a neural baseline on users' latest events."""

    def __init__(
        self,
        config: Config,
        model: RecentRetriever,
        source: UserBatchSource,
        validate: Callable[[], float] | None,
    ) -> None:
        self.name, self.epochs, self._seed = config.model.model, config.train.epochs, config.train.seed
        self._model, self._source, self._validate = model, source, validate

    def num_batches(self) -> int:
        return self._source.num_batches()

    def num_steps(self) -> int:
        return self._source.num_batches()

    def num_examples(self) -> int:
        return self._source.num_rows()

    def make_dataset(self, epoch: int, first: int = 0) -> tf.data.Dataset:
        return self._source.make_dataset(epoch, first)

    def batch_examples(self, batch: UserBatch) -> int:
        return int(batch.time.shape[0])

    def loss(self, batch: UserBatch, step: tf.Tensor) -> tf.Tensor:
        return self._model.compute_loss((batch, StatelessRng(self._seed, step)))

    def variables(self) -> list[tf.Variable]:
        return self._model.trainable_variables

    def on_epoch_end(self, epoch: int) -> float | None:
        del epoch
        return None if self._validate is None else self._validate()
