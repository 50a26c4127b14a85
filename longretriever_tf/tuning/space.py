"""The space of a search: which settings of `train` it draws, and from what. Read from TOML.

A section for each flag, with `choices`, or with `low` and `high` and, if wanted, `log = true` or a `step`:

  [learning_rate]
  low = 1e-3
  high = 1e-2
  log = true

Imports no TensorFlow and no Optuna.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from longretriever_tf.common.errors import UserError, require
from longretriever_tf.common.toml_files import read_toml
from longretriever_tf.config.check import check_value
from longretriever_tf.config.config import Config
from longretriever_tf.config.former import FORMER_NAMES
from longretriever_tf.config.shipped import find_shipped

Value = bool | int | float | str

_FIXED = {
    "data": "says what the log is and which window is asked about; every trial must have the same",
    "model": "says what is trained; a search is of one model: give it as a flag",
    "cut": "decides what is learned from; a search trains with --cut=validation",
    "seed": "is luck, not a setting",
    "run_dir": "is the trial's own",
    "distribute": "says which devices train; a trial is one process on one device",
    "max_k": "limits what an export may be asked",
    "max_candidates": "limits what an export may be asked",
    "max_values": "limits what an export may be asked",
    "strict": "limits what an export may be asked",
    "index": "belongs to `export`; it is not trained",
}
"""Settings, and sections of the config, that a search may not draw, and why."""

_DRAWN_OF_DATA = ("context",)
_DIGITS = 4  # of a number that is drawn: more would be noise in flags that people read


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting and what it is drawn from: `choices`, or the numbers from `low` to `high`.

    Attributes:
      name: of the flag.
      section: of the config.
      choices: all values; empty: a range.
      low, high: ends of the range, included.
      log: drawn evenly on the logarithmic scale.
      step: distance of the values of the range from `low` on; 0: any number, or every whole number.
    """

    name: str
    section: str
    choices: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: float = 0

    @property
    def is_whole(self) -> bool:
        """Whether a range holds whole numbers alone."""
        return isinstance(self.low, int)

    def contains(self, value: Any) -> bool:
        """Whether a search can draw `value`."""
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return not self.step or math.isclose((value - self.low) / self.step, round((value - self.low) / self.step))

    def shorten(self, value: Value) -> Value:
        """A drawn value as its flag has it: a number between two steps is cut to four digits."""
        if not isinstance(value, float):
            return value
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)


@dataclasses.dataclass(frozen=True)
class Space:
    """What a search draws, by the name of the flag, in the order of the file."""

    settings: Mapping[str, Setting]

    def apply(self, config: Config, drawn: Mapping[str, Value]) -> Config:
        """The config with drawn values laid over it.

        Raises:
          UserError: they do not go together.
        """
        sections: dict[str, dict[str, Value]] = {}
        for name, value in drawn.items():
            sections.setdefault(self.settings[name].section, {})[name] = value
        changed = {name: dataclasses.replace(getattr(config, name), **given) for name, given in sections.items()}
        return dataclasses.replace(config, **changed)

    def values_of(self, config: Config) -> dict[str, Value]:
        """What a config has for the settings of the space."""
        return {name: getattr(getattr(config, setting.section), name) for name, setting in self.settings.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        """As JSON: what two searches must agree on to be one."""
        return {
            name: {key: list(value) if isinstance(value, tuple) else value for key, value in vars(setting).items()}
            for name, setting in self.settings.items()
        }


def load_space(path: str) -> Space:
    """Reads and checks a space.

    Raises:
      UserError: no such file, not TOML, a setting that `train` does not have or that a search may not draw, or values
        that the setting does not take.
    """
    values = read_toml(find_shipped("--space", path, "tune"), "space", "configs/tune")
    fields = {
        field.name: (section.name, field)
        for section in dataclasses.fields(Config)
        for field in dataclasses.fields(section.type)  # type: ignore[arg-type]
    }
    settings = {}
    for written, entry in values.items():
        name = FORMER_NAMES.get(written, written)
        where = f"{path}: [{written}]"
        require(name in fields, f"{where}: `train` has no flag --{written}; --helpfull lists them")
        section, field = fields[name]
        why = "" if name in _DRAWN_OF_DATA else _FIXED.get(name, _FIXED.get(section, ""))
        # The section "model" holds what is drawn; the setting "model" is not.
        why = _FIXED.get(name, "") if section == "model" else why
        require(not why, f"{where}: --{name} {why}; leave it out of the space")
        require(not isinstance(field.default, tuple), f"{where}: --{name} is a list, which a search cannot draw")
        require(isinstance(entry, dict), f"{where}: {entry!r}; expected a section with choices, or with low and high")
        settings[name] = _parse(name, section, field, entry, where)
    require(bool(settings), f"{path}: no setting in it; expected a section for each flag to draw, such as [dropout]")
    return Space(settings)


def _parse(name: str, section: str, field: Any, entry: dict[str, Any], where: str) -> Setting:
    known = ("choices", "low", "high", "log", "step")
    unknown = [key for key in entry if key not in known]
    require(not unknown, f"{where}: unknown key {', '.join(map(repr, unknown))}; known: {', '.join(known)}")
    if "choices" in entry:
        require(list(entry) == ["choices"], f"{where}: choices stand alone; leave out low, high, log and step")
        return Setting(name, section, _parse_choices(field, entry["choices"], where))
    require("low" in entry and "high" in entry, f"{where}: expected choices, or low and high")
    low, high = (_typed(field, entry[end], f"{where}: {end}") for end in ("low", "high"))
    if isinstance(low, bool | str) or isinstance(high, bool | str):
        raise UserError(f"{where}: --{name} is no number; give it choices = [...]")
    require(low < high, f"{where}: low = {low} and high = {high}; expected low below high")
    log, step = entry.get("log", False), entry.get("step", 0)
    require(isinstance(log, bool), f"{where}: log = {log!r}; expected true or false")
    require(not log or low > 0, f"{where}: log = true with low = {low}; expected low above 0")
    require(not (log and step), f"{where}: log and step; expected one of the two")
    if step:
        step = _typed(field, step, f"{where}: step", is_value=False)
        require(0 < step <= high - low, f"{where}: step = {step}; expected above 0 and at most high - low")
    return Setting(name, section, (), low, high, log, step)


def _parse_choices(field: Any, choices: Any, where: str) -> tuple[Value, ...]:
    require(isinstance(choices, list) and len(choices) > 1, f"{where}: choices = {choices!r}; expected a list of two")
    typed = tuple(_typed(field, choice, f"{where}: choices") for choice in choices)
    require(len(set(typed)) == len(typed), f"{where}: choices = {choices!r}; expected each once")
    return typed


def _typed(field: Any, value: Any, where: str, is_value: bool = True) -> Any:
    """A value of a setting in the setting's own type, within its bounds."""
    wanted = type(field.default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    names = {bool: "true or false", int: "whole numbers", float: "numbers", str: "text"}
    require(type(value) is wanted, f"{where}: {value!r}; --{field.name} takes {names[wanted]}")
    if is_value:
        try:
            check_value(field, value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    return value
