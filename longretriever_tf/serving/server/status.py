"""Errors and the state of versions, as both transports report them. Imports no TensorFlow.

The codes are those of google.rpc.Code. The HTTP status of each code is that of TensorFlow Serving's http_server.cc.
"""

from typing import NamedTuple

import grpc

_HTTP = {
    "OK": 200,
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "UNAUTHENTICATED": 401,
}
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_GRAPH_PREFIX = "Graph execution error:\n\n"


class ServingError(Exception):
    """A request or a load that failed: the name of a canonical code, and a message for the caller.

    `http_status` is what goes with the code, unless HTTP has a status that says more.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.http_status = http_status or _HTTP.get(code, 500)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def invalid(message: str) -> ServingError:
    """The request is wrong."""
    return ServingError("INVALID_ARGUMENT", message)


def from_exception(error: BaseException) -> ServingError:
    """Any exception as a ServingError: TensorFlow's keep their code, all others are INTERNAL and name their type."""
    if isinstance(error, ServingError):
        return error
    number = getattr(error, "error_code", None)  # tf.errors.OpError
    if number in _NAMES:
        return ServingError(_NAMES[number], getattr(error, "message", str(error)).removeprefix(_GRAPH_PREFIX))
    return ServingError("INTERNAL", f"{type(error).__name__}: {error}")


def printable(text: str) -> str:
    """Text without lone surrogates: an error message may repeat bytes of a request that are not UTF-8."""
    return text.encode("utf-8", "replace").decode()


class VersionStatus(NamedTuple):
    """A version's state (START, LOADING, AVAILABLE, UNLOADING or END), and its error, if loading it failed."""

    version: int
    state: str
    error: ServingError | None = None
