"""Category ranges: which shard holds which categories, and the file that says so. Imports no TensorFlow.

Items are sorted by category, so a range of categories is a slice of every table. A category is never cut: its top-k and
its log-partition come from one shard, as in one export.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Sequence

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_damage, read_json_object, write_text_atomically

LAYOUT_FILE = "category_shards.json"
"""In `assets.extra` of the router and of every shard."""

_LENGTH = 32


@dataclasses.dataclass(frozen=True)
class CategoryRange:
    """The categories `first_category:stop_category` (indices) of one shard, and how much that is."""

    first_category: int
    stop_category: int
    num_items: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class ShardLayout:
    """How one export is split.

    Attributes:
      export: the fingerprint that router and shards of one export share.
      ranges: of the shards, in order.
    """

    export: str
    ranges: tuple[CategoryRange, ...]

    def shard_of_category(self) -> np.ndarray:
        """Shard of each category, [C] int32; -1 for the placeholders."""
        shard = np.full(self.ranges[-1].stop_category, -1, np.int32)
        for number, one in enumerate(self.ranges):
            shard[one.first_category : one.stop_category] = number
        return shard


def balance_ranges(category_offset: np.ndarray, num_shards: int, item_bytes: int) -> tuple[CategoryRange, ...]:
    """Contiguous ranges of whole categories; the largest range is as small as possible.

    All items take the same bytes in a shard (but for the length of text ids), so items balance bytes, too.

    Args:
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1].
      num_shards: of them.
      item_bytes: what an item takes in a shard.

    Raises:
      UserError: fewer categories with items than shards.
    """
    sizes = np.diff(category_offset)[schema.FIRST_KNOWN :]
    filled = int((sizes > 0).sum())
    if not 1 <= num_shards <= filled:
        raise UserError(
            f"--category_shards={num_shards}: a shard holds one category at least, and {filled} categories have items; "
            f"give a number from 1 to {filled}"
        )
    low, high = int(sizes.max()), int(sizes.sum())
    while low < high:  # the least capacity that num_shards ranges can have
        middle = (low + high) // 2
        low, high = (low, middle) if len(_cut(sizes, middle)) <= num_shards else (middle + 1, high)
    cuts = _cut(sizes, low)
    while len(cuts) < num_shards:  # greedy ranges may be fewer: the largest that holds two categories is cut again
        cuts = _cut_once_more(sizes, cuts)
    bounds = schema.FIRST_KNOWN + np.array([*cuts, len(sizes)])
    nums = [int(category_offset[stop] - category_offset[first]) for first, stop in itertools.pairwise(bounds)]
    return tuple(
        CategoryRange(int(first), int(stop), num, num * item_bytes)
        for (first, stop), num in zip(itertools.pairwise(bounds), nums, strict=True)
    )


def _cut(sizes: np.ndarray, capacity: int) -> list[int]:
    """Where ranges begin that are filled one after the other up to `capacity` items."""
    cuts, held = [0], 0
    for category, size in enumerate(sizes.tolist()):
        if held and held + size > capacity:
            cuts.append(category)
            held = 0
        held += size
    return cuts


def _cut_once_more(sizes: np.ndarray, cuts: list[int]) -> list[int]:
    """Halves the largest range that holds two categories with items."""
    bounds = [*cuts, len(sizes)]
    parts = [sizes[first:stop] for first, stop in itertools.pairwise(bounds)]
    chosen = max(range(len(parts)), key=lambda number: parts[number].sum() * ((parts[number] > 0).sum() > 1))
    total = np.cumsum(parts[chosen])
    filled = np.flatnonzero(parts[chosen])
    half = int(np.argmin(np.abs(2 * total - total[-1])))
    at = int(np.clip(half, filled[0], filled[-1] - 1)) + 1
    return sorted([*cuts, cuts[chosen] + at])


def check_ranges(ranges: Sequence[CategoryRange], num_categories: int, where: str) -> None:
    """Refuses ranges that leave a category out, or hold one twice.

    Args:
      ranges: in order.
      num_categories: C, the placeholders included.
      where: they were read, for the message.

    Raises:
      UserError: naming the first gap.
    """
    expected = schema.FIRST_KNOWN
    for number, one in enumerate(ranges):
        if one.first_category != expected or one.stop_category <= one.first_category:
            raise UserError(
                f"{where}: shard {number} holds the categories {one.first_category} to {one.stop_category - 1}, and "
                f"should begin with {expected}: every category must lie in one shard; export again"
            )
        expected = one.stop_category
    if expected != num_categories:
        raise UserError(
            f"{where}: the shards hold the categories up to {expected - 1}, and there are some up to "
            f"{num_categories - 1}: every category must lie in one shard; export again"
        )


def fingerprint_export(vectors: np.ndarray, bias: np.ndarray, ranges: Sequence[CategoryRange], *words: str) -> str:
    """Hash of what a router and its shards must agree on: the index's items and their split, and `words`."""
    digest = hashlib.sha256(json.dumps([words, [dataclasses.astuple(one) for one in ranges]]).encode())
    for array in (vectors, bias):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_LENGTH]


def write_layout(directory: str, layout: ShardLayout) -> None:
    """Writes the layout into `assets.extra`."""
    text = json.dumps(dataclasses.asdict(layout), indent=2) + "\n"
    write_text_atomically(os.path.join(directory, LAYOUT_FILE), text)


def read_layout(path: str, num_categories: int | None = None) -> ShardLayout:
    """Reads a layout, and checks that its ranges leave nothing out.

    Args:
      path: of the file.
      num_categories: C, where it is known from elsewhere.

    Raises:
      UserError: the file is torn, or the ranges have a gap.
    """
    stored = read_json_object(path, "export again")
    with explain_damage(path, "export again"):
        ranges = tuple(CategoryRange(**one) for one in stored["ranges"])
        layout = ShardLayout(str(stored["export"]), ranges)
        stop = layout.ranges[-1].stop_category
    check_ranges(ranges, stop if num_categories is None else num_categories, path)
    return layout
