"""The Python API on one screen: train, evaluate, recommend, export; DataFrames in, DataFrames out.

  import longretriever_tf as lr

  model = lr.train(lr.Config(events=events, items=items, run_dir="runs/mine"))
  model.evaluate()                      # a row for each model, baselines included
  model.recommend("user 7", k=20)       # a user of the log, or anyone's history as a DataFrame
  model.export("exports/mine")          # a SavedModel
  model = lr.load("exports/mine")       # or lr.load("runs/mine")

These names are those of the package's root, which imports this module, and TensorFlow, when one is first used. A run
made here is the same as one that the commands make: each opens the other's.
"""

import os

from longretriever_tf.api.model import Model
from longretriever_tf.api.settings import Config
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import load_config
from longretriever_tf.tracking.names import require_installed

__all__ = ["Config", "Model", "load", "train"]


def train(config: Config) -> Model:
    """Trains a run, or resumes it, or opens it where it has finished; progress is printed.

    Args:
      config: the log and the settings.

    Raises:
      UserError: the log, a setting or the run directory cannot be used.
    """
    if not isinstance(config, Config):
        raise UserError(f"train takes a Config, not {type(config).__name__}: train(Config(events=..., items=...))")
    require_installed(config.settings.train.tracker)
    from longretriever_tf.training import run

    config.write_frames()
    print(run.train(config.settings), flush=True)
    return load(config.settings.train.run_dir)


def load(path: str | os.PathLike[str]) -> Model:
    """Opens the directory of a finished run, or of an export.

    Raises:
      UserError: it is neither.
    """
    from longretriever_tf.retrieval.export.saved_model import extra_config_dir, latest_version
    from longretriever_tf.retrieval.export.version_dirs import versions

    path = os.fspath(path)
    if os.path.exists(os.path.join(path, "config.json")):
        from longretriever_tf.training.run_dir import is_finished

        if not is_finished(path):
            raise UserError(f"{path!r} holds a run that has not finished: train it with the same config to go on")
        return Model(load_config(path), run_dir=path)
    if versions(path):
        return Model(load_config(extra_config_dir(latest_version(path))), export_dir=path)
    raise UserError(
        f"{path!r} is neither a run directory nor an export: `train` makes the one, `Model.export` the other"
    )
