"""Vectors of short texts: TF-IDF of their words, reduced by a truncated SVD. Imports no TensorFlow."""

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse

from longretriever_tf.common.text import as_text, code_text
from longretriever_tf.data.recipe.eigenvectors import leading_eigenvectors

_DIM = 128
_MAX_TERMS = 50_000
_LEAST = 1e-10
"""Squared singular values below this share of the largest are rounding errors, and their directions noise."""

_MIN_TEXTS = 2
"""A word of fewer texts joins nothing; where no word has as many (a tiny catalogue), every word counts."""

_UNSPACED = re.compile(
    r"[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+"
)
"""Scripts without spaces between words: Japanese, Chinese, Thai, Lao, Burmese, Khmer. Pairs of characters stand for
words."""


class TextVectors(NamedTuple):
    """Texts as vectors.

    Attributes:
      rows: of unit length, 0 for a text without a known word, [V, d] float32.
      weight: TF-IDF, rows of unit length or 0, [V, T] CSR of float32.
      terms: the words, [T] of str.
    """

    rows: np.ndarray
    weight: scipy.sparse.csr_matrix
    terms: np.ndarray


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without numbers and single letters; pairs of characters of unspaced scripts.

    >>> split_words("Children's Café-Crème 12 pack")
    ['children', 'café', 'crème', 'pack']
    >>> split_words("緑茶飲料 tea")
    ['緑茶', '茶飲', '飲料', 'tea']
    >>> split_words("हिन्दी की किताब")
    ['हिन्दी', 'की', 'किताब']
    """
    words: list[str] = []
    lower = unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i")  # of the capital of Turkish
    for run in _word_pattern().findall(lower):
        if _UNSPACED.search(run):
            words += _pairs_of(run)
        elif len(run) > 1 and any(c.isalpha() for c in run):
            words.append(run)
    return words


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    r"""Letters and digits with their marks, which `\w` leaves out: vowels of Hindi or Thai, points of Arabic."""
    marks = "".join(char for char in map(chr, range(0x300, 0x10000)) if unicodedata.category(char) in ("Mn", "Mc"))
    return re.compile(rf"[^\W_](?:[^\W_]|[{marks}])*")


def _pairs_of(run: str) -> Iterator[str]:
    """Pairs of neighbouring characters within unspaced parts; other parts as they are."""
    end = 0
    for match in _UNSPACED.finditer(run):
        if run[end : match.start()]:
            yield run[end : match.start()]
        part, end = match.group(), match.end()
        yield from [part] if len(part) == 1 else (part[i : i + 2] for i in range(len(part) - 1))
    if run[end:]:
        yield run[end:]


def vectorise(texts: np.ndarray, is_fitted: np.ndarray, seed: int) -> TextVectors:
    """TF-IDF and SVD, fitted on some of the texts and applied to all.

    Words that at least two fitted texts hold, the most frequent 50,000; a word counts 1 + log(its occurrences). The SVD
    keeps 128 directions, or all words where there are no more.

    Args:
      texts: [V] of str.
      is_fitted: which of them the words, their frequencies and the SVD come from, [V] bool.
      seed: of the solver's start.
    """
    weight, terms = _tf_idf(texts, is_fitted)
    num_terms, num_fitted = len(terms), int(is_fitted.sum())
    if num_terms <= _DIM:
        rows = weight.toarray()
    else:
        fitted = weight[is_fitted]
        back = fitted.T.tocsr()
        rank = max(min(_DIM, num_fitted - 1), 1)
        squares, directions = leading_eigenvectors(lambda x: back @ (fitted @ x), num_terms, rank, seed)
        rows = weight @ directions[:, squares > _LEAST * squares[0]].astype(np.float32)
    return TextVectors(unit_rows(rows), weight, terms)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length, [n, d] float32; a row that is 0, or nearly so by rounding, becomes 0."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length > 1e-6, rows / np.maximum(length, 1e-6), 0.0).astype(np.float32)


def _tf_idf(texts: np.ndarray, is_fitted: np.ndarray) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Weights of words [V, T], and the words in the order of the alphabet."""
    distinct, row = code_text(texts)
    words = [split_words(text) for text in distinct.tolist()]
    known, column = code_text(as_text(word for parts in words for word in parts))
    shape = (len(words), len(known))
    owner = np.repeat(np.arange(len(words)), [len(parts) for parts in words])
    counts = scipy.sparse.csr_matrix((np.ones(len(column)), (owner, column)), shape=shape)[row]
    num_texts = np.diff(counts[is_fitted].tocsc().indptr)  # that hold each word
    least = _MIN_TEXTS if (num_texts >= _MIN_TEXTS).any() else 1
    kept = np.flatnonzero(num_texts >= least)
    if len(kept) > _MAX_TERMS:
        kept = np.sort(kept[np.argsort(-num_texts[kept], kind="stable")[:_MAX_TERMS]])
    weight = counts[:, kept].tocsr()
    rarity = np.log((1 + is_fitted.sum()) / (1 + num_texts[kept])) + 1
    weight.data = (1 + np.log(weight.data)) * rarity[weight.indices]
    length = np.sqrt(np.asarray(weight.multiply(weight).sum(1)).ravel())
    scale = scipy.sparse.diags(1 / np.where(length > 0, length, 1.0))
    return (scale @ weight).tocsr().astype(np.float32), known[kept]
