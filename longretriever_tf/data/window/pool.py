"""Jobs of a stage in processes of their own, or here. Imports no TensorFlow.

Processes are started as `python -m`, not by multiprocessing: that would import the command again in each of them, with
TensorFlow.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from longretriever_tf.common.errors import UserError

_WORKER = "longretriever_tf.data.window.worker"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def run_in_processes(order: Mapping[str, Any], stage: str, shards: list[int], num_workers: int) -> Iterator[int]:
    """Makes a stage of some shards; yields the events of each shard as it is done.

    Args:
      order: what a worker is started with.
      stage: its name.
      shards: their numbers.
      num_workers: processes.

    Raises:
      UserError: of the first shard that failed, or a process was killed. Parts that were done stay.
    """
    jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
    answers: queue.SimpleQueue[int | UserError] = queue.SimpleQueue()
    for k in shards:
        jobs.put(k)
    threads = [
        threading.Thread(target=_drive, args=(order, stage, jobs, answers), daemon=True)
        for _ in range(min(num_workers, len(shards)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in shards:
            answer = answers.get()
            if isinstance(answer, UserError):
                raise answer
            yield answer
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                jobs.get_nowait()
        for thread in threads:
            thread.join()


def _drive(order: Mapping[str, Any], stage: str, jobs: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    """One process, asked for one shard after the other."""
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(part for part in (_ROOT, os.environ.get("PYTHONPATH", "")) if part)
    command = [sys.executable, "-m", _WORKER, json.dumps(order)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **one_thread, "PYTHONPATH": path}, **pipes) as process:  # type: ignore[call-overload]
        while True:
            try:
                k = jobs.get_nowait()
            except queue.Empty:
                break
            try:
                process.stdin.write(f"{stage} {k}\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
            except (OSError, ValueError):
                process.wait()
                answers.put(UserError(_describe_death(process.returncode, stage, k)))
                break
            answers.put(answer["events"] if "events" in answer else UserError(answer["error"]))
        with contextlib.suppress(OSError):
            process.stdin.close()


def _describe_death(code: int, stage: str, k: int) -> str:
    return (
        f"a process that prepared the training window ended with code {code} in shard {k} ({stage}), perhaps because "
        "memory ran out: run the same command with fewer --num_workers; it goes on where it stood"
    )
