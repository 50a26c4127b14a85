"""The notebooks: their form, always; and all of them executed from end to end, marked `notebook` and `slow`."""

import configparser
import json
import os
import pathlib
import re
import sys
import time

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NAMES = (
    "quickstart",
    "explore_your_log",
    "in_context_training",
    "multi_context_retrieval",
    "serve_and_explain",
    "bring_your_own_log",
)
CELL_SECONDS = 1200
FORBIDDEN = re.compile(r"(?<![\w.])/(home|root|tmp|usr|mnt|content|work)/|[A-Z]:\\\\")


def _repository() -> str:
    """Where the project histories, as setup.cfg says: the one place."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config["metadata"]["url"]


def _read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_folder_holds_these_notebooks():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_form(name):
    notebook = _read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in _code(notebook):
        assert cell.outputs == [] and cell.execution_count is None, f"strip the outputs: {cell.source[:60]!r}"
        assert "execution" not in cell.metadata, "strip the times of execution"
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_badge_and_installation_name_this_repository(name):
    notebook, repository = _read(name), _repository()
    colab = repository.replace("https://github.com/", "https://colab.research.google.com/github/")
    assert f"]({colab}/blob/main/notebooks/{name}.ipynb)" in notebook.cells[0].source
    install = _code(notebook)[0].source
    assert 'if importlib.util.find_spec("longretriever_tf") is None:' in install
    assert f"git+{repository}" in install


@pytest.mark.parametrize("name", NAMES)
def test_fast_switch(name):
    sources = [cell.source for cell in _code(_read(name))]
    switch = 'FAST = os.environ.get("LONGRETRIEVER_FAST", "1") == "1"'
    assert switch in sources[1]
    assert any(re.search(r"\bif FAST\b", source) for source in sources), "FAST changes nothing"


@pytest.mark.parametrize("name", NAMES)
def test_no_absolute_paths_and_no_dead_links(name):
    for cell in _read(name).cells:
        assert not FORBIDDEN.search(cell.source), f"an absolute path: {FORBIDDEN.search(cell.source)}"
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", cell.source):
                if not target.startswith("https://"):
                    assert (FOLDER / target).exists(), f"a link to nowhere: {target}"


class _ThisInterpreter(AsyncKernelManager):
    """Kernels of the interpreter that runs the tests, whatever kernels are registered on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="this interpreter", language="python")


def _execute(notebook: nbformat.NotebookNode, directory: pathlib.Path) -> None:
    """Runs all cells in `directory`, and a last one that asks which interpreter and which package they had."""
    code = "import json, sys, longretriever_tf\n"
    code += "text = json.dumps([sys.executable, longretriever_tf.__file__])\n"
    code += "print(text[:5], end='', flush=True)\nprint(text[5:])"  # in pieces, as a busy kernel sends any line
    notebook.cells.append(probe := nbformat.v4.new_code_cell(code))
    place = {"metadata": {"path": str(directory)}}
    times = {"timeout": CELL_SECONDS, "startup_timeout": CELL_SECONDS}  # what hangs must end; a busy machine need not
    client = NotebookClient(notebook, kernel_manager_class=_ThisInterpreter, resources=place, **times)
    client.execute(env=_environment())
    said = "".join(out.text for out in probe.outputs if out.output_type == "stream" and out.name == "stdout")
    interpreter, package = json.loads(said)
    assert interpreter == sys.executable and pathlib.Path(package).is_relative_to(ROOT)
    notebook.cells.remove(probe)


def _environment() -> dict[str, str]:
    """This checkout, before whatever is installed; plots inline, which tests have switched off."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    inline = "module://matplotlib_inline.backend_inline"
    return os.environ | {"PYTHONPATH": path, "MPLBACKEND": inline, "LONGRETRIEVER_FAST": "1"}


def _outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    return [out.data[kind] for cell in _code(notebook) for out in cell.outputs if kind in out.get("data", {})]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One folder for all notebooks, as in a checkout: a run that one has trained is not trained again by the next."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("name", NAMES)
def test_runs_from_end_to_end(name, shared, capsys):
    notebook, start = _read(name), time.monotonic()
    _execute(notebook, shared)
    with capsys.disabled():
        print(f"\nnotebooks/{name}.ipynb: {(time.monotonic() - start) / 60:.1f} minutes")
    if folder := os.environ.get("LONGRETRIEVER_NOTEBOOK_OUTPUT"):
        os.makedirs(folder, exist_ok=True)
        nbformat.write(notebook, os.path.join(folder, f"{name}.ipynb"))
    assert _outputs(notebook, "image/png"), "a notebook without a figure"
