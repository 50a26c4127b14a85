"""Layers for inference alone: their weights are constants of the graph.

Without it, a request of five categories spends 10 to 15% more CPU time in the towers (one thread, the demo's model):
each weight is read from its variable, cast, and multiplied with other weights anew.

The copy is overwritten because nothing else makes constants: a second layer of the same class calls `add_weight`, which
makes variables again, and freezing the whole SavedModel would freeze its tables and indices with it. What this relies
on, that Keras 2 layers hold their weights in plain attributes, tests/test_costs.py checks: the graph of a frozen layer
reads no variable and gives the same answer.
"""

import copy
from typing import TypeVar

import tensorflow as tf

_LARGEST = 1 << 20
"""Elements of a weight, above which it stays a variable: a graph is no place for large tables."""

_Layer = TypeVar("_Layer", bound=tf.keras.layers.Layer)


def freeze(layer: _Layer) -> _Layer:
    """A copy whose weights no training reaches: a request reads no variables for them.

    Products of weights alone are computed at loading, but for those in branches and loops, which are not folded.

    Args:
      layer: built.
    """
    frozen = copy.deepcopy(layer)
    for part in (frozen, *frozen.submodules):
        for name, value in list(vars(part).items()):
            if isinstance(value, tf.Variable):
                setattr(part, name, _constant(value, part))
            elif isinstance(value, list) and not name.startswith("_") and value and isinstance(value[0], tf.Variable):
                setattr(part, name, [_constant(one, part) for one in value])
    return frozen


def _constant(weight: tf.Variable, owner: tf.Module) -> tf.Tensor | tf.Variable:
    """In the dtype that the layer computes in: Keras casts variables there, and does not cast constants."""
    if weight.shape.num_elements() > _LARGEST:
        return weight
    value = tf.constant(weight.numpy())
    is_layer = isinstance(owner, tf.keras.layers.Layer) and value.dtype.is_floating
    return tf.cast(value, owner.compute_dtype) if is_layer else value
