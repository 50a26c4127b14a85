"""The form of the documents: links, commands, flags, make targets, names of code and files. `make lint` runs it."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest
from documents import COMMAND, ROOT, all_documents, anchors, code, commands, fences, links, prose

DOCUMENTS = {str(path.relative_to(ROOT)): path for path in all_documents()}
OURS = [name for name in DOCUMENTS if not name.startswith("results/")]
PACKAGE = ROOT / "longretriever_tf"
FOREIGN = {"profile", "build", "enable_batching", "batching_parameters_file", "workers"}
"""Flags of docker, docker compose and TensorFlow Serving."""
NOT_ABSL = {"doctor": {"help"}, "minimal": set()}
"""Commands that parse their flags otherwise, or have none."""


def test_documents_are_found():
    assert {"README.md", "docs/method.md", "docs/faq.md", "serving/README.md", "BUILD_NOTES.md"} <= set(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_anchors_resolve(name):
    broken = []
    for link in links(DOCUMENTS[name]):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (DOCUMENTS[name].parent / target) if target else DOCUMENTS[name]
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert not broken


@pytest.fixture(scope="module")
def flags_of() -> dict[str, dict[str, list[str] | None]]:
    """Flags of every command that some document names."""
    named = sorted({command for path in DOCUMENTS.values() for command, _ in commands(path)} - set(NOT_ABSL))
    missing = [name for name in named if not (PACKAGE / (name.replace(".", "/") + ".py")).exists()]
    missing = [name for name in missing if name != "NAME"]
    assert not missing, f"documents name commands that do not exist: {missing}"
    named = [name for name in named if name != "NAME"]
    done = subprocess.run(
        [sys.executable, "lint/flag_names.py", *named], cwd=ROOT, text=True, capture_output=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wrong_flags(written: list[str], known: dict[str, list[str] | None]) -> list[str]:
    """Flags that do not exist, and values that are no choice of theirs."""
    wrong = []
    for flag in written:
        name, _, value = flag.removeprefix("--").strip(".,:;)'\"").partition("=")
        choices = known.get(name)
        options = value.split("|") if re.fullmatch(r"[a-z_|]+", value) else []
        if name not in known and name not in ("help", "flagfile"):
            wrong.append(flag)
        elif choices and not set(options) <= set(choices):
            wrong.append(flag)
    return wrong


def test_wrong_flags_and_values_are_noticed():
    known = {"merge": ["raw", "quota"], "k": None}
    written = ["--merge=raw|quota", "--k=5", "--merge=best", "--nope", "--merge=raw|best"]
    assert wrong_flags(written, known) == ["--merge=best", "--nope", "--merge=raw|best"]
    assert (
        exists("datasets.splits.global_time_cuts")
        and exists("serving.client.client.Request")
        and exists("datasets.log")
    )
    assert not exists("datasets.splits.cut_by_time") and not exists("data.nowhere.cut")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_have_the_flags_that_documents_give_them(name, flags_of):
    for command, written in commands(DOCUMENTS[name]):
        if command != "NAME" and command not in NOT_ABSL:
            assert not wrong_flags(written, flags_of[command]), f"of {command}"


@pytest.mark.parametrize("name", [name for name in OURS if name != "CHANGELOG.md"])  # which tells of flags that went
def test_flags_named_alone_belong_to_some_command(name, flags_of):
    merged: dict[str, list[str] | None] = {}
    for known in flags_of.values():
        for flag, choices in known.items():
            old = merged.get(flag, [])
            merged[flag] = None if choices is None or old is None else sorted({*old, *choices})
    written = [
        flag
        for line in code(DOCUMENTS[name])
        if not re.search(r"docker|pip |pytest|kubectl|benchmarks/|\.toml|tensorflow_model_server", line)
        for flag in re.findall(r"(?<![\w-])--[a-z][\w]*(?:=[^\s`,]+)?", line)
    ]
    assert not [flag for flag in wrong_flags(written, merged) if flag[2:].partition("=")[0] not in FOREIGN]


@pytest.mark.parametrize("name", OURS)
def test_make_targets_exist(name):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {
        target
        for line in code(DOCUMENTS[name])
        if line.startswith("make ")
        for target in re.findall(r"(?<=\s)[a-z][a-z-]*(?=\s|$)", line.partition("#")[0])
    }
    assert named <= targets, named - targets


@pytest.mark.parametrize("name", OURS)
def test_shell_blocks_are_run_or_say_why_not(name):
    """`<!-- run by tests/FILE.py -->`, which must name every command of the block, or `<!-- not run in CI: why -->`."""
    for fence in fences(DOCUMENTS[name]):
        if not fence.is_shell:
            continue
        mark = re.fullmatch(r"<!-- (?:not run in CI: (?P<why>.{5,})|run by (?P<test>tests/\w+\.py)) -->\n", fence.mark)
        assert mark, f"{fence.text!r} needs a mark on the line above it"
        if mark["test"]:
            test = (ROOT / mark["test"]).read_text(encoding="utf-8")
            for command in re.findall(COMMAND, fence.text):
                assert command in test or name in test, f"{mark['test']} does not run {command}"


@pytest.mark.parametrize("name", OURS)
def test_python_and_json_blocks_are_sound(name):
    for fence in fences(DOCUMENTS[name]):
        if fence.language == "json":
            json.loads(fence.text)
        if fence.language == "python" and ">>> " not in fence.text:
            for node in ast.walk(ast.parse(fence.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("longretriever_tf"):
                    for alias in node.names:
                        assert exists(f"{node.module}.{alias.name}".removeprefix("longretriever_tf."))
        for body in re.findall(r"-d '(\{.*?\})'", fence.text, re.S):
            assert json.loads(body)["inputs"]


def exists(dotted: str) -> bool:
    """Whether a name below the package is a module, or a top-level name (or a method) of one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:cut])
        if path.is_dir() and cut == len(parts):
            return True
        if (path / "__init__.py").exists() and set(parts[cut:]) & top_level_names(path / "__init__.py"):
            return True  # a package hands the name on
        if path.with_suffix(".py").exists():
            return not parts[cut:] or parts[cut] in top_level_names(path.with_suffix(".py"))
    return False


def top_level_names(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


FOLDERS = "|".join(sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"))
NAME = re.compile(rf"(?:longretriever_tf\.)?((?:{FOLDERS}|config|errors|schema)\.[A-Za-z_]\w*(?:\.\w+)*)")


@pytest.mark.parametrize("name", [name for name in OURS if name != "CHANGELOG.md"])  # which tells of names that went
def test_names_of_the_code_exist(name):
    spans = [span for span in re.findall(r"`([^`\n]+)`", prose(DOCUMENTS[name])) if NAME.fullmatch(span)]
    missing = [span for span in spans if not exists(NAME.fullmatch(span)[1])]
    assert not [span for span in missing if not span.endswith((".json", ".npz", ".toml", ".py", ".config"))]


@pytest.mark.parametrize("name", OURS)
def test_named_files_exist(name):
    text = DOCUMENTS[name].read_text(encoding="utf-8")
    folders, endings = "results|configs|tests|benchmarks|serving", "json|toml|flags|py|md|yaml|sh"
    named = re.findall(rf"(?<![\w/.])(?:{folders})/[\w/]+\.(?:{endings})", text)
    written_by_it = set(re.findall(r"--output=(\S+?)[`\s)]", text))
    assert not [path for path in named if not (ROOT / path).exists() and path not in written_by_it]
