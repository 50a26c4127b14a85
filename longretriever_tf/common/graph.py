"""Functions as graphs, traced as they stand: without AutoGraph.

AutoGraph rewrites the source of whatever a function calls, Keras layers included, so that `if` and `for` may ask
tensors. This package asks by `tf.cond` and `tf.while_loop`: rewriting changes no graph, and takes a quarter of the time
of a small training or an export. Without it, an `if` on a tensor is an error of TensorFlow's that says so. A training
step is still rewritten but for its largest parts: TFRS's retrieval task, within it, needs that.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

F = TypeVar("F", bound=Callable[..., Any])


def graph_function(function: Callable[..., Any], **options: Any) -> tf.types.experimental.GenericFunction:
    """`tf.function(function, **options)`, whose body is not rewritten."""
    return tf.function(function, autograph=False, **options)


def as_it_stands(function: F) -> F:
    """The function (a Keras layer's `call`, a map of `tf.data`), never rewritten, nor what it calls."""
    unchanged: Any = tf.autograph.experimental.do_not_convert(function)
    unchanged.__signature__ = inspect.signature(function)  # Keras asks it which arguments a layer takes
    return unchanged
