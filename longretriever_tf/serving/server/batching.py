"""Gathers concurrent requests to one signature into one run of the model, and hands each its rows back.

Words and rules are those of TensorFlow Serving's batching_session.cc. Two are kinder here, since no client can rely on
a neighbor's failure: requests of unequal length that may not be padded go into separate batches, where TensorFlow
Serving fails them; and a request that fails a batch fails alone.
"""

import math
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from longretriever_tf.serving.server.config_files import BatchingOptions
from longretriever_tf.serving.server.limits import DEFAULT_LIMITS
from longretriever_tf.serving.server.loaded import LoadedModel, Signature
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.predict import IsWanted, always, nobody_waits
from longretriever_tf.serving.server.status import ServingError, from_exception, invalid

Arrays = dict[str, np.ndarray]


class _Task:
    def __init__(self, inputs: Mapping[str, np.ndarray], rows: int, is_wanted: IsWanted) -> None:
        self.inputs, self.rows, self.is_wanted = inputs, rows, is_wanted
        self.width = sum(math.prod(array.shape[1:]) for array in inputs.values())  # values per row
        self.future: Future[list[np.ndarray]] = Future()
        self.enqueued = time.monotonic()


class _Batch:
    """Requests that will run together: one model, one signature, the same outputs, shapes that fit."""

    def __init__(self, key: Hashable, model: LoadedModel, signature: Signature, outputs: tuple[str, ...]) -> None:
        self.key, self.model, self.signature, self.outputs = key, model, signature, outputs
        self.tasks: list[_Task] = []
        self.rows = self.width = 0
        self.closed = False

    def has_room(self, task: _Task, max_rows: int) -> bool:
        """Whether one more request may be padded to the widest, and all others to it, within what one may hold."""
        rows, width = self.rows + task.rows, max(self.width, task.width)
        return rows <= max_rows and rows * width <= DEFAULT_LIMITS.max_values


