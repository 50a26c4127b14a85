"""Prints the flags of every command as JSON, {command: {flag: choices or null}}, for the linters of the documents.

python lint/flag_names.py COMMAND ...: each module is run as a command, but for its main function; its flags are then
forgotten, since commands define the same ones, each for a process of its own.
"""

import json
import pathlib
import runpy
import sys

from absl import app, flags

PACKAGE = "longretriever_tf"


def flags_of(command: str) -> dict[str, list[str] | None]:
    runpy.run_module(f"{PACKAGE}.{command}", run_name="__main__")
    owners = flags.FLAGS.flags_by_module_dict()
    own = [flag for owner, defined in owners.items() if PACKAGE in owner or owner == sys.argv[0] for flag in defined]
    choices = {}
    for flag in own:
        choices[flag.name] = list(flag.parser.enum_values) if isinstance(flag, flags.EnumFlag) else None
        if flag.boolean:
            choices[f"no{flag.name}"] = None
        delattr(flags.FLAGS, flag.name)
    return choices


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    app.run = lambda *args, **kwargs: None
    print(json.dumps({command: flags_of(command) for command in sys.argv[1:]}))
