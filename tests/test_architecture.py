"""The house rules that a reviewer would otherwise check by eye, on the syntax tree: layers, doors, sizes."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

PACKAGE = "longretriever_tf"
ROOT = pathlib.Path(__file__).resolve().parent.parent / PACKAGE
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60

# From the top down: a module imports from its own layer and from those above. The longest matching name decides.
LAYERS = (
    ("common", "config", "plots", "tracking", "datasets.log"),
    ("datasets",),
    ("data",),
    ("inspection",),
    ("models",),
    ("retrieval",),
    ("evaluation",),
    ("training",),
    ("serving",),
    ("reproduction", "planning", "labelling", "tuning"),
    ("api",),
    (
        "__main__",
        "demo",
        "config.flags",
        "prepare",
        "train",
        "launch",
        "evaluate",
        "funnel",
        "evaluate_baselines",
        "plot",
        "plan",
        "export",
        "recommend",
        "refresh",
        "sample_users",
        "contexts",
        "serve",
        "serving.load_test",
        "doctor",
        "inspect_log",
        "minimal",
        "reproduce",
        "tune",
        "notebook",
    ),
)
COMMANDS = LAYERS[-1]
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
WITHOUT_TENSORFLOW = (
    "config.config",
    "common.schema",
    "common.errors",
    "datasets.log",
    "datasets.splits",
    "evaluation.ranking",
    "__main__",
    "api",
    "datasets.frames",
    "demo",
    "doctor",
    "launch",
    "training.distributed.step_table",
)
WITHOUT_TENSORFLOW += (
    "contexts",
    "labelling.label",
    "labelling.items_file",
    "plan",
    "reproduce",
    "reproduction.report",
    "reproduction.runner",
)
WITHOUT_TENSORFLOW += ("tune", "tuning.study")


def _module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {_module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}
PATHS = {_module_name(path): path for path in ROOT.rglob("*.py")}


def _level(module: str) -> int:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (level := LEVELS.get(".".join(parts[:length]))) is not None:
            return level
    return pytest.fail(f"{module} has no layer: add it to LAYERS in tests/test_architecture.py")


def _imported(tree: ast.AST) -> set[str]:
    """Dotted names that a module imports anywhere, functions included; `from a import b` gives `a.b`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}: write the whole name"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _imported_modules(module: str) -> set[str]:
    """The modules of this package that `module` imports; a name inside a module counts as that module."""
    found = set()
    for name in _imported(TREES[module]):
        if name == PACKAGE or not name.startswith(f"{PACKAGE}."):
            continue
        inside = name.removeprefix(f"{PACKAGE}.")
        found.add(inside if inside in TREES else inside.rpartition(".")[0])
    return found - {module, ""}  # "": the package itself, which imports nothing


def test_a_module_imports_only_from_its_layer_and_above():
    upward = [
        f"{module} imports {other}"
        for module in TREES
        if module
        for other in sorted(_imported_modules(module))
        if _level(other) > _level(module)
    ]
    assert not upward


def test_no_import_cycles():
    graph = {module: _imported_modules(module) for module in TREES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(TREES)


def test_flags_are_read_in_commands_only():
    readers = {module for module, tree in TREES.items() if "absl.flags" in _imported(tree)}
    assert readers and readers <= set(COMMANDS), readers - set(COMMANDS)


def test_scann_is_imported_in_one_module():
    users = {module for module, tree in TREES.items() if any(name.split(".")[0] == "scann" for name in _imported(tree))}
    assert users == {"retrieval.index.scann_ops"}


LIBRARIES = tuple(module for module in WITHOUT_TENSORFLOW if module not in COMMANDS)


@pytest.mark.parametrize("modules", [LIBRARIES, *((name,) for name in WITHOUT_TENSORFLOW if name in COMMANDS)])
def test_imports_without_tensorflow(modules):
    """A process for all libraries, and one for each command: two commands define the same flags."""
    assert set(modules) <= set(TREES)
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    code += "    if 'tensorflow' in sys.modules:\n        sys.exit(f'{name} imports TensorFlow')\n"
    names = [f"{PACKAGE}.{module}" for module in modules]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT.parent, timeout=600, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()


def test_modules_and_functions_stay_small():
    long = [
        f"{module}: {lines} lines"
        for module, path in PATHS.items()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_MODULE_LINES
    ]
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{module}.{node.name}: {lines} lines")
    assert not long
