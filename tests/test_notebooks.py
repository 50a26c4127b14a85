"""All notebooks executed from end to end; lint/test_notebooks.py looks at their form."""

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
NAMES = sorted((path.stem for path in FOLDER.glob("*.ipynb")), key=lambda name: (name != "quickstart", name))
"""The quickstart first, as for a reader: others take its run and its export as they are."""
CELL_SECONDS = 1200
HOUSEHOLDS = 60
"""Of each sample: cells show as much of a log of fewer households than a reader's, in less time."""


def _read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


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


def _shrink(notebook: nbformat.NotebookNode) -> None:
    """Has the notebook draw `HOUSEHOLDS` where it draws a sample for its reader."""
    counts = []
    for cell in _code(notebook):
        cell.source, count = re.subn(
            r"(write_sample\(.*num_users=|NUM_USERS = )\d+", rf"\g<1>{HOUSEHOLDS}", cell.source
        )
        counts.append(count)
    assert sum(counts) == 1, "which sample the notebook draws is not read"


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
    folder = os.environ.get("LONGRETRIEVER_NOTEBOOK_OUTPUT")
    if not folder:  # `make notebooks` shows what a reader sees
        _shrink(notebook)
    _execute(notebook, shared)
    with capsys.disabled():
        print(f"\nnotebooks/{name}.ipynb: {(time.monotonic() - start) / 60:.1f} minutes")
    if folder:
        os.makedirs(folder, exist_ok=True)
        nbformat.write(notebook, os.path.join(folder, f"{name}.ipynb"))
    assert _outputs(notebook, "image/png"), "a notebook without a figure"
