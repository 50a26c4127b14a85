"""What is known at the training cut: vocabularies of items, categories, features and profiles; the log, encoded.

Item indices are sorted by category, so that a category is a contiguous slice of every per-item table: full softmax,
exact search and metrics read slices, never gathers. Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.ranges import offset_of
from longretriever_tf.common.text import as_text, code_text, find_rows, is_text, pack_text, unpack_text
from longretriever_tf.config.data import NUMERIC_BINS
from longretriever_tf.data.number_bins import bin_names, learn_edges, with_bins

if TYPE_CHECKING:  # a server reads a corpus without TFDS and pandas
    from longretriever_tf.datasets.log import ItemTable, LifelongLog

_PLACEHOLDERS = as_text(["", "(unknown)"])
"""Rows 0 and 1 of text: what people see there. No look-up reads them, so a value of the log may be spelt alike."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Vocabularies fitted on events before `cut` alone; row 0 is padding and row 1 unknown in each.

    Attributes:
      cut: seconds UTC; nothing at or after it was seen.
      context: the column that is the category.
      item_id: raw ids by item index, [V], int64 or str (rows 0 and 1 are placeholders, which a real id may equal).
      item_name: readable names by item index, [V] of str.
      item_category: category index by item index, [V] int32, ascending among the items that categories own.
      item_feature: indices into `feature_values`, [V, F] int32.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64. Items beyond
        the last one's are retired: histories know them, no search returns them. Training has none.
      category_size: items of each category at the cut, which a later refresh of the items leaves as it is, [C] int64.
      category_name: [C] of str.
      feature_values: values by index for each side-feature column.
      profile_values: values by index for each profile column.
      action_name: the log's actions, [A] of str; empty where it has none.
      feature_edges: of each side feature that is a number, the bounds of its bins, which `feature_values` names.
      event_values: values by index for each column of --event_features; an event without a value counts as unknown.
    """

    cut: int
    context: str
    item_id: np.ndarray
    item_name: np.ndarray
    item_category: np.ndarray
    item_feature: np.ndarray
    category_offset: np.ndarray
    category_size: np.ndarray
    category_name: np.ndarray
    feature_values: dict[str, np.ndarray]
    profile_values: dict[str, np.ndarray]
    action_name: np.ndarray = dataclasses.field(default_factory=lambda: as_text([]))
    feature_edges: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    event_values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def num_items(self) -> int:
        return len(self.item_id)

    @property
    def num_offered(self) -> int:
        """How many items, padding and unknown among them, a search can return; those after them are retired."""
        return int(self.category_offset[-1])

    @property
    def num_categories(self) -> int:
        return len(self.category_name)

    def find_items(self, ids: np.ndarray) -> np.ndarray:
        """Item index of raw ids of the corpus's own type, UNKNOWN where absent, [n] int32."""
        return _known_index(self.item_id, ids)


@dataclasses.dataclass(frozen=True)
class EncodedLog:
    """The log in indices of a corpus; events of items that the corpus does not know are left out.

    Attributes:
      user_id: raw ids, [U].
      profile: indices, [U, P] int32.
      offset: user u owns events `offset[u]:offset[u + 1]`, oldest first, [U + 1] int64.
      item: item index, [E] int32.
      timestamp: seconds UTC, [E] int64.
      weight: [E] float32.
      is_target: events that are to be retrieved, [E] bool; None: every event is. All are history.
      event_feature: indices into `event_values`, [E, F] int32; None: the corpus has none.
    """

    user_id: np.ndarray
    profile: np.ndarray
    offset: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    weight: np.ndarray
    is_target: np.ndarray | None = None
    event_feature: np.ndarray | None = None

    @property
    def num_users(self) -> int:
        return len(self.user_id)

    def event_user(self) -> np.ndarray:
        """The row of the user who owns each event, [E] int64."""
        return np.repeat(np.arange(self.num_users), np.diff(self.offset))

    def before(self, time: int) -> "EncodedLog":
        """The log as it stood strictly before `time`; users stay, with shorter or empty histories."""
        return self.of_events(self.timestamp < time)

    def of_events(self, keep: np.ndarray) -> "EncodedLog":
        """Some of the events, by a mask, [E] bool; users stay, with shorter or empty histories."""
        return dataclasses.replace(
            self,
            offset=offset_of(np.bincount(self.event_user()[keep], minlength=self.num_users)),
            item=self.item[keep],
            timestamp=self.timestamp[keep],
            weight=self.weight[keep],
            is_target=None if self.is_target is None else self.is_target[keep],
            event_feature=None if self.event_feature is None else self.event_feature[keep],
        )

    def targets(self) -> np.ndarray:
        """`is_target` as a mask, [E] bool."""
        return np.ones(len(self.item), bool) if self.is_target is None else self.is_target


def _vocabulary(values: np.ndarray) -> np.ndarray:
    """Padding, unknown, then the distinct values in order."""
    return np.concatenate([_PLACEHOLDERS, code_text(values)[0]])


