"""The examples in docstrings and in the documents run, and print what they say."""

import doctest
import importlib

import numpy as np
import pytest
from trained import ROOT

PACKAGE = ROOT / "longretriever_tf"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md") if ">>> " in path.read_text(encoding="utf-8")
)


def test_the_examples_that_teach_are_found():
    taught = {
        "datasets.splits",
        "data.batches.examples",
        "data.corpus",
        "datasets.build_log",
        "evaluation.ranking",
        "plots.panels",
    }
    assert taught <= {name.removeprefix("longretriever_tf.") for name in MODULES}
    assert "docs/method.md" in DOCUMENTS


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    with np.printoptions(legacy=False):
        done = doctest.testmod(importlib.import_module(name))
    assert done.attempted and not done.failed


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(name):
    done = doctest.testfile(str(ROOT / name), module_relative=False)
    assert done.attempted and not done.failed
