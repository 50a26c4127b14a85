"""The towers' phase with its input on the device, on several devices: each gathers its own groups of every step."""

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from longretriever_tf.data.batches.in_context import Batch
from longretriever_tf.data.batches.on_device import Epoch, LoadedBlock, Shape
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.models.stateless_dropout import Groups
from longretriever_tf.training.device_phase import DevicePhase
from longretriever_tf.training.distributed.cluster import Cluster
from longretriever_tf.training.distributed.gradients import Tables
from longretriever_tf.training.distributed.shared_step import SharedStep


@dataclasses.dataclass
class GroupedDevicePhase(DevicePhase):
    """Trains as `DevicePhase` does, with the groups of a step spread over the replicas; a process has one replica.

    Draws are those of each group, so that their number does not depend on the number of replicas.

    Attributes:
      cluster: the replicas.
    """

    cluster: Cluster = dataclasses.field(default_factory=Cluster)

    def make_step(self, optimizer: LazyAdamW, xla: bool) -> Callable[[LoadedBlock], tf.Tensor]:
        """The function from a block to the mean loss of its steps; compiled once per shape."""
        optimizer.build(self.variables())

        @functools.cache
        def one_step(shape: Shape) -> Callable[[Epoch, tf.Tensor, tf.Tensor], tf.Tensor]:
            return self._compile_for(shape, self._share(shape, optimizer, xla))

        def step(batch: LoadedBlock) -> tf.Tensor:
            epoch, block = batch
            bounds = tf.constant(block.bounds)
            losses = [one_step(block.shape)(epoch, bounds, tf.constant(k)) for k in range(block.num_steps)]
            return tf.add_n(losses) / block.num_steps

        return step

    def _share(self, shape: Shape, optimizer: LazyAdamW, xla: bool) -> SharedStep:
        """Steps of a shape, of whose groups this process has its part."""
        own_shape = shape._replace(groups=shape.groups // self.cluster.num_replicas)

        def loss(epoch: Epoch, bounds: tf.Tensor, step: tf.Tensor, groups: Groups) -> tuple[tf.Tensor, tf.Tensor]:
            batch = self.source.build(epoch, bounds, own_shape)
            num_scored = count_scored_groups(batch)
            return self.loss(batch, step, groups) * num_scored, num_scored

        tables = Tables(num_packs=self.cluster.num_replicas)
        return SharedStep(self.variables(), loss, optimizer, self.cluster, tables, xla)

    def _compile_for(self, shape: Shape, shared: SharedStep) -> Callable[[Epoch, tf.Tensor, tf.Tensor], tf.Tensor]:
        each = shape.groups // self.cluster.num_replicas
        first = self.cluster.local_replicas.start * each

        # One step: the exchanges may not lie in a loop of the graph, and a graph of many steps takes minutes to build.
        @tf.function
        def run(epoch: Epoch, bounds: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
            own = bounds[k, first : first + each]
            return self.cluster.run(lambda index: shared.make(index, [(epoch, own)], each))

        return run


def count_scored_groups(batch: Batch) -> tf.Tensor:
    """Groups with a target that competes, over which `LongRetriever.compute_loss` means: scalar float32."""
    at = tf.stack([batch.target_row, batch.target_local % tf.shape(batch.item)[1]], 1)
    mass = batch.target_weight * tf.cast(tf.gather_nd(batch.recipe.is_available, at), tf.float32)
    per_group = tf.reduce_sum(tf.reshape(mass, [batch.item.shape[0], -1]), 1)
    return tf.math.count_nonzero(per_group, dtype=tf.float32)
