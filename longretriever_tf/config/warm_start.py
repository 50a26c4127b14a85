"""The settings of an update: those of the run that it goes on from, with what is given laid over them.

For the flags of `train` and for the Python API alike. Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, TrainConfig, UpdateConfig, load_config

_OF_ITS_OWN = ("run_dir", "distribute", "item_tables")
"""Settings of training that an update does not take over: its directory, and devices, since it runs on one."""


def earlier_settings(run_dir: str) -> Config:
    """What the settings of an update begin as.

    Args:
      run_dir: of the earlier run.

    Raises:
      UserError: no run is there.
    """
    base, default = load_config(run_dir), TrainConfig()
    train = dataclasses.replace(base.train, **{name: getattr(default, name) for name in _OF_ITS_OWN})
    return dataclasses.replace(base, train=train, update=UpdateConfig())


def with_one_epoch(config: Config, given: Collection[str]) -> Config:
    """The settings with at most one epoch of each phase, but for a number of epochs that was given.

    Args:
      config: of the update.
      given: names of the settings that were given.
    """
    once: dict[str, Any] = {"epochs": 1, "interest_epochs": min(1, config.train.interest_epochs)}
    once = {name: value for name, value in once.items() if name not in given}
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **once))


def require_warm_start(given: Mapping[str, Any]) -> None:
    """Refuses settings of an update where none is asked for.

    Args:
      given: settings that were given, by name; they, and not their values, since a run keeps values that may be no
        longer the default.

    Raises:
      UserError: names the first such setting.
    """
    if given.get("warm_start"):
        return
    for field in dataclasses.fields(UpdateConfig):
        if field.name in given and field.name != "warm_start":
            raise UserError(
                f"--{field.name}={given[field.name]} is read with --warm_start=RUN_DIR alone; leave the flag out"
            )
