"""How the site reads docstrings: an entry of several names ("low, high: ends of the range") is an entry for each."""

import re
from typing import Any

import griffe

_SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): ", re.M)


class SeveralNames(griffe.Extension):
    """Gives each name of such an entry a line of its own, before the sections are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _SEVERAL.sub(_one_each, obj.docstring.value)


def _one_each(match: re.Match[str]) -> str:
    *first, last = match[2].split(", ")
    lines = [f"{match[1]}{name}: as `{last}`.\n" for name in first]
    return "".join(lines) + f"{match[1]}{last}: "
