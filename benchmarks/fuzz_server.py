"""Asks servers of its own many requests that are wrong in every way, and looks for what must not happen.

  python benchmarks/fuzz_server.py --export_dir=exports/longretriever --requests=20000 --seed=1

Starts `python -m longretriever_tf.serve` on this machine's loopback address, as often as --servers says, and asks it in
--parallel client processes: valid requests changed in structure, types, shapes, sizes, text, bytes, headers, paths and
framing, two thirds over REST, one third over gRPC; each by a generator seeded with its number. Fails where an answer is
a 5xx, INTERNAL or UNKNOWN, where a server ends, logs a traceback, keeps memory or file descriptors, or answers a seeded
valid request with other bytes than before. --first=N --requests=1 repeats one request alone.
"""

import collections
import contextlib
import json
import multiprocessing
import os
import queue
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
from absl import flags as absl_flags
from fuzz_clients import Target, run_client
from fuzz_grpc import good_call
from fuzz_http import Seeds

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags

_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/longretriever", "Export that is served.")
_REQUESTS = absl_flags.DEFINE_integer("requests", 20_000, "How many.", lower_bound=1)
_FIRST = absl_flags.DEFINE_integer("first", 0, "Number of the first.", lower_bound=0)
_SEED = absl_flags.DEFINE_integer("seed", 1, "Of everything that is random.", lower_bound=0)
_PARALLEL = absl_flags.DEFINE_integer("parallel", 2, "Client processes.", lower_bound=1)
_SERVERS = absl_flags.DEFINE_integer("servers", 1, "Server processes.", lower_bound=1)
_GROWTH = absl_flags.DEFINE_float("max_growth_mb", 300, "Memory that a server may hold in the end beyond its start.", 0)
_SETTLE = absl_flags.DEFINE_float("settle_s", 90, "How long it may take to give memory back.", 0)
_TIME = absl_flags.DEFINE_float("max_s", 3600, "The run is given up after it.", 1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the report here, as JSON.")
_MODEL = "longretriever"
_DTYPES = {"DT_FLOAT": 1, "DT_DOUBLE": 2, "DT_INT32": 3, "DT_STRING": 7, "DT_INT64": 9, "DT_BOOL": 10}
_EVENTS = 8
_WARM = 30
_MIB = 2**20


def main(argv: list[str]) -> None:
    """Runs the fuzzer; exit status 1 where something was found."""
    del argv
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        servers = [stack.enter_context(_server(os.path.join(folder, f"{i}.log"))) for i in range(_SERVERS.value)]
        for server in servers:
            server.prepare()
        start = time.monotonic()
        counts, num_faults, faults = _ask(servers)
        wall_s = time.monotonic() - start
        ends = [server.settle() for server in servers]
    report = {
        "command": "python benchmarks/fuzz_server.py",
        "seed": _SEED.value,
        "requests": _REQUESTS.value,
        "wall_s": round(wall_s, 1),
        "requests_per_s": round(_REQUESTS.value / wall_s, 1),
        "parallel": _PARALLEL.value,
        "answers": dict(sorted(counts.items())),
        "num_faults": num_faults,
        "faults": faults,
        "servers": ends,
    }
    print(json.dumps(report, indent=2))
    if _OUTPUT.value:
        with open(_OUTPUT.value, "w", encoding="utf-8") as file:
            file.write(json.dumps(report, indent=2) + "\n")
    wrong = [f"{num_faults} answers that should not have been"] if num_faults else []
    wrong += [f"server {number}: {each}" for number, end in enumerate(ends) for each in end["wrong"]]
    if wrong:
        raise UserError("; ".join(wrong))
    print(f"{_REQUESTS.value:,} requests in {wall_s:.0f} s, {report['requests_per_s']:.0f}/s: nothing found")


def _ask(servers: list["_Server"]) -> tuple[dict[str, int], int, list[dict[str, Any]]]:
    """Divides the numbers among client processes; counts of answers, faults, and the first of them."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    numbers = range(_FIRST.value, _FIRST.value + _REQUESTS.value)
    clients = [
        context.Process(
            target=run_client,
            args=(servers[i % len(servers)].target, numbers[i :: _PARALLEL.value], _SEED.value, results),
            daemon=True,
        )
        for i in range(min(_PARALLEL.value, len(numbers)))
    ]
    for client in clients:
        client.start()
    counts: collections.Counter[str] = collections.Counter()
    num_faults, faults, deadline = 0, [], time.monotonic() + _TIME.value
    for _ in clients:
        try:
            some, num, first = results.get(timeout=max(deadline - time.monotonic(), 0.1))
        except queue.Empty:
            num_faults += 1
            faults.append({"why": f"a client had not finished after {_TIME.value:g} s"})
            continue
        counts.update(some)
        num_faults += num
        faults += first
    for client in clients:
        client.join(10)
        if client.is_alive():
            client.kill()
    return counts, num_faults, faults[:100]


class _Server:
    """A server process: what it is asked, what it answered at first, and what it holds."""

    def __init__(self, process: subprocess.Popen, rest: int, grpc_port: int, log: str) -> None:
        self.process, self.rest, self.grpc, self._log = process, rest, grpc_port, log
        self.target: Target
        self._peak = 0
        self._over = threading.Event()

    def prepare(self) -> None:
        """Finds valid requests, warms up, and notes how the server stands."""
        self.target = Target(self.rest, self.grpc, *_read_seeds(self.rest))
        for _ in range(_WARM):
            self._good = self._ask_good()
        self._memory, self._files = self._resident(), self._open_files()
        threading.Thread(target=self._watch, daemon=True).start()

    def settle(self) -> dict[str, Any]:
        """How it stands in the end, given time to give memory back."""
        wrong = []
        try:
            same = self._ask_good() == self._good
        except (OSError, grpc.RpcError) as error:
            same = False
            wrong.append(f"no answer to a valid request: {error}")
        limit = self._memory + _GROWTH.value * _MIB
        deadline = time.monotonic() + _SETTLE.value
        while time.monotonic() < deadline and (self._resident() > limit or self._open_files() > self._files):
            time.sleep(0.5)
        self._over.set()
        memory, files = self._resident(), self._open_files()
        with open(self._log, encoding="utf-8", errors="replace") as file:
            log = file.read()
        wrong += [] if same else ["a valid seeded request is answered with other bytes"]
        wrong += [f"exit status {self.process.returncode}"] if self.process.poll() is not None else []
        wrong += [f"{log.count('Traceback')} tracebacks in the log"] if "Traceback" in log else []
        wrong += ["memory is not given back"] if memory > limit else []
        wrong += ["file descriptors are not closed"] if files > self._files + 2 else []
        facts = {"start": self._memory, "peak": self._peak, "end": memory}
        return {
            "memory_mb": {name: round(size / _MIB) for name, size in facts.items()},
            "open_files": {"start": self._files, "end": files},
            "log_bytes": len(log),
            "log_end": log[-2000:] if wrong else "",
            "wrong": wrong,
        }

    def _ask_good(self) -> list[bytes]:
        """The bytes of a valid answer to every signature, over both transports."""
        answers = []
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
            for name, columns in self.target.seeds.columns.items():
                answers.append(_post(self.rest, {"signature_name": name, "inputs": columns}))
                call = good_call(self.target.seeds, self.target.dtypes, name)
                message = channel.unary_unary(call.method)(call.data, timeout=60, wait_for_ready=True)
                answers.append(b"".join(sorted(message[i : i + 1] for i in range(len(message)))))  # maps have no order
        return answers

    def _watch(self) -> None:
        while not self._over.wait(0.2) and self.process.poll() is None:
            self._peak = max(self._peak, self._resident())

    def _resident(self) -> int:
        try:
            with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):
            return 0

    def _open_files(self) -> int:
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except OSError:
            return 0


@contextlib.contextmanager
def _server(log: str) -> Iterator[_Server]:
    """A started server, ended by SIGTERM."""
    rest, grpc_port = _free_ports()
    command = [sys.executable, "-m", "longretriever_tf.serve", f"--model_name={_MODEL}", "--explorer"]
    command += [f"--model_base_path={os.path.abspath(_EXPORT_DIR.value)}", f"--rest_api_port={rest}"]
    command += [f"--port={grpc_port}", "--rest_api_read_timeout_seconds=10", "--shutdown_grace_seconds=3"]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        _await(process, rest, log)
        yield _Server(process, rest, grpc_port, log)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen, rest: int, log: str) -> None:
    for _ in range(1200):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{rest}/v1/models/{_MODEL}", timeout=5).read()
            return
        if process.poll() is not None:
            with open(log, encoding="utf-8", errors="replace") as file:
                raise UserError(f"the server ended: {file.read()[-2000:]}")
        time.sleep(0.1)
    raise UserError("the server did not come up within two minutes")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _get(rest: int, path: str) -> Any:
    return json.loads(urllib.request.urlopen(f"http://127.0.0.1:{rest}{path}", timeout=60).read())


def _post(rest: int, body: Any) -> bytes:
    url = f"http://127.0.0.1:{rest}/v1/models/{_MODEL}:predict"
    return urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=60).read()


def _read_seeds(rest: int) -> tuple[Seeds, dict[str, dict[str, int]]]:
    """A valid request for every signature that takes one built from the export's own warm-up histories."""
    signatures = _get(rest, f"/v1/models/{_MODEL}/metadata")["metadata"]["signature_def"]
    signatures = signatures.get("signature_def", signatures)
    users = _get(rest, f"/explorer/models/{_MODEL}/users.json")["users"][:2]
    if len(users) < 2:
        raise UserError(
            f"--export_dir={_EXPORT_DIR.value}: the export has no warm-up requests to start from; export again"
        )
    columns: dict[str, dict[str, Any]] = {}
    dtypes: dict[str, dict[str, int]] = {}
    category = ""
    for name, signature in sorted(signatures.items(), key=lambda item: item[0] != "serving_default"):
        inputs = signature.get("inputs") or {}
        asked = {alias: _column(alias, info["dtype"], users, category) for alias, info in inputs.items()}
        try:
            answer = json.loads(_post(rest, {"signature_name": name, "inputs": asked}))["outputs"]
        except OSError:
            continue
        columns[name] = asked
        dtypes[name] = {alias: _DTYPES[info["dtype"]] for alias, info in inputs.items()}
        if name == "serving_default":
            category = answer["interest_category"][0][0]
    if not columns:
        raise UserError(f"--export_dir={_EXPORT_DIR.value} answers no valid request; is it a retriever's export?")
    return Seeds(_MODEL, columns, rest), dtypes


def _column(name: str, dtype: str, users: list[dict[str, Any]], category: str) -> list[Any]:
    """Two rows of an input."""
    request_options = {
        "k": 5,
        "num_interests": 2,
        "top_interests": 3,
        "seed": 7,
        "exploration": 1,
        "merge": "calibrated",
        "goal": "all",
        "bandit": "thompson",
        "bandit_prior": 20,
    }
    if name in ("history_item_id", "history_timestamp"):
        return [user[name.removeprefix("history_")][:_EVENTS] for user in users]
    if name == "request_timestamp":
        return [user[name] for user in users]
    if name == "item_id":
        return users[0][name][:2]
    if name == "history_weight":
        return [[1.0] * _EVENTS] * 2
    if name == "category":
        return [category] * 2
    if name in ("exclude_item_id", "allowed_category", "forbidden_category", "forced_category", "forced_weight"):
        return [[], []]
    if name.startswith("reward_"):
        return [[{"reward_category": category, "reward_trials": 3 if category else 0, "reward_successes": 0}[name]]] * 2
    return [request_options.get(name, "" if dtype == "DT_STRING" else 0)] * 2


if __name__ == "__main__":
    flags.run_command(main)
