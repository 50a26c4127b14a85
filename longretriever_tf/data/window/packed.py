"""Several arrays in one file that is mapped, not read. Imports no TensorFlow.

    8 bytes     a mark
    8 bytes     length of the header, little endian
    header      JSON: labels, and of each array its type, shape and place
    arrays      each at a multiple of 64 bytes, little endian

.npz files cannot be mapped, and a file for each array would need a handle each: a window has thousands of shards.
"""

import contextlib
import functools
import json
import mmap
import os
import resource
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from longretriever_tf.common.files import explain_damage, explain_os_errors, open_aside

_MARK, _ALIGN = b"LRPACK01", 64
_OTHER_FILES = 512
_HANDLES = 2
"""Of a packed file: its map holds one, and reading here and there another."""

CAN_ADVISE = hasattr(os, "posix_fadvise")
"""Whether the kernel can be told what will be read; macOS cannot."""


def write_packed(path: str, arrays: Mapping[str, np.ndarray], labels: Mapping[str, Any]) -> None:
    """Writes the file aside and renames it.

    Args:
      path: of the file.
      arrays: of numbers or records of numbers.
      labels: what the file is, as JSON holds it.

    Raises:
      UserError: the disk is full or the place not writable; then nothing of it is there.
    """
    places, at = {}, 0
    for name, array in arrays.items():
        places[name] = {"type": np.lib.format.dtype_to_descr(array.dtype), "shape": array.shape, "at": at}
        at += -(-array.nbytes // _ALIGN) * _ALIGN
    header = json.dumps({"labels": labels, "arrays": places, "size": at}).encode()
    header += b" " * (-(len(header) + 16) % _ALIGN)
    with explain_os_errors(f"cannot write {path!r}"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open_aside(path) as aside, open(aside, "wb") as file:
            file.write(_MARK + len(header).to_bytes(8, "little") + header)
            for array in arrays.values():
                file.write(np.ascontiguousarray(array).data.cast("B") if array.nbytes else b"")
                file.write(b"\0" * (-array.nbytes % _ALIGN))


class PackedFile:
    """The arrays of a file, mapped: they are read as they are touched.

    Attributes:
      arrays: by name, read only.
      labels: as written.

    Raises:
      UserError: the file is missing, cut short, or another kind of file; or its labels are others.
    """

    def __init__(self, path: str, expected: Mapping[str, Any], cure: str) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._path = path
        self._start: dict[str, int] = {}
        with explain_damage(path, cure), open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if self._map[:8] != _MARK:
                raise ValueError("it begins with another mark")
            start = 16 + int.from_bytes(self._map[8:16], "little")
            header = json.loads(self._map[16:start])
            if len(self._map) != start + header["size"]:
                raise ValueError(f"it has {len(self._map):,} bytes, and {start + header['size']:,} were written")
            self.labels = header["labels"]
            if self.labels != json.loads(json.dumps(expected)):
                raise ValueError(f"it is of {self.labels}, not of {dict(expected)}")
            for name, place in header["arrays"].items():
                kind, shape = np.lib.format.descr_to_dtype(_tuples(place["type"])), tuple(place["shape"])
                count = int(np.prod(shape))
                flat = np.frombuffer(self._map, kind, count, start + place["at"]) if count * kind.itemsize else None
                self._start[name] = start + place["at"]
                self.arrays[name] = np.empty(shape, kind) if flat is None else flat.reshape(shape)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def start(self, name: str) -> int:
        """Where an array begins in the file, in bytes."""
        return self._start[name]

    @functools.cached_property
    def handle(self) -> int:
        """A handle of the file, as `os` takes it, for rows that are read here and there.

        The kernel reads nothing ahead of them: with what it reads ahead by itself, training from a log larger than
        memory was half as fast.
        """
        handle = os.open(self._path, os.O_RDONLY)
        weakref.finalize(self, os.close, handle)
        if CAN_ADVISE:
            with contextlib.suppress(OSError):  # advice alone
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        return handle

    def release(self) -> None:
        """Gives back the memory of what was touched; it stays in the kernel's cache, and is read again when touched."""
        self._map.madvise(mmap.MADV_DONTNEED)


def allow_open_files(count: int) -> None:
    """Lets this process hold so many more packed files open, where the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _HANDLES * count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


def is_whole(path: str, expected: Mapping[str, Any]) -> bool:
    """Whether the file is there, has its whole length, and these labels."""
    try:
        PackedFile(path, expected, "")
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is made anew
        del error
        return False
    return True


def _tuples(descr: Any) -> Any:
    """JSON has no tuples, which NumPy's descriptions of records need."""
    return descr if isinstance(descr, str) else [(*field[:2], *map(tuple, field[2:])) for field in descr]