class BatchScheduler:
    """A `predict.Runner` that runs batches on its own threads; `run` waits for the answer. Closed by `close`."""

    def __init__(self, options: BatchingOptions, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        self._wait_s = options.batch_timeout_micros / 1e6
        self._changed = threading.Condition()
        self._batches: list[_Batch] = []
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(options.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self,
        model: LoadedModel,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        is_wanted: IsWanted = always,
    ) -> list[np.ndarray]:
        """The outputs for one request, run together with others.

        Raises:
          ServingError: INVALID_ARGUMENT, inputs that share no first dimension; UNAVAILABLE, the queue is full; or what
            the model says.
        """
        rows = _num_rows(inputs)
        self._metrics.observe("request_size", rows)
        limit = self._options.max_batch_size
        if rows <= limit:
            parts = [dict(inputs)]
        else:
            starts = range(0, rows, limit)
            parts = [{name: array[start : start + limit] for name, array in inputs.items()} for start in starts]
        futures = [self._submit(model, signature, part, tuple(outputs), is_wanted) for part in parts]
        results = [future.result() for future in futures]
        return results[0] if len(results) == 1 else [np.concatenate(arrays) for arrays in zip(*results, strict=True)]

    def close(self, wait_s: float | None = None) -> None:
        """Runs what is queued, then ends the threads; those still at work after `wait_s` are left to themselves."""
        deadline = None if wait_s is None else time.monotonic() + wait_s
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))

    def _submit(
        self,
        model: LoadedModel,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        is_wanted: IsWanted = always,
    ) -> "Future[list[np.ndarray]]":
        task = _Task(inputs, _num_rows(inputs), is_wanted)
        key = (id(model), signature.name, outputs, self._shapes(inputs))
        with self._changed:
            mine = [batch for batch in self._batches if batch.key == key]
            batch = mine[-1] if mine and not mine[-1].closed else None
            if batch is not None and not batch.has_room(task, self._options.max_batch_size):
                batch.closed = True
                batch = None
            if batch is None:
                if len(mine) >= self._options.max_enqueued_batches or self._stopping:
                    raise ServingError(
                        "UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full"
                    )
                batch = _Batch(key, model, signature, outputs)
                self._batches.append(batch)
            batch.tasks.append(task)
            batch.rows += task.rows
            batch.width = max(batch.width, task.width)
            batch.closed = batch.rows == self._options.max_batch_size
            self._changed.notify()
        return task.future

    def _shapes(self, inputs: Arrays) -> Hashable:
        if self._options.pad_variable_length_inputs:
            # An empty list has no first element to be padded with, and 0 may be somebody's id: empty ones join.
            return tuple(sorted((name, array.ndim, array.size == 0) for name, array in inputs.items()))
        return tuple(sorted((name, array.shape[1:]) for name, array in inputs.items()))

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            self._run(batch)

    def _next(self) -> _Batch | None:
        """The oldest batch that is full or has waited long enough; None: stop."""
        with self._changed:
            while True:
                now = time.monotonic()
                for batch in self._batches:
                    if batch.closed or self._stopping or batch.tasks[0].enqueued + self._wait_s <= now:
                        self._batches.remove(batch)
                        return batch
                if self._stopping:
                    return None
                due = min((batch.tasks[0].enqueued for batch in self._batches), default=None)
                self._changed.wait(None if due is None else max(due + self._wait_s - now, 0))

    def _run(self, batch: _Batch) -> None:
        now = time.monotonic()
        for task in batch.tasks:
            if not task.is_wanted():
                task.future.set_exception(nobody_waits())
        batch.tasks = [task for task in batch.tasks if not task.future.done()]
        if not batch.tasks:
            return
        for task in batch.tasks:
            self._metrics.observe("queuing_latency", (now - task.enqueued) * 1e6)
        try:
            results = self._run_together(batch, batch.tasks)
        except Exception as error:  # a worker must outlive whatever one batch provokes
            if len(batch.tasks) == 1:
                batch.tasks[0].future.set_exception(from_exception(error))
            else:
                self._run_apart(batch)
            return
        for task, result in zip(batch.tasks, results, strict=True):
            task.future.set_result(result)

    def _run_apart(self, batch: _Batch) -> None:
        for task in batch.tasks:
            try:
                task.future.set_result(self._run_together(batch, [task])[0])
            except Exception as error:
                task.future.set_exception(from_exception(error))

    def _run_together(self, batch: _Batch, tasks: Sequence[_Task]) -> list[list[np.ndarray]]:
        rows = sum(task.rows for task in tasks)
        size = next((size for size in self._options.allowed_batch_sizes if size >= rows), rows)
        self._metrics.observe("batch_size", size)
        self._metrics.observe("padding_size", size - rows, str(size))
        merged = {name: merge([task.inputs[name] for task in tasks], size) for name in tasks[0].inputs}
        outputs = batch.model.run(batch.signature, merged, batch.outputs)
        ends = np.cumsum([task.rows for task in tasks])[:-1]
        return [list(parts) for parts in zip(*(_split(array, size, rows, ends) for array in outputs), strict=True)]


def merge(arrays: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Stacks requests [b_i, ...] to [size, ...]: shorter ones padded by their own first element, missing rows repeated.

    The padding value is TensorFlow Serving's ("for each tensor its first element is used as padding value"), not zero:
    a history padded so repeats its first event, unless its first event is padding itself.
    """
    widths = np.max([array.shape[1:] for array in arrays], axis=0).astype(int).tolist()
    padded = [_pad(array, widths) for array in arrays]
    missing = size - sum(map(len, padded))
    if missing:
        padded.append(np.repeat(padded[-1][:1], missing, axis=0))
    return padded[0] if len(padded) == 1 else np.concatenate(padded)


def _pad(array: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    extra = [(0, 0)] + [(0, width - have) for width, have in zip(widths, array.shape[1:], strict=True)]
    if not any(after for _, after in extra):
        return array
    fill: Any = array.flat[0] if array.size else (b"" if array.dtype.kind == "O" else 0)
    return np.pad(array, extra, constant_values=fill)


def _num_rows(inputs: Mapping[str, np.ndarray]) -> int:
    if not inputs:
        raise invalid("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in inputs.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in inputs.values()}
    if len(sizes) > 1:
        named = {name: len(array) for name, array in sorted(inputs.items())}
        raise invalid(f"Batching Run() input tensors must have equal 0th-dimension size; received {named}")
    return sizes.pop()


def _split(array: np.ndarray, size: int, rows: int, ends: np.ndarray) -> list[np.ndarray]:
    if array.ndim == 0:
        raise ServingError("FAILED_PRECONDITION", "Batched output tensor has 0 dimensions")
    if len(array) != size:
        raise ServingError(
            "FAILED_PRECONDITION",
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
            "tensors",
        )
    return np.split(array[:rows], ends)