def _bin_vocabulary(names: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Padding, unknown, then all bins in order; then the missing number, if any item lacks its number."""
    missing = [schema.MISSING] if (names == schema.MISSING).any() else []
    return np.concatenate([_PLACEHOLDERS, bin_names(edges), as_text(missing)])


def encode_values(values: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """Indices of `values` in `vocabulary`, whose first two rows are no values; UNKNOWN where absent. [n] int32.

    >>> encode_values(as_text(["tea", "rum", "(unknown)"]), as_text(["", "(unknown)", "milk", "tea"])).tolist()
    [3, 1, 1]
    """
    return _known_index(vocabulary, values)


def _known_index(vocabulary: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of each wanted value from FIRST_KNOWN on, UNKNOWN where absent, [n] int32."""
    row = find_rows(vocabulary[schema.FIRST_KNOWN :], wanted)
    return np.where(row >= 0, row + schema.FIRST_KNOWN, schema.UNKNOWN).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a log, or some of its users, hold before a time: all that vocabularies are fitted on.

    Attributes:
      item_row: rows of the items with an event, ascending, [n] int64.
      profile: distinct values of the users with an event, by column, ascending, [k] of str each.
      first: time of the first event, seconds UTC; the largest int64 without any.
    """

    item_row: np.ndarray
    profile: dict[str, np.ndarray]
    first: int


def find_seen(log: "LifelongLog", cut: int) -> Seen:
    """What the log holds strictly before `cut`."""
    event = log.timestamp < cut
    users = np.unique(log.event_user()[event])
    profile = {name: code_text(column[users])[0] for name, column in log.profile.items()}
    return Seen(np.unique(log.item_row[event]), profile, int(log.timestamp[event].min(initial=np.iinfo(np.int64).max)))


def merge_seen(parts: Sequence[Seen]) -> Seen:
    """What several groups of users hold together."""
    profile = {name: code_text(np.concatenate([part.profile[name] for part in parts]))[0] for name in parts[0].profile}
    rows = np.unique(np.concatenate([part.item_row for part in parts]))
    return Seen(rows, profile, min(part.first for part in parts))


def fit_corpus(
    log: "LifelongLog", cut: int, num_bins: int = NUMERIC_BINS, edges: Mapping[str, np.ndarray] | None = None
) -> Corpus:
    """Fits every vocabulary on the events strictly before `cut` and on the users who have one.

    Args:
      log: the log.
      cut: seconds UTC.
      num_bins: of numeric features.
      edges: of the bins of numeric features, where an earlier training has learned them.

    Raises:
      UserError: no event lies before the cut, or a numeric feature has no number.
    """
    corpus = fit_corpus_of(log.items, log.context, find_seen(log, cut), cut, num_bins, edges)
    is_seen = log.timestamp < cut
    values = {name: column.value[np.unique(column.row[is_seen])] for name, column in log.event_features.items()}
    event_values = {name: _vocabulary(known[known != schema.MISSING]) for name, known in values.items()}
    return dataclasses.replace(corpus, action_name=as_text(log.actions.name), event_values=event_values)


def fit_corpus_of(
    items: "ItemTable",
    context_column: str,
    seen: Seen,
    cut: int,
    num_bins: int = NUMERIC_BINS,
    edges: Mapping[str, np.ndarray] | None = None,
) -> Corpus:
    """The same from what was seen before `cut`.

    Args:
      items: all items.
      context_column: the column that is the category.
      seen: of all users.
      cut: seconds UTC.
      num_bins, edges: as of `fit_corpus`.

    Raises:
      UserError: as `fit_corpus`.
    """
    rows = seen.item_row
    if not len(rows):
        raise UserError(
            f"no event lies before the training cut ({np.datetime64(cut, 's')} UTC): the log is shorter than "
            "its validation and test windows; lower --window_days"
        )
    context = as_text(items.features[context_column])
    category_name = _vocabulary(context[rows])
    category = encode_values(context[rows], category_name)
    order = np.argsort(category, kind="stable")  # `rows` ascend: items of a category stay in the order of their ids
    rows = rows[order]
    category = np.concatenate([[schema.PADDING, schema.UNKNOWN], category[order]])
    learned = learn_edges(items, rows, num_bins, edges or {})
    items = with_bins(items, learned)
    features = {name: as_text(column) for name, column in items.features.items() if name != context_column}
    feature_values = {
        name: _bin_vocabulary(column[rows], learned[name]) if name in learned else _vocabulary(column[rows])
        for name, column in features.items()
    }
    item_feature = np.zeros((len(rows) + schema.FIRST_KNOWN, len(features)), np.int32)
    item_feature[schema.UNKNOWN] = schema.UNKNOWN
    for f, (name, column) in enumerate(features.items()):
        item_feature[schema.FIRST_KNOWN :, f] = encode_values(column[rows], feature_values[name])
    raw = items.item_id
    blank = _PLACEHOLDERS if is_text(raw) else np.zeros(2, raw.dtype)
    category_size = np.bincount(category, minlength=len(category_name))
    return Corpus(
        cut=int(cut),
        context=context_column,
        item_id=np.concatenate([blank, as_text(raw[rows]) if is_text(raw) else raw[rows]]),
        item_name=np.concatenate([_PLACEHOLDERS, as_text(items.name[rows])]),
        item_category=category.astype(np.int32),
        item_feature=item_feature,
        category_offset=offset_of(category_size),
        category_size=category_size,
        category_name=category_name,
        feature_values=feature_values,
        profile_values={name: _vocabulary(values) for name, values in seen.profile.items()},
        feature_edges=learned,
    )


def encode_log(log: "LifelongLog", corpus: Corpus, item_index: np.ndarray | None = None) -> EncodedLog:
    """The whole log (all time) in indices of `corpus`; events of unknown items are left out.

    Args:
      log: the log.
      corpus: the corpus.
      item_index: `corpus.find_items` of the log's items, where it is known already.
    """
    item = (corpus.find_items(log.items.item_id) if item_index is None else item_index)[log.item_row]
    keep = item != schema.UNKNOWN
    counts = np.bincount(log.event_user()[keep], minlength=log.num_users)
    profile = [encode_values(column, corpus.profile_values[name]) for name, column in log.profile.items()]
    is_target = log.is_target
    columns = [(log.event_features[name], values) for name, values in corpus.event_values.items()]
    events = [encode_values(column.value, values)[column.row] for column, values in columns]
    return EncodedLog(
        user_id=log.user_id,
        profile=np.stack(profile, 1) if profile else np.zeros((log.num_users, 0), np.int32),
        offset=offset_of(counts),
        item=item[keep],
        timestamp=log.timestamp[keep],
        weight=log.event_weight[keep],
        is_target=None if is_target is None else is_target[keep],
        event_feature=np.stack(events, 1)[keep] if events else None,
    )


def save_corpus(corpus: Corpus, path: str | IO[bytes]) -> None:
    """Writes the corpus as one .npz without pickles, text as `text.pack_text` packs it."""
    arrays = {
        field.name: np.asarray(getattr(corpus, field.name))
        for field in dataclasses.fields(Corpus)
        if field.name not in (*_TABLES, "feature_edges")
    }
    arrays |= {f"{_EDGES}{name}": edges for name, edges in corpus.feature_edges.items()}
    for kind in _TABLES:
        values = getattr(corpus, kind)
        if kind == "event_values" and not values:  # as corpora of before there were such columns
            continue
        arrays[f"{kind}.names"] = as_text(values)  # no column is called so: theirs begin with the kind and a slash
        arrays.update({f"{kind}/{name}": column for name, column in values.items()})
    np.savez_compressed(path, **pack_text(arrays))  # type: ignore[arg-type]  # numpy's stub takes every keyword for allow_pickle


_EDGES = "feature_edges/"
_TABLES = ("feature_values", "profile_values", "event_values")


def _names_of(arrays: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """The columns of one of `_TABLES`; an older corpus lists them as if they were a column."""
    if kind == "event_values" and f"{kind}.names" not in arrays:
        return as_text([])
    return arrays[f"{kind}.names"] if f"{kind}.names" in arrays else arrays[f"{kind}/names"]


def load_corpus(path: str) -> Corpus:
    """Reads what `save_corpus` wrote."""
    with np.load(path) as stored:
        arrays = unpack_text(stored)
    tables: dict[str, Any] = {
        kind: {str(name): arrays[f"{kind}/{name}"] for name in _names_of(arrays, kind)} for kind in _TABLES
    }
    plain: dict[str, Any] = {
        field.name: arrays[field.name] for field in dataclasses.fields(Corpus) if field.name in arrays
    }
    tables["feature_edges"] = {
        name.removeprefix(_EDGES): array for name, array in arrays.items() if name.startswith(_EDGES)
    }
    plain.setdefault("category_size", np.diff(plain["category_offset"]))  # corpora written before there were refreshes
    plain["cut"], plain["context"] = int(plain["cut"]), str(plain["context"])
    return Corpus(**plain, **tables)


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


def fits_ids(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Which ids `ids_like` does not refuse, [n] bool."""
    if is_text(known) or not is_text(ids):
        return np.ones(len(ids), bool)
    return np.fromiter((_is_plain_number(str(raw)) for raw in ids.tolist()), bool, len(ids))


def _is_plain_number(raw: str) -> bool:
    """Whether it is an int64 as `str` writes it: "7", not "007" nor 20 digits."""
    digits = raw.removeprefix("-")
    is_short = digits.isascii() and digits.isdigit() and len(digits) < 20
    return is_short and str(int(raw)) == raw and -(2**63) <= int(raw) < 2**63
