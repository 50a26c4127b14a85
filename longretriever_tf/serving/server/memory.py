"""How the process holds memory: kept between requests, given back after a peak and after a model has gone."""

import collections
import ctypes
import ctypes.util
import gc
import os
import threading
import time
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

PEAK = 256 * 2**20
"""Bytes above the last trim at which freed memory is given back at the next look."""

KEEP = 64 * 2**20
"""Bytes above the lowest that the process may keep for longer."""

_LOOK_S = 5.0
_AGAIN_S = 30.0
_COLLECTIONS = 12  # of what something holds for good: the server is not stopped every few seconds for ever
_PAGE = 4096


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


def resident_bytes() -> int:
    """What the process holds of the machine's memory; 0 where there is no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError):
        return 0


class MemoryKeeper:
    """A thread that gives memory back: after a peak, and at once after `note_closed`. Ended by `close`.

    What a request frees is kept for the next one, for half a minute, and not more than a peak's worth: glibc alone
    would keep it for ever. A model that was closed leaves TensorFlow's graph behind, which refers to itself: Python's
    own collector would look for it only after millions of new objects. It is looked for until it is gone: the thread
    that closed the model still stands in its methods when it says so.
    """

    def __init__(self, look_s: float = _LOOK_S) -> None:
        self._look_s = look_s
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._closed: collections.deque[tuple[weakref.ref, int]] = collections.deque()
        self._low = self._after = resident_bytes()
        self._trimmed_at = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="memory-keeper", daemon=True)
        self._thread.start()

    def note_closed(self, garbage: object) -> None:
        """Says that `garbage` is about to be let go; returns at once. Any thread may call."""
        self._closed.append((weakref.ref(garbage), _COLLECTIONS))
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
            now = resident_bytes()
            self._low, self._after = min(self._low, now), min(self._after, now)
            # What was in use at the last trim may be free by now: it is looked at again after a while.
            is_due = now > self._low + KEEP and time.monotonic() > self._trimmed_at + _AGAIN_S
            if self._collect() or now > self._after + PEAK or is_due:
                give_back_freed_memory()
                self._after, self._trimmed_at = resident_bytes(), time.monotonic()

    def _collect(self) -> bool:
        """Looks for what was closed; what is still there is looked for again at the next look."""
        closed = [self._closed.popleft() for _ in range(len(self._closed))]
        if closed:
            gc.collect()
        self._closed.extend((garbage, left - 1) for garbage, left in closed if garbage() is not None and left > 1)
        return bool(closed)


def _library() -> Any:
    try:
        return ctypes.CDLL(ctypes.util.find_library("c"))
    except (OSError, TypeError):
        return None
