"""Subsets of the requirements: bounds of setup.cfg, pins within them, and a client and a server that need no more."""

import configparser
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from toy_models import save_toy

ROOT = pathlib.Path(__file__).resolve().parent.parent
ONLY = """
import sys
allowed, known = set(sys.argv[1].split(",")), {known!r}
finders = list(sys.meta_path)
class Only:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in known - allowed:
            return None
        return next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)
sys.meta_path[:] = [Only]
{code}
"""
CLIENT = """
from longretriever_tf.serving.client import Client, Request
Client("http://localhost:1").close()
Request([1, 2], [1511000000, 1512000000], 1512345680, k=5)
"""


def lines_of(name: str) -> list[str]:
    lines = (ROOT / "serving" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["requirements-client.txt", "requirements-server.txt"])
def test_subsets_have_the_bounds_of_setup_cfg(name):
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    declared = "\n".join(
        [config["options"]["install_requires"], *(extras[name] for name in ("scann", "serving", "client"))]
    )
    assert set(lines_of(name)) <= set(declared.splitlines())


def test_the_lock_holds_a_version_of_each_server_requirement_within_its_bounds():
    pins = {
        Requirement(line).name: str(next(iter(Requirement(line).specifier)).version)
        for line in lines_of("requirements.lock")
    }
    assert pins["tensorflow-cpu"] == pins["tensorflow"]
    for requirement in map(Requirement, lines_of("requirements-server.txt")):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    assert not {"pandas", "scipy", "tensorflow-recommenders", "tensorflow-datasets", "lightgbm", "matplotlib"} & set(
        pins
    )


def run_with_only(distributions: set[str], code: str) -> subprocess.CompletedProcess:
    """Runs code in a child that can import no other installed distribution than these."""
    owners = importlib.metadata.packages_distributions()
    known = {module for module in owners if module != "longretriever_tf"}
    allowed = {module for module in known if {canonicalize_name(owner) for owner in owners[module]} & distributions}
    script = ONLY.format(known=known, code=code)
    return subprocess.run(
        [sys.executable, "-c", script, ",".join(allowed)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


def test_the_client_needs_its_requirements_alone():
    done = run_with_only({Requirement(line).name for line in lines_of("requirements-client.txt")}, CLIENT)
    assert done.returncode == 0, done.stderr
    done = run_with_only({"numpy"}, CLIENT)
    assert done.returncode == 1 and "No module named 'urllib3'" in done.stderr


def test_the_server_needs_the_lock_alone(tmp_path):
    save_toy(str(tmp_path), 1)
    code = "import longretriever_tf.serve, longretriever_tf.serving.server.server\n"
    code += f"import tensorflow as tf; tf.saved_model.load({str(tmp_path / '1')!r})\n"
    if importlib.util.find_spec("scann"):  # as the server does for an export that holds searchers
        code += "import importlib; from longretriever_tf.serving.server import loaded\n"
        code += "importlib.import_module(loaded._SCANN_MODULE).load_ops()"
    done = run_with_only({Requirement(line).name for line in lines_of("requirements.lock")}, code)
    assert done.returncode == 0, done.stderr


def test_a_wheel_brings_flagfiles_plans_and_the_command(tmp_path):
    """Built from what is in the repository; an editable installation would hide what the wheel lacks."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT / "longretriever_tf", source / "longretriever_tf", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(source)]
    done = subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "longretriever = longretriever_tf.__main__:main" in archive.read(entry).decode()
        archive.extractall(tmp_path / "site")
    shipped = {f"longretriever_tf/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.*")}
    assert shipped <= names and "longretriever_tf/configs/demo.flags" in shipped
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    code = "from longretriever_tf.config.shipped import find_shipped as f; print(f('--flagfile', 'demo'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "site/longretriever_tf/configs/demo.flags"), done.stderr


def test_a_server_without_its_extra_names_it():
    code = "import sys; sys.modules['aiohttp'] = None\nimport runpy\n"
    code += "sys.argv = ['serve', '--model_base_path=/nowhere', '--rest_api_port=8501']\n"
    code += "runpy.run_module('longretriever_tf.serve', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and "pip install 'longretriever_tf[serving]'" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
