"""A load test without flags: made-up histories, callers in threads, a report. Imports no TensorFlow."""

import collections
import dataclasses
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.progress import Progress
from longretriever_tf.data.corpus import load_corpus
from longretriever_tf.retrieval.export.version_dirs import corpus_path, versions
from longretriever_tf.serving.client.request import Request
from longretriever_tf.serving.client.transport import CallError

PERCENTILES = (50, 95, 99)
_DAYS = 730
_LOOK_S = 0.2


class SampledHistories(NamedTuple):
    """What requests are made of: an export's items and profiles; events per user, users per request, length asked."""

    export_dir: str
    history_length: int
    batch_size: int
    k: int


class Arrivals(NamedTuple):
    """When requests are asked.

    Attributes:
      rate: requests a second in the open loop; None: closed loop.
      duration_s: no request is begun after it, unless `num_requests` says how many there are.
      num_requests: 0: as many as there is time for.
      concurrency: callers.
      seed: of the open loop's times.
    """

    rate: float | None
    duration_s: float
    num_requests: int
    concurrency: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Report:
    """What a load test measured.

    `wall_s` is from the first request to the last answer. `errors` counts failures by code and message. `latency_ms`:
    mean, p50, p95, p99 and max of the answered requests, NaN without any. `offered_per_s` is 0 in the closed loop.
    """

    loop: str
    offered_per_s: float
    concurrency: int
    wall_s: float
    num_requests: int
    num_errors: int
    errors: dict[str, int]
    latency_ms: dict[str, float]

    @property
    def throughput_per_s(self) -> float:
        """Answered requests a second."""
        return (self.num_requests - self.num_errors) / max(self.wall_s, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: no NaN."""
        latency = {name: value if np.isfinite(value) else None for name, value in self.latency_ms.items()}
        return dataclasses.asdict(self) | {"latency_ms": latency, "throughput_per_s": self.throughput_per_s}

    def text(self) -> str:
        """A few lines for people."""
        offered = f", {self.offered_per_s:g} offered/s" if self.offered_per_s else ""
        lines = [
            f"{self.loop} loop, {self.concurrency} callers{offered}: {self.num_requests:,} requests in "
            f"{self.wall_s:.1f} s",
            f"throughput  {self.throughput_per_s:.1f} answered/s",
            "latency     " + "  ".join(f"{name} {value:.1f} ms" for name, value in self.latency_ms.items()),
            f"errors      {self.num_errors:,} ({self.num_errors / max(self.num_requests, 1):.2%})",
        ]
        return "\n".join([*lines, *(f"  {count:,} x {what}" for what, count in self.errors.items())])


def make_requests(histories: SampledHistories, distinct: int, seed: int) -> list[list[Request]]:
    """Requests of `batch_size` users each: any offered items at any time of two years.

    Raises:
      UserError: the export is not on this machine.
    """
    corpus = load_corpus(_corpus_path(histories.export_dir))
    rng = np.random.default_rng(seed)
    known = corpus.item_id[schema.FIRST_KNOWN : corpus.num_offered]

    def one() -> Request:
        age = rng.integers(1, _DAYS * schema.DAY_S, histories.history_length)
        return Request(
            history_item_id=rng.choice(known, histories.history_length).tolist(),
            history_timestamp=np.sort(np.maximum(corpus.cut - age, 1)).tolist(),
            request_timestamp=corpus.cut,
            profile={name: str(rng.choice(values)) for name, values in corpus.profile_values.items()},
            k=histories.k,
        )

    return [[one() for _ in range(histories.batch_size)] for _ in range(distinct)]


def _corpus_path(export_dir: str) -> str:
    numbers = versions(export_dir)
    if not numbers:
        raise UserError(
            f"--export_dir={export_dir} holds no exported version; histories are made of its items: name a copy of the "
            "export that the server serves"
        )
    return corpus_path(os.path.join(export_dir, str(numbers[-1])))


def run_load(send: Callable[[int], Any], arrivals: Arrivals) -> Report:
    """Asks `send(number)`, which raises CallError where it fails, from threads until time or number is up."""
    run = _Run(send, arrivals)
    threads = [threading.Thread(target=run.call, daemon=True) for _ in range(arrivals.concurrency)]
    by_count = arrivals.num_requests > 0
    total = arrivals.num_requests if by_count else int(np.ceil(arrivals.duration_s))
    progress, seen = Progress(f"load, {run.loop} loop", total, "requests" if by_count else "s"), 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(_LOOK_S)
        now = min(len(run.done) if by_count else int(run.elapsed()), total)
        progress.update(now - seen, f"{len(run.done):,} answers")
        seen = now
    progress.close()
    return run.report()


class _Run:
    """The clock that callers share, and their results."""

    def __init__(self, send: Callable[[int], Any], arrivals: Arrivals) -> None:
        self.loop = "closed" if arrivals.rate is None else "open"
        self.done: collections.deque[tuple[float, float, str]] = collections.deque()
        self._send, self._arrivals = send, arrivals
        self._lock, self._numbers, self._due = threading.Lock(), itertools.count(), 0.0
        self._rng = np.random.default_rng(arrivals.seed)
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def call(self) -> None:
        """One caller's work."""
        while (turn := self._next()) is not None:
            number, due = turn
            wait = due - self.elapsed()
            if wait > 0:
                time.sleep(wait)
            begun, error = (self.elapsed() if self.loop == "closed" else due), ""
            try:
                self._send(number)
            except CallError as failure:
                error = f"{failure.code}: {failure.message.splitlines()[0][:200]}"
            now = self.elapsed()
            self.done.append((now, now - begun, error))

    def report(self) -> Report:
        """The result, once all callers are back."""
        answered = np.array([latency for _, latency, error in self.done if not error]) * 1000
        measures: dict[str, Callable[[np.ndarray], Any]] = {"mean": np.mean}
        measures |= {f"p{at}": functools.partial(np.percentile, q=at) for at in PERCENTILES}
        measures["max"] = np.max
        errors = collections.Counter(error for _, _, error in self.done if error)
        return Report(
            loop=self.loop,
            offered_per_s=self._arrivals.rate or 0.0,
            concurrency=self._arrivals.concurrency,
            wall_s=max((end for end, _, _ in self.done), default=0.0),
            num_requests=len(self.done),
            num_errors=errors.total(),
            errors=dict(errors.most_common()),
            latency_ms={
                name: float(measure(answered)) if len(answered) else np.nan for name, measure in measures.items()
            },
        )

    def _next(self) -> tuple[int, float] | None:
        """Number and due time of the next request; None: there is none."""
        with self._lock:
            number = next(self._numbers)
            rate, limit = self._arrivals.rate, self._arrivals.num_requests
            if rate is None:
                self._due = self.elapsed()
            elif number:
                self._due += self._rng.exponential(1 / rate)
            over = number >= limit if limit else self._due >= self._arrivals.duration_s
            return None if over else (number, self._due)
