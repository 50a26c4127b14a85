"""What the fuzzer of the server puts where something else belongs. Needs the standard library alone."""

import json
import random
from typing import Any

Raw = bytes


class Token:
    """JSON text that `json.dumps` would not write, such as NaN or a number of 500 digits."""

    def __init__(self, text: str) -> None:
        self.text = text


TOKENS = ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "1" * 500, "0.1" + "0" * 300, "01", "+1", "0x10")
NUMBERS = (-1, 0, 1, 2, 7, 300, 10_000, 2**31 - 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1)
TIMES = (0, -1, 1, 10**9, 10**11, 1_700_000_000_000, 1_700_000_000_000_000, 2**62)
FLOATS = (0.5, -0.0, 1e300, 1e-300, 1.0)
TEXTS = (
    "",
    "a",
    "17",
    "true",
    "\ud800",
    "\udfff x",
    "\x00",
    "é\u0301",
    "\U0001f600",
    "null",
    "' OR 1",
    "%s%n",
    "a" * 3000,
)
BASE64 = ("//79", "gICA", "", "!!", "YQ", "YQ==", "A", "7aCA")  # some of it is no UTF-8 once decoded
DEPTHS = (1, 2, 3, 31, 32, 33, 63, 64, 65, 66, 200, 900, 1100, 3000)


def odd_value(rng: random.Random) -> Any:
    """A JSON value of any kind."""
    return rng.choice(
        (
            lambda: rng.choice((None, True, False, {}, [], [[]], [{}], [[], []], {"a": 1}, {"": None})),
            lambda: Token(rng.choice(TOKENS)),
            lambda: rng.choice(NUMBERS + TIMES),
            lambda: rng.choice(FLOATS),
            lambda: rng.choice(TEXTS),
            lambda: {"b64": rng.choice(BASE64)},
            lambda: {"b64": rng.choice((5, None, [], "YQ"))},
            lambda: nested(rng.choice(DEPTHS), rng.choice((0, "a", None))),
            lambda: [odd_scalar(rng) for _ in range(rng.randrange(6))],
        )
    )()


def odd_scalar(rng: random.Random) -> Any:
    """A number, text or token."""
    return rng.choice(
        (Token(rng.choice(TOKENS)), rng.choice(NUMBERS), rng.choice(FLOATS), rng.choice(TEXTS), None, True)
    )


def nested(depth: int, leaf: Any) -> Token:
    """Lists in lists, as text: Python's own writer would give up."""
    return Token("[" * depth + json.dumps(leaf) + "]" * depth)


def write_json(value: Any, rng: random.Random) -> str:
    """JSON text, where tokens stand as they are and names may come twice."""
    if isinstance(value, Token):
        return value.text
    if isinstance(value, dict):
        items = [f"{json.dumps(str(key))}:{write_json(each, rng)}" for key, each in value.items()]
        if items and rng.random() < 0.01:
            items.append(rng.choice(items))
        return "{" + ",".join(items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([write_json(each, rng) for each in value]) + "]"
    if isinstance(value, str) and rng.random() < 0.5:
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def paths_of(value: Any, limit: int = 200) -> list[tuple[Any, ...]]:
    """Where in a document something can be changed: keys and positions, from the root."""
    paths: list[tuple[Any, ...]] = []
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting and len(paths) < limit:
        path, each = waiting.pop()
        children = each.items() if isinstance(each, dict) else enumerate(each[:8]) if isinstance(each, list) else ()
        for key, child in children:
            paths.append((*path, key))
            waiting.append(((*path, key), child))
    return paths


def change(document: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of the document with another value there; what is not on the path is shared."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[key] = change(copy[key], rest, new)
    return copy


def remove(document: Any, path: tuple[Any, ...]) -> Any:
    """A copy of the document without what is there."""
    key, rest = path[0], path[1:]
    copy = dict(document) if isinstance(document, dict) else list(document)
    if rest:
        copy[key] = remove(copy[key], rest)
    else:
        del copy[key]
    return copy


def mangle(data: bytes, rng: random.Random) -> bytes:
    """The bytes cut off, flipped, doubled or strewn with others."""
    if not data:
        return rng.randbytes(rng.randrange(64))
    at = rng.randrange(len(data))
    kind = rng.randrange(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
    if kind == 3:
        return (
            data[:at]
            + rng.choice((b"\xff", b"\xed\xa0\x80", b"\x00", b"\xc0\xaf", b"[", b"{", b'"', b"\\u"))
            + data[at:]
        )
    if kind == 4:
        return data + rng.choice((data, b"x", b"\x00", b"]", b"}"))
    if kind == 5:
        return data[:at] + data[at + rng.randrange(1, 20) :]
    return rng.choice((b"\xef\xbb\xbf" + data, data.decode("utf-8", "replace").encode("utf-16"), rng.randbytes(40)))
