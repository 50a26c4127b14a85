"""The part of a step that replicas share: gradients of own batches, their sum over all, the optimizer's move."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.models.stateless_dropout import Groups
from longretriever_tf.training.distributed.cluster import Cluster
from longretriever_tf.training.distributed.gradients import REPLICATED, Layout, Packed, Tables

Loss = Callable[..., tuple[tf.Tensor, tf.Tensor]]
"""From a replica's input, the step and its groups to the sum of their losses, and how many they are."""


class SharedStep:
    """One step of all replicas, of which each makes its part.

    Args:
      variables: what is trained.
      loss: of what a replica takes at once.
      optimizer: built for the variables.
      cluster: the replicas.
      tables: how tables are reduced.
      xla: compile gradients and move; what lies between them are the exchanges.
      spec: of what a replica takes at once; tells the kinds of gradients to a replica whose first step has no batch.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        loss: Loss,
        optimizer: LazyAdamW,
        cluster: Cluster,
        tables: Tables = REPLICATED,
        xla: bool = False,
        spec: tuple[Any, ...] = (),
    ) -> None:
        self._variables, self._loss, self._optimizer, self._cluster = variables, loss, optimizer, cluster
        self._tables, self._xla, self._spec = tables, xla, spec
        self._layout: Layout | None = None
        self._gradients = tf.function(self._of_batch, reduce_retracing=True, jit_compile=xla)
        self._move = tf.function(self._apply, jit_compile=True) if xla else self._apply

    def make(self, index: int, taken: Sequence[tuple[Any, ...] | None], stacked: int = 0) -> tf.Tensor:
        """The step of replica `index` of this process, within `Cluster.run`; the mean loss over all replicas.

        Args:
          index: of the replica within this process.
          taken: arguments of the loss, one after the other; None where the step has no batch for a group.
          stacked: groups of one shape that lie side by side in each of them; 0: one alone, of any shape.
        """
        replica = self._cluster.local_replicas[index]
        packed: list[Packed | None] = []
        for position, given in enumerate(taken):
            first = tf.constant((replica * len(taken) + position) * max(stacked, 1))
            packed.append(None if given is None else self._gradients(given, Groups(first, stacked)))
        return self._move(self._known_layout().reduce(packed, self._cluster, replica))

    def _known_layout(self) -> Layout:
        if self._layout is None:
            tf.function(self._of_batch).get_concrete_function(self._spec, Groups(tf.TensorSpec([], tf.int32)))
        assert self._layout is not None, "tracing makes it"
        return self._layout

    def _of_batch(self, given: tuple[Any, ...], groups: Groups) -> Packed:
        with tf.GradientTape() as tape:
            loss, num_batches = self._loss(*given, self._optimizer.iterations, groups)
        gradients = tape.gradient(loss, self._variables)
        if self._layout is None:
            self._layout = Layout(self._variables, gradients, self._tables)
        return self._layout.pack(gradients, loss, num_batches)

    def _apply(self, reduced: Packed) -> tf.Tensor:
        gradients, loss = self._known_layout().unpack(reduced, self._xla)
        self._optimizer.apply(gradients, whole_tables=self._xla)
        return loss
