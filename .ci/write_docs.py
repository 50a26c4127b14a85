"""Writes the API reference, HTML from the docstrings; `make docs` calls it.

usage: python .ci/write_docs.py [DIRECTORY]
"""

import pathlib
import sys

import pdoc
import pdoc.extract
import pdoc.render
from absl import flags

PACKAGE = "longretriever_tf"
_load = pdoc.extract.load_module


def load_afresh(module: str):
    """Imports a module as a process of its own would: commands define the same flags, which one process refuses."""
    for owner, owned in flags.FLAGS.flags_by_module_dict().items():
        if owner.startswith(PACKAGE):
            for flag in list(owned):
                delattr(flags.FLAGS, flag.name)
    return _load(module)


if __name__ == "__main__":
    directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs")
    pdoc.extract.load_module = load_afresh
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(PACKAGE, output_directory=directory)
    print(f"written: {directory}/index.html, {len(list(directory.rglob('*.html')))} pages")
