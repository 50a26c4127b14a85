"""Errors as TensorFlow Serving reports them: a canonical code and a message. Imports no TensorFlow.

Canonical codes are those of google.rpc.Code; the HTTP status of each is that of TensorFlow Serving's http_server.cc.
"""

CODES = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
"""Number of each canonical code, the same in gRPC, TensorFlow and StatusProto."""

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
_NAMES = {number: name for name, number in CODES.items()}
_GRAPH_PREFIX = "Graph execution error:\n\n"  # Python's own words: the C++ server starts with the message itself


class ServingError(Exception):
    """A request or a load that failed: `code` (a name in CODES) and a message that the caller may read."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def number(self) -> int:
        """The canonical code's number."""
        return CODES[self.code]

    @property
    def http_status(self) -> int:
        """The HTTP status that TensorFlow Serving answers with."""
        return _HTTP.get(self.code, 500)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def invalid(message: str) -> ServingError:
    """The commonest error: the request is wrong."""
    return ServingError("INVALID_ARGUMENT", message)


def from_exception(error: BaseException) -> ServingError:
    """Any exception as a ServingError: TensorFlow's keep their code, all others are INTERNAL and name their type."""
    if isinstance(error, ServingError):
        return error
    number = getattr(error, "error_code", None)  # tf.errors.OpError
    if number in _NAMES:
        return ServingError(_NAMES[number], getattr(error, "message", str(error)).removeprefix(_GRAPH_PREFIX))
    return ServingError("INTERNAL", f"{type(error).__name__}: {error}")
