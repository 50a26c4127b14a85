"""Puts a REST API on a port: an aiohttp server on a thread of its own; requests are answered on worker threads.

The event loop only reads and writes sockets. Parsing JSON and running TensorFlow would hold it up, so both happen on
workers. Status, metadata and metrics have workers of their own, so that they are answered while all others are at work.
"""

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from longretriever_tf.serving.server import quiet_log
from longretriever_tf.serving.server.json_replies import write_error
from longretriever_tf.serving.server.options import ServerOptions
from longretriever_tf.serving.server.origins import OriginRules
from longretriever_tf.serving.server.rest import JSON, Handle, Reply
from longretriever_tf.serving.server.status import ServingError, invalid

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_MODEL_CALL = re.compile(r"/v1/.*:predict", re.DOTALL)
_EXPLORER_DATA = "/explorer/models/"
_BODIES_HELD = 16
"""Bodies of the largest size that may be held at once, waiting for workers or in their hands."""

_LINGER_S = 2.0
"""After an answer, for the rest of a body that was not read: who still sends would not see the answer."""

_FOR_EVER_S = 1e9
_MIB = 1 << 20


class _NoRoom(asyncio.Protocol):
    """Answers a connection beyond the limit, and closes it."""

    def __init__(self, limit: int) -> None:
        self._body = write_error(f"this server holds {limit} connections already (--max_connections)")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
        transport.write(f"{head}Content-Length: {len(self._body)}\r\n\r\n".encode() + self._body)  # type: ignore[attr-defined]
        transport.close()


class HttpServer:
    """Serves until `stop`; `port` is the port that it listens on."""

    def __init__(self, handle: Handle, options: ServerOptions) -> None:
        """Starts to listen.

        Raises:
          OSError: the port is taken, or the host is not this machine's.
        """
        self._handle, self._options = handle, options
        self._rules = OriginRules(options.host, options.allowed_hosts, options.rest_api_enable_cors_support)
        self._log = quiet_log.quiet_logger(__name__)
        self._lanes = {
            name: ThreadPoolExecutor(num, thread_name_prefix=f"rest-{name}")
            for name, num in (("model", options.num_threads), ("quick", 2), ("explorer", 2))
        }
        self._held = 0
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: quiet_log.log_loop_error(self._log, context))
        self._thread = threading.Thread(target=self._loop.run_forever, name="rest-loop", daemon=True)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        """Takes no new connection, lets requests in flight finish within the grace, then closes."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)

    async def _start(self) -> int:
        self._http = web.Server(
            self._respond,
            handler_cancellation=True,  # a caller who goes away ends his handler, and what still waits for a worker
            access_log=None,
            logger=self._log,
            keepalive_timeout=self._options.rest_api_read_timeout_seconds or _FOR_EVER_S,
            lingering_time=_LINGER_S,
        )
        limit = self._options.connection_limit

        def accept() -> asyncio.Protocol:
            return _NoRoom(limit) if limit and len(self._http.connections) >= limit else self._http()

        host, port = self._options.host, max(self._options.rest_api_port, 0)
        self._listener = await self._loop.create_server(accept, host, port, reuse_address=True)
        return self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._listener.close()
        self._http.pre_shutdown()
        await self._http.shutdown(self._options.shutdown_grace_seconds)

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0]
        cors = _CORS if self._rules.cors and path.startswith("/v1/") else {}
        try:
            self._rules.check(request.method, path, request.headers)
            reply = Reply(200, b"") if cors and request.method == "OPTIONS" else await self._answer(request, path)
        except ServingError as error:
            headers = {"Retry-After": "1"} if error.code == "UNAVAILABLE" else {}
            reply = Reply(error.http_status, write_error(error.message), JSON, headers)
        response = web.Response(
            status=reply.status, body=reply.body, content_type=reply.content_type, headers={**reply.headers, **cors}
        )
        if reply.status == 408:
            response.force_close()
        wait_s = (self._options.rest_api_read_timeout_seconds or _FOR_EVER_S) * (1 + len(reply.body) / _MIB)
        try:
            await asyncio.wait_for(_send(request, response), wait_s)
        except asyncio.TimeoutError:  # a caller that does not read its answer
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # aiohttp sees that the caller has gone when it is handed the response
        return response

    async def _answer(self, request: web.BaseRequest, path: str) -> Reply:
        chunks: list[bytes] = []
        try:
            await self._read(request, chunks)
            return await self._work(request.method, path, b"".join(chunks))
        finally:
            self._held -= sum(map(len, chunks))

    async def _read(self, request: web.BaseRequest, chunks: list[bytes]) -> None:
        """The body, decompressed piece by piece, so that it is never larger than what is allowed."""
        size, limit = 0, self._options.max_body
        clock, wait_s = self._loop.time, self._options.rest_api_read_timeout_seconds or _FOR_EVER_S
        deadline = clock() + wait_s
        try:
            while chunk := await asyncio.wait_for(request.content.readany(), deadline - clock()):
                chunks.append(chunk)
                size += len(chunk)
                self._held += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                if self._held > _BODIES_HELD * limit:
                    raise _busy()
                if size // _MIB != (size - len(chunk)) // _MIB:
                    deadline = clock() + wait_s
        except asyncio.TimeoutError:
            words = f"the request's body did not come within {wait_s:g} s per MiB (--rest_api_read_timeout_seconds)"
            raise ServingError("DEADLINE_EXCEEDED", words, 408) from None
        except (web.HTTPException, web.RequestPayloadError, ValueError) as error:  # not what the headers promise
            raise invalid(f"cannot read the request body: {error}") from error

    async def _work(self, method: str, path: str, body: bytes) -> Reply:
        try:
            call = self._lanes[_lane(path)].submit(self._handle, method, path, body)
        except RuntimeError as error:  # the server is being stopped
            raise _busy() from error
        seconds = self._options.timeout_s
        try:  # where the caller goes or the time is up, a call that still waits for a worker is not begun
            return await asyncio.wait_for(asyncio.wrap_future(call), seconds or None)
        except asyncio.TimeoutError:
            words = f"timed out: no answer within {seconds:g} s (--rest_api_timeout_in_ms)"
            raise ServingError("DEADLINE_EXCEEDED", words) from None


async def _send(request: web.BaseRequest, response: web.Response) -> None:
    await response.prepare(request)
    await response.write_eof()


def _lane(path: str) -> str:
    if _MODEL_CALL.fullmatch(path):
        return "model"
    return "explorer" if path.startswith(_EXPLORER_DATA) else "quick"


def _too_large(max_body: int) -> ServingError:
    return ServingError(
        "RESOURCE_EXHAUSTED",
        f"the request body is larger than {max_body:,} bytes; send fewer users or shorter histories per request, or "
        "start the server with a larger --max_body_mb",
        413,
    )


def _busy() -> ServingError:
    return ServingError("UNAVAILABLE", "the server is busy with other large requests, or about to stop; try again")
