"""Docstrings name the arguments and attributes that there are: a rename that forgets its docstring fails here."""

import ast
import pathlib
import re
from collections.abc import Iterator

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "longretriever_tf"


def named(docstring: str, section: str) -> list[str]:
    """Names that open the entries of a section (`Args` or `Attributes`).

    >>> named("Sums.\\n\\nArgs:\\n  a, b: numbers;\\n    any.\\n  *more: others.\\n\\nReturns:\\n  c: no name.", "Args")
    ['a', 'b', 'more']
    """
    _, _, rest = docstring.partition(f"\n{section}:\n")
    body = re.split(r"^\S", rest, maxsplit=1, flags=re.M)[0]
    entries = re.findall(r"^  (\*{0,2}\w+(?:, \w+)*):(?: |$)", body, re.M)
    return [name.strip(" *") for entry in entries for name in entry.split(",")]


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    every += [one for one in (function.args.vararg, function.args.kwarg) if one]
    return {one.arg for one in every}


def members(node: ast.ClassDef) -> set[str]:
    """Fields, properties, and what any method sets on itself."""
    stored = [part for part in ast.walk(node) if isinstance(getattr(part, "ctx", None), ast.Store)]
    names = {part.attr for part in stored if isinstance(part, ast.Attribute)}
    names |= {part.id for part in stored if isinstance(part, ast.Name)}
    return names | {part.name for part in node.body if isinstance(part, ast.FunctionDef)}


def wrong_names(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        docstring, known, attributes = ast.get_docstring(node) or "", set(), set()
        if isinstance(node, ast.ClassDef):
            inits = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
            known, attributes = set().union(*map(arguments, inits)), members(node)
        else:
            known = arguments(node)
        wrong = [name for name in named(docstring, "Args") if name not in known]
        wrong += [name for name in named(docstring, "Attributes") if name not in attributes]
        if wrong:
            yield node.name, wrong


def test_a_wrong_name_is_noticed() -> None:
    source = 'def f(a):\n    """Does.\n\n    Args:\n      a: one.\n      b: none.\n    """\n'
    assert list(wrong_names(ast.parse(source))) == [("f", ["b"])]


def test_docstrings_name_what_is_there() -> None:
    wrong = {
        f"{path.relative_to(PACKAGE)}: {name}": names
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, names in wrong_names(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not wrong
