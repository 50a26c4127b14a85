"""How the process holds memory: kept between requests, given back after a peak and after a model has gone."""

import ctypes
import ctypes.util
import gc
import os
import threading
import weakref
from typing import Any

SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, 512 * 2**20),
    "MALLOC_TOP_PAD_": (-2, 64 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 * 2**20),
    # Each arena keeps up to 64 MB that nothing can make it give back, and there would be eight for every processor.
    "MALLOC_ARENA_MAX": (-8, min(max((os.cpu_count() or 1) // 4, 1), 4)),
}
"""glibc's environment variables, the parameter of `mallopt` that each stands for, and our value, in bytes or arenas."""

_LOOK_S = 10.0


def keep_freed_memory() -> bool:
    """Lets the process keep what a request frees for the next one; False where the C library is not glibc.

    By default glibc gives every few hundred kilobytes back, and the next request gets them again page by page from the
    kernel: about a fifth of the CPU time that a history of 20,000 events takes.
    """
    library = _library()
    try:
        return all([library.mallopt(parameter, value) == 1 for parameter, value in SETTINGS.values()])
    except AttributeError:
        return False


def give_back_freed_memory() -> bool:
    """Gives what is free in every arena back to the system; False where the C library is not glibc."""
    try:
        return bool(_library().malloc_trim(0))
    except AttributeError:
        return False


class MemoryKeeper:
    """A thread that gives memory back every few seconds, and at once after `note_closed`. Ended by `close`.

    What a request frees is kept for the next one until then: glibc alone would keep it for ever. A model that was
    closed leaves TensorFlow's graph behind, which refers to itself: Python's own collector would look for it only after
    millions of new objects. It is looked for until it is gone: the thread that closed the model still stands in its
    methods when it says so.
    """

    def __init__(self, look_s: float = _LOOK_S) -> None:
        self._look_s = look_s
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._closed: list[weakref.ref] = []
        self._thread = threading.Thread(target=self._work, name="memory-keeper", daemon=True)
        self._thread.start()

    def note_closed(self, garbage: object) -> None:
        """Says that `garbage` is about to be let go; returns at once. Any thread may call."""
        self._closed.append(weakref.ref(garbage))
        self._wake.set()

    def close(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._look_s)
            self._wake.clear()
            if self._closed:
                gc.collect()
                for gone in [garbage for garbage in self._closed if garbage() is None]:
                    self._closed.remove(gone)
            give_back_freed_memory()


def _library() -> Any:
    try:
        return ctypes.CDLL(ctypes.util.find_library("c"))
    except (OSError, TypeError):
        return None
