"""What the fork server of `command_server` imports: libraries alone, in the order of the package."""

import os

os.environ.setdefault("NO_GCE_CHECK", "true")
os.environ["MPLBACKEND"] = "agg"

import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.figure  # noqa: F401
import pandas  # noqa: F401
import pyarrow.parquet  # noqa: F401
import scipy.cluster.vq  # noqa: F401
import scipy.optimize  # noqa: F401
import scipy.sparse.linalg  # noqa: F401
import tensorflow as tf
import tensorflow_datasets  # noqa: F401
import tensorflow_recommenders  # noqa: F401

import longretriever_tf  # noqa: F401 - selects Keras 2

tf.keras.layers.Layer  # noqa: B018 - a lazy import, and the longest
