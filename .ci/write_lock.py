"""Writes serving/requirements.lock: the server's requirements and all that they need, at the versions installed here.

usage: python .ci/write_lock.py     (`make lock` calls it, in a .venv that `make setup` made and the tests passed in)
"""

import importlib.metadata
import pathlib
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_OF_THE_IMAGE = ("pip", "setuptools", "wheel")
"""Python images bring these."""

_NOT_RUN = ("libclang",)
"""What TensorFlow asks for and no server imports: 62 MB."""

_SMALLER = {"tensorflow": "tensorflow-cpu"}
"""The same modules without CUDA, which the image lacks too: 640 MB less. PyPI has them for one kind of processor."""

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "serving"


def closure(requirements: list[str]) -> dict[str, str]:
    """Version by name of every distribution that the requirements bring along on this machine."""
    versions: dict[str, str] = {}
    waiting = [Requirement(text) for text in requirements]
    asked = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in asked or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        asked.add((name, extras))
        versions[name] = importlib.metadata.version(name)
        for needed in map(Requirement, importlib.metadata.requires(name) or []):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                needed.marker = None
                waiting.append(needed)
    return versions


def pin(name: str, version: str) -> str:
    """The line of a distribution, or its two lines where there is a smaller one for some processors.

    >>> print(pin("tensorflow", "2.20.0"), end="")
    tensorflow-cpu==2.20.0; platform_machine == "x86_64"
    tensorflow==2.20.0; platform_machine != "x86_64"
    """
    if name not in _SMALLER:
        return f"{name}=={version}\n"
    smaller = f'{_SMALLER[name]}=={version}; platform_machine == "x86_64"\n'
    return f'{smaller}{name}=={version}; platform_machine != "x86_64"\n'


if __name__ == "__main__":
    lines = (FOLDER / "requirements-server.txt").read_text(encoding="utf-8").splitlines()
    versions = closure([line for line in lines if line and not line.startswith("#")])
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    head = f"# Written by `make lock` under Python {python}; serving/Dockerfile installs it. Do not edit.\n"
    left_out = (*_OF_THE_IMAGE, *_NOT_RUN)
    pins = "".join(pin(name, version) for name, version in sorted(versions.items()) if name not in left_out)
    (FOLDER / "requirements.lock").write_text(head + pins, encoding="utf-8")
    print(f"written: serving/requirements.lock, {pins.count(chr(10))} packages")
