"""ScaNN's TensorFlow operations, and nothing of the models: a server loads them too, and has no Keras."""

from typing import Any

import tensorflow as tf

from longretriever_tf.common.errors import UserError


def load_ops() -> Any:
    """ScaNN's TensorFlow operations; a process needs them before it loads a model that holds searchers.

    Raises:
      UserError: scann is missing, or was built for another TensorFlow.
    """
    try:
        from scann.scann_ops.py import scann_ops
    except (ImportError, tf.errors.OpError) as error:
        raise UserError(
            f"ScaNN indexes need the package scann ({error}): pip install 'longretriever_tf[scann]' (Linux), or export "
            "with --index=packed, which needs nothing"
        ) from error
    return scann_ops
