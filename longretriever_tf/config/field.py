"""How a setting is declared: its default, its help text, its choices. Imports no TensorFlow."""

import dataclasses
from typing import Any


def setting(default: Any, help_text: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that `config/flags.py` turns into a flag.

    Args:
      default: written here and nowhere else.
      help_text: what `--help` says.
      choices: the values allowed; empty: any.
    """
    return dataclasses.field(default=default, metadata={"help": help_text, "choices": choices})
