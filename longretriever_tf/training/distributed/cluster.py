"""The replicas of a training: devices that each take whole batches, in one process or in several.

A replica is a device. `mirrored` has all devices of one process, `multi_worker` one device in each of several
processes, which talk through the collectives of TensorFlow (gRPC, or NCCL between GPUs). What one process alone
decides, to stop early or to save, the chief decides, worker 0, and the others hear of it.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import first_line
from longretriever_tf.training.distributed.tf_config import VARIABLE, Workers, read_workers

T = TypeVar("T")
NONE, MIRRORED, MULTI_WORKER = "none", "mirrored", "multi_worker"

_LOST = (
    *(tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError, tf.errors.CancelledError),
    *(tf.errors.DeadlineExceededError, tf.errors.UnknownError, tf.errors.FailedPreconditionError),
)
"""What a collective raises once a worker is gone."""


class Cluster:
    """The replicas, and what they tell each other.

    Args:
      strategy: TensorFlow's, or None for one device.
      workers: the processes; None: this one alone.

    Attributes:
      strategy: as given.
      num_workers: processes.
      worker: number of this one; the chief is 0.
      num_replicas: devices in all processes.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, workers: Workers | None = None) -> None:
        self.strategy = strategy
        self._addresses = workers.addresses if workers else ("this process",)
        self.num_workers, self.worker = len(self._addresses), workers.index if workers else 0
        self.num_replicas = strategy.num_replicas_in_sync if strategy else 1
        self._total = tf.function(self._sum_over_workers, reduce_retracing=True)

    @property
    def is_chief(self) -> bool:
        """Whether this process validates, writes and prints."""
        return self.worker == 0

    @property
    def local_replicas(self) -> range:
        """Numbers of the replicas of this process."""
        here = self.num_replicas // self.num_workers
        return range(self.worker * here, (self.worker + 1) * here)

    def scope(self) -> contextlib.AbstractContextManager:
        """Variables made within have a copy on every device of this process."""
        mirrored = self.strategy is not None and len(self.local_replicas) > 1
        return self.strategy.scope() if self.strategy and mirrored else contextlib.nullcontext()

    def run(self, step: Callable[[int], Any]) -> Any:
        """Calls `step` with the number, within this process, of each of its replicas, on its device, within a graph.

        Returns:
          What the first replica's call returns.
        """
        if self.strategy is None:
            return step(0)

        def on_replica() -> Any:
            number = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
            return step(int(number) - self.local_replicas.start)

        result = self.strategy.run(on_replica)
        return tf.nest.map_structure(lambda value: self.strategy.experimental_local_results(value)[0], result)

    def sum(self, value: tf.Tensor) -> tf.Tensor:
        """The sum over all replicas; within `run`."""
        if self.strategy is None or self.num_replicas == 1:
            return value
        # The identity gives the tensor a device, which the reduction reads.
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

    def concat(self, value: tf.Tensor) -> tf.Tensor:
        """The values of all replicas, of any length each, one after the other; within `run`."""
        if self.strategy is None or self.num_replicas == 1:
            return value
        return tf.distribute.get_replica_context().all_gather(tf.identity(value), 0)

    def _sum_over_workers(self, value: tf.Tensor) -> tf.Tensor:
        return self.run(lambda _: self.sum(value))

    def total(self, value: np.ndarray) -> np.ndarray:
        """The sum over all processes; each calls it with an array of one shape."""
        return np.asarray(value) if self.num_workers == 1 else self._total(tf.constant(value)).numpy()

    def from_chief(self, value: float) -> float:
        """The chief's number, on every process."""
        return float(self.total(np.float64(value if self.is_chief else 0.0)))

    def copy_from_chief(self, variables: Sequence[tf.Variable]) -> None:
        """Assigns the chief's values to the variables of every process."""
        self.merge([(variable, self.is_chief) for variable in variables])

    def merge(self, owned: Sequence[tuple[tf.Variable, np.ndarray | bool]]) -> None:
        """Makes variables equal on all processes: each row is that of the one process whose mask is true there.

        Args:
          owned: variables of numbers, and which of their rows count here: a mask, broadcast to the variable.
        """
        if self.num_workers == 1:
            return
        for variable, mask in owned:
            whole = self._total(tf.where(mask, variable, tf.zeros_like(variable)))
            variable.assign(whole)

    def exchange(self, value: Any) -> list[Any]:
        """What every process gave, by worker: JSON values."""
        if self.num_workers == 1:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.float32)
        lengths = np.zeros(self.num_workers, np.int64)
        lengths[self.worker] = len(text)
        lengths = self.total(lengths)
        texts = np.zeros([self.num_workers, lengths.max()], np.float32)
        texts[self.worker, : len(text)] = text
        texts = self.total(texts)
        return [json.loads(row[:size].astype(np.uint8).tobytes()) for row, size in zip(texts, lengths, strict=True)]

    def each(self, begin: Callable[[], T]) -> T:
        """What `begin` returns here, once it has ended well on every process; see `gather`."""
        found: list[T] = []
        self.gather(lambda: found.append(begin()))
        return found[0]

    def gather(self, begin: Callable[[], Any]) -> list[Any]:
        """What `begin` returns on each process; where it fails on one, all fail.

        Raises:
          UserError: `begin` raised one, here or elsewhere.
        """
        if self.num_workers == 1:
            return [begin()]
        error, value = None, None
        try:
            value = begin()
        except UserError as failed:
            error = failed
        given = self.exchange({"error": str(error) if error else "", "value": value})
        if error:
            raise error
        for worker, one in enumerate(given):
            if one["error"]:
                raise UserError(f"worker {worker} ({self._addresses[worker]}) cannot begin: {one['error']}")
        return [one["value"] for one in given]

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """A training of all processes: the chief alone prints, and a process that is lost ends the others.

        Raises:
          UserError: another process has ended.
        """
        with contextlib.ExitStack() as quiet:
            try:
                if not self.is_chief:
                    nowhere = quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))
                    quiet.enter_context(contextlib.redirect_stdout(nowhere))
                    quiet.enter_context(contextlib.redirect_stderr(nowhere))
                yield
                self.exchange("done")  # nobody leaves while another still needs its answers
                with contextlib.suppress(*_LOST):  # nor before all have heard that: then nothing is left to lose
                    self.exchange("heard")
            except _LOST as error:
                if self.num_workers == 1:
                    raise
                others = [f"{i} ({name})" for i, name in enumerate(self._addresses) if i != self.worker]
                raise UserError(
                    f"worker {self.worker} has lost another worker, one of {', '.join(others)}: "
                    f"{error.__class__.__name__}: {_reason(error)}. See what that one printed last; then start the "
                    "same command on all workers again: it goes on from the last checkpoint"
                ) from error


