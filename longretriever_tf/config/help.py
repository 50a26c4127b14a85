"""What `--help` prints: the flags that people need first, the others by section, those of benchmarks left out."""

import dataclasses
import shutil
import textwrap
from collections.abc import Collection, Iterable
from typing import Any

from longretriever_tf.config.config import Config
from longretriever_tf.config.former import FORMER_NAMES

_FIRST = ("recipe", "dataset", "events", "items", "context", "cut", "model", "run_dir")
_TITLES = {
    "data": "Data",
    "model": "Model",
    "train": "Training",
    "retrieval": "Retrieval",
    "index": "Index",
    "update": "Updates of a run (--warm_start)",
    "baseline": "Neural baselines (--model=two_tower|mind|comirec)",
}


def help_text(description: str, of_command: Iterable[Any], sections: Collection[str]) -> str:
    """The help of a command.

    Args:
      description: the command's docstring.
      of_command: its absl flags, in any order.
      sections: the sections of the config whose fields are flags of it.
    """
    present = {flag.name: flag for flag in of_command if flag.name not in FORMER_NAMES}
    fields = {
        section.name: dataclasses.fields(section.type)  # type: ignore[arg-type]
        for section in dataclasses.fields(Config)
        if section.name in sections
    }
    settings = {field.name for section in fields.values() for field in section}
    first = [name for name in _FIRST if name in present and "recipe" in present]
    groups = [
        ("The flags that most people need", first),
        ("Of this command", sorted(set(present) - settings - set(first))),
    ]
    num_hidden = 0
    for section, names in fields.items():
        shown = [field.name for field in names if not field.metadata["hidden"]]
        num_hidden += len(names) - len(shown)
        groups.append((_TITLES[section], [name for name in shown if name not in first]))
    lines = [description.strip()]
    for title, shown in groups:
        if shown:
            lines += ["", f"{title}:", *(_describe(present[name]) for name in shown)]
    more = f"; --helpfull lists {num_hidden} more, for benchmarks and special cases" if num_hidden else ""
    return "\n".join([*lines, "", f"--flagfile=FILE reads flags from a file{more}."])


def _describe(flag: Any) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    shown = str(flag.default_as_str).strip("'")
    default = f" (default: {shown})" if flag.default not in (None, "", []) else ""
    width = max(40, min(120, shutil.get_terminal_size().columns))
    text = f"{name}: {flag.help}{default}"
    return textwrap.fill(text, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
