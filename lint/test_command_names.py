"""Commands have one name for users: `longretriever NAME`. Documents, help, errors, flagfiles and notebooks hold to it.

results/ and older entries of CHANGELOG.md record what was typed, and are left as they are.
"""

import ast
import pathlib
import re

from longretriever_tf.__main__ import COMMANDS, module_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = sorted(module_of(name).rpartition(".")[2] for names in COMMANDS.values() for name in names)
OLD = re.compile(rf"-m\s+longretriever_tf\.(?:serving\.)?({'|'.join(NAMES)})\b")
"""The name of before; `-m longretriever_tf.NAME`, in capitals, tells of the way past the script, and is none."""


def shown(path: pathlib.Path) -> list[str]:
    """What of a file users may read: of Python its strings, put together as they are printed, else all of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [re.sub(r"\s*\n[ #]*", " ", text)]
    strings = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            strings.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(" ".join(node.value.split()))
    return strings


def texts() -> list[pathlib.Path]:
    found = [path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"] + [ROOT / "setup.cfg"]
    for folder, pattern in (
        ("docs", "*.md"),
        ("longretriever_tf", "*.py"),
        ("longretriever_tf", "*.jinja"),
        ("longretriever_tf/serving/explorer", "*.*"),
        ("configs", "*.flags"),
        ("configs", "*.toml"),
        ("notebooks", "*.ipynb"),
        ("notebooks", "*.md"),
        ("serving", "*.*"),
    ):
        found += [path for path in (ROOT / folder).rglob(pattern) if path.suffix not in (".pyc", ".png")]
    return found


def test_the_old_name_is_noticed(tmp_path):
    for name, text, old in (
        ("a.py", 'print("run python -m "\n      f"longretriever_tf.train --x={1}")', True),
        ("b.py", '"""Runs.\n\n  python -m longretriever_tf.serving.load_test\n"""', True),
        ("c.flags", "# python -m\n#   longretriever_tf.evaluate_baselines", True),
        ("d.md", "`longretriever train`, `python -m longretriever_tf.NAME`, longretriever_tf.train", False),
    ):
        path = tmp_path / name
        path.write_text(text)
        assert any(OLD.search(one) for one in shown(path)) == old, name


def test_users_read_one_name_of_each_command():
    files = texts()
    assert len(files) > 250
    wrong = {
        f"{path.relative_to(ROOT)}: {found[0]}" for path in files for text in shown(path) if (found := OLD.search(text))
    }
    assert not wrong
