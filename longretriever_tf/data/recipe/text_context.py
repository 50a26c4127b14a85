"""--context=text_clusters:N: clusters of items by what is written of them, named by their words.

Imports no TensorFlow.
"""

import dataclasses

import numpy as np
import scipy.sparse

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text, code_text
from longretriever_tf.data.recipe.kmeans import cluster_rows, plus_plus
from longretriever_tf.data.recipe.text_vectors import TextVectors, unit_rows, vectorise
from longretriever_tf.datasets.log import ItemTable

_NAME_TERMS = 3
_MAX_TERMS = 6
"""Words in a cluster's name: so many, and up to so many where two clusters would share a name."""

_BLOCK = 8192
_HOW = (
    "name columns of text by --text_columns=title,description, a readable name by --item_name_column, or a column of "
    "vectors by --embedding_column"
)


@dataclasses.dataclass(frozen=True)
class ItemVectors:
    """What clusters of items rest on.

    Attributes:
      rows: of unit length, 0 where nothing is known of an item, [V, d] float32.
      words: TF-IDF and the words, for names; None where items have vectors and no readable name.
    """

    rows: np.ndarray
    words: TextVectors | None


def item_vectors(items: ItemTable, columns: tuple[str, ...], is_fitted: np.ndarray, seed: int) -> ItemVectors:
    """Vectors of all items.

    Args:
      items: the table.
      columns: --text_columns; (): the columns of text or of vectors that the table was read with, else the name.
      is_fitted: the items to fit on, [V] bool.
      seed: of the SVD's start.

    Raises:
      UserError: a column that the items do not have, or nothing that says what an item is.
    """
    columns = columns or tuple(items.texts)
    given = [items.texts[name] for name in columns if name in items.texts and items.texts[name].ndim == 2]
    if given:
        has_name = _has_names(items)
        return ItemVectors(unit_rows(given[0]), vectorise(items.name, is_fitted, seed) if has_name else None)
    words = vectorise(_joined(items, columns), is_fitted, seed)
    if not len(words.terms):
        what = ",".join(columns) or "the items' names"
        raise UserError(f"--context=text_clusters needs texts, and {what} holds no word: {_HOW}")
    return ItemVectors(words.rows, words)


def _has_names(items: ItemTable) -> bool:
    """Whether names say more than the ids."""
    return not np.array_equal(as_text(items.name), as_text(items.item_id))


def _joined(items: ItemTable, columns: tuple[str, ...]) -> np.ndarray:
    """The text of each item, [V] of str."""
    if not columns:
        if not _has_names(items):
            raise UserError(f"--context=text_clusters needs texts, and the items have ids alone: {_HOW}")
        return as_text(items.name)
    known = {**items.features, **items.texts}
    missing = [name for name in columns if name not in known]
    if missing:
        raise UserError(
            f"--text_columns={','.join(columns)}: no column {missing[0]!r} of the items; columns: "
            f"{', '.join(sorted(known)) or '(none)'}"
        )
    parts = zip(*(known[name].tolist() for name in columns), strict=True)
    return as_text(" \n".join(value for value in item if value != schema.MISSING) for item in parts)


def cluster_texts(
    items: ItemTable, columns: tuple[str, ...], is_seen: np.ndarray, wanted: int, seed: int
) -> np.ndarray:
    """The name of each item's cluster, [V] of str; "" for an item of which nothing is known.

    k-means (k-means++ start) of the vectors of the items that were seen; the others go to the nearest centre.

    Args:
      items: the table.
      columns: --text_columns.
      is_seen: the items with an event before the cut: what is fitted, [V] bool.
      wanted: N, number of clusters; there are fewer where fewer items differ.
      seed: of k-means and the SVD's start.

    Raises:
      UserError: as `item_vectors`, or no seen item has a vector.
    """
    vectors = item_vectors(items, columns, is_seen, seed)
    own = np.flatnonzero(is_seen & vectors.rows.any(1))
    if not len(own):
        raise UserError(f"--context=text_clusters: no item with events has a text: {_HOW}")
    cluster = cluster_rows(vectors.rows[own], wanted, seed, plus_plus)
    numbers, cluster = np.unique(cluster, return_inverse=True)
    column = as_text([""] * len(is_seen))
    column[own] = _names(vectors.words, own, cluster, len(numbers))[cluster]
    return _nearest(vectors.rows, column != "", column)


