"""A trained corpus with another catalogue: items come, go and move between categories; what was learned stays.

Vocabularies of categories and values stay those of training, since the towers know no others. Imports no TensorFlow.
"""

import dataclasses

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text, is_text
from longretriever_tf.data.corpus import Corpus, encode_values, offset_of
from longretriever_tf.datasets.log import ItemTable

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Refreshed:
    """A corpus with another catalogue.

    Attributes:
      corpus: the listed items, then the retired ones.
      trained_row: row of each item in every table of the trained corpus, UNKNOWN for items that training never saw:
        gathered by it, vectors, biases, statistics and SVD follow their items, and new items get those of an unknown
        one (a trained embedding, zeros, "never seen"). [V] int32.
      counts: how many items are new, returned, moved (to another category), altered (other features), retired,
        unchanged and, where new categories are skipped, skipped.
    """

    corpus: Corpus
    trained_row: np.ndarray
    counts: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Items by column; one row each."""

    item_id: np.ndarray
    name: np.ndarray
    category: np.ndarray
    feature: np.ndarray

    def take(self, rows: np.ndarray) -> "_Rows":
        return _Rows(self.item_id[rows], self.name[rows], self.category[rows], self.feature[rows])


def refresh_corpus(
    trained: Corpus, exported: Corpus, items: ItemTable, context: str, skip_new_categories: bool = False
) -> Refreshed:
    """Replaces the catalogue by `items`.

    Items that are no longer listed are retired: no search returns them, and the histories that hold them still count.

    Args:
      trained: of the run.
      exported: of the version to refresh; its items, retired ones among them, stay known.
      items: the whole new catalogue, with every feature that the run was trained on.
      context: the column of `items` that is the category; missing values are filled already.
      skip_new_categories: leave out items of categories that training never saw, instead of refusing them.

    Raises:
      UserError: a category that training never saw, or ids of another kind.
    """
    listed, num_skipped = _listed_rows(trained, items, context, skip_new_categories)
    known = _Rows(exported.item_id, exported.item_name, exported.item_category, exported.item_feature)
    before = exported.find_items(listed.item_id)
    is_gone = np.ones(exported.num_items, bool)
    is_gone[: schema.FIRST_KNOWN] = False
    is_gone[before] = False
    order = np.argsort(listed.category, kind="stable")
    parts = known.take(np.arange(schema.FIRST_KNOWN)), listed.take(order), known.take(np.flatnonzero(is_gone))
    rows = {field.name: np.concatenate([getattr(p, field.name) for p in parts]) for field in dataclasses.fields(_Rows)}
    offered = np.concatenate([parts[0].category, parts[1].category])
    corpus = dataclasses.replace(
        trained,
        item_id=rows["item_id"],
        item_name=rows["name"],
        item_category=rows["category"].astype(np.int32),
        item_feature=rows["feature"].astype(np.int32),
        category_offset=offset_of(np.bincount(offered, minlength=trained.num_categories)),
    )
    trained_row = trained.find_items(corpus.item_id)
    trained_row[schema.PADDING] = schema.PADDING
    counts = _count_changes(exported, listed, before)
    counts["retired"] = int(is_gone[: exported.num_offered].sum())
    return Refreshed(corpus, trained_row, counts | ({"skipped": num_skipped} if num_skipped else {}))


def _listed_rows(trained: Corpus, items: ItemTable, context: str, skip_new_categories: bool) -> tuple[_Rows, int]:
    """The catalogue in indices of the trained vocabularies, and how many items were skipped."""
    features = [encode_values(items.features[name], values) for name, values in trained.feature_values.items()]
    category = encode_values(items.features[context], trained.category_name)
    is_new = category == schema.UNKNOWN
    if is_new.any() and not skip_new_categories:
        names, sizes = np.unique(items.features[context][is_new], return_counts=True)
        some = ", ".join(f"{name!r} ({size} items)" for name, size in zip(names[:_SHOWN].tolist(), sizes, strict=False))
        raise UserError(
            f"{context}: {len(names)} categories of the items table were never seen in training: {some}"
            f"{', ...' if len(names) > _SHOWN else ''}. No interest can be scored for them: train again, put their "
            "items into known categories, or leave those items out with --skip_new_categories"
        )
    rows = _Rows(
        item_id=ids_like(trained.item_id, items.item_id),
        name=as_text(items.name),
        category=category,
        feature=np.stack(features, 1) if features else np.zeros((len(category), 0), np.int32),
    )
    return rows.take(np.flatnonzero(~is_new)), int(is_new.sum())


def ids_like(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Ids in the type of the known ones: 7 in a table is "7" where ids were text.

    Raises:
      UserError: known ids are whole numbers, and one of the others is not.
    """
    if is_text(known):
        return as_text(ids)
    if not is_text(ids):
        return ids
    odd = [raw for raw in ids.tolist() if not _is_plain_number(raw)]
    if odd:
        raise UserError(
            f"the items table has the id {odd[0]!r}, and the run was trained on whole numbers; is it the table of "
            "another log?"
        )
    return np.array([int(raw) for raw in ids.tolist()], np.int64)


def _is_plain_number(raw: str) -> bool:
    """Whether it is an int64 as `str` writes it: "7", not "007" nor 20 digits."""
    digits = raw.removeprefix("-")
    is_short = digits.isascii() and digits.isdigit() and len(digits) < 20
    return is_short and str(int(raw)) == raw and -(2**63) <= int(raw) < 2**63


def _count_changes(exported: Corpus, listed: _Rows, before: np.ndarray) -> dict[str, int]:
    is_new = before == schema.UNKNOWN
    moved = ~is_new & (exported.item_category[before] != listed.category)
    altered = ~is_new & ~moved & (exported.item_feature[before] != listed.feature).any(1)
    was_retired = before >= exported.num_offered
    unchanged = ~is_new & ~moved & ~altered & ~was_retired
    masks = {"new": is_new, "returned": was_retired, "moved": moved, "altered": altered, "unchanged": unchanged}
    return {name: int(mask.sum()) for name, mask in masks.items()}
