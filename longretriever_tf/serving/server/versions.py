"""Which versions of a model lie on disk, and which of them its version policy asks for."""

import os
from collections.abc import Mapping
from typing import Any

MAX_VERSION = 2**63 - 1
"""An int64 in every protocol."""

Fingerprint = tuple[tuple[str, int, int], ...]


def find_versions(base_path: str) -> dict[int, str]:
    """Version number -> directory, for every child of `base_path` whose whole name is a number.

    Two names of one number (1, 001): the shorter wins. A base path that does not exist has no versions. What is no
    directory, cannot be looked at (a link that leads to itself) or has too large a number is no version.
    """
    try:
        names = sorted(os.listdir(base_path), key=len, reverse=True)
    except OSError:
        return {}
    found = {}
    for name in names:
        path = os.path.join(base_path, name)
        if name.isascii() and name.isdigit() and int(name) <= MAX_VERSION and os.path.isdir(path):
            found[int(name)] = path
    return found


def aspired_versions(found: Mapping[int, str], policy: Any) -> list[int]:
    """The versions to serve, highest first.

    Args:
      found: of `find_versions`.
      policy: ServableVersionPolicy proto: latest { num_versions: N } (N = 1 where unset), all {} or specific.
    """
    kind = policy.WhichOneof("policy_choice")
    ordered = sorted(found, reverse=True)
    if kind == "all":
        return ordered
    if kind == "specific":
        wanted = set(policy.specific.versions)
        return [version for version in ordered if version in wanted]
    return ordered[: max(policy.latest.num_versions, 1)]


def fingerprint(directory: str) -> Fingerprint:
    """Relative path, size and time of every file below: two equal ones mean that nothing was copied in between."""
    files = []
    for root, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(root, name)
            try:
                stat = os.stat(path)
            except OSError:  # moved away meanwhile: the next look will see another fingerprint
                continue
            files.append((os.path.relpath(path, directory), stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(files))