def place_texts(
    items: ItemTable, columns: tuple[str, ...], is_known: np.ndarray, name: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Other items in the cluster whose centre is nearest to theirs, [V] of str; "" where nothing is known of an item.

    A centre is the mean direction of its known items' vectors, which are fitted on the known items of this table: so
    no fitted model need be kept, and what is placed depends on the table and the known clusters alone.

    Args:
      items: a table that lists known items with their texts, and others.
      columns: --text_columns.
      is_known: items with a cluster, [V] bool.
      name: its name, [V] of str; "" or anything else where there is none.
      seed: of the SVD's start.

    Raises:
      UserError: as `item_vectors`.
    """
    placed = as_text([""] * len(is_known))
    placed[is_known] = name[is_known]
    if is_known.all() or not is_known.any():
        return placed
    return _nearest(item_vectors(items, columns, is_known, seed).rows, is_known, placed)


def _nearest(rows: np.ndarray, is_known: np.ndarray, name: np.ndarray) -> np.ndarray:
    """The names, [V] of str, with that of the nearest centre where one is not known and there is a vector."""
    placed = name.copy()
    known = np.flatnonzero(is_known & rows.any(1))
    other = np.flatnonzero(~is_known & rows.any(1))
    if not len(known):
        return placed
    names, number = code_text(name[known])
    member = scipy.sparse.csr_matrix((np.ones(len(known), np.float32), (number, np.arange(len(known)))))
    centers = unit_rows(member @ rows[known])
    for low in range(0, len(other), _BLOCK):
        at = other[low : low + _BLOCK]
        placed[at] = names[(rows[at] @ centers.T).argmax(1)]
    return placed


def _names(words: TextVectors | None, own: np.ndarray, cluster: np.ndarray, num_clusters: int) -> np.ndarray:
    """A name for each cluster, all different: the words that set it apart; a number where there are none.

    A word's mean weight within the cluster, times the logarithm of 1 + its ratio to the mean over all items: the words
    of many clusters ("ounce", "national") come last.
    """
    width = len(str(max(num_clusters - 1, 0)))
    numbered = [f"cluster {number:0{width}d}" for number in range(num_clusters)]
    if words is None or not len(words.terms):
        return as_text(numbered)
    member = scipy.sparse.csr_matrix((np.ones(len(own), np.float32), (cluster, np.arange(len(own)))))
    size = np.bincount(cluster, minlength=num_clusters)
    weight = (scipy.sparse.diags(1 / size) @ (member @ words.weight[own])).tocsr()
    overall = np.asarray(words.weight[own].mean(0)).ravel()
    weight.data = weight.data * np.log1p(weight.data / overall[weight.indices])
    taken: set[str] = set()
    names = []
    for number in np.argsort(-size, kind="stable").tolist():  # the largest has the shortest name
        row = slice(weight.indptr[number], weight.indptr[number + 1])
        best = weight.indices[row][np.lexsort((weight.indices[row], -weight.data[row]))][:_MAX_TERMS]
        names.append((number, _free_name(words.terms[best].tolist(), numbered[number], taken)))
    return as_text(name for _, name in sorted(names))


def _free_name(terms: list[str], numbered: str, taken: set[str]) -> str:
    """The first words as a name that is not taken; it is then."""
    choices = [", ".join(terms[:length]) for length in range(_NAME_TERMS, max(len(terms), _NAME_TERMS) + 1)]
    choices.append(f"{choices[0]} ({numbered})")
    name = next((choice for choice in choices if choice and choice not in taken), numbered) if terms else numbered
    taken.add(name)
    return name
