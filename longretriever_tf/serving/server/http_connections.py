"""Connections of the REST port: how many there may be, and how long each may keep the server waiting.

aiohttp waits as long as it takes for a header, a body, or a reader of its answer. Here every connection stands behind a
guard that counts and times it: who opens many, or sends a byte a minute, cannot keep others out. Imports no TensorFlow.
"""

import asyncio
import logging
import resource
from collections.abc import Callable
from typing import Any

from longretriever_tf.serving.server.json_replies import write_error

_LOG = logging.getLogger(__name__)
_IDLE = 10
"""Between two requests a connection may rest this many timeouts."""

_RESERVED_FILES = 64
"""Descriptors that are not for connections: models, logs, TensorFlow's own."""

_MIB = 1 << 20
_REASONS = {408: "Request Timeout", 503: "Service Unavailable"}


def connection_limit(wanted: int) -> int:
    """`wanted`, or half of the file descriptors that the process may have, where those are fewer; 0: no limit."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(wanted or files, max((files - _RESERVED_FILES) // 2, 1)) if files > 0 else wanted


class Connections:
    """A protocol factory for `loop.create_server`: another one's protocols, each behind a guard.

    Args:
      make: the protocol that speaks HTTP.
      max_connections: those beyond it are answered with 503 and closed; 0: no limit.
      timeout_s: for a header, for each MiB of a body, and for a reader that does not read; 0: for ever.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], max_connections: int, timeout_s: float) -> None:
        self.make, self.max_connections, self.timeout_s = make, max_connections, timeout_s
        self._guards: dict[Any, _Guard] = {}

    def __call__(self) -> "_Guard":
        return _Guard(self)

    def __len__(self) -> int:
        return len(self._guards)

    def begin(self, transport: Any, has_body: bool) -> None:
        """A request's header has been read."""
        if transport in self._guards:
            self._guards[transport].begin(has_body)

    def answer(self, transport: Any) -> None:
        """Its body has been read, too: the server's turn."""
        if transport in self._guards:
            self._guards[transport].stop_clock()

    def end(self, transport: Any) -> None:
        """It has been answered: the connection may rest."""
        if transport in self._guards:
            self._guards[transport].rest()

    def add(self, transport: Any, guard: "_Guard") -> bool:
        """Takes a connection in; False where there is no room."""
        if self.max_connections and len(self._guards) >= self.max_connections:
            return False
        self._guards[transport] = guard
        return True

    def remove(self, transport: Any) -> None:
        """A connection has ended."""
        self._guards.pop(transport, None)


class _Guard(asyncio.Protocol):
    def __init__(self, connections: Connections) -> None:
        self._all, self._loop = connections, asyncio.get_running_loop()
        self._inner: asyncio.Protocol | None = None
        self._transport: Any = None
        self._clock: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._in_request = self._in_body = self._in_header = False
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if not self._all.add(transport, self):
            self._refuse(503, f"this server holds {self._all.max_connections} connections already (--max_connections)")
            return
        self._inner = self._all.make()
        self._inner.connection_made(transport)
        self._await_header()

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            return
        if self._in_body:
            self._received += len(data)
        elif not self._in_request and not self._in_header:
            self._await_header()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner else None

    def connection_lost(self, error: Exception | None) -> None:
        self.stop_clock()
        self.resume_writing()
        self._all.remove(self._transport)
        if self._inner is not None:
            self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        if self._all.timeout_s:
            self._writing = self._loop.call_later(self._all.timeout_s, self._transport.abort)
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._writing is None:
            return
        self._writing.cancel()
        self._writing = None
        if self._inner is not None:
            self._inner.resume_writing()

    def begin(self, has_body: bool) -> None:
        self._in_request, self._in_body, self._in_header = True, has_body, False
        self._received = 0
        self.stop_clock()
        if has_body:
            self._start_clock(self._all.timeout_s, self._check_body, 0)

    def rest(self) -> None:
        self._in_request = self._in_body = False
        self.stop_clock()
        self._start_clock(_IDLE * self._all.timeout_s, self._transport.close)

    def stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _await_header(self) -> None:
        self._in_header = True
        self.stop_clock()
        self._start_clock(self._all.timeout_s, self._refuse, 408, "the request's header")

    def _check_body(self, before: int) -> None:
        """Every timeout another MiB must have come."""
        if self._received < before + _MIB:
            self._refuse(408, "the request's body")
        else:
            self._start_clock(self._all.timeout_s, self._check_body, self._received)

    def _start_clock(self, seconds: float, then: Callable[..., Any], *args: Any) -> None:
        if seconds:
            self._clock = self._loop.call_later(seconds, then, *args)

    def _refuse(self, status: int, what: str) -> None:
        """Answers in the place of HTTP's own protocol, and closes."""
        if status == 408:
            what = f"{what} did not come within {self._all.timeout_s:g} s (--rest_api_read_timeout_seconds)"
        body = write_error(what)
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._transport.close()
