"""The REST interface: routes and replies, without a web server; `http_server` puts it on a port."""

import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import NamedTuple

from longretriever_tf.serving.server import json_replies, status_protos
from longretriever_tf.serving.server.json_requests import parse_predict
from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, RequestLimits
from longretriever_tf.serving.server.loaded import LoadedModel
from longretriever_tf.serving.server.manager import ModelManager
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.predict import predict
from longretriever_tf.serving.server.status import from_exception, invalid

JSON = "application/json"
_API = "/v1/"
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?"
_REQUESTS = (
    "there are GET /v1/models/NAME, GET /v1/models/NAME/metadata and POST /v1/models/NAME:predict, each with "
    "/versions/NUMBER or /labels/LABEL after NAME"
)
_ROUTES = {"POST": re.compile(_MODEL + ":predict", re.ASCII), "GET": re.compile(_MODEL + "(/metadata)?", re.ASCII)}


class Reply(NamedTuple):
    """An HTTP reply."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = {}


Handle = Callable[[str, str, bytes], Reply]
"""Answers a request: method, path, body; never raises."""


class RestApi:
    """Answers requests; thread-safe and blocking, so it is called on worker threads."""

    def __init__(
        self,
        manager: ModelManager,
        metrics: Metrics,
        limits: RequestLimits = DEFAULT_LIMITS,
        metrics_path: str | None = None,
    ) -> None:
        self._manager, self._metrics, self._limits, self._metrics_path = manager, metrics, limits, metrics_path

    def handle(self, method: str, path: str, body: bytes) -> Reply:
        """Answers one request; never raises. The path is as sent: percent-encoded, without the query."""
        if path == self._metrics_path:
            return Reply(200, self._metrics.page().encode(), "text/plain")
        if not path.startswith(_API):
            return Reply(404, json_replies.write_error(f"no such path: {path}; the API begins with /v1/models/"))
        try:
            route = _ROUTES[method].fullmatch(path) if method in _ROUTES else None
            if route is None:
                raise invalid(f"no such request: {method} {path}; {_REQUESTS}")
            name, label = (urllib.parse.unquote(route[part] or "") for part in ("name", "label"))
            version = int(route["version"]) if route["version"] else None
            if method == "GET" and not path.endswith("/metadata"):
                return Reply(200, status_protos.status_json(self._manager.status(name, version)))
            if method == "GET":
                with self._manager.servable(name, version, label) as model:
                    return Reply(200, _metadata(model))
            with self._metrics.request(self._manager.model_names(), name, "REST"):
                with self._manager.servable(name, version, label) as model:
                    return Reply(200, self._predict(model, body))
        except Exception as error:  # the server goes on serving, whatever a request provokes
            failure = from_exception(error)
            return Reply(failure.http_status, json_replies.write_error(failure.message))

    def _predict(self, model: LoadedModel, body: bytes) -> bytes:
        request = parse_predict(body, lambda name: _dtypes(model, name), self._limits)
        signature = model.signature(request.signature_name)
        outputs = predict(model, signature, request.inputs, (), self._limits)
        return json_replies.write_rows(outputs) if request.by_row else json_replies.write_columns(outputs)


def _dtypes(model: LoadedModel, name: str) -> dict[str, int]:
    return {alias: spec.dtype for alias, spec in model.signature(name).inputs.items()}


def _metadata(model: LoadedModel) -> bytes:
    protos = {name: signature.proto for name, signature in model.signatures.items()}
    return status_protos.metadata_json(model.name, model.version, protos)
