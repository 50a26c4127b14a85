"""Log lines that anybody on the network can provoke: one line each, and not more than a few a minute."""

import logging
import threading
import time
from typing import Any

_EVERY_S = 10.0


class FewLines(logging.Filter):
    """Of each kind of message lets one pass every ten seconds, on one line, with the number of those held back."""

    def __init__(self, every_s: float = _EVERY_S) -> None:
        super().__init__()
        self._every_s = every_s
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops the record, or shortens it; the kind is the message without its arguments."""
        kind, now = str(record.msg), time.monotonic()
        with self._lock:
            if now - self._last.get(kind, float("-inf")) < self._every_s:
                self._held[kind] = self._held.get(kind, 0) + 1
                return False
            self._last[kind], held = now, self._held.pop(kind, 0)
        text = record.getMessage().split("\n")[0]
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text += f": {type(error).__name__}: {error}".split("\n")[0]
        record.msg, record.args, record.exc_info, record.exc_text = text, (), None, None
        if held:
            record.msg += f" ({held} more like it were not logged)"
        return True


def quiet_logger(name: str) -> logging.Logger:
    """The logger of that name, with `FewLines`."""
    logger = logging.getLogger(name)
    if not any(isinstance(each, FewLines) for each in logger.filters):
        logger.addFilter(FewLines())
    return logger


def log_loop_error(logger: logging.Logger, context: dict[str, Any]) -> None:
    """For asyncio's exception handler, which else writes a traceback for every connection that it cannot accept."""
    error = context.get("exception")
    reason = f": {type(error).__name__}: {error}" if error else ""
    logger.warning(f"{context.get('message', 'event loop')}%s", reason)  # noqa: G004 - the message is the kind
