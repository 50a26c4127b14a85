"""The actions of a request's history: what each event weighs, and which events are of target actions."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.text import as_text
from longretriever_tf.config.actions import action_weights, default_weight
from longretriever_tf.config.data import DataConfig
from longretriever_tf.retrieval.admission import require
from longretriever_tf.retrieval.id_tables import IdTable, id_variable


class ReadActions(NamedTuple):
    """What the actions of B histories say.

    Attributes:
      weight: to multiply the event's own by, in the shape of the column, float32.
      is_target: whether the event is of a target action, in the same shape, bool; None: every event is.
    """

    weight: tf.Tensor
    is_target: tf.Tensor | None


class ActionTable(tf.Module):
    """Actions by name, as the model was trained.

    An event whose action is "" counts as the first of --target_actions (without these: as any event, weight 1). An
    action that the log of the training did not have weighs 1 and is no target; `count_unknown` tells of it.

    Args:
      data: of the run.
      names: the log's actions, [A] of str.
    """

    def __init__(self, data: DataConfig, names: np.ndarray) -> None:
        super().__init__(name="actions")
        rows = [*[""] * schema.FIRST_KNOWN, *names.tolist()]
        of_action = action_weights(data.action_weights)
        weights = [default_weight(data), 1.0, *(of_action.get(name, 1.0) for name in names.tolist())]
        self._names = id_variable(as_text(rows), "action_name")
        self._index = IdTable(self._names)
        self._weight = tf.constant(weights, tf.float32)
        self._is_target = None
        if data.target_actions:
            self._is_target = tf.constant([True, False, *(name in data.target_actions for name in names.tolist())])

    def read(self, action: tf.Tensor) -> ReadActions:
        """The weights and targets of a column `history_action`, [B, T], [B, 1] or [1, 1] string."""
        index = self._look_up(action)
        is_target = None if self._is_target is None else tf.gather(self._is_target, index)
        return ReadActions(tf.gather(self._weight, index), is_target)

    def count_unknown(self, action: tf.Tensor, timestamp: tf.Tensor, strict: bool) -> tf.Tensor:
        """Events whose action the model does not know, [B] int32; `timestamp` [B, T] is 0 where there is no event.

        Fails with InvalidArgument where there is one, if the export is strict.
        """
        is_unknown = self._look_up(action) == schema.UNKNOWN
        checks = []
        if strict:
            says = "`history_action` names actions that this model does not know (export --strict):"
            checks = require(~tf.reduce_any(is_unknown), says, tf.boolean_mask(action, is_unknown))
        with tf.control_dependencies(checks):
            return tf.reduce_sum(tf.cast(is_unknown & (timestamp > 0), tf.int32), 1)

    def _look_up(self, action: tf.Tensor) -> tf.Tensor:
        return tf.where(action == "", schema.PADDING, self._index.lookup(action))
