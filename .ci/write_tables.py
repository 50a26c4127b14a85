"""Writes the tables of measured metrics in README.md and docs/ from results/; `make tables` calls it.

usage: python .ci/write_tables.py [--check]     --check: change nothing, and fail where a table is not up to date

A table lies between `<!-- TABLE name -->` and `<!-- /TABLE -->`. .ci/tables.toml says what its rows and columns are.
"""

import json
import pathlib
import re
import sys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPEC = tomllib.loads((ROOT / ".ci" / "tables.toml").read_text(encoding="utf-8"))
TABLE = re.compile(r"(<!-- TABLE (\w+) -->\n).*?(<!-- /TABLE -->)", re.S)


def render(name: str) -> str:
    """The Markdown of a table: means over the files of a row, to three digits."""
    table = SPEC["tables"][name]
    lines = [f"| {' | '.join([table['heading'], *table['columns']])} |".replace("|  |", "| |")]
    lines.append("| --- " * (len(table["columns"]) + 1) + "|")
    for row in table["rows"]:
        paths = sorted((ROOT / row.get("folder", table["folder"])).glob(f"{row['files']}.json"))
        assert paths, f"{name}: no results {table['folder']}/{row['files']}.json"
        models = [json.loads(path.read_text(encoding="utf-8"))["models"][row["model"]] for path in paths]
        cells = [
            ""
            if title in row.get("without", ())
            else f"{sum(model[section][metric] for model in models) / len(models):.3f}"
            for title, (section, metric) in ((title, SPEC["columns"][title]) for title in table["columns"])
        ]
        lines.append(f"| {' | '.join([row['label'], *cells])} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """A document's text with its tables written anew."""
    return TABLE.sub(lambda match: match[1] + render(match[2]) + match[3], text)


if __name__ == "__main__":
    stale, written = [], []
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = document.read_text(encoding="utf-8")
        written += [match[2] for match in TABLE.finditer(text)]
        if with_tables(text) != text:
            stale.append(str(document.relative_to(ROOT)))
            if "--check" not in sys.argv:
                document.write_text(with_tables(text), encoding="utf-8")
    missing = set(SPEC["tables"]) - set(written)
    if "--check" in sys.argv and (stale or missing):
        sys.exit(f"tables not up to date: {', '.join(stale)} {', '.join(missing)}; run `make tables`")
    print(f"{len(written)} tables, {len(stale)} documents changed")
