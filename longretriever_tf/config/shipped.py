"""Flagfiles, plans and spaces that come with the package, found by name from any directory. Imports no TensorFlow."""

import difflib
import os
import pathlib

from longretriever_tf.common.errors import UserError

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "configs"
"""A link to the repository's configs/ in a checkout, a folder of its own in a wheel."""


def find_shipped(flag: str, path: str, folder: str = "") -> str:
    """The file that a user names: `path` where there is one, else what the package ships under that name.

    "demo", "demo.flags" and "configs/demo.flags" are one flagfile of the package. A file of the user's own comes first.

    Args:
      flag: which names it, for the error: `--flagfile`.
      path: as given.
      folder: below configs/ where its names lie: "" for flagfiles, "reproduce" for plans, "tune" for spaces.

    Raises:
      UserError: there is neither.
    """
    own = os.path.expanduser(path)
    if os.path.exists(own) and not os.path.isdir(own):
        return own
    ending = ".toml" if folder else ".flags"
    known = {str(file.relative_to(FOLDER / folder)): file for file in sorted((FOLDER / folder).rglob(f"*{ending}"))}
    name = path.removeprefix("configs/").removeprefix(f"{folder}/").removesuffix(ending) + ending
    if name in known:
        return str(known[name])
    if os.path.isdir(own):
        return own  # whoever opens it says what is wrong
    names = [one.removesuffix(ending) for one in known]
    near = difflib.get_close_matches(name.removesuffix(ending), names, 1)
    hint = f"; did you mean {flag}={near[0]}?" if near else f"; it has {', '.join(names)}"
    raise UserError(f"{flag}={path}: no such file, and the package has none of that name{hint}")


def expand_flagfiles(arguments: list[str]) -> list[str]:
    """The arguments with the lines of each --flagfile in its place, as absl reads them, but found by `find_shipped`.

    Args:
      arguments: of a command, without its name.

    Raises:
      UserError: no such file, or files that name each other.
      OSError: one cannot be read.
      UnicodeDecodeError: one is not UTF-8 text.
    """
    expanded: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*expanded, argument, *rest]
        name, is_given, path = argument.partition("=")
        if name not in ("--flagfile", "-flagfile") or not (is_given or rest):
            expanded.append(argument)
        else:
            expanded += _lines(path if is_given else rest.pop(0), ())
    return expanded


def _lines(path: str, within: tuple[str, ...]) -> list[str]:
    if not path.strip():  # absl ignores it, too
        return []
    found = find_shipped("--flagfile", path.strip())
    if found in within:
        raise UserError(f"--flagfile={found} names itself, by way of {' and '.join(within)}; take that line out")
    lines = []
    with open(found, encoding="utf-8") as file:
        for line in file.read().splitlines():
            if not line.strip() or line.startswith(("#", "//")):
                continue
            name, is_given, nested = line.strip().partition("=")
            is_nested = name in ("--flagfile", "-flagfile") and is_given
            lines += _lines(nested, (*within, found)) if is_nested else [line.strip()]
    return lines
