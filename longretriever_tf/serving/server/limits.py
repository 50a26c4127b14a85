"""What a request may ask of the server's memory: checked on declared shapes, before anything of that size is made.

The limits are flags of `longretriever_tf.serve`; 0 switches one off. Imports no TensorFlow.
"""

import dataclasses
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.serving.server.status import ServingError, invalid

MAX_RANK = 32
"""Dimensions of a tensor: numpy stops at 64, and no signature has more than a few."""

_HISTORY = "history_item_id"
_TIME = "request_timestamp"
_CATEGORY_LISTS = ("allowed_category", "forbidden_category", "forced_category")


def setting(default: Any, help_text: str, least: float = 0, most: int | None = None) -> Any:
    """A field that `serve` turns into a flag: its default, its help text, its bounds."""
    return dataclasses.field(default=default, metadata={"help": help_text, "least": least, "most": most})


@dataclasses.dataclass(frozen=True)
class RequestLimits:
    """What one request may ask for. The fields are named as the flags of `serve`; 0 switches a limit off."""

    max_body_mb: float = setting(
        32.0, "Largest request in MB (2^20 bytes); beyond it 413, over gRPC RESOURCE_EXHAUSTED.", least=0.001
    )
    max_history: int = setting(100_000, "Most events per user in a history_* input; 0: no limit.")
    max_rows: int = setting(1024, "Most users (rows) in a request with histories; 0: no limit.")
    max_request_values: int = setting(
        1 << 22, "Most numbers and texts in a request, as declared by its shapes; 0: no limit."
    )
    max_request_candidates: int = setting(
        1 << 24,
        "Most candidates held at once for a request: rows x interests x (k + excluded items). A candidate takes about "
        "40 bytes of memory. 0: no limit.",
    )
    max_reply_values: int = setting(
        1 << 23, "Most numbers in an answer of known size, such as items' vectors; 0: no limit."
    )

    @property
    def max_body(self) -> int:
        """Bytes of a body, decompressed."""
        return int(self.max_body_mb * 2**20)


DEFAULT_LIMITS = RequestLimits()
UNLIMITED = RequestLimits(0, 0, 0, 0, 0, 0)


def check_json_size(body: bytes, limits: RequestLimits) -> None:
    """Refuses a JSON text that would become too many Python objects: each follows a comma or an opening bracket.

    Raises:
      ServingError: INVALID_ARGUMENT.
    """
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if limits.max_request_values and values > limits.max_request_values:
        raise _too_many_values(values, limits)


def check_shapes(shapes: Mapping[str, Sequence[int]], limits: RequestLimits) -> None:
    """Refuses shapes that are none, or too large together.

    Args:
      shapes: sizes of every dimension, by input name, as declared.
      limits: the limits.

    Raises:
      ServingError: INVALID_ARGUMENT.
    """
    total = 0
    for name, shape in shapes.items():
        if len(shape) > MAX_RANK:
            raise invalid(f"input `{name}` has {len(shape)} dimensions; at most {MAX_RANK} are read")
        if any(size < 0 for size in shape):
            raise invalid(f"input `{name}` declares the shape {list(shape)}; every size must be 0 or more")
        # Where one size is 0 there are no values, but what a graph makes of the other sizes may be large.
        values = math.prod(max(size, 1) for size in shape)
        total += values
        if limits.max_request_values and total > limits.max_request_values:
            raise _too_many_values(
                values if values > limits.max_request_values else total, limits, f" in input `{name}`"
            )


def check_feeds(feeds: Mapping[str, np.ndarray], signature: Any, limits: RequestLimits, export: "ExportSize") -> None:
    """Refuses what would take too much memory in the model, or answer with too much.

    Args:
      feeds: an array for every input, defaults filled in.
      signature: `loaded.Signature`.
      limits: the limits.
      export: what the export makes of a request.

    Raises:
      ServingError: INVALID_ARGUMENT, naming the limit and its flag.
    """
    for name, array in feeds.items():
        _check_history(name, array, limits)
        if export.is_retriever and array.dtype.kind == "O":
            _check_utf8(name, array)
    check_rows(feeds, signature.defaults.keys() | export.optional)
    rows = len(feeds[_TIME]) if _TIME in feeds and feeds[_TIME].ndim else 0
    if limits.max_rows and rows > limits.max_rows:
        raise invalid(
            f"the request holds {rows} rows (users); this server takes at most {limits.max_rows} (--max_rows). Send "
            "fewer users per request"
        )
    if rows:
        _check_candidates(feeds, rows, limits, export)
    _check_reply(feeds, signature, limits)


def check_rows(feeds: Mapping[str, np.ndarray], optional: Any) -> None:
    """Refuses inputs of different row counts, where a row is a user: optional inputs may have one row for all.

    Raises:
      ServingError: INVALID_ARGUMENT, naming every input that has another number of rows.
    """
    if _HISTORY not in feeds or _TIME not in feeds or any(not array.ndim for array in feeds.values()):
        return
    rows = len(feeds[_TIME])
    if not rows:
        raise invalid(f"input `{_TIME}` has no rows; send one per user, at least one")
    wrong = {
        name: len(array)
        for name, array in sorted(feeds.items())
        if len(array) != rows and (name not in optional or len(array) != 1)
    }
    if wrong:
        listed = ", ".join(f"`{name}` has {count}" for name, count in wrong.items())
        raise invalid(
            f"The inputs have different numbers of rows: `{_TIME}` has {rows}, {listed}; send one row per user in each"
        )


