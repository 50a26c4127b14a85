"""Starts all workers of a training on this machine, and ends them together. Imports no TensorFlow."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.training.distributed.tf_config import VARIABLE

_GRACE_S = 60.0
"""What the others have to notice that a worker has ended, and to say so."""

_POLL_S = 0.2
_GPUS = "CUDA_VISIBLE_DEVICES"


def launch(num_workers: int, arguments: Sequence[str]) -> int:
    """Runs `train --distribute=multi_worker` with `arguments` in `num_workers` processes; see `launch_module`."""
    return launch_module(["-m", "longretriever_tf.train"], num_workers, [*arguments, "--distribute=multi_worker"])


def launch_module(program: Sequence[str], num_workers: int, arguments: Sequence[str]) -> int:
    """Runs a program of Python in `num_workers` processes that find each other by TF_CONFIG; the exit status.

    Worker 0, the chief, has this process's output; what another one says is printed if it fails.

    Raises:
      UserError: there are GPUs, but too few.
    """
    gpus = _gpus_of_workers(num_workers)
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(num_workers)]
    command = [sys.executable, *program, *arguments]
    with contextlib.ExitStack() as stack:
        workers, outputs = [], []
        for index in range(num_workers):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, VARIABLE: json.dumps(task)}
            if gpus:
                environment[_GPUS] = gpus[index]
            output = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            streams: dict[str, Any] = {} if index == 0 else {"stdout": subprocess.DEVNULL, "stderr": output}
            workers.append(subprocess.Popen(command, env=environment, **streams))
            outputs.append(output)
        with _ended_together(workers):
            return _wait(workers, outputs)


def _wait(workers: Sequence[subprocess.Popen], outputs: Sequence[IO[str]]) -> int:
    """The first status that is not 0, once all have ended."""
    status, deadline = 0, float("inf")
    said: set[int] = set()
    while len(said) < len(workers):
        for index, worker in enumerate(workers):
            if index in said or worker.poll() is None:
                continue
            said.add(index)
            deadline = min(deadline, time.monotonic() + _GRACE_S)
            if worker.returncode:
                status = status or (worker.returncode if worker.returncode > 0 else 128 - worker.returncode)
                _report(index, worker.returncode, outputs[index])
        if time.monotonic() > deadline:
            print(f"ending the others, which did not end within {_GRACE_S:.0f} s", file=sys.stderr, flush=True)
            return status or 1
        time.sleep(_POLL_S)
    return status


def _report(index: int, returncode: int, output: IO[str]) -> None:
    """Says how a worker has ended; of its output the error, or its end."""
    output.seek(0)
    lines = [line for line in output.read().splitlines() if line.strip()]
    shown = [line for line in lines if line.startswith("error: ")] or lines[-10:]
    how = f"ended by signal {-returncode}" if returncode < 0 else f"exit status {returncode}"
    for line in [how, *shown]:
        print(f"worker {index}: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _ended_together(workers: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Ends the workers that are left when the block does: also when this process is asked to stop."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        left = [worker for worker in workers if worker.poll() is None]
        for worker in left:
            worker.terminate()
        for worker in left:
            try:
                worker.wait(10)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _gpus_of_workers(num_workers: int) -> list[str]:
    """The GPU of each worker; none where this machine has none."""
    names = os.environ.get(_GPUS)
    if names is None:
        try:
            asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
            names = ",".join(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split())
        except (OSError, subprocess.CalledProcessError):
            names = ""
    gpus = [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]
    if gpus and len(gpus) < num_workers:
        raise UserError(
            f"--num_processes={num_workers}: a worker needs a GPU of its own, and there are {len(gpus)} "
            f"({', '.join(gpus)}); start {len(gpus)}, or train without GPUs ({_GPUS}=)"
        )
    return gpus[:num_workers]
