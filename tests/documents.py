"""Markdown files taken apart: fences, links, headings, commands."""

import dataclasses
import pathlib
import re

from longretriever_tf.__main__ import module_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
_NOT_OURS = {"runs", "exports", "build", "dist", "baselines", "node_modules"}
_FENCE = re.compile(r"^(?P<mark><!-- [^\n]* -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)

COMMAND = r"(?:python -m longretriever_tf\.|(?<![\w/=.-])longretriever (?=[a-z]))([\w.]+)"
"""How documents write a command."""


@dataclasses.dataclass(frozen=True)
class Fence:
    """A fenced block; `mark` is the HTML comment on the line above it."""

    language: str
    text: str
    mark: str

    @property
    def is_shell(self) -> bool:
        starts = (
            "make ",
            "python -m",
            "longretriever ",
            "docker ",
            "kubectl ",
            "curl ",
            "git clone",
            "serving/",
            "pip ",
        )
        return self.language in ("", "sh", "bash") and any(line.startswith(starts) for line in self.text.splitlines())


def all_documents() -> list[pathlib.Path]:
    """Every Markdown file of the repository, but for what runs leave behind."""
    found = sorted(ROOT.rglob("*.md"))
    parts = {path: path.relative_to(ROOT).parts for path in found}
    return [path for path in found if not parts[path][0].startswith(".") and parts[path][0] not in _NOT_OURS]


def fences(path: pathlib.Path) -> list[Fence]:
    return [
        Fence(found["language"], found["text"], found["mark"] or "")
        for found in _FENCE.finditer(path.read_text(encoding="utf-8"))
    ]


def prose(path: pathlib.Path) -> str:
    """The text without fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def links(path: pathlib.Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(path)))


def anchors(path: pathlib.Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    made = set()
    for heading in re.findall(r"^#+ (.*)$", prose(path), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
        made.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return made


def code(path: pathlib.Path) -> list[str]:
    """All code: fences with continued lines joined, and code spans of the prose."""
    blocks = [fence.text.replace("\\\n", " ") for fence in fences(path)]
    lines = [line for block in blocks for line in block.splitlines()]
    return lines + [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(path))]


def commands(path: pathlib.Path) -> list[tuple[str, list[str]]]:
    """(command, its flags as written) of each `longretriever COMMAND` and `python -m longretriever_tf.COMMAND`; `train`
    has those after --.
    """
    found = []
    for line in code(path):
        for match in re.finditer(rf"{COMMAND}([^#;&|>]*)", line):
            own, _, of_train = match[2].partition(" -- ")
            name = match[1].rstrip(".")
            found.append((module_of(name), re.findall(r"--[^\s`]+", own)))
            if of_train:
                found.append(("train", re.findall(r"--[^\s`]+", of_train)))
    return found
