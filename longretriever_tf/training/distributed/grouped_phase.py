"""A phase whose step takes several whole batches, spread over the replicas; the step's gradient is their mean."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.models.stateless_dropout import Groups
from longretriever_tf.training.distributed.cluster import Cluster
from longretriever_tf.training.distributed.gradients import REPLICATED, Tables
from longretriever_tf.training.distributed.shared_step import SharedStep
from longretriever_tf.training.phases import Phase, Source


class Step(NamedTuple):
    """What this process takes in a step.

    Attributes:
      is_there: by replica of this process, whether the step has a batch for each of its groups.
      batches: those that are there, in order.
    """

    is_there: tuple[tuple[bool, ...], ...]
    batches: tuple[Any, ...]


class ChosenSource(Source, Protocol):
    """Batches that can be asked for one by one."""

    def make_dataset(self, epoch: int, first: int = 0, numbers: np.ndarray | None = None) -> tf.data.Dataset:
        """Batches of an epoch from `first` on, or those of `numbers`."""


class GroupedSource:
    """The batches that this process takes, step by step.

    Args:
      source: of the batches.
      table_of: the epoch's table, see `step_table`.
      cluster: the replicas.

    Attributes:
      num_rows: examples in an epoch, on all processes.
      groups: G.
      element_spec: of a batch; known once a dataset was made.
    """

    def __init__(self, source: ChosenSource, table_of: Callable[[int], np.ndarray], cluster: Cluster) -> None:
        self._source, self._table_of, self._cluster = source, table_of, cluster
        self.num_rows = source.num_rows
        self._num_steps, self.groups = table_of(0).shape
        self.element_spec: Any = None

    def num_batches(self) -> int:
        """Steps in an epoch."""
        return self._num_steps

    def make_dataset(self, epoch: int, first: int = 0) -> Iterator[Step]:
        """The batches of this process for steps `first`, `first + 1`, ... of the epoch."""
        here, each = self._cluster.local_replicas, self.groups // self._cluster.num_replicas
        table = self._table_of(epoch)[first:, here.start * each : here.stop * each]
        dataset = self._source.make_dataset(epoch, numbers=table[table >= 0])
        self.element_spec = dataset.element_spec
        batches = iter(dataset)
        for row in table >= 0:
            is_there = tuple(map(tuple, row.reshape(-1, each).tolist()))
            yield Step(is_there, tuple(next(batches) for _ in range(row.sum())))


@dataclasses.dataclass
class GroupedPhase(Phase):
    """Trains as `Phase` does, several batches a step; `source` is a `GroupedSource`.

    Attributes:
      cluster: the replicas.
      tables: how tables are reduced.
    """

    source: GroupedSource
    cluster: Cluster = dataclasses.field(default_factory=Cluster)
    tables: Tables = REPLICATED

    def batch_examples(self, batch: Step) -> float:
        """Examples of a step on all replicas, on average: each process sees its own batches alone."""
        return self.source.num_rows / self.source.num_batches()

    def make_step(self, optimizer: LazyAdamW, xla: bool) -> Callable[[Step], tf.Tensor]:
        """One training step: batches of this process in, mean loss over all batches of the step out."""
        with self.cluster.scope():
            optimizer.build(self.variables())

        def loss(batch: Any, step: tf.Tensor, groups: Groups) -> tuple[tf.Tensor, tf.Tensor]:
            return self.loss(batch, step, groups), tf.constant(1.0)

        compiled: dict[Any, Callable[..., tf.Tensor]] = {}
        variables, cluster, tables = self.variables(), self.cluster, self.tables

        @functools.cache
        def shared_step() -> SharedStep:  # once a batch is there, and what it looks like is known
            return SharedStep(variables, loss, optimizer, cluster, tables, xla, (self.source.element_spec,))

        def compile_for(is_there: tuple[tuple[bool, ...], ...]) -> Callable[..., tf.Tensor]:
            shared = shared_step()

            def run(batches: tuple[Any, ...]) -> tf.Tensor:
                left = iter(batches)
                of_replica = [[(next(left),) if there else None for there in groups] for groups in is_there]
                return cluster.run(lambda index: shared.make(index, of_replica[index]))

            # One graph for all shapes of a batch: two batches of any shapes each would be traced many times.
            signature = (self.source.element_spec,) * sum(map(sum, is_there))
            return tf.function(run, input_signature=[signature])

        def step(batch: Step) -> tf.Tensor:
            if batch.is_there not in compiled:
                compiled[batch.is_there] = compile_for(batch.is_there)
            return compiled[batch.is_there](batch.batches)

        return step
