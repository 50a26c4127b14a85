"""The settings of a run and its log, flat, by the names of the flags. Imports no TensorFlow."""

import dataclasses
import difflib
import numbers
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import config as config_lib
from longretriever_tf.config import recipes
from longretriever_tf.config.data import DataConfig
from longretriever_tf.config.formats import with_format
from longretriever_tf.config.warm_start import earlier_settings, require_warm_start, with_one_epoch
from longretriever_tf.datasets.frames import FOLDER, frame_path, select_columns, table_columns, write_frames

_SECTIONS = {field.name: field.type for field in dataclasses.fields(config_lib.Config)}
_SECTION_OF = {
    field.name: section
    for section, cls in _SECTIONS.items()
    for field in dataclasses.fields(cls)  # type: ignore[arg-type]
}
_TABLES = ("events", "items", "users")
Table: TypeAlias = pd.DataFrame | str | os.PathLike[str] | None


class Config:
    """The log and the settings of a run, by the names of the flags of `train`.

    `longretriever train --help` describes every setting; here --window_days=14 is `window_days=14`. A mistake is a
    `UserError` at once, whose message names the setting.

    Args:
      events: a DataFrame with the columns user_id, item_id, timestamp (other names: `user_column=...`), or the path of
        such tables. None: the log that `dataset` names, the demo's by default.
      items: the items with their category, in the same way; None: the events have the column.
      users: the users with their `user_features`.
      recipe: full (the default), paper or compact.
      **settings: any other setting. With `warm_start`, the settings of that run hold where none is given, as they do
        for `train`: one epoch of each phase.

    DataFrames are kept, as Parquet, below `run_dir`, where the commands read them too.

    >>> config = Config(pd.DataFrame({"user_id": ["ann"], "item_id": ["tea"], "timestamp": [1], "kind": ["hot"]}),
    ...                 context="kind", run_dir="runs/tea")
    >>> config.settings.data.events, config.settings.data.context
    ('runs/tea/tables/events.parquet', 'kind')
    >>> Config(epoch=3)
    Traceback (most recent call last):
    longretriever_tf.common.errors.UserError: epoch=3: there is no such setting; did you mean epochs?
    """

    def __init__(
        self,
        events: Table = None,
        items: Table = None,
        users: Table = None,
        *,
        recipe: str = "",
        **settings: Any,
    ) -> None:
        sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
        for name, value in settings.items():
            section = _section_of(name, value)
            sections[section][name] = _of_type(getattr(_SECTIONS[section](), name), name, value)  # type: ignore[operator]
        base = _base(recipe, sections)
        given = dict(zip(_TABLES, (events, items, users), strict=True))
        frames = {name: table for name, table in given.items() if isinstance(table, pd.DataFrame)}
        run_dir = sections["train"].get("run_dir", base.train.run_dir)
        for name, table in given.items():
            if table is not None:
                sections["data"][name] = frame_path(run_dir, name) if name in frames else _as_path(name, table)
        _require_events(given, sections["data"], base)
        if events is not None:
            sections["data"]["dataset"] = "event_log"
        if "events" in frames:  # what TFDS prepares belongs to the run alone
            sections["data"].setdefault("data_dir", os.path.join(run_dir, FOLDER, "prepared"))
        made = {name: _laid_over(getattr(base, name), sections[name]) for name in _SECTIONS}
        config = config_lib.Config(**made)
        self.settings = with_one_epoch(config, settings) if config.update.warm_start else config
        """Every setting, by section, as the rest of the package takes it."""
        self._tables: dict[str, pa.Table] = {
            name: select_columns(name, frame, table_columns(self.settings.data, name)) for name, frame in frames.items()
        }

    def write_frames(self) -> None:
        """Writes the DataFrames below the run directory; see `datasets.frames.write_frames`."""
        if self._tables:
            write_frames(self.settings.train.run_dir, self._tables)

    def __repr__(self) -> str:
        """What differs from the defaults."""
        default = config_lib.Config()
        parts = [f"{name}=<{table.num_rows:,} rows>" for name, table in self._tables.items()]
        for name, section in _SECTION_OF.items():
            value = getattr(getattr(self.settings, section), name)
            if name not in self._tables and value != getattr(getattr(default, section), name):
                parts.append(f"{name}={value!r}")
        return f"Config({', '.join(parts)})"


def _base(recipe: str, given: dict[str, dict[str, Any]]) -> config_lib.Config:
    """What the settings that are given are laid over: those of the run to go on from, if there is one, or a recipe."""
    require_warm_start({name: value for section in given.values() for name, value in section.items()})
    if recipe not in ("", *recipes.RECIPES):
        raise UserError(f"recipe={recipe!r}: expected one of {', '.join(recipes.RECIPES)}")
    former = given["update"].get("warm_start", "")
    if former and not recipe:
        return earlier_settings(former)
    default = config_lib.Config()
    chosen = recipes.RECIPES[recipe or recipes.FULL]
    for name, section in given.items():
        given[name] = {**chosen.get(name, {}), **section}
    return default


def _laid_over(base: Any, given: dict[str, Any]) -> Any:
    """A section with the settings that are given."""
    return with_format(base, given) if isinstance(base, DataConfig) else dataclasses.replace(base, **given)


def _require_events(tables: Mapping[str, Table], data: Mapping[str, Any], base: config_lib.Config) -> None:
    """Refuses tables that nothing would read."""
    dataset = data.get("dataset", "event_log")
    if tables["events"] is not None:
        if dataset != "event_log":
            raise UserError(f"dataset={dataset!r} with events: your own tables are dataset='event_log'; leave it out")
        return
    named = [name for name in _TABLES if tables[name] is not None]
    if named and data.get("dataset", base.data.dataset) != "event_log":
        raise UserError(f"{named[0]} without events: give the events too, by Config(events=..., {named[0]}=...)")


def _section_of(name: str, value: Any) -> str:
    if name in _TABLES or name in _SECTION_OF:
        return _SECTION_OF[name]
    near = difflib.get_close_matches(name, _SECTION_OF, 1)
    hint = f"did you mean {near[0]}?" if near else "`longretriever train --help` lists them"
    raise UserError(f"{name}={value!r}: there is no such setting; {hint}")


def _of_type(default: Any, name: str, value: Any) -> Any:
    """The value as the type of the setting's default; numpy's numbers are numbers."""
    named = f"{name}={value!r}: expected"
    if isinstance(default, bool):
        if not isinstance(value, bool | np.bool_):
            raise UserError(f"{named} True or False")
        return bool(value)
    if isinstance(default, tuple):
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
            raise UserError(f"{named} a list of names")
        return tuple(names)
    if isinstance(default, int):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise UserError(f"{named} a whole number")
        return int(value)
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise UserError(f"{named} a number")
        return float(value)
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{named} text")
    return os.fspath(value)


def _as_path(name: str, table: Any) -> str:
    if not isinstance(table, str | os.PathLike):
        raise UserError(f"{name}: expected a DataFrame or the path of a table, not {type(table).__name__}")
    return os.fspath(table)
