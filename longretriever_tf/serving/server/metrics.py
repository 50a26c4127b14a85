"""Counters and a histogram under TensorFlow Serving's names, and the Prometheus text page. Imports no TensorFlow.

The names begin with ":" and counters lack "_total", as TensorFlow Serving's prometheus_exporter.cc writes them:
Prometheus client libraries would change both, so the page is written here.
"""

import bisect
import collections
import contextlib
import threading
import time
from collections.abc import Collection, Iterator

from longretriever_tf.serving.server.status import from_exception

REQUESTS = ":tensorflow:serving:request_count"
LOADS = ":tensorflow:cc:saved_model:load_attempt_count"
_LATENCY = ":tensorflow:serving:request_latency"
_BOUNDS = tuple(10 * 1.8**power for power in range(33))  # microseconds


class Metrics:
    """Thread-safe; every server has its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, collections.Counter[str]] = {REQUESTS: collections.Counter()}
        self._counts[LOADS] = collections.Counter()
        self._latency: dict[str, _Histogram] = collections.defaultdict(_Histogram)

    def count(self, name: str, **labels: str) -> None:
        """Adds one to a counter."""
        with self._lock:
            self._counts[name][_text(labels)] += 1

    @contextlib.contextmanager
    def request(self, known: Collection[str], name: str, entrypoint: str) -> Iterator[None]:
        """Counts and times a predict request. A name that no model has is "(unknown)": names come from anybody."""
        name = name if name in known else "(unknown)"
        start = time.monotonic()
        try:
            yield
        except Exception as error:
            self.count(REQUESTS, model_name=name, status=from_exception(error).code)
            raise
        self.count(REQUESTS, model_name=name, status="OK")
        with self._lock:
            labels = _text({"model_name": name, "API": "predict", "entrypoint": entrypoint})
            self._latency[labels].add((time.monotonic() - start) * 1e6)

    def page(self) -> str:
        """The text that Prometheus scrapes."""
        lines: list[str] = []
        with self._lock:
            for name, cells in self._counts.items():
                lines.append(f"# TYPE {name} counter")
                lines += [f"{name}{{{labels}}} {value}" for labels, value in sorted(cells.items())]
            lines.append(f"# TYPE {_LATENCY} histogram")
            for labels, histogram in sorted(self._latency.items()):
                lines += histogram.lines(_LATENCY, labels)
        return "\n".join(lines) + "\n"


class _Histogram:
    def __init__(self) -> None:
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._buckets[bisect.bisect_right(_BOUNDS, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> list[str]:
        total, lines = 0, []
        for bound, count in zip([*(f"{bound:g}" for bound in _BOUNDS), "+Inf"], self._buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
        return [*lines, f"{name}_sum{{{labels}}} {self._sum:g}", f"{name}_count{{{labels}}} {total}"]


def _text(labels: dict[str, str]) -> str:
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()
    }
    return ",".join(f'{name}="{value}"' for name, value in escaped.items())
