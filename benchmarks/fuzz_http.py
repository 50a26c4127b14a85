"""Requests of the fuzzer over HTTP: valid ones, changed in structure, text, bytes, headers, paths or framing."""

import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from fuzz_values import TIMES, Token, change, mangle, nested, odd_scalar, odd_value, paths_of, remove, write_json

Document = dict[str, Any]


class HttpRequest(NamedTuple):
    """One request: the bytes to send, what was done to it, and whether it keeps to HTTP, so that others may follow.

    `partial`: it is never finished, and the caller hangs up. `is_head`: its answer has no body.
    """

    data: bytes
    what: str
    keeps_framing: bool = True
    partial: bool = False
    is_head: bool = False


class Seeds(NamedTuple):
    """Valid requests: signature, then inputs by column; what the fuzzer starts from. `port` is the server's."""

    model: str
    columns: dict[str, Document]
    port: int


_METHODS = (
    "GET",
    "PUT",
    "DELETE",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "POST",
    "get",
    "G\tET",
    "FOO",
    "CONNECT",
    "PRI",
)
_VERBS = ("predict", "classify", "regress", "PREDICT", "explain", "", "predict:predict")
_NAMES = ("", "toy", "..", "%zz", "%ff", "%ed%a0%80", "%00", "a" * 4000, "%2e%2e%2f", "\xc3\xa9", "a b", "%", "nobody")
_VERSIONS = (
    "0",
    "1",
    "2",
    "-1",
    "9" * 18,
    "9" * 19,
    "9" * 40,
    "9" * 5000,
    "0" * 5000 + "1",
    "1.0",
    "x",
    "",
    "%31",
    "\xb2",
)
_HEADERS = (
    "Content-Type: text/plain",
    "Content-Type: application/x-www-form-urlencoded",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Type: \xff\xfe",
    "Content-Encoding: br",
    "Content-Encoding: foo",
    "Content-Encoding: gzip, gzip",
    "Expect: 100-continue",
    "Expect: nothing",
    "Origin: http://elsewhere.example",
    "Origin: null",
    "Sec-Fetch-Site: cross-site",
    "Host: elsewhere.example",
    "Host: [::1",
    "Host: 127.0.0.1:99999999",
    "Host:",
    "Accept: text/html",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA",
    "X: " + "y" * 7000,
    "Cookie: " + "a=b; " * 500,
    "Range: bytes=0-",
    "If-Modified-Since: \x7f",
    "Transfer-Encoding: gzip",
)


def make_request(seeds: Seeds, rng: random.Random) -> HttpRequest:
    """A request and what was done to it, by the generator alone."""
    kind = rng.choices(_KINDS, _WEIGHTS)[0]
    return kind(seeds, rng)


def good_request(seeds: Seeds, signature: str) -> HttpRequest:
    """An unchanged one."""
    body = json.dumps({"signature_name": signature, "inputs": seeds.columns[signature]}).encode()
    return _post(seeds, body, "unchanged")


def _post(seeds: Seeds, body: bytes, what: str, *headers: str) -> HttpRequest:
    return _request(seeds, "POST", f"/v1/models/{seeds.model}:predict", body, what, *headers)


def _request(seeds: Seeds, method: str, path: str, body: bytes, what: str, *headers: str) -> HttpRequest:
    given = {header.partition(":")[0].lower() for header in headers}
    lines = [f"{method} {path} HTTP/1.1", *headers]
    if "host" not in given:
        lines.append(f"Host: 127.0.0.1:{seeds.port}")
    lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
    return HttpRequest(head + body, what, is_head=method == "HEAD")


def _document(seeds: Seeds, rng: random.Random) -> Document:
    """A valid request, by column or by row."""
    signature = rng.choice(list(seeds.columns))
    columns = seeds.columns[signature]
    if rng.random() < 0.4:
        num = max(map(len, columns.values()))
        rows = [{name: column[min(row, len(column) - 1)] for name, column in columns.items()} for row in range(num)]
        return {"signature_name": signature, "instances": rows}
    return {"signature_name": signature, "inputs": columns}


def _structure(seeds: Seeds, rng: random.Random) -> HttpRequest:
    document: Any = _document(seeds, rng)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = paths_of(document)
        if not paths:
            break
        path = rng.choice(paths)
        document, what = _change_one(document, path, rng)
        done.append(what)
    text = write_json(document, rng)
    return _post(seeds, text.encode("utf-8", "surrogatepass"), "; ".join(done))


