"""Requests of the fuzzer over gRPC: PredictRequest and its kin on the wire, without TensorFlow and its messages.

Written by hand, since a message that protobuf's classes can hold is one that they would also read.
"""

import random
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from fuzz_http import Seeds
from fuzz_values import BASE64, NUMBERS, TEXTS, TIMES, mangle

FIELDS = {1: 5, 2: 6, 3: 7, 4: 7, 5: 7, 6: 7, 7: 8, 9: 10, 10: 11, 22: 16, 23: 17}
"""dtype -> the field of TensorProto that holds its values."""

_PACKS = {1: "<f", 2: "<d"}
_STRING = 7
_DTYPES = (0, 8, 11, 13, 14, 18, 19, 20, 21, 23, 24, 30, 99, 101, 109, 2**31 - 1, 2**32 + 3)
_SIZES = (-1, -(2**63), 0, 1, 2, 3, 17, 1000, 300_000_000, 2**31, 2**40, 2**62, 2**63 - 1)
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_METHODS = (
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/tensorflow.serving.PredictionService/Classify",
    "/tensorflow.serving.PredictionService/Regress",
    "/tensorflow.serving.PredictionService/MultiInference",
    "/tensorflow.serving.ModelService/GetModelStatus",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
    "/tensorflow.serving.PredictionService/Nothing",
    "/nothing/Predict",
    "/grpc.health.v1.Health/Check",
)
_RELOAD = _METHODS[5]


class GrpcRequest(NamedTuple):
    """One call: method, message, what was done to it, a deadline in seconds, and whether it is compressed."""

    method: str
    data: bytes
    what: str
    timeout_s: float = 60.0
    gzip: bool = False


class Tensor(NamedTuple):
    """A TensorProto: dtype's number, sizes, values, and bytes that are added to it as they are."""

    dtype: int
    dims: tuple[int, ...]
    values: list[Any]
    extra: bytes = b""


def make_call(seeds: Seeds, dtypes: dict[str, dict[str, int]], rng: random.Random) -> GrpcRequest:
    """A call and what was done to it.

    Args:
      seeds: valid requests.
      dtypes: of every input, by signature.
      rng: where everything comes from.
    """
    kind = rng.choices(_KINDS, _WEIGHTS)[0]
    signature = rng.choice(list(seeds.columns))
    inputs = tensors(seeds, dtypes, signature)
    return kind(seeds, signature, inputs, rng)


def good_call(seeds: Seeds, dtypes: dict[str, dict[str, int]], signature: str) -> GrpcRequest:
    """An unchanged one."""
    return GrpcRequest(_PREDICT, predict(seeds.model, signature, tensors(seeds, dtypes, signature)), "unchanged")


def tensors(seeds: Seeds, dtypes: dict[str, dict[str, int]], signature: str) -> dict[str, Tensor]:
    """The inputs of a valid request."""
    inputs = {}
    for name, column in seeds.columns[signature].items():
        nested = bool(column) and isinstance(column[0], list)
        dims = (len(column), len(column[0])) if nested else (len(column),)
        inputs[name] = Tensor(
            dtypes[signature][name], dims, [each for row in column for each in row] if nested else column
        )
    return inputs


def predict(model: str | bytes, signature: str | bytes, inputs: dict[Any, Tensor], extra: bytes = b"") -> bytes:
    """A PredictRequest."""
    spec = _text(1, model) + _text(3, signature)
    entries = b"".join(_bytes(2, _text(1, name) + _bytes(2, tensor(each))) for name, each in inputs.items())
    return _bytes(1, spec) + entries + extra


def tensor(each: Tensor) -> bytes:
    """A TensorProto in typed fields."""
    dims = b"".join(_bytes(2, _number(1, size)) for size in each.dims)
    return _number(1, each.dtype) + _bytes(2, dims) + _values(each) + each.extra


def _values(each: Tensor) -> bytes:
    if not each.values:
        return b""
    field = FIELDS.get(each.dtype, 7)
    if each.dtype == _STRING or not all(isinstance(value, int | float) for value in each.values):
        return b"".join(_text(FIELDS[_STRING], value) for value in each.values)
    if each.dtype in _PACKS:
        return _bytes(field, b"".join(struct.pack(_PACKS[each.dtype], value) for value in each.values))
    return _bytes(field, b"".join(_varint(_whole(value)) for value in each.values))


