"""Puts a RestApi on a port: an aiohttp server on a thread of its own; requests are answered on worker threads.

The event loop only reads and writes sockets. Parsing JSON and running TensorFlow would hold it up, so both happen on
workers; status, metadata and metrics have workers of their own, so that they are answered while all others are at work.
"""

import asyncio
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from aiohttp import web

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server import quiet_log
from longretriever_tf.serving.server.http_connections import Connections, connection_limit
from longretriever_tf.serving.server.json_replies import write_error
from longretriever_tf.serving.server.origins import OriginRules
from longretriever_tf.serving.server.predict import IsWanted
from longretriever_tf.serving.server.rest import JSON, Reply
from longretriever_tf.serving.server.status import ServingError

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_TIMED_OUT = "Timed out waiting for notification"
_API = re.compile(r"/v1/", re.IGNORECASE)
_MODEL_CALL = re.compile(r"/v1/.*:(predict|classify|regress)", re.IGNORECASE | re.DOTALL)
_EXPLORER_DATA = "/explorer/models/"
_BODIES_HELD = 16
"""Bodies of the largest size that may be held at once, waiting for workers or in their hands."""

Handle = Callable[[str, str, bytes, IsWanted], Reply]


class HttpLimits(NamedTuple):
    """How much, how long.

    Attributes:
      num_threads: requests to models worked on at once.
      timeout_s: until 504; 0: never.
      grace_s: what `stop` gives to requests in flight.
      max_body: bytes of a body, decompressed.
      read_timeout_s: for a header, for each MiB of a body, and for a reader that does not read; 0: for ever.
      max_connections: at once; 0: as many as there are file descriptors for.
    """

    num_threads: int
    timeout_s: float
    grace_s: float
    max_body: int
    read_timeout_s: float = 30.0
    max_connections: int = 1024


class _Refused(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class HttpServer:
    """Serves until `stop`; `port` tells the port when 0 was asked for."""

    def __init__(self, handle: Handle, limits: HttpLimits, host: str, port: int, rules: OriginRules) -> None:
        """Starts to listen.

        Raises:
          UserError: the port is taken, or the host is not this machine's.
        """
        self._handle, self._limits, self._rules = handle, limits, rules
        self._log = quiet_log.quiet_logger(__name__)
        self._lanes = {
            name: ThreadPoolExecutor(num, thread_name_prefix=f"rest-{name}")
            for name, num in (("model", limits.num_threads), ("quick", 2), ("explorer", 2))
        }
        self._held = 0
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: quiet_log.log_loop_error(self._log, context))
        self._thread = threading.Thread(target=self._loop.run_forever, name="rest-loop", daemon=True)
        self._thread.start()
        try:
            self.port = asyncio.run_coroutine_threadsafe(self._start(host, port), self._loop).result()
        except OSError as error:
            self._end()
            raise UserError(
                f"cannot listen on {host}:{port} for REST: {error.strerror or error}; choose another --rest_api_port "
                "or --host, or stop what listens there"
            ) from error

    def stop(self) -> None:
        """Takes no new connection, lets requests in flight finish within the grace, then closes."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._end()

    async def _start(self, host: str, port: int) -> int:
        # A caller who goes away ends his handler, and with it what still waits for a worker.
        self._http = web.Server(self._respond, handler_cancellation=True, access_log=None, logger=self._log)
        room = connection_limit(self._limits.max_connections)
        self._connections = Connections(self._http, room, self._limits.read_timeout_s)  # type: ignore[arg-type]
        self._listener = await self._loop.create_server(self._connections, host, port, reuse_address=True)
        return self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._listener.close()
        self._http.pre_shutdown()
        await self._http.shutdown(self._limits.grace_s)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        path, transport = request.raw_path.partition("?")[0], request.transport
        self._connections.begin(transport, request.body_exists)
        open_to_all = self._rules.cors and _API.match(path) is not None
        try:
            self._rules.check(request.method, path, request.headers)
            if open_to_all and request.method == "OPTIONS":
                return web.Response(headers=_CORS)
            reply = await self._answer(request, path)
        except ServingError as error:
            reply = Reply(error.http_status, write_error(error.message), JSON)
        except _Refused as refused:
            reply = refused.reply
        finally:
            self._connections.end(transport)
        headers = dict(reply.headers) | (_CORS if open_to_all else {})
        return web.Response(status=reply.status, body=reply.body, content_type=reply.content_type, headers=headers)

    async def _answer(self, request: web.BaseRequest, path: str) -> Reply:
        chunks: list[bytes] = []
        try:
            await self._read(request, chunks)
            self._connections.answer(request.transport)
            return await self._work(request.method, path, b"".join(chunks))
        finally:
            self._held -= sum(map(len, chunks))

    async def _read(self, request: web.BaseRequest, chunks: list[bytes]) -> None:
        """The body, decompressed piece by piece, so that it is never larger than what is allowed."""
        size, limits = 0, self._limits
        try:
            while chunk := await request.content.readany():
                chunks.append(chunk)
                size += len(chunk)
                self._held += len(chunk)
                if size > limits.max_body:
                    raise _too_large(limits.max_body)
                if self._held > _BODIES_HELD * limits.max_body:
                    raise _busy()
        except (web.HTTPException, web.RequestPayloadError, ValueError) as error:  # not what the headers promise
            raise _Refused(Reply(400, write_error(f"cannot read the request body: {error}"))) from error

    async def _work(self, method: str, path: str, body: bytes) -> Reply:
        gone = threading.Event()
        try:
            call = self._lanes[_lane(path)].submit(self._handle, method, path, body, lambda: not gone.is_set())
        except RuntimeError as error:  # the server is being stopped
            raise _busy() from error
        try:
            return await asyncio.wait_for(asyncio.wrap_future(call), self._limits.timeout_s or None)
        except asyncio.TimeoutError:
            return Reply(504, write_error(_TIMED_OUT), JSON)
        finally:
            gone.set()


def _lane(path: str) -> str:
    if _MODEL_CALL.fullmatch(path):
        return "model"
    return "explorer" if path.startswith(_EXPLORER_DATA) else "quick"


def _too_large(max_body: int) -> _Refused:
    return _Refused(
        Reply(
            413,
            write_error(
                f"the request body is larger than {max_body:,} bytes; send fewer users or shorter histories per "
                "request, or start the server with a larger --max_body_mb"
            ),
        )
    )


def _busy() -> _Refused:
    message = "the server is busy with other large requests, or about to stop; try again"
    headers: dict[str, Any] = {"Retry-After": "1"}
    return _Refused(Reply(503, write_error(message), JSON, headers))
