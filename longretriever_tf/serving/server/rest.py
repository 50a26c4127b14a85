"""The REST interface: routes and replies, without a web server; `http_server` puts it on a port.

Source: tensorflow/serving http_rest_api_handler.cc and http_rest_api_util.cc.
"""

import re
import time
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple

from longretriever_tf.serving.server import json_replies, status_protos
from longretriever_tf.serving.server.json_requests import Expected, parse_predict
from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, RequestLimits
from longretriever_tf.serving.server.loaded import DEFAULT_SIGNATURE, LoadedModel
from longretriever_tf.serving.server.manager import ModelManager
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.predict import IsWanted, Runner, always, find_signature, nobody_waits, predict
from longretriever_tf.serving.server.status import ServingError, from_exception, invalid

JSON = "application/json"
_MODEL = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"/v1/models/(?P<name>[^/:]+){_MODEL}:(?P<verb>classify|regress|predict)", re.IGNORECASE | re.ASCII)
_GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_MODEL}(?:/(?P<verb>metadata))?", re.IGNORECASE | re.ASCII)
_API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_MAX_INT64 = 2**63 - 1
_MAX_DIGITS = 19


class Reply(NamedTuple):
    """An HTTP reply."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = {}


class _Route(NamedTuple):
    name: str
    version: int | None
    label: str
    verb: str


class RestApi:
    """Answers requests; thread-safe and blocking, so it is called on worker threads."""

    def __init__(
        self,
        manager: ModelManager,
        runner: Runner,
        metrics: Metrics,
        *,
        limits: RequestLimits = DEFAULT_LIMITS,
        default_inputs: bool = False,
        metrics_path: str | None = None,
    ) -> None:
        self._manager, self._runner, self._metrics = manager, runner, metrics
        self._limits, self._default_inputs, self._metrics_path = limits, default_inputs, metrics_path

    def handle(self, method: str, path: str, body: bytes, is_wanted: IsWanted = always) -> Reply:
        """Answers one request; never raises.

        Args:
          method: in capitals.
          path: as sent: percent-encoded, without the query.
          body: the whole body.
          is_wanted: whether the caller still waits.
        """
        if self._metrics_path is not None and path == self._metrics_path:
            return Reply(200, self._metrics.page().encode(), "text/plain")
        if not _API.fullmatch(path):
            return Reply(404, json_replies.write_error(f"no such path: {path}; the API begins with /v1/models/"))
        start = time.monotonic()
        route = None
        code = "OK"
        try:
            route = _parse(method, path)
            return Reply(200, self._answer(method, path, route, body, is_wanted))
        except Exception as error:  # the server goes on serving, whatever a request provokes
            failure = from_exception(error)
            code = failure.code
            return Reply(failure.http_status, json_replies.write_error(failure.message))
        finally:
            if route is not None and method == "POST":
                self._record(route, code, time.monotonic() - start)

    def _answer(self, method: str, path: str, route: _Route | None, body: bytes, is_wanted: IsWanted) -> bytes:
        if route is None:
            raise invalid(f"Malformed request: {method} {path}")
        if not route.name:
            raise invalid("Missing model name in request.")
        if method == "GET" and route.verb != "metadata":
            return status_protos.status_json(self._manager.status(route.name, route.version))
        with self._manager.servable(route.name, route.version, route.label) as model:
            if method == "GET":
                return status_protos.metadata_json(model)
            if route.verb == "predict":
                return self._predict(model, body, is_wanted)
            raise wrong_method(route.verb)

    def _predict(self, model: LoadedModel, body: bytes, is_wanted: IsWanted) -> bytes:
        if not is_wanted():
            raise nobody_waits()
        request = parse_predict(body, lambda name: self._expected(model, name), self._limits)
        signature = find_signature(model, request.signature_name)
        start = time.monotonic()
        outputs = predict(self._runner, model, signature, request.inputs, (), self._limits, is_wanted)
        self._metrics.observe("runtime_latency", (time.monotonic() - start) * 1e6, model.name, "Predict", "TF1")
        return json_replies.write_rows(outputs) if request.by_row else json_replies.write_columns(outputs)

    def _expected(self, model: LoadedModel, name: str) -> Expected:
        signature = model.signatures.get(name or DEFAULT_SIGNATURE)
        if signature is None:
            raise invalid(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
        defaults = frozenset(signature.defaults)
        return Expected(
            {alias: spec.dtype for alias, spec in signature.inputs.items()},
            optional=defaults if self._default_inputs else frozenset(),
            has_default=defaults,
        )

    def _record(self, route: _Route, code: str, seconds: float) -> None:
        name = route.name if route.name in self._manager.model_names() else "(unknown)"  # names come from anybody
        self._metrics.count("request_count", name, code)
        if code == "OK":
            self._metrics.observe("request_latency", seconds * 1e6, name, route.verb, "REST")


def wrong_method(verb: str) -> ServingError:
    """What TensorFlow Serving says of classify and regress calls to a SavedModel written by TensorFlow 2."""
    noun = {"classify": "classification", "regress": "regression"}[verb]
    return invalid(
        f"Expected {noun} signature method_name to be tensorflow/serving/{verb}. Was: tensorflow/serving/predict"
    )


def _parse(method: str, path: str) -> _Route | None:
    """The route of a path; None where TensorFlow Serving calls the request malformed."""
    pattern = {"POST": _POST, "GET": _GET}.get(method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        return None
    version, verb = match["version"], match["verb"] or ""
    version = version and (version.lstrip("0") or "0")
    if version is not None and (len(version) > _MAX_DIGITS or int(version) > _MAX_INT64):
        raise invalid(f"Failed to convert version: {version} to numeric.")
    if verb != verb.lower():  # the route is matched in any case, the verb is not
        return None
    name, label = (
        urllib.parse.unquote(part or "", errors="surrogateescape") for part in (match["name"], match["label"])
    )
    return _Route(name, None if version is None else int(version), label, verb)