def _change_one(document: Any, path: tuple[Any, ...], rng: random.Random) -> tuple[Any, str]:
    """One change at a path."""
    value = document
    for key in path:
        value = value[key]
    kind = rng.randrange(6)
    if kind == 0:
        return remove(document, path), f"remove {path}"
    if kind == 1:
        return change(document, path, [value]), f"wrap {path}"
    if kind == 2 and isinstance(value, list):
        new = rng.choice(
            (
                lambda: [*value, odd_scalar(rng)],
                lambda: value[1:],
                lambda: value * rng.randrange(2, 40),
                lambda: [],
                lambda: [*value, value],
            )
        )()
        return change(document, path, new), f"length of {path}"
    if kind == 3 and isinstance(value, dict):
        return change(
            document, path, value | {rng.choice(("k", "x", "", "history_item_id")): odd_value(rng)}
        ), f"add {path}"
    if kind == 4 and "timestamp" in str(path):
        return change(document, path, rng.choice(TIMES)), f"time {path}"
    return change(document, path, odd_value(rng)), f"replace {path}"


def _whole(seeds: Seeds, rng: random.Random) -> HttpRequest:
    """A body that is no request at all."""
    value = rng.choice(
        (
            lambda: odd_value(rng),
            lambda: {"instances": odd_value(rng)},
            lambda: {"inputs": odd_value(rng)},
            lambda: {"instances": [odd_value(rng) for _ in range(3)]},
            lambda: {"signature_name": odd_value(rng), "instances": [1]},
            lambda: {"signature_name": rng.choice(list(seeds.columns)), "instances": odd_value(rng)},
            lambda: {"inputs": {}, "instances": []},
            lambda: {"instances": nested(rng.choice((64, 65, 100, 1000, 5000)), 1)},
            lambda: Token('{"instances": ' + "[" * rng.randrange(1, 3000)),
            lambda: Token(""),
        )
    )()
    return _post(seeds, write_json(value, rng).encode("utf-8", "surrogatepass"), "another document")


def _bytes(seeds: Seeds, rng: random.Random) -> HttpRequest:
    return _post(seeds, mangle(json.dumps(_document(seeds, rng)).encode(), rng), "bytes of the body")


def _numbers(seeds: Seeds, rng: random.Random) -> HttpRequest:
    """Options at their limits, and more rows or events than anyone has."""
    signature = rng.choice([name for name in seeds.columns if "k" in seeds.columns[name]] or list(seeds.columns))
    columns = dict(seeds.columns[signature])
    rows = max(map(len, columns.values()))
    for name in ("k", "num_interests", "top_interests", "exploration", "seed"):
        if name in columns and rng.random() < 0.5:
            columns[name] = [rng.choice((-1, 0, 1, 5, 100, 10_000, 2**31 - 1))] * rng.choice((1, rows, rows + 1))
    if rng.random() < 0.05:
        columns = {name: column * rng.choice((50, 3000)) for name, column in columns.items()}
    body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
    return _post(seeds, body, "numbers and rows")


def _paths(seeds: Seeds, rng: random.Random) -> HttpRequest:
    name = rng.choice((seeds.model, *_NAMES))
    where = rng.choice(
        (
            "",
            f"/versions/{rng.choice(_VERSIONS)}",
            f"/labels/{rng.choice(_NAMES)}",
            "/metadata",
            f"/versions/{rng.choice(_VERSIONS)}/metadata",
        )
    )
    verb = rng.choice(("", f":{rng.choice(_VERBS)}", "?x=%zz", "/", "#a"))
    path = rng.choice(
        (
            f"/v1/models/{name}{where}{verb}",
            f"/V1/models/{name}{where}{verb}",
            f"/explorer/models/{name}/{rng.choice(('users.json', 'names', 'x', ''))}",
            rng.choice(
                ("/", "/explorer", "/explorer/", "/explorer/main.js", "/explorer/../x", "/x", "*", "//", "/v1/")
            ),
            f"http://127.0.0.1:{seeds.port}/v1/models/{name}",
            "/monitoring/prometheus/metrics",
            "/v1/" + "a" * rng.choice((10, 9000)),
        )
    ).replace(" ", "%20")
    body = rng.choice((b"", b"{}", b'{"instances": [1]}'))
    request = _request(seeds, rng.choice(("GET", "GET", "POST", *_METHODS)), path, body, f"path {path[:60]}")
    return request._replace(keeps_framing=False)