@dataclasses.dataclass(frozen=True)
class ExportSize:
    """What an export makes of a request.

    Attributes:
      num_categories: the most interests that a request can search; 0: not known.
      num_interests: what is searched where a request does not say.
      optional: inputs of any signature that have a default.
      is_retriever: it was exported by this package: its texts are names and ids.
    """

    num_categories: int = 0
    num_interests: int = 1
    optional: frozenset[str] = frozenset()
    is_retriever: bool = False


def read_export_size(path: str, signatures: Mapping[str, Any]) -> ExportSize:
    """The sizes of a version: from its signatures' defaults, and from the corpus beside them where there is one."""
    defaults: dict[str, np.ndarray] = {}
    for signature in signatures.values():
        defaults |= signature.defaults
    interests = defaults.get("num_interests")
    return ExportSize(
        _count_categories(os.path.join(path, "assets.extra", "corpus.npz")),
        int(interests.max(initial=1)) if interests is not None and interests.dtype.kind in "iu" else 1,
        frozenset(defaults),
        any({_HISTORY, _TIME} <= signature.inputs.keys() for signature in signatures.values()),
    )


def _count_categories(path: str) -> int:
    """From the one small column of the corpus that holds a number per category."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return max(len(arrays["category_offset"]) - 1, 0)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):  # an export of another kind
        return 0


def _check_history(name: str, array: np.ndarray, limits: RequestLimits) -> None:
    limit = limits.max_history
    if limit and name.startswith("history_") and array.ndim > 1 and array.shape[1] > limit:
        raise invalid(
            f"input `{name}` holds {array.shape[1]} events per user; this server takes at most {limit} "
            f"(--max_history). Send each user's last {limit} events"
        )


def _check_utf8(name: str, array: np.ndarray) -> None:
    """All values at once: between two of them stands a line feed, which is part of no other character."""
    values = array.ravel().tolist()
    try:
        b"\n".join(values).decode("utf-8")
    except UnicodeDecodeError:
        wrong = next(value for value in values if value.decode("utf-8", "replace").encode() != value)
        raise invalid(f"input `{name}` holds {wrong[:40]!r}, which is not UTF-8; send text in UTF-8") from None
    except TypeError:  # text that is no bytes: warm-up requests and tests
        return


def _check_candidates(feeds: Mapping[str, np.ndarray], rows: int, limits: RequestLimits, export: ExportSize) -> None:
    """The model holds a score for each of these at once, and a flag or weight for each listed category x category."""
    listed = sum(_width(feeds, name) for name in _CATEGORY_LISTS)
    interests = _largest(feeds, "num_interests", export.num_interests) + _width(feeds, "forced_category")
    interests = min(interests, export.num_categories or interests) if "category" not in feeds else 1
    k, excluded = _largest(feeds, "k", 1), _width(feeds, "exclude_item_id")
    candidates = rows * interests * (k + excluded)
    if limits.max_request_candidates and candidates > limits.max_request_candidates:
        raise invalid(
            f"{rows} rows x {interests} interests x (`k` {k} + {excluded} excluded items) are {candidates} candidates; "
            f"this server holds at most {limits.max_request_candidates} at once (--max_request_candidates). Ask with a "
            "smaller `k`, fewer interests, or fewer rows per request"
        )
    cells = rows * listed * max(export.num_categories, 1)
    if limits.max_request_candidates and cells > limits.max_request_candidates:
        raise invalid(
            f"{rows} rows x {listed} categories in {', '.join(_CATEGORY_LISTS)} are too many: with the model's "
            f"{export.num_categories} categories they make {cells} cells, and this server holds at most "
            f"{limits.max_request_candidates} (--max_request_candidates). Name each category once"
        )


def _check_reply(feeds: Mapping[str, np.ndarray], signature: Any, limits: RequestLimits) -> None:
    """Of the outputs whose other sizes are known, such as vectors."""
    rows = max((len(array) for array in feeds.values() if array.ndim), default=0)
    known = [spec.dims for spec in signature.outputs.values() if spec.dims and spec.dims[0] < 0]
    values = sum(rows * math.prod(dims[1:]) for dims in known if all(size >= 0 for size in dims[1:]))
    if limits.max_reply_values and values > limits.max_reply_values:
        raise invalid(
            f"{rows} rows would be answered with {values} values; this server answers with at most "
            f"{limits.max_reply_values} (--max_reply_values). Ask for fewer rows per request"
        )


def _width(feeds: Mapping[str, np.ndarray], name: str) -> int:
    return feeds[name].shape[1] if name in feeds and feeds[name].ndim > 1 else 0


def _largest(feeds: Mapping[str, np.ndarray], name: str, default: int) -> int:
    array = feeds.get(name)
    if array is None or array.dtype.kind not in "iu":
        return default
    return max(int(array.max(initial=1)), 1)


def _too_many_values(values: int, limits: RequestLimits, where: str = "") -> ServingError:
    return invalid(
        f"the request holds {values} values{where}; this server reads at most {limits.max_request_values} "
        "(--max_request_values). Send fewer users or shorter histories per request"
    )
