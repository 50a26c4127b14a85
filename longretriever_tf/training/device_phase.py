"""The towers' phase with its input on the device: a call makes many steps of one shape, the host sends bounds alone."""

import concurrent.futures
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import Examples
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.on_device import Block, DeviceSource, Epoch, Shape, plan_blocks
from longretriever_tf.data.batches.prepared_data import ExampleHistoryEmbeddings, Prepared
from longretriever_tf.data.batches.token_cache import CachedTokens
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.models.retriever import LongRetriever
from longretriever_tf.models.stateless_dropout import StatelessRng
from longretriever_tf.training.phases import TowerPhase

LoadedBlock = tuple[Epoch, Block]
"""A block and the columns of its epoch, on the device."""


class DeviceTowerPhase:
    """Trains the two towers as `TowerPhase` does, from batches gathered on the device.

    Args:
      config: the run's config, with `device_input`.
      towers: the ordinary phase: its plan and its validation are used.
      model: the towers.
      prepared: the training window.
      examples: the examples.
      kept: their histories.
      history embeddings: their history embeddings.

    Raises:
      UserError: the histories were not kept.
    """

    name = "towers"

    def __init__(
        self,
        config: Config,
        towers: TowerPhase,
        model: LongRetriever,
        prepared: Prepared,
        examples: Examples,
        kept: CachedTokens,
        history_embeddings: ExampleHistoryEmbeddings,
    ) -> None:
        self.epochs = config.train.epochs
        self._config, self._towers, self._model, self._examples = config, towers, model, examples
        self._category_size = np.diff(prepared.corpus.category_offset)
        self._source = DeviceSource(prepared, examples, kept, history_embeddings)
        self._ahead: dict[int, concurrent.futures.Future] = {}
        self.shapes: list[Shape] = []
        blocks = self.plan(0)[1]
        self._num_blocks, self._num_steps = len(blocks), sum(block.num_steps for block in blocks)
        self.shapes = sorted({block.shape for block in blocks})

    def plan(self, epoch: int) -> tuple[Epoch, list[Block]]:
        """The blocks of an epoch, and the columns that they read."""
        plan = self._towers.plan(epoch)
        targets, size = self._source.targets, self._category_size
        return plan_blocks(self._config, plan, self._examples, targets, size, epoch, self.shapes)

    def num_batches(self) -> int:
        return self._num_blocks

    def num_steps(self) -> int:
        return self._num_steps

    def num_examples(self) -> int:
        return len(self._examples)

    def make_dataset(self, epoch: int, first: int = 0) -> Iterator[LoadedBlock]:
        """Blocks of an epoch from `first` on. The next epoch is planned meanwhile: the device would wait for it.

        The planning thread ends with the epoch's iterator, also with one that is dropped half-way.
        """
        planned = self._ahead.pop(epoch, None)
        columns, blocks = self.plan(epoch) if planned is None else planned.result()
        with concurrent.futures.ThreadPoolExecutor(1, "plan") as planner:
            if epoch + 1 < self.epochs:
                self._ahead = {epoch + 1: planner.submit(self.plan, epoch + 1)}
            loaded = self._source.load_epoch(columns)
            for block in blocks[first:]:
                yield loaded, block

    def batch_examples(self, batch: LoadedBlock) -> int:
        return batch[1].num_examples

    def loss(self, batch: tuple[Epoch, tf.Tensor, Shape], step: tf.Tensor) -> tf.Tensor:
        """Mean loss of the groups of one step ([G, 4] bounds)."""
        made = self._source.build(*batch)
        return self._model.grouped_loss(made, StatelessRng(self._config.train.seed, step), batch[2].groups)

    def variables(self) -> list[tf.Variable]:
        return self._model.trainable_variables

    def on_epoch_end(self, epoch: int) -> float | None:
        return self._towers.on_epoch_end(epoch)

    def make_step(self, optimizer: LazyAdamW, xla: bool) -> Callable[[LoadedBlock], tf.Tensor]:
        """The function from a block to the mean loss of its steps; compiled once per shape."""
        variables = self.variables()
        compiled: dict[Shape, Callable[..., tf.Tensor]] = {}

        def compile_for(shape: Shape) -> Callable[..., tf.Tensor]:
            @tf.function(jit_compile=xla)
            def run(epoch: Epoch, bounds: tf.Tensor, num_steps: tf.Tensor) -> tf.Tensor:
                def one(k: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                    with tf.GradientTape() as tape:
                        loss = self.loss((epoch, bounds[k], shape), optimizer.step)
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


def make_device_phase(
    config: Config,
    towers: TowerPhase,
    model: LongRetriever,
    prepared: Prepared,
    examples: Examples,
    source: BatchSource,
) -> DeviceTowerPhase:
    """The phase over histories that were kept.

    Args:
      config: the run's config, with `device_input`.
      towers: the ordinary phase.
      model: the towers.
      prepared: the training window.
      examples: the examples.
      source: of the ordinary phase: its histories and history embeddings are used.

    Raises:
      UserError: they were not: --materialise_gb is too small.
    """
    if not isinstance(source.histories, CachedTokens):
        raise UserError(
            f"--device_input keeps all histories, and they do not fit into "
            f"--materialise_gb={config.train.materialise_gb}: raise it, or train without --device_input"
        )
    return DeviceTowerPhase(config, towers, model, prepared, examples, source.histories, source.history_embeddings)
