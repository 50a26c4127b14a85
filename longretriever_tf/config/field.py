"""How a setting is declared: its default, its help text, its choices. Imports no TensorFlow."""

import dataclasses
from typing import Any


def setting(default: Any, help_text: str, choices: tuple[str, ...] = (), hidden: bool = False) -> Any:
    """A dataclass field that `config/flags.py` turns into a flag.

    Args:
      default: written here and nowhere else.
      help_text: what `--help` says: what the setting does, and the measurement or the need that keeps it.
      choices: the values allowed; empty: any.
      hidden: `--help` leaves it out and `--helpfull` lists it: benchmarks and special cases.
    """
    return dataclasses.field(default=default, metadata={"help": help_text, "choices": choices, "hidden": hidden})
