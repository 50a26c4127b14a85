"""What `make site` does around MkDocs: documents are made readable for it, and built pages are read back."""

import importlib.util

import pytest
from trained import ROOT


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("write_site", ROOT / ".ci/write_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lists_are_set_off_and_nested_ones_indented(site):
    text = "Check that:\n- one\n  goes on\n- two\n  - inner\n\n```\nno list:\n- here\n```\n"
    made = "Check that:\n\n- one\n  goes on\n- two\n    - inner\n\n```\nno list:\n- here\n```\n"
    assert site._for_mkdocs(text) == made


def test_links_to_folders_lead_to_their_pages(site):
    text = "[a](../results/baselines), [b](../notebooks/), [c](tuning.md#9-search), [d](https://x.org/docs)"
    wanted = text.replace("baselines)", "baselines/index.md)").replace("notebooks/)", "notebooks/README.md)")
    assert site._to_pages(text, ROOT / "docs") == wanted


def test_broken_links_and_what_is_fetched_from_elsewhere_are_found(site, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/index.html").write_text('<h1 id="top">x</h1>')
    good = '<a href="there/#top">a</a><a href="https://example.org">b</a><script src="own.js"></script>'
    (tmp_path / "own.js").touch()
    (tmp_path / "index.html").write_text(good)
    assert site.check(tmp_path) == []
    bad = '<a href="gone.html">a</a><a href="there/#end">b</a><script src="https://cdn.org/x.js"></script>'
    bad += '<link rel="stylesheet" href="//fonts.org/x.css">'
    (tmp_path / "index.html").write_text(bad)
    (tmp_path / "own.css").write_text("@font-face { src: url(https://fonts.org/x.woff) }")
    assert sorted(site.check(tmp_path)) == [
        "index.html fetches //fonts.org/x.css",
        "index.html fetches https://cdn.org/x.js",
        "index.html links to gone.html, which does not exist",
        "index.html links to there/#end, which does not exist",
        "own.css fetches https://fonts.org/x.woff",
    ]
