"""The conformance table of the server: behavior, expectation, source consulted, test; in the tests' own words.

`python tests/serving_conformance.py` writes serving/CONFORMANCE.md; a test holds the file to what it would write.
"""

import importlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "serving" / "CONFORMANCE.md"
MODULES = (
    "test_serving_rest",
    "test_serving_json",
    "test_serving_grpc",
    "test_serving_versions",
    "test_serving_batching",
    "test_serving_operation",
)

DOC = "g3doc/api_rest.md"
JSON = "util/json_tensor.cc"
HANDLER = "model_servers/http_rest_api_handler.cc"
ROUTES = "model_servers/http_rest_api_util.cc"
HTTP = "model_servers/http_server.cc"
PREDICT = "servables/tensorflow/predict_util.cc"
DEFAULTS = "tensorflow: cc/saved_model/util.cc (GetInputValues)"
METADATA = "servables/tensorflow/get_model_metadata_impl.cc"
STATUS = "model_servers/get_model_status_impl.cc"
MODEL_SERVICE = "model_servers/model_service_impl.cc"
CORE = "model_servers/server_core.cc"
BASIC_MANAGER = "core/basic_manager.cc"
BATCHING = "batching/batching_session.cc"
BATCHING_UTIL = "batching/batching_util.cc"
PROMETHEUS = "util/prometheus_exporter.cc"
METRICS = "servables/tensorflow/util.cc"
MAIN = "model_servers/main.cc"
WARMUP = "servables/tensorflow/saved_model_warmup_util.cc"
OBSERVED = "observed on tensorflow/serving:2.21.0 by a public tutorial"
OURS = "this project's issue; TensorFlow Serving has no such rule"

HEADER = """# Conformance with TensorFlow Serving

What `python -m longretriever_tf.serve` answers, what was read to learn that TensorFlow Serving does the same, and the
test that holds our server to it. Paths are those of github.com/tensorflow/serving below `tensorflow_serving/`; "tensorflow:"
marks github.com/tensorflow/tensorflow. They were read in stored copies of several ages: `util/json_tensor.cc` and
`model_servers/http_rest_api_*.cc` at commit b6b8cca, `predict_util.cc` at 0ab6117 (the first with default inputs), of
`classifier.cc`, `basic_manager.cc`, `util.cc`, `batching/` and `shared_batch_scheduler.h` the passages concerned. What a
later release changed is not known here, and no TensorFlow Serving binary was run beside ours: none can be had from pip.

This file is written by `python tests/serving_conformance.py` from the tests themselves; do not edit it.

"""
# ruff: noqa: E501 - a Markdown table has one line per row
DEVIATIONS = """
## Where the two differ, on purpose

| what | TensorFlow Serving | this server | why |
| --- | --- | --- | --- |
| end of an error message | stops at its own words | may add the cure in brackets or the input's name | a message must name the cure |
| long values in messages | repeated whole | cut after 1,000 characters | an error must not repeat a 20,000-event history |
| batching, unequal lengths, no padding | FAILED_PRECONDITION for all requests in the batch | separate batches | no client can rely on it |
| batching, one request fails | every request in the batch fails | the others are run again by themselves | same |
| a base path that is empty for a moment | unloads the last version | keeps it | a directory may be on its way from one name to another |
| a failed version whose files change | next retry, or never after the last | tried again at the next poll | a slow copy is served as soon as it is whole |
| HandleReloadConfigRequest, a new model that cannot be loaded | waits for all retries | UNKNOWN after the first try | a caller must not hang |
| path outside /v1/ | 404, body not specified | 404 with {"error": ...} | |
| body too large | evhttp's own limit | 413 with {"error": ...}, --max_body_mb | |
| histories | no limit | 400 beyond --max_history | one request must not starve the rest |
| rows, values, candidates of a request; values of a reply | no limit | 400 beyond --max_rows, --max_request_values, --max_request_candidates, --max_reply_values, checked on declared shapes | small requests must not take gigabytes |
| inputs of different row counts, of a retriever's signature | what the graph makes of them | 400 naming each, before the graph | the cause must be named |
| text that is not UTF-8, to a retriever | taken as it is | 400 naming the input | it is no name and no id |
| a gRPC message that cannot be parsed | INTERNAL, by grpc | INVALID_ARGUMENT | the caller's fault |
| the timeout | of REST, and the deadline over gRPC | of REST; the model's work for either transport stops at it | work that nobody awaits must not hold the workers |
| a connection that sends half a request | evhttp's own timeout | 408 after --rest_api_read_timeout_seconds | |
| Host, Origin | not looked at | 403 for foreign pages; see --allowed_hosts | DNS rebinding |
| classify, regress | run on tf.Example signatures | refused as for any TensorFlow 2 SavedModel | no such signature is exported here |
| --host | all interfaces | 127.0.0.1 unless told | a development server should not be open to the network |
| --rest_default_inputs | no such flag | off; on: REST requests may leave out inputs that have defaults | |
"""


class Row(NamedTuple):
    """One line of the table."""

    behavior: str
    expected: str
    source: str
    test: str


ROWS: list[Row] = []


def conforms(behavior: str, expected: str, source: str) -> Callable:
    """Marks a test as the one that holds the server to a behavior."""

    def register(test: Any) -> Any:
        name = f"{test.__module__}.py::{test.__name__}"
        ROWS.append(Row(behavior, expected, source, name))
        return test

    return register


def case_row(module: str, test: str, case_id: str, behavior: str, expected: str, source: str) -> None:
    """Registers one case of a parametrized test."""
    ROWS.append(Row(behavior, expected, source, f"{module}.py::{test}[{case_id}]"))


def render() -> str:
    """The whole file."""
    for module in MODULES:
        importlib.import_module(module)
    lines = ["| behavior | expected | source consulted | test |", "| --- | --- | --- | --- |"]
    order = {f"{module}.py": number for number, module in enumerate(MODULES)}
    for row in sorted(ROWS, key=lambda row: order[row.test.partition("::")[0]]):
        cells = (text.replace("|", "\\|").replace("\n", " ") for text in (row.behavior, row.expected, row.source))
        lines.append(f"| {' | '.join(cells)} | `{row.test}` |")
    return HEADER + "\n".join(lines) + "\n" + DEVIATIONS


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import serving_conformance  # the module that the tests register with, not this script's own copy

    import longretriever_tf  # noqa: F401 - selects Keras 2 before any test imports TensorFlow

    TABLE.write_text(serving_conformance.render(), encoding="utf-8")
    print(f"{len(serving_conformance.ROWS)} rows written to {TABLE.relative_to(ROOT)}")
