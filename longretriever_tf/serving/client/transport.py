"""What the two transports of the client share: options, the error, and the steps of a call. Imports no TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from longretriever_tf.serving.client.input_spec import InputSpec
from longretriever_tf.serving.client.request import Columns

Signatures = dict[str, dict[str, InputSpec]]


@dataclasses.dataclass(frozen=True)
class ClientOptions:
    """How patient a client is.

    Attributes:
      timeout_s: of each try, connecting included.
      max_retries: further tries after 429, 503 or UNAVAILABLE; nothing else is tried again.
      backoff_s: wait before the first further try; doubled each time, less a random part of up to half.
      max_backoff_s: longest wait.
      batched: the server is TensorFlow Serving and batches with `pad_variable_length_inputs`: histories begin with a
        padding event, which is what it then repeats. Without batching it costs a few bytes.
      metadata_s: how long the server's list of inputs and defaults is believed.
    """

    timeout_s: float = 10.0
    max_retries: int = 3
    backoff_s: float = 0.1
    max_backoff_s: float = 2.0
    batched: bool = False
    metadata_s: float = 300.0


@dataclasses.dataclass(frozen=True)
class Model:
    """Which model answers: its name; a version or a label, or neither: the latest version."""

    name: str = "longretriever"
    version: int | None = None
    label: str = ""


class CallError(RuntimeError):
    """A call that failed.

    Attributes:
      code: the canonical code's name, such as INVALID_ARGUMENT, whichever transport.
      message: the server's own words, or what kept the call from reaching it.
      is_retryable: the same call may succeed later.
      retry_after_s: how long the server asks to wait; 0: it does not say.
    """

    def __init__(self, code: str, message: str, *, is_retryable: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message
        self.is_retryable, self.retry_after_s = is_retryable, retry_after_s


class Transport(Protocol):
    """One way to a server; thread-safe. `send` stands apart from `prepare` and `parse`, so that it can be timed."""

    may_omit: bool

    def signatures(self) -> Signatures:
        """Asks for the inputs of every signature."""
        ...

    def prepare(self, signature: str, columns: Columns) -> Any:
        """A call, encoded."""
        ...

    def send(self, call: Any) -> Any:
        """One try; the reply as it came. Raises CallError."""
        ...

    def parse(self, reply: Any) -> Mapping[str, Any]:
        """Outputs by name: lists or arrays."""
        ...

    def close(self) -> None:
        """Gives connections back."""
        ...
