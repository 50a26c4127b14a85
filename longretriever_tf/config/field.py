"""How a setting is declared: its default, its help text, its choices and bounds. Imports no TensorFlow."""

import dataclasses
from typing import Any


def setting(
    default: Any,
    help_text: str,
    choices: tuple[str, ...] = (),
    hidden: bool = False,
    **bounds: float,
) -> Any:
    """A dataclass field that `config/flags.py` turns into a flag and `config/check.py` holds to its bounds.

    Args:
      default: written here and nowhere else.
      help_text: what `--help` says: what the setting does, and the measurement or the need that keeps it.
      choices: the values allowed; empty: any.
      hidden: `--help` leaves it out and `--helpfull` lists it: benchmarks and special cases.
      bounds: of a number: `above` what it must lie, or `least`, its smallest value; `most`, its largest.
    """
    return dataclasses.field(
        default=default, metadata={"help": help_text, "choices": choices, "hidden": hidden, "bounds": bounds}
    )