def _whole(value: float) -> int:
    return int(value) if abs(value) < float("inf") else 0


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: Any) -> bytes:
    return _bytes(field, value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass"))


def _one_tensor(seeds: Seeds, signature: str, inputs: dict[str, Tensor], rng: random.Random) -> GrpcRequest:
    """One tensor with another dtype, shape or content."""
    name = rng.choice(list(inputs))
    old = inputs[name]
    some = [rng.choice(_SIZES) for _ in range(rng.choice((1, 2, 2, 3, 33, 70, 300)))]
    new = rng.choice(
        (
            lambda: old._replace(dtype=rng.choice(_DTYPES)),
            lambda: old._replace(dtype=rng.choice(list(FIELDS))) if old.dtype != _STRING else old._replace(dtype=99),
            lambda: old._replace(dims=tuple(some)),
            lambda: old._replace(dims=tuple(some), values=old.values[:1]),
            lambda: old._replace(dims=(), values=old.values[:1]),
            lambda: old._replace(dims=(1, 300_000_000), values=old.values[:1]),
            lambda: old._replace(dims=(1500, 1500), values=old.values[:1]),
            lambda: old._replace(dims=(old.dims[0] + 1, *old.dims[1:])),
            lambda: old._replace(dims=(0, *old.dims[1:]), values=[]),
            lambda: old._replace(values=[]),
            lambda: old._replace(values=old.values * 2),
            lambda: old._replace(extra=_bytes(2, _number(3, 1))),  # unknown rank
            lambda: old._replace(values=[], extra=_bytes(4, rng.randbytes(rng.randrange(40)))),  # tensor_content
            lambda: old._replace(extra=_number(FIELDS.get(old.dtype, 7), 5)),
            lambda: old._replace(extra=_bytes(14, b"a resource") + _bytes(15, b"a variant")),
            lambda: old._replace(extra=_number(3, 2**31 - 1)),  # version_number
            lambda: _odd_values(old, rng),
        )
    )()
    return GrpcRequest(
        _PREDICT, predict(seeds.model, signature, inputs | {name: new}), f"tensor {name}: {str(new)[:120]}"
    )


def _odd_values(old: Tensor, rng: random.Random) -> Tensor:
    values = list(old.values) or [0]
    at = rng.randrange(len(values))
    if old.dtype == _STRING:
        values[at] = rng.choice((rng.choice(TEXTS), rng.randbytes(9), b"\xff\xfe", b"\xed\xa0\x80", rng.choice(BASE64)))
    elif old.dtype in _PACKS:
        values[at] = rng.choice((float("nan"), float("inf"), -float("inf"), -1.0, 1e30, 0.0))
    else:
        values[at] = rng.choice(NUMBERS + TIMES)
    return old._replace(values=values)


def _message(seeds: Seeds, signature: str, inputs: dict[str, Tensor], rng: random.Random) -> GrpcRequest:
    """The message around the tensors."""
    name = rng.choice(list(inputs))
    spec = _text(1, seeds.model)
    what, data = rng.choice(
        (
            ("no spec", lambda: predict(seeds.model, signature, inputs)[3:]),
            ("an input less", lambda: predict(seeds.model, signature, {k: v for k, v in inputs.items() if k != name})),
            ("an input more", lambda: predict(seeds.model, signature, inputs | {"x": inputs[name]})),
            (
                "an input's name",
                lambda: predict(seeds.model, signature, inputs | {rng.choice((b"\xff", "")): inputs[name]}),
            ),
            ("no input", lambda: predict(seeds.model, signature, {})),
            ("many inputs", lambda: predict(seeds.model, signature, {f"x{i}": inputs[name] for i in range(300)})),
            ("signature", lambda: predict(seeds.model, rng.choice((b"\xff", "nothing", "", "a" * 9000)), inputs)),
            ("model", lambda: predict(rng.choice((b"\xff\xff", "nobody", "", "a" * 9000)), signature, inputs)),
            ("filter", lambda: predict(seeds.model, signature, inputs, _text(3, "item_id") * 2)),
            ("filter", lambda: predict(seeds.model, signature, inputs, _text(3, rng.choice((b"\xff", "none", ""))))),
            ("version", lambda: _bytes(1, spec + _bytes(2, _number(1, rng.choice(NUMBERS))))),
            ("label", lambda: _bytes(1, spec + _text(4, rng.choice((b"\xff", "none", ""))))),
            ("unknown field", lambda: predict(seeds.model, signature, inputs, _bytes(99, b"x") + _number(5000, 1))),
            ("groups", lambda: predict(seeds.model, signature, inputs, b"\x0b" * 200 + b"\x0c" * 200)),
        )
    )
    return GrpcRequest(_PREDICT, data(), what)


def _mangled(seeds: Seeds, signature: str, inputs: dict[str, Tensor], rng: random.Random) -> GrpcRequest:
    return GrpcRequest(_PREDICT, mangle(predict(seeds.model, signature, inputs), rng), "bytes of the message")


def _other_methods(seeds: Seeds, signature: str, inputs: dict[str, Tensor], rng: random.Random) -> GrpcRequest:
    method = rng.choice(_METHODS)
    spec = _bytes(1, _text(1, rng.choice((seeds.model, seeds.model, "nobody", b"\xff"))))
    data = rng.choice((spec, spec + _text(2, "signature_def"), spec + _text(2, "x"), b"", rng.randbytes(20)))
    # A config that can be read would be taken over: the one message that is never well formed.
    return GrpcRequest(method, b"\x0a\xff" + rng.randbytes(5) if method == _RELOAD else data, f"method {method}")


def _transport(seeds: Seeds, signature: str, inputs: dict[str, Tensor], rng: random.Random) -> GrpcRequest:
    data = predict(seeds.model, signature, inputs)
    if rng.random() < 0.5:
        return GrpcRequest(_PREDICT, data, "gzip", gzip=True)
    return GrpcRequest(_PREDICT, data, "deadline", timeout_s=rng.choice((0.0005, 0.002)))


_Make = Callable[[Seeds, str, dict[str, Tensor], random.Random], GrpcRequest]
_MIX: tuple[tuple[_Make, float], ...] = (
    (_one_tensor, 50),
    (_message, 20),
    (_mangled, 20),
    (_other_methods, 8),
    (_transport, 2),
)
_KINDS = [make for make, _ in _MIX]
_WEIGHTS = [weight for _, weight in _MIX]