def _reason(error: Exception) -> str:
    """The line of a collective's error that says why it ended."""
    lines = [line for line in str(error).splitlines() if line.startswith("Collective ops is aborted by: ")]
    return lines[0].partition(": ")[2] if lines else first_line(error)


def start_cluster(distribute: str) -> Cluster:
    """The replicas that `--distribute` asks for; waits until every worker is there.

    Must be called before TensorFlow computes anything.

    Raises:
      UserError: TF_CONFIG is malformed, an address cannot be used, a worker does not come, or there are no devices.
    """
    if distribute == MULTI_WORKER:
        return _start_workers(read_workers(os.environ.get(VARIABLE)))
    if distribute == MIRRORED:
        return _start_devices()
    return Cluster()


def _start_devices() -> Cluster:
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if not gpus and len(devices) < 2:
        raise UserError(
            "--distribute=mirrored trains on all GPUs of this machine, and TensorFlow sees none (longretriever "
            "doctor says why); use --distribute=none, or --distribute=multi_worker for several processes without GPUs"
        )
    return Cluster(tf.distribute.MirroredStrategy([device.name for device in devices]))


def _exchange_by(has_gpu: bool) -> tf.distribute.experimental.CommunicationOptions:
    """NCCL between GPUs: what TensorFlow picks by itself is gRPC, by way of the hosts, at 0.4 GB/s on one host."""
    kinds = tf.distribute.experimental.CommunicationImplementation
    return tf.distribute.experimental.CommunicationOptions(implementation=kinds.NCCL if has_gpu else kinds.AUTO)


def _start_workers(workers: Workers) -> Cluster:
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        raise UserError(
            f"--distribute=multi_worker: a worker trains on one GPU, and this one sees {len(gpus)}; start a worker for "
            "each GPU, with CUDA_VISIBLE_DEVICES=0, 1, ... (longretriever launch does so)"
        )
    others = [address for index, address in enumerate(workers.addresses) if index != workers.index]
    if others:
        print(f"worker {workers.index} is waiting for {', '.join(others)} ...", flush=True)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=_exchange_by(bool(gpus)))
        signal.signal(signal.SIGTERM, on_sigterm)  # TensorFlow's own handler notes the signal and lets training go on
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise UserError(
            f"worker {workers.index} cannot join {', '.join(workers.addresses)}: {error.__class__.__name__}: "
            f"{first_line(error)}. Check that each address is free and that the workers reach each other, and start "
            "all of them again"
        ) from error
    return Cluster(strategy, workers)
