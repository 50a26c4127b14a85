"""When snapshots are taken and how far they look ahead, where the flags leave it to the windows. No TensorFlow."""

import dataclasses
from typing import Any, TypeVar

T = TypeVar("T")

_STEP_DAYS, _OF_DAYS = 10, 28
"""So many days between snapshots for a horizon of so many: what --window_days=28 was measured with."""


def horizon_days(config: Any) -> float:
    """How far ahead the targets of a snapshot lie, days: as far as a window that is evaluated, unless a flag says so.

    Args:
      config: a whole `Config`.
    """
    return float(config.train.horizon_days or config.data.window_days)


def snapshot_every_days(config: Any) -> float:
    """Days between snapshots: in proportion to the horizon, unless a flag says so.

    Args:
      config: a whole `Config`.
    """
    return float(config.train.snapshot_every_days or horizon_days(config) * _STEP_DAYS / _OF_DAYS)


def settled(config: T) -> T:
    """The config with both written out: a run that was given as many days by flags is the same run.

    Args:
      config: a whole `Config`.
    """
    known: Any = config
    implied = {"horizon_days": horizon_days(known), "snapshot_every_days": snapshot_every_days(known)}
    whole: T = dataclasses.replace(known, train=dataclasses.replace(known.train, **implied))
    return whole
