"""The form of the notebooks: no outputs, no paths of one machine, links and badges that hold. `make lint` runs it."""

import configparser
import pathlib
import re

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
FORBIDDEN = re.compile(r"(?<![\w.])/(home|root|tmp|usr|mnt|content|work)/|[A-Z]:\\\\")


def _repository() -> str:
    """Where the project lives, as setup.cfg says: the one place."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config["metadata"]["url"]


def _read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


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
