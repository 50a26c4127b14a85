"""LongRetriever: candidate retrieval that reads a user's whole history, in TensorFlow.

Ren, Chai, Xiao, Zheng, Wu (ByteDance, 2025), "LongRetriever: Towards Ultra-Long Sequence based Candidate Retrieval
for Recommendation". Commands: `train`, `evaluate`, `export`, `recommend`, `serve`, `reproduce`, `inspect_log` and
`doctor`, each run as `python -m longretriever_tf.NAME --help`. `minimal` is the whole paper in one file.
"""

import os
import sys

__version__ = "0.1.0"


def _select_keras_2() -> None:
    """Makes `tf.keras` mean Keras 2, which TensorFlow Recommenders needs; TensorFlow reads this once, at its import."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
        keras = getattr(tensorflow, "keras", None)
        version = keras.version() if keras is not None and hasattr(keras, "version") else "3"
        if version.startswith("3"):
            raise ImportError(
                "longretriever_tf: TensorFlow was imported before this package, with Keras 3, which TensorFlow "
                "Recommenders refuses. Import longretriever_tf first, or set TF_USE_LEGACY_KERAS=1 in the environment."
            )
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    # TensorFlow logs the mere absence of a GPU as an error; what fails for real raises an exception as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


_select_keras_2()
