"""Raw ids to indices, by a hash table that is filled from a variable while the model loads.

Keys that stand in the graph make saved_model.pb grow with the catalogue, and a protobuf ends at 2 GB: 33 to 65 million
items (23 bytes an item and more).
"""

import uuid

import tensorflow as tf

from longretriever_tf.common import schema


class IdTable(tf.saved_model.experimental.TrackableResource):
    """Raw id -> index; UNKNOWN where there is none.

    Args:
      ids: raw ids by index, [n] int64 or string; those before FIRST_KNOWN are placeholders, and no keys. Whoever owns
        the variable saves it.
    """

    def __init__(self, ids: tf.Variable) -> None:
        super().__init__(device="/CPU:0")
        self._ids = ids
        self._name = f"ids-{uuid.uuid4()}"  # tables of one name would be one table, in every model of a process
        self._initialize()

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Index of each id, any shape, int32."""
        unknown = tf.constant(schema.UNKNOWN, tf.int32)
        found = tf.raw_ops.LookupTableFindV2(table_handle=self.resource_handle, keys=ids, default_value=unknown)
        return tf.ensure_shape(found, tf.convert_to_tensor(ids).shape)

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.HashTableV2(key_dtype=self._ids.dtype, value_dtype=tf.int32, shared_name=self._name)

    def _initialize(self) -> None:
        known = self._ids.read_value()[schema.FIRST_KNOWN :]
        index = tf.range(tf.size(known)) + schema.FIRST_KNOWN
        tf.raw_ops.LookupTableImportV2(table_handle=self.resource_handle, keys=known, values=index)


def id_variable(ids: object, name: str) -> tf.Variable:
    """Raw ids, [n] int64 or text, as a variable for `IdTable`: outside the graph."""
    return tf.Variable(tf.constant(ids), trainable=False, name=name)
