"""Checkpoints of a training in several processes: the chief writes and reads them, the others hear of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.training.distributed.cluster import Cluster
from longretriever_tf.training.loop import Checkpoints, LoopState


class SharedCheckpoints:
    """`Checkpoints` of the chief, with the same methods on every process; all call them at the same steps.

    Files are whole: a run goes on with any number of workers. Only the chief needs to see the directory.

    Args:
      files: the chief's; None on the others.
      models: variables of the models.
      others: of the optimizers and of the position.
      owned: variables whose rows belong to one process each, and which of them count here.
      cluster: the processes.
    """

    def __init__(
        self,
        files: Checkpoints | None,
        models: Sequence[tf.Variable],
        others: Sequence[tf.Variable],
        owned: Sequence[tuple[tf.Variable, np.ndarray]],
        cluster: Cluster,
    ) -> None:
        self._files, self._models, self._others = files, models, others
        self._owned, self._cluster = owned, cluster

    def restore(self) -> bool:
        """Goes back to the latest position; False where there is none.

        Raises:
          UserError: the checkpoint is damaged, or of a run of other shapes.
        """
        found = self._cluster.gather(lambda: self._files is not None and self._files.restore())[0]
        if found:
            self._cluster.copy_from_chief([*self._models, *self._others])
        return bool(found)

    def save(self) -> None:
        """Saves the position, with every row as its owner has it."""
        self._cluster.merge(self._owned)
        if self._files is not None:
            self._files.save()

    def save_weights(self, name: str) -> None:
        """Saves the weights alone; `save` has gathered them."""
        if self._files is not None:
            self._files.save_weights(name)

    def has_weights(self, name: str) -> bool:
        """Whether `save_weights` has ended under this name."""
        return bool(self._cluster.from_chief(float(self._files is not None and self._files.has_weights(name))))

    def restore_best(self, epoch: int) -> None:
        """Reads the weights of the best epoch."""
        if self._files is not None:
            self._files.restore_best(epoch)
        self._cluster.copy_from_chief(self._models)

    def remove_best(self, but: int = -1) -> None:
        """Removes the weights of best epochs that were, all but those of the epoch `but`."""
        if self._files is not None:
            self._files.remove_best(but)


def share_checkpoints(
    files: Checkpoints | None,
    models: dict[str, tf.Module],
    optimizers: Sequence[Any],
    state: LoopState,
    owned: Sequence[tuple[tf.Variable, np.ndarray]],
    cluster: Cluster,
) -> SharedCheckpoints:
    """The checkpoints of a run in several processes."""
    variables = [variable for model in models.values() for variable in model.variables]
    others = [variable for optimizer in optimizers for variable in optimizer.variables] + list(vars(state).values())
    return SharedCheckpoints(files, variables, others, owned, cluster)