def _headers(seeds: Seeds, rng: random.Random) -> HttpRequest:
    body = json.dumps(_document(seeds, rng)).encode()
    chosen = rng.sample(_HEADERS, rng.choice((1, 1, 2)))
    request = _post(seeds, body, f"headers {[header[:30] for header in chosen]}", *chosen)
    return request._replace(keeps_framing=False)


def _encodings(seeds: Seeds, rng: random.Random) -> HttpRequest:
    body = json.dumps(_document(seeds, rng)).encode()
    kind, data = rng.choice(
        (
            ("gzip", lambda: gzip.compress(body)),
            ("gzip", lambda: gzip.compress(body)[:-5]),
            ("gzip", lambda: mangle(gzip.compress(body), rng)),
            ("gzip", lambda: body),
            ("deflate", lambda: zlib.compress(body)),
            ("deflate", lambda: rng.randbytes(30)),
            ("gzip", lambda: gzip.compress(gzip.compress(body))),
        )
    )
    return _post(seeds, data(), f"encoding {kind}", f"Content-Encoding: {kind}")._replace(keeps_framing=False)


def _bomb(seeds: Seeds, rng: random.Random) -> HttpRequest:
    """Small on the wire, large once unpacked."""
    body = gzip.compress(b"[" * (1 << 20) if rng.random() < 0.5 else b" " * (40 << 20), 1)
    return _post(seeds, body, "gzip bomb", "Content-Encoding: gzip")._replace(keeps_framing=False)


def _names(seeds: Seeds, rng: random.Random) -> HttpRequest:
    value = rng.choice(
        (lambda: {"item_id": odd_value(rng)}, lambda: odd_value(rng), lambda: {"item_id": [odd_value(rng)]})
    )()
    body = write_json(value, rng).encode("utf-8", "surrogatepass")
    return _request(seeds, "POST", f"/explorer/models/{seeds.model}/names", body, "names of items")


def _framing(seeds: Seeds, rng: random.Random) -> HttpRequest:
    """Bytes that are no HTTP, or stop being it."""
    body = json.dumps(_document(seeds, rng)).encode()
    good = _post(seeds, body, "").data
    head = f"POST /v1/models/{seeds.model}:predict HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    data, partial = rng.choice(
        (
            (lambda: mangle(good[: len(good) - len(body)], rng) + body, True),
            (lambda: good[: rng.randrange(len(good))], True),
            (lambda: rng.randbytes(rng.randrange(1, 400)), True),
            (lambda: head + b"Content-Length: -5\r\n\r\n" + body, True),
            (lambda: head + b"Content-Length: 99999999999999999999\r\n\r\n" + body, True),
            (lambda: head + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\n" + body, True),
            (lambda: head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
            (lambda: chunked + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n", False),
            (lambda: chunked + b"zz\r\n" + body, True),
            (lambda: chunked + b"ffffffffffffffff\r\n" + body, True),
            (lambda: chunked + b"5;" + b"x" * 5000 + b"\r\n", True),
            (
                lambda: good.replace(b"HTTP/1.1", rng.choice((b"HTTP/1.0", b"HTTP/9.9", b"HTTP/2.0", b"", b"HTTP"))),
                True,
            ),
            (lambda: good.replace(b"\r\n", b"\n", 2), True),
            (lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(20), True),
            (lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(60), True),  # TLS
            (lambda: b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * rng.choice((5, 2000)), True),
        )
    )
    return HttpRequest(data(), "framing", keeps_framing=False, partial=partial)


_Make = Callable[[Seeds, random.Random], HttpRequest]
_MIX: tuple[tuple[_Make, float], ...] = (
    (_structure, 40),
    (_whole, 15),
    (_bytes, 15),
    (_numbers, 6),
    (_paths, 8),
    (_headers, 4),
    (_encodings, 4),
    (_names, 3),
    (_framing, 5),
    (_bomb, 0.02),
)
_KINDS = [make for make, _ in _MIX]
_WEIGHTS = [weight for _, weight in _MIX]
