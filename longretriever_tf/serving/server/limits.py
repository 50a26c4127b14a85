"""What a request may ask of the server's memory: checked on declared shapes, before anything of that size is made.

The limits are flags of `longretriever serve`; 0 switches one off. Imports no TensorFlow.
"""

import dataclasses
import math
import os
import zipfile
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from longretriever_tf.serving.server.status import invalid

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

    def check(self, flag: str, size: int, words: str) -> None:
        """Raises INVALID_ARGUMENT for a size above the limit of that name; `words`: what was received, and the cure."""
        if (limit := getattr(self, flag)) and size > limit:
            raise invalid(f"{words}; this server takes at most {limit} (--{flag})")


DEFAULT_LIMITS = RequestLimits()
UNLIMITED = RequestLimits(0, 0, 0, 0, 0, 0)


def check_json_size(body: bytes, limits: RequestLimits) -> None:
    """Refuses a JSON text that would become too many Python objects: each follows a comma or an opening bracket."""
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    limits.check("max_request_values", values, f"the request holds {values} values: send fewer users or events")


def check_shapes(shapes: Mapping[str, Sequence[int]], limits: RequestLimits) -> None:
    """Refuses shapes, declared by input name, that are none, or too large together."""
    total = 0
    for name, shape in shapes.items():
        if len(shape) > MAX_RANK:
            raise invalid(f"input `{name}` has {len(shape)} dimensions; at most {MAX_RANK} are read")
        if any(size < 0 for size in shape):
            raise invalid(f"input `{name}` declares the shape {list(shape)}; every size must be 0 or more")
        # Where one size is 0 there are no values, but what a graph makes of the other sizes may be large.
        total += math.prod(max(size, 1) for size in shape)
        words = f"the inputs up to `{name}` hold {total} values: send fewer users or events"
        limits.check("max_request_values", total, words)


def check_feeds(feeds: Mapping[str, np.ndarray], signature: Any, limits: RequestLimits, export: "ExportSize") -> None:
    """Refuses what would take too much memory in the model, or answer with too much, naming the limit and its flag.

    Args:
      feeds: an array for every input, defaults filled in.
      signature: `loaded.Signature`.
      limits: the limits.
      export: what the export makes of a request.
    """
    for name, array in feeds.items():
        if name.startswith("history_") and array.ndim > 1:
            words = f"input `{name}` holds {array.shape[1]} events per user: send each user's first and latest events"
            limits.check("max_history", array.shape[1], words)
        if export.is_retriever and array.dtype.kind == "O":
            _check_utf8(name, array)
    rows = len(feeds[_TIME]) if _TIME in feeds and feeds[_TIME].ndim else 0
    if _HISTORY in feeds and _TIME in feeds:
        _check_rows(feeds, rows, signature.defaults.keys() | export.optional)
    limits.check("max_rows", rows, f"the request holds {rows} rows (users): send fewer")
    if rows:
        _check_candidates(feeds, rows, limits, export)
    _check_reply(feeds, signature, limits)


@dataclasses.dataclass(frozen=True)
class ExportSize:
    """What an export makes of a request.

    Attributes:
      num_categories: the most interests that a request can search; 0: not known.
      num_interests: what is searched where a request does not say; what a threshold adds, the graph itself counts.
      optional: inputs of any signature that have a default.
      is_retriever: it was exported by this package: its texts are names and ids.
    """

    num_categories: int = 0
    num_interests: int = 1
    optional: frozenset[str] = frozenset()
    is_retriever: bool = False


def read_export_size(path: str, signatures: Mapping[str, Any]) -> ExportSize:
    """The sizes of a version: from its signatures' defaults, and from the corpus next to them where there is one."""
    defaults: dict[str, np.ndarray] = {}
    for signature in signatures.values():
        defaults |= signature.defaults
    return ExportSize(
        _count_categories(os.path.join(path, "assets.extra", "corpus.npz")),
        _most_interests(defaults, 1),
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


def _check_rows(feeds: Mapping[str, np.ndarray], rows: int, optional: Set[str]) -> None:
    """Where a row is a user, every input has as many rows; optional ones may have one row for all."""
    counts = {name: len(array) for name, array in sorted(feeds.items()) if array.ndim}
    if not rows:
        raise invalid(f"input `{_TIME}` has no rows; send one per user, at least one")
    wrong = [
        f"`{name}` has {count}"
        for name, count in counts.items()
        if count != rows and (name not in optional or count != 1)
    ]
    if wrong:
        listed = ", ".join(wrong)
        raise invalid(f"The inputs have different numbers of rows: `{_TIME}` has {rows}, {listed}; send one per user")


def _check_candidates(feeds: Mapping[str, np.ndarray], rows: int, limits: RequestLimits, export: ExportSize) -> None:
    """The model holds a score for each of these at once, and a flag or weight for each listed category x category."""
    interests = _most_interests(feeds, export.num_interests) + _width(feeds, "forced_category")
    interests = min(interests, export.num_categories or interests) if "category" not in feeds else 1
    k, excluded = _largest(feeds, "k"), _width(feeds, "exclude_item_id")
    candidates = rows * interests * (k + excluded)
    limits.check(
        "max_request_candidates",
        candidates,
        f"{rows} rows x {interests} interests x (`k` {k} + {excluded} excluded items) are {candidates} candidates: ask "
        "with a smaller `k`, fewer interests, or fewer rows",
    )
    listed = sum(_width(feeds, name) for name in _CATEGORY_LISTS)
    cells = rows * listed * max(export.num_categories, 1)
    limits.check(
        "max_request_candidates",
        cells,
        f"{rows} rows x {listed} categories in {', '.join(_CATEGORY_LISTS)} x the model's {export.num_categories} "
        f"categories are {cells} cells: name each category once",
    )


def _check_reply(feeds: Mapping[str, np.ndarray], signature: Any, limits: RequestLimits) -> None:
    """Of the outputs whose other sizes are known, such as vectors."""
    rows = max((len(array) for array in feeds.values() if array.ndim), default=0)
    known = [spec.dims for spec in signature.outputs.values() if spec.dims and spec.dims[0] < 0]
    values = sum(rows * math.prod(dims[1:]) for dims in known if all(size >= 0 for size in dims[1:]))
    words = f"{rows} rows would be answered with {values} values: ask for fewer rows"
    limits.check("max_reply_values", values, words)


def _most_interests(feeds: Mapping[str, np.ndarray], default: int) -> int:
    """Interests of a row, at least: 0 leaves them to a threshold, and stands for the top ones."""
    asked = feeds.get("num_interests")
    by_threshold = asked is not None and "interest_threshold" in feeds and bool((asked == 0).any())
    most = _largest(feeds, "num_interests", default)
    return max(most, _largest(feeds, "top_interests")) if by_threshold else most


def _width(feeds: Mapping[str, np.ndarray], name: str) -> int:
    return feeds[name].shape[1] if name in feeds and feeds[name].ndim > 1 else 0


def _largest(feeds: Mapping[str, np.ndarray], name: str, default: int = 1) -> int:
    """The largest number of an input, at least 1."""
    array = feeds.get(name)
    if array is None or array.dtype.kind not in "iu":
        return default
    return max(int(array.max(initial=1)), 1)
