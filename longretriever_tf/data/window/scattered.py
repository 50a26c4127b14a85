"""Rows that lie scattered over many files: asked of the disk first, read some batches later. Imports no TensorFlow.

They are read by calls, all shards' rows of a column in one loop. By memory map, shard after shard, a batch took 7.3 ms
of a profiled thread in a log of 75 shards that the kernel's cache held, and takes 2.8 ms so. And a thread that touches
a mapped row which is not in that cache waits for the disk, Python's lock in its hand where NumPy keeps it for few rows;
in a log of 150 million events a batch had some 450 such waits, and has none.
"""

import contextlib
import math
import mmap
import os
from collections.abc import Sequence

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.data.window.packed import CAN_ADVISE, PackedFile

_FILE_BITS = 44
"""Pages of file k are numbered from k times 2 to this power."""


class ScatteredColumn:
    """One column of many files. A row is named by its file and its number there.

    Args:
      files: at least one; the column's rows have the same type and shape in all of them.
      name: of the column.
    """

    def __init__(self, files: Sequence[PackedFile], name: str) -> None:
        self._files, self._name = files, name
        self._length = np.array([len(file[name]) for file in files])
        self._start = np.array([file.start(name) for file in files])
        self._handle = np.array([file.handle for file in files])
        self._type, self._shape = files[0][name].dtype, files[0][name].shape[1:]
        self._row_bytes = self._type.itemsize * math.prod(self._shape)

    def read(self, file: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Rows `start:stop` of each range, one range after the other, [m, ...].

        Args:
          file: which file, [R] integers.
          start: first row of each range, [R] integers.
          stop: the row after its last, [R] integers.

        Raises:
          UserError: a file has no such rows, since it was damaged or cut short meanwhile.
        """
        at, size = self._places(file, start, stop)
        data = b"".join(map(os.pread, self._handle[file].tolist(), size.tolist(), at.tolist()))
        if len(data) != size.sum():
            raise UserError(f"files of the training window were cut short while they were read: column {self._name!r}")
        return np.frombuffer(data, self._type).reshape(int((stop - start).sum()), *self._shape)

    def pages(self, file: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """First and last page of the rows `start:stop` of each range, [R, 2] int64; last < first of none."""
        at, size = self._places(file, start, stop)
        pages = np.stack([at // mmap.PAGESIZE, (at + size - 1) // mmap.PAGESIZE], 1)
        return pages + (file.astype(np.int64) << _FILE_BITS)[:, None]

    def _places(self, file: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each range begins in its file, and its length, bytes."""
        if (start < 0).any() or (stop < start).any() or (stop > self._length[file]).any():
            raise UserError(f"files of the training window are damaged: column {self._name!r} has fewer rows")
        return self._start[file] + start * self._row_bytes, (stop - start) * self._row_bytes


def ask_for(files: Sequence[PackedFile], pages: np.ndarray) -> None:
    """Has the kernel read pages into its cache, and does not wait for them.

    Args:
      files: of the columns.
      pages: from `ScatteredColumn.pages`, [m, 2] int64.
    """
    first, last = pages[pages[:, 0] <= pages[:, 1]].T
    if not (CAN_ADVISE and len(first)):
        return
    order = np.argsort(first)
    first, reach = first[order], np.maximum.accumulate(last[order])
    begins = np.flatnonzero(np.append(True, first[1:] > reach[:-1] + 1))  # ranges that touch become one
    first, last = first[begins], reach[np.append(begins[1:], len(first)) - 1]
    handle = np.array([one.handle for one in files])[first >> _FILE_BITS]
    start, size = (first & ((1 << _FILE_BITS) - 1)) * mmap.PAGESIZE, (last - first + 1) * mmap.PAGESIZE
    with contextlib.suppress(OSError):  # advice alone: what was not asked for is read when it is needed
        for asked in zip(handle.tolist(), start.tolist(), size.tolist(), strict=True):
            os.posix_fadvise(*asked, os.POSIX_FADV_WILLNEED)
