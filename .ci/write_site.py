"""Writes the documentation site, HTML from the documents and the docstrings; `make site` calls it.

usage: python .ci/write_site.py [DIRECTORY]

Stages the documents in the folders that they have here, with every file that they link to, so that links stay as they
are; adds a page of the API for each folder of the package; builds with MkDocs, where a warning is an error; and then
reads the pages back: no link within the site is broken, and nothing is fetched from elsewhere.
"""

import html.parser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "longretriever_tf"
BUILD = ROOT / "build"
STAGED = BUILD / "site_source"
NAV_MARK = "      # .ci/write_site.py adds the pages of the folders here"
STYLE = """/* Room for tables and for code of 100 columns. */
.md-grid { max-width: 78rem; }
.md-typeset table:not([class]) { font-size: 0.68rem; }
"""
PAGES = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "BUILD_NOTES.md", "notebooks/README.md"),
    *("serving/README.md", "serving/CONFORMANCE.md"),
)
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=(?:#[^)\s]*)?\))")
_ITEM = re.compile(r"(\s*)([-*]|\d+\.) ")


def stage() -> None:
    """Copies the documents and what they link to, and writes the pages of the API."""
    shutil.rmtree(STAGED, ignore_errors=True)
    waiting = [ROOT / name for name in PAGES] + sorted((ROOT / "docs").glob("*.md"))
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        text = path.read_text(encoding="utf-8")
        for link in set(_LINK.findall(_without_code(text))):
            target = pathlib.Path(os.path.normpath(path.parent / link))
            if ":" in link or target in seen or not target.exists():
                continue  # what does not exist is the builder's to refuse
            seen.add(target)
            if target.is_dir():
                _write(target.relative_to(ROOT) / "index.md", _listing(target))
            elif target.suffix == ".md":
                waiting.append(target)
            else:
                (STAGED / target.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(target, STAGED / target.relative_to(ROOT))
        _write(path.relative_to(ROOT), _for_mkdocs(_to_pages(text, path.parent)))
    write_api()


def _write(path: pathlib.Path, text: str) -> None:
    (STAGED / path).parent.mkdir(parents=True, exist_ok=True)
    (STAGED / path).write_text(text, encoding="utf-8")


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def _to_pages(text: str, folder: pathlib.Path) -> str:
    """Links to folders become links to the page of the folder."""

    def page(match: re.Match[str]) -> str:
        target = folder / match[1]
        if ":" in match[1] or not target.is_dir():
            return match[1]
        return f"{match[1].rstrip('/')}/{'README.md' if (target / 'README.md').exists() else 'index.md'}"

    return _LINK.sub(page, text)


def _for_mkdocs(text: str) -> str:
    """What GitHub reads and Python-Markdown does not: a list right after a line, and items indented by two spaces."""
    lines, is_code, previous = [], False, ""
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        item = None if is_code else _ITEM.match(line)
        is_inside = previous.startswith(" ") or bool(_ITEM.match(previous))
        if item and previous.strip() and not is_inside:
            lines.append("")
        lines.append(" " * len(item[1]) + line if item else line)
        previous = line
    return "\n".join(lines) + "\n"


def _listing(folder: pathlib.Path) -> str:
    """A page that links to the files of a folder, which are copied."""
    name, links = folder.relative_to(ROOT).as_posix(), []
    for path in sorted(folder.iterdir()):
        if path.is_file():
            (STAGED / folder.relative_to(ROOT)).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, STAGED / folder.relative_to(ROOT) / path.name)
            links.append(f"- [{path.name}]({path.name})")
    return "\n".join([f"# {name}", "", *links]) + "\n"


def write_api() -> None:
    """A page for each folder of the package: its modules, their public names."""
    groups: dict[str, list[str]] = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__"):
            groups.setdefault(".".join(parts[1:-1]) or "commands", []).append(".".join(parts))
    index = ["# API reference", "", "A page for each folder of the package, from the docstrings.", ""]
    groups = {"commands": groups.pop("commands"), **dict(sorted(groups.items()))}
    for group, modules in groups.items():
        lines = [f"# {group}", "", *(f"::: {module}\n" for module in modules)]
        _write(pathlib.Path("api") / f"{group}.md", "\n".join(lines))
        index.append(f"- [{group}]({group}.md)")
    _write(pathlib.Path("api/index.md"), "\n".join(index) + "\n")
    _write(pathlib.Path("site.css"), STYLE)
    settings = (ROOT / ".ci" / "mkdocs.yml").read_text(encoding="utf-8")
    nav = "\n".join(f"      - {group}: api/{group}.md" for group in groups)
    (BUILD / "mkdocs.yml").write_text(settings.replace(NAV_MARK, nav), encoding="utf-8")


class _Page(html.parser.HTMLParser):
    """The links of a page, what it fetches, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe", "source") and "src" in given:
            self.fetched.append(given["src"])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "edit", "alternate"):
            self.fetched.append(given.get("href", ""))


def check(directory: pathlib.Path) -> list[str]:
    """What is wrong with the pages: broken links and anchors, and what a browser would fetch from elsewhere."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in directory.rglob("*.html")}
    pages = {path: page for path, page in pages.items() if path.name != "404.html"}
    faults = []
    for path, page in pages.items():
        where = path.relative_to(directory)
        faults += [f"{where} fetches {link}" for link in page.fetched if re.match(r"(https?:)?//", link)]
        for link in page.links + page.fetched:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith(("data:", "#__")):
                continue
            target = path if not parts.path else (path.parent / urllib.parse.unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                faults.append(f"{where} links to {link}, which does not exist")
    for path in directory.rglob("*.css"):
        found = re.findall(r"url\([\"']?(https?:[^)]*)", path.read_text(encoding="utf-8"))
        faults += [f"{path.relative_to(directory)} fetches {link}" for link in found]
    return faults


def main(directory: pathlib.Path) -> int:
    """Stages, builds and reads back; returns the exit status."""
    stage()
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory.resolve())]
    command += ["--config-file", str(BUILD / "mkdocs.yml")]
    if status := subprocess.run(command, env=environment, cwd=ROOT).returncode:
        return status
    faults = check(directory.resolve())
    print("\n".join(faults) or f"written: {directory}/index.html, {len(list(directory.rglob('*.html')))} pages")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/site")))
