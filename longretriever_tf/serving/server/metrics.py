"""Counters and histograms under TensorFlow Serving's names, and the Prometheus text page. Imports no TensorFlow.

The names begin with ":" and counters lack "_total", as TensorFlow Serving's prometheus_exporter.cc writes them:
Prometheus client libraries would change both, so the page is written here.
"""

import bisect
import contextlib
import threading
import time
from collections.abc import Collection, Iterator, Sequence

_BOUNDS = tuple(10 * 1.8**power for power in range(33))

COUNTERS = {
    "request_count": (":tensorflow:serving:request_count", ("model_name", "status")),
    "load_attempts": (":tensorflow:cc:saved_model:load_attempt_count", ("model_path", "status")),
    "load_latency": (":tensorflow:cc:saved_model:load_latency", ("model_path",)),
}
"""Short name -> (exported name, labels); load_latency is a counter of microseconds there, too."""

HISTOGRAMS = {
    "request_latency": (":tensorflow:serving:request_latency", ("model_name", "API", "entrypoint")),
    "runtime_latency": (":tensorflow:serving:runtime_latency", ("model_name", "API", "runtime")),
    "warmup_latency": (":tensorflow:serving:model_warmup_latency", ("model_path", "status")),
}
"""Short name -> (exported name, labels); in microseconds."""


class Metrics:
    """Thread-safe; every server has its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[tuple[str, ...], int]] = {name: {} for name in COUNTERS}
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {name: {} for name in HISTOGRAMS}

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Adds to a counter."""
        with self._lock:
            cells = self._counts[name]
            cells[labels] = cells.get(labels, 0) + by

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Adds a value to a histogram."""
        with self._lock:
            self._histograms[name].setdefault(labels, _Histogram()).add(value)

    @contextlib.contextmanager
    def timed(self, name: str, *labels: str) -> Iterator[None]:
        """Adds the time that the block took, if it did not fail, to a histogram."""
        start = time.monotonic()
        yield
        self.observe(name, (time.monotonic() - start) * 1e6, *labels)

    def record_request(self, known: Collection[str], name: str, code: str, seconds: float, entrypoint: str) -> None:
        """Counts a predict request. A name that no model has is "(unknown)": names come from anybody."""
        name = name if name in known else "(unknown)"
        self.count("request_count", name, code)
        if code == "OK":
            self.observe("request_latency", seconds * 1e6, name, "predict", entrypoint)

    def page(self) -> str:
        """The text that Prometheus scrapes."""
        lines: list[str] = []
        with self._lock:
            for name, (exported, label_names) in COUNTERS.items():
                lines.append(f"# TYPE {exported} counter")
                for labels, value in sorted(self._counts[name].items()):
                    lines.append(f"{exported}{{{_labels(label_names, labels)}}} {value}")
            for name, (exported, label_names) in HISTOGRAMS.items():
                lines.append(f"# TYPE {exported} histogram")
                for labels, histogram in sorted(self._histograms[name].items()):
                    lines += histogram.lines(exported, _labels(label_names, labels))
        return "\n".join(lines) + "\n"


class _Histogram:
    def __init__(self) -> None:
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._buckets[bisect.bisect_right(_BOUNDS, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> list[str]:
        before = f"{labels}," if labels else ""
        total = 0
        lines = []
        for number, count in enumerate(self._buckets):
            total += count
            bound = f"{_BOUNDS[number]:g}" if number < len(_BOUNDS) else "+Inf"
            lines.append(f'{name}_bucket{{{before}le="{bound}"}} {total}')
        return [*lines, f"{name}_sum{{{labels}}} {self._sum:g}", f"{name}_count{{{labels}}} {total}"]


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in values)
    return ",".join(f'{name}="{value}"' for name, value in zip(names, escaped, strict=True))
