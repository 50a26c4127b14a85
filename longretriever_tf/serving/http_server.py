"""Puts a RestApi on a port: an aiohttp server on a thread of its own; requests are answered on worker threads.

The event loop only reads and writes sockets. Parsing JSON and running TensorFlow would hold it up, so both happen on
the workers; a request that takes too long is answered with 504 while its worker finishes.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from aiohttp import web

from longretriever_tf.errors import UserError
from longretriever_tf.serving.json_replies import write_error
from longretriever_tf.serving.rest import JSON, Reply

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_TIMED_OUT = "Timed out waiting for notification"
Handle = Callable[[str, str, bytes], Reply]


class HttpLimits(NamedTuple):
    """Workers; seconds until 504 (0: never) and those that `stop` gives to requests in flight; bytes of a body."""

    num_threads: int
    timeout_s: float
    grace_s: float
    max_body: int


class HttpServer:
    """Serves until `stop`; `port` tells the port when 0 was asked for."""

    def __init__(
        self,
        handle: Handle,
        limits: "HttpLimits",
        host: str,
        port: int,
        cors: bool = False,
    ) -> None:
        """Starts to listen.

        Raises:
          UserError: the port is taken, or the host is not this machine's.
        """
        self._handle, self._limits, self._cors = handle, limits, cors
        self._workers = ThreadPoolExecutor(limits.num_threads, thread_name_prefix="rest")
        self._loop = asyncio.new_event_loop()
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
        """Takes no new connection, lets requests in flight finish, then closes."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._end()

    async def _start(self, host: str, port: int) -> int:
        app = web.Application(client_max_size=self._limits.max_body)
        app.router.add_route("*", "/{path:.*}", self._respond)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=self._limits.grace_s)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return self._runner.addresses[0][1]

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _respond(self, request: web.Request) -> web.Response:
        if self._cors and request.method == "OPTIONS":
            return web.Response(headers=_CORS)
        reply = await self._reply(request)
        headers = dict(reply.headers) | (_CORS if self._cors else {})
        return web.Response(status=reply.status, body=reply.body, content_type=reply.content_type, headers=headers)

    async def _reply(self, request: web.Request) -> Reply:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            limit = f"{self._limits.max_body:,} bytes"
            return Reply(
                413,
                write_error(
                    f"the request body is larger than {limit}; send fewer users or shorter histories per request, or "
                    "start the server with a larger --max_body_mb"
                ),
            )
        except (web.HTTPException, web.RequestPayloadError) as error:  # not what Content-Encoding promises
            return Reply(400, write_error(f"cannot read the request body: {error}"))
        path = request.raw_path.partition("?")[0]
        call = self._loop.run_in_executor(self._workers, self._handle, request.method, path, body)
        try:
            return await asyncio.wait_for(asyncio.shield(call), self._limits.timeout_s or None)
        except asyncio.TimeoutError:
            return Reply(504, write_error(_TIMED_OUT), JSON)
