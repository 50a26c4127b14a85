"""The towers' phase with its input on the device: a call makes many steps of one shape, the host sends bounds alone."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from longretriever_tf.data.batches.on_device import DeviceSource, Epoch, LoadedBlock, Shape
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.training.phases import Phase


@dataclasses.dataclass
class DevicePhase(Phase):
    """Trains the two towers as the ordinary phase does, from batches gathered on the device; see `Phase`."""

    source: DeviceSource

    def num_steps(self) -> int:
        """Steps of the optimizer in an epoch: a block makes many."""
        return self.source.num_steps()

    def batch_examples(self, batch: LoadedBlock) -> int:
        """Examples of a block."""
        return batch[1].num_examples

    def make_step(self, optimizer: LazyAdamW, xla: bool) -> Callable[[LoadedBlock], tf.Tensor]:
        """The function from a block to the mean loss of its steps; compiled once per shape."""
        variables = self.variables()
        optimizer.build(variables)
        compiled: dict[Shape, Callable[..., tf.Tensor]] = {}

        def compile_for(shape: Shape) -> Callable[..., tf.Tensor]:
            @tf.function(jit_compile=xla)
            def run(epoch: Epoch, bounds: tf.Tensor, num_steps: tf.Tensor) -> tf.Tensor:
                def one(k: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                    with tf.GradientTape() as tape:
                        loss = self.loss(self.source.build(epoch, bounds[k], shape), optimizer.iterations)
                    optimizer.apply(tape.gradient(loss, variables), whole_tables=xla)
                    return k + 1, total + loss

                start = tf.constant(0), tf.constant(0.0)
                total = tf.while_loop(lambda k, _: k < num_steps, one, start, parallel_iterations=1)[1]
                return total / tf.cast(num_steps, tf.float32)

            return run

        def step(batch: LoadedBlock) -> tf.Tensor:
            epoch, block = batch
            if block.shape not in compiled:
                compiled[block.shape] = compile_for(block.shape)
            return compiled[block.shape](epoch, tf.constant(block.bounds), tf.constant(block.num_steps))

        return step
