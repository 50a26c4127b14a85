"""LongRetriever: candidate retrieval that reads a user's whole history, in TensorFlow.

Ren, Chai, Xiao, Zheng, Wu (ByteDance, 2025), "LongRetriever: Towards Ultra-Long Sequence based Candidate Retrieval
for Recommendation".

  import longretriever_tf as lr

  model = lr.train(lr.Config(events=events, items=items))  # DataFrames, or paths
  model.evaluate(), model.recommend("user 7", k=20), model.export("exports/mine")
  lr.load("runs/default")

Commands: `longretriever` lists them. `longretriever minimal` runs the whole paper, which is one file.
"""

import importlib
import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longretriever_tf.api import Config as Config
    from longretriever_tf.api import Model as Model
    from longretriever_tf.api import load as load
    from longretriever_tf.api import train as train
    from longretriever_tf.common.errors import UserError as UserError

__version__ = "0.1.0"

_API = f"{__name__}.api"
_HOMES = {"Config": _API, "Model": _API, "load": _API, "train": _API, "UserError": f"{__name__}.common.errors"}
"""The names of the root and the modules that they are imported from when first used, so that this import is quick."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(types.ModuleType):
    """This package as a module whose function `train` stays, whoever imports the command of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


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
