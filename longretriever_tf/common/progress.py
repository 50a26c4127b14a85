"""A progress bar with rate and time left on a terminal; quiet lines where no one watches one. Imports no TensorFlow."""

import contextlib
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

_WORTH_A_TIME_S = 1.0


@contextlib.contextmanager
def stage(what: str) -> Iterator[None]:
    """Says on stdout what begins, and how long it took where that was over a second: no command is silent for long.

    Args:
      what: say "reading the log".
    """
    print(f"{what} ...", flush=True)
    start = time.monotonic()
    yield
    taken = time.monotonic() - start
    if taken > _WORTH_A_TIME_S:
        print(f"{what}: {taken:,.1f} s", flush=True)


class Progress:
    """Progress of one long job: a tqdm bar on a terminal, a line every `quiet_s` seconds elsewhere (logs, CI).

    Args:
      title: what runs, say "towers epoch 1/2".
      total: units in the job.
      unit: what is counted, say "examples".
      done: units done before (a resumed job).
      quiet_s: seconds between lines where stderr is not a terminal.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0, quiet_s: float = 20.0) -> None:
        self._title, self._total, self._unit, self._quiet_s = title, total, unit, quiet_s
        self._seen: float = done
        self._start, self._first, self._last = time.monotonic(), done, time.monotonic()
        self._bar = (
            tqdm(total=total, initial=done, desc=title, unit=f" {unit}", unit_scale=True, dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )

    def rate(self) -> float:
        """Units a second since the job was taken up."""
        return (self._seen - self._first) / max(time.monotonic() - self._start, 1e-9)

    def update(self, count: float, note: str = "") -> None:
        """Counts a few more units; `note` is shown with them (say, the loss)."""
        self._seen += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last > self._quiet_s:
            self._last = time.monotonic()
            left = (self._total - self._seen) / max(self.rate(), 1e-9)
            self._line(f"{self._seen / self._total:4.0%}  {note}  {left:,.0f} s left")

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
        else:
            self._line(f"done in {time.monotonic() - self._start:,.0f} s")

    def _line(self, text: str) -> None:
        print(f"{self._title}: {text}  ({self.rate():,.0f} {self._unit}/s)", file=sys.stderr, flush=True)
