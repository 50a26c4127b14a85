"""Client processes of the fuzzer: they send, read, and check the answers. Need no TensorFlow."""

import collections
import json
import random
import re
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
from fuzz_grpc import GrpcRequest, make_call
from fuzz_http import HttpRequest, Seeds, make_request

_WINDOW = 16
_WINDOW_BYTES = 48_000
_WAIT_S = 60.0
_PARTIAL_S = 0.02
_MAX_FAULTS = 20
_GRPC_SHARE = 3
"""One in so many requests goes over gRPC."""

_FAULTY = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED", "ABORTED")
_PYTHON = re.compile(r"Traceback|\b[A-Z][A-Za-z]+(Error|Exception): |object has no attribute|segment_ids")
_MESSAGE = {"grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1, "grpc.enable_retries": 0}


class Target(NamedTuple):
    """A server: its ports, and what valid requests to it look like; dtypes by signature and input."""

    rest: int
    grpc: int
    seeds: Seeds
    dtypes: dict[str, dict[str, int]]


class Findings:
    """What came back, by transport and status; and what should not have."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.num_faults = 0
        self.faults: list[dict[str, Any]] = []

    def fault(self, number: int, what: str, sent: bytes, why: str) -> None:
        """Keeps the first few whole."""
        self.num_faults += 1
        if len(self.faults) < _MAX_FAULTS:
            shown = sent[:600].decode("latin-1")
            self.faults.append({"number": number, "what": what, "why": why[:600], "sent": shown})


def run_client(target: Target, numbers: range, seed: int, results: Any) -> None:
    """Sends the requests of these numbers, each by a generator of its own, and puts (counts, faults) into `results`."""
    findings = Findings()
    over_grpc = [number for number in numbers if number % _GRPC_SHARE == 0]
    over_http = [number for number in numbers if number % _GRPC_SHARE]
    try:
        _run_grpc(target, over_grpc, seed, findings)
        _run_http(target, over_http, seed, findings)
    except Exception as error:  # a client that ends early must say so
        findings.fault(-1, "the client itself", b"", f"{type(error).__name__}: {error}")
    results.put((dict(findings.counts), findings.num_faults, findings.faults))


def _rng(seed: int, number: int) -> random.Random:
    return random.Random(seed * 1_000_003 + number)


def _run_http(target: Target, numbers: list[int], seed: int, findings: Findings) -> None:
    waiting: list[tuple[int, HttpRequest]] = []
    connection = HttpConnection(target.rest)
    for number in numbers:
        request = make_request(target.seeds, _rng(seed, number))
        if not request.keeps_framing:
            _send_alone(target, number, request, findings)
            continue
        waiting.append((number, request))
        if len(waiting) == _WINDOW or sum(len(each.data) for _, each in waiting) > _WINDOW_BYTES:
            connection = _send_together(target, connection, waiting, findings)
            waiting = []
    _send_together(target, connection, waiting, findings).close()


def _send_together(
    target: Target, connection: "HttpConnection", requests: list[tuple[int, HttpRequest]], findings: Findings
) -> "HttpConnection":
    """Several in a row on one connection; those that a close has cut off are sent again."""
    while requests:
        answered = 0
        try:
            connection.send(b"".join(request.data for _, request in requests))
            for number, request in requests:
                status, body, is_last = connection.read(request.is_head)
                _check_http(number, request, status, body, findings)
                answered += 1
                if is_last:
                    break
        except TimeoutError:
            findings.fault(requests[0][0], requests[0][1].what, requests[0][1].data, f"no answer within {_WAIT_S} s")
            answered = max(answered, 1)
        except OSError:  # closed; by whose fault is seen when the rest is sent again, alone at last
            # A kept connection may end between two requests, as HTTP allows; a fresh one may not.
            if not answered and len(requests) == 1 and not connection.is_used:
                findings.counts["rest closed without an answer"] += 1
                findings.fault(requests[0][0], requests[0][1].what, requests[0][1].data, "closed without an answer")
                answered = 1
            elif not answered:
                for each in requests:
                    _send_together(target, HttpConnection(target.rest), [each], findings).close()
                answered = len(requests)
        requests = requests[answered:]
        if requests or connection.is_closed:
            connection.close()
            connection = HttpConnection(target.rest)
    return connection


def _send_alone(target: Target, number: int, request: HttpRequest, findings: Findings) -> None:
    """On a connection of its own, which may end in any way but one: a 5xx."""
    connection = HttpConnection(target.rest, _PARTIAL_S if request.partial else _WAIT_S)
    try:
        connection.send(request.data)
        status, body, _ = connection.read(request.is_head)
        _check_http(number, request, status, body, findings)
    except TimeoutError:
        if not request.partial:
            findings.fault(number, request.what, request.data, f"no answer within {_WAIT_S} s")
        findings.counts["rest given up"] += 1
    except OSError:
        findings.counts["rest closed"] += 1
    except ValueError as error:
        findings.fault(number, request.what, request.data, f"the answer is no HTTP: {error}")
    finally:
        connection.close()


def _check_http(number: int, request: HttpRequest, status: int, body: bytes, findings: Findings) -> None:
    findings.counts[f"rest {status}"] += 1
    text = body[:3000].decode("utf-8", "replace")
    if status >= 500:
        findings.fault(number, request.what, request.data, f"HTTP {status}: {text}")
    elif status != 200 and _PYTHON.search(text):
        findings.fault(number, request.what, request.data, f"Python's words in HTTP {status}: {text}")
    elif body[:1] == b"{" and len(body) < 20_000:
        try:
            json.loads(body)
        except ValueError as error:
            findings.fault(number, request.what, request.data, f"the answer is no JSON: {error}: {text}")


class HttpConnection:
    """A socket, and the answers that come through it."""

    def __init__(self, port: int, wait_s: float = _WAIT_S) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _WAIT_S)
        self._socket.settimeout(wait_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.is_closed = self.is_used = False

    def send(self, data: bytes) -> None:
        """All of it."""
        self._socket.sendall(data)

    def read(self, is_head: bool) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection ends with it."""
        while True:
            head = self._until(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            self.is_used = True
            if status >= 200:
                break
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        length = 0 if is_head or status in (204, 304) else int(headers.get("content-length", 0))
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        self.is_closed = headers.get("connection", "").lower() == "close"
        return status, body, self.is_closed

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(end)
        return head

    def _more(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            self.is_closed = True
            raise ConnectionError("closed")
        self._buffer += data


def _run_grpc(target: Target, numbers: list[int], seed: int, findings: Findings) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{target.grpc}", options=list(_MESSAGE.items())) as channel:
        for window in _windows(numbers):
            calls = [(number, make_call(target.seeds, target.dtypes, _rng(seed, number))) for number in window]
            futures = [_start(channel, request) for _, request in calls]
            for (number, request), future in zip(calls, futures, strict=True):
                _check_grpc(number, request, future, findings)
    _knock(target, len(numbers) // 500, seed, findings)


def _windows(numbers: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(numbers), _WINDOW):
        yield numbers[start : start + _WINDOW]


def _start(channel: grpc.Channel, request: GrpcRequest) -> Any:
    compression = grpc.Compression.Gzip if request.gzip else None
    return channel.unary_unary(request.method).future(request.data, timeout=request.timeout_s, compression=compression)


def _check_grpc(number: int, request: GrpcRequest, future: Any, findings: Findings) -> None:
    error = future.exception()
    code = "OK" if error is None else error.code().name
    findings.counts[f"grpc {code}"] += 1
    if request.what == "deadline" and code == "DEADLINE_EXCEEDED":
        return
    details = "" if error is None else str(error.details())
    if code in _FAULTY or _PYTHON.search(details):
        findings.fault(number, request.what, request.data, f"gRPC {code}: {details}")


def _knock(target: Target, times: int, seed: int, findings: Findings) -> None:
    """Bytes that are no HTTP/2 on the gRPC port."""
    rng = _rng(seed, -1)
    for _ in range(times):
        first = rng.choice((b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", rng.randbytes(30)))
        with socket.create_connection(("127.0.0.1", target.grpc), _WAIT_S) as sock:
            try:
                sock.sendall(first + rng.randbytes(rng.randrange(50)))
                time.sleep(0.001)
            except OSError:
                pass
        findings.counts["grpc port knocked at"] += 1
