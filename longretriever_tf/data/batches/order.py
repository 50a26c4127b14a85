"""The order of an epoch by content: a hash of (seed, epoch, id of the example). Imports no TensorFlow.

A permutation of row numbers would depend on how many rows lie before an example: on the machine that holds them, and on
the shard that they came from. An id depends on nothing but the raw user id and what the example asks.
"""

import hashlib

import numpy as np

from longretriever_tf.common.text import is_text

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray) -> np.ndarray:
    """A one-to-one scrambling of 64-bit numbers: the finalizer of splitmix64 (Steele et al., OOPSLA 2014).

    Args:
      values: any shape, uint64 or int64.

    >>> [hex(value) for value in mix(np.array([0, 1], np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    z = np.ascontiguousarray(values).view(np.uint64) + _GOLDEN
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return z


def combine(*columns: np.ndarray) -> np.ndarray:
    """One number for each row of several columns of whole numbers, each row's the same on every machine: uint64."""
    state = np.zeros(1, np.uint64)
    for column in columns:
        number = np.asarray(column)
        state = mix(state ^ (number if number.dtype == np.uint64 else number.astype(np.int64).view(np.uint64)))
    return state


def user_keys(user_id: np.ndarray) -> np.ndarray:
    """A number for each user by the raw id alone, [U] uint64; text by BLAKE2b of its UTF-8 bytes."""
    if not is_text(user_id):
        return mix(user_id.astype(np.int64))
    digests = (hashlib.blake2b(raw.encode("utf-8", "surrogatepass"), digest_size=8) for raw in user_id.tolist())
    return np.frombuffer(b"".join(digest.digest() for digest in digests), "<u8").astype(np.uint64)


def sort_keys(ids: np.ndarray, *seeds: int) -> np.ndarray:
    """Sorted by these, the rows of `ids` lie in the order that the seeds draw.

    One-to-one for each draw: rows of different ids never tie.

    Args:
      ids: [n] uint64.
      seeds: numbers that name the draw, say the run's seed and the epoch; at most 64 bits each.
    """
    return mix(ids ^ combine(*(np.array([seed], np.uint64) for seed in seeds)))


def shuffled_rows(ids: np.ndarray, *seeds: int) -> np.ndarray:
    """Rows of `ids` in the order of their `sort_keys`, [n] int64; equal ids keep their order."""
    return np.argsort(sort_keys(ids, *seeds), kind="stable")
