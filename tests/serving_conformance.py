"""The table of what the server does for a caller: behavior, expectation, test; in the tests' own words.

`python tests/serving_conformance.py` writes serving/CONFORMANCE.md; a test holds the file to what it would write.
"""

import importlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "serving" / "CONFORMANCE.md"
MODULES = ("test_serving_rest", "test_serving_grpc", "test_serving_versions", "test_serving_operation")

# ruff: noqa: E501 - a Markdown table has one line per row
HEADER = """# Conformance with TensorFlow Serving

What `longretriever serve` answers, and the test that holds it to that. Paths, bodies, statuses, codes, version
states and metric names are TensorFlow Serving's, as its documentation (g3doc/api_rest.md) and its source have them; the words of
error messages are this server's own. No TensorFlow Serving binary was run alongside: none can be had from pip.

This file is written by `python tests/serving_conformance.py` from the tests themselves; do not edit it.

"""
DEVIATIONS = """
## Where the two differ, on purpose

| what | TensorFlow Serving | this server |
| --- | --- | --- |
| Classify, Regress, MultiInference, HandleReloadConfigRequest | there | not there: UNIMPLEMENTED; REST 400 |
| batching (`--enable_batching`) | there | not there: send several users in one request (at eight callers of single users, batching gave 11 to 29% more answers a second) |
| inputs with a default, over REST | must be sent | may be left out, as over gRPC |
| names that the signature does not have, in `inputs` | ignored | 400 |
| routes | matched in any case | matched as written |
| NaN and infinities in JSON | read and written | 400; written as null |
| JSON text that is not UTF-8, base64 without its padding, integers beyond the dtype | taken | 400 |
| layout of JSON replies, digits of decimals | indented; 6 to 9 digits | compact; the fewest digits that read back the same |
| version labels at startup | need --allow_version_labels_for_unavailable_models | may name any version; 404 while it is not available |
| labels of a version whose directory is gone, or that is not loaded yet | 404; the whole config file is refused | keep the version before it, which stays in memory until its labels have moved |
| a version that fails to load | --max_num_load_retries, --load_retry_interval_micros | END at once; tried again after a second, then two, four, up to a minute |
| a base path that is empty for a moment | unloads the last version | keeps it |
| `--file_system_poll_wait_seconds=0` | looks once | not taken |
| warm-up requests | replayed unless a flag says otherwise | always replayed |
| body too large | evhttp's own limit | 413 with {"error": ...}, --max_body_mb |
| histories, rows, values and candidates of a request; values of a reply | no limit | 400 beyond --max_history, --max_rows, --max_request_values, --max_request_candidates, --max_reply_values, checked on declared shapes |
| inputs of different row counts, text that is not UTF-8, for a retriever's signature | what the graph makes of them | 400 naming the input |
| a gRPC message that cannot be parsed | INTERNAL | INVALID_ARGUMENT |
| `--rest_api_timeout_in_ms` | of REST | of REST; the model's work for either transport stops at it |
| a connection that sends half a request | evhttp's own timeout | closed after --rest_api_read_timeout_seconds; 408 where a body is missing |
| Host, Origin | not looked at | 403 for foreign pages; see --allowed_hosts |
| `--host` | all interfaces | 127.0.0.1 by default |
"""


class Row(NamedTuple):
    """One line of the table."""

    behavior: str
    expected: str
    test: str


ROWS: list[Row] = []


def conforms(behavior: str, expected: str) -> Callable:
    """Marks a test as the one that holds the server to a behavior."""

    def register(test: Any) -> Any:
        ROWS.append(Row(behavior, expected, f"{test.__module__}.py::{test.__name__}"))
        return test

    return register


def render() -> str:
    """The whole file."""
    for module in MODULES:
        importlib.import_module(module)
    lines = ["| behavior | expected | test |", "| --- | --- | --- |"]
    order = {f"{module}.py": number for number, module in enumerate(MODULES)}
    for row in sorted(ROWS, key=lambda row: order[row.test.partition("::")[0]]):
        cells = (text.replace("|", "\\|").replace("\n", " ") for text in (row.behavior, row.expected))
        lines.append(f"| {' | '.join(cells)} | `{row.test}` |")
    return HEADER + "\n".join(lines) + "\n" + DEVIATIONS


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import serving_conformance  # the module that the tests register with, not this script's own copy

    import longretriever_tf  # noqa: F401 - selects Keras 2 before any test imports TensorFlow

    TABLE.write_text(serving_conformance.render(), encoding="utf-8")
    print(f"{len(serving_conformance.ROWS)} rows written to {TABLE.relative_to(ROOT)}")
