"""Four category shards and a router against one SavedModel of the same run: answers, CPU, latency; and a shard killed.

  python benchmarks/bench_sharded.py --export_dir=exports/one --sharded_dir=exports/sharded --output=sharded.json

Both are of one run (`export`, and `export --category_shards=4`). Every SavedModel gets a process of
`longretriever_tf.serve`; the same requests are asked in turn, round by round, of the one export, of the client that
asks router and shards itself, and of a server that does so for its callers. CPU is that of all server processes taking
part, and of the caller. Then callers ask that server without pause while a shard is killed and started again. All of it
shares this machine, so that four shards search no faster than one: what is measured is what splitting costs.
"""

import collections
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
from absl import flags as absl_flags

from longretriever_tf.config import flags

_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/one", "Export in one SavedModel.")
_SHARDED_DIR = absl_flags.DEFINE_string("sharded_dir", "exports/sharded", "Export of the same run by category ranges.")
_LENGTHS = absl_flags.DEFINE_list("bench_lengths", ["200", "20000"], "Events per history.")
_ROUNDS = absl_flags.DEFINE_integer("bench_rounds", 6, "Of each way in turn.", lower_bound=1)
_REQUESTS = absl_flags.DEFINE_integer("bench_requests", 40, "Of each way in a round.", lower_bound=1)
_PHASE_S = absl_flags.DEFINE_float("bench_phase_s", 12.0, "Load before and while a shard is dead.", lower_bound=0.1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")
_TICKS = os.sysconf("SC_CLK_TCK")
_SCORES_NEAR = 1e-4


class Fleet:
    """The server processes, by model name."""

    def __init__(self, folder: str) -> None:
        self._folder, self.children, self.ports = folder, {}, {}

    def start(self, name: str, base_path: str, *more: str) -> str:
        """Starts a server, or starts it again on its port; its gRPC address."""
        port = self.ports.setdefault(name, _free_port())
        words = [f"--model_name={name}", f"--model_base_path={base_path}", f"--port={port}", *more]
        with open(os.path.join(self._folder, f"{name}.log"), "ab") as log:
            command = [sys.executable, "-m", "longretriever_tf.serve", *words]
            self.children[name] = subprocess.Popen(command, stdout=log, stderr=log)
        return f"127.0.0.1:{port}"

    def cpu_s(self, names: list[str]) -> float:
        """CPU seconds that these processes have taken so far."""
        total = 0.0
        for name in names:
            with open(f"/proc/{self.children[name].pid}/stat", encoding="utf-8") as file:
                fields = file.read().rsplit(") ", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / _TICKS
        return total

    def memory_mb(self, name: str) -> float:
        """Resident memory."""
        with open(f"/proc/{self.children[name].pid}/statm", encoding="utf-8") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        """Ends every process."""
        for child in self.children.values():
            child.terminate()
        for child in self.children.values():
            child.wait(60)


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.serving.client import Client, ClientOptions

    facts: dict[str, Any] = describe_origin("python benchmarks/bench_sharded.py", 1)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        fleet = Fleet(folder)
        stack.callback(fleet.stop)
        urls, shards = _start(fleet, folder)
        options = ClientOptions(timeout_s=120.0)
        clients = {way: stack.enter_context(Client(url, "longretriever", options)) for way, url in urls.items()}
        for client in clients.values():
            _wait_for(client)
        facts |= {"num_shards": len(shards), "memory_mb": {name: fleet.memory_mb(name) for name in fleet.children}}
        parts = {"one": ["longretriever"], "client": ["router", *shards], "server": ["thin", *shards]}
        facts["ways"] = [_compare(fleet, clients, parts, int(length)) for length in _LENGTHS.value]
        facts["killed"] = _kill(fleet, clients["server"], shards[1])
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _start(fleet: Fleet, folder: str) -> tuple[dict[str, str], list[str]]:
    """All servers; where each way is asked, and the names of the shards."""
    sharded, places = _SHARDED_DIR.value, os.path.join(folder, "shards.json")
    one = fleet.start("longretriever", os.path.abspath(_EXPORT_DIR.value))
    folders = sorted(name for name in os.listdir(sharded) if name.startswith("shard-"))
    at = {name: fleet.start(name, os.path.join(os.path.abspath(sharded), name)) for name in folders}
    router = os.path.join(os.path.abspath(sharded), "router")
    described = {"model": "router", "address": fleet.start("router", router)}
    with open(places, "w", encoding="utf-8") as file:
        listed = [{"model": name, "address": address} for name, address in at.items()]
        json.dump({"router": described, "shards": listed, "timeout_s": 30.0}, file)
    # Its model's name is that of the one export: clients need not know which they ask.
    fleet.ports["thin"] = port = _free_port()
    thin = fleet.start("thin", router, "--model_name=longretriever", f"--shards_file={places}")
    assert thin.endswith(str(port))
    return {"one": f"grpc://{one}", "client": places, "server": f"grpc://{thin}"}, folders


def _compare(fleet: Fleet, clients: dict[str, Any], parts: dict[str, list[str]], length: int) -> dict[str, Any]:
    """The same requests of every way in turn."""
    from longretriever_tf.serving.load_run import SampledHistories, make_requests

    requests = make_requests(SampledHistories(os.path.join(_SHARDED_DIR.value, "router"), length, 1, 100), 16, 1)
    answers = {way: [client.retrieve(rows)[0] for rows in requests] for way, client in clients.items()}
    calls = {way: [client.prepare(rows) for rows in requests] for way, client in clients.items()}
    latency: dict[str, list[float]] = collections.defaultdict(list)
    cpu: dict[str, list[float]] = collections.defaultdict(list)
    own: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(_ROUNDS.value):
        for way, client in clients.items():
            before, mine = fleet.cpu_s(parts[way]), time.process_time()
            for number in range(_REQUESTS.value):
                begun = time.perf_counter()
                client.send(calls[way][number % len(requests)])
                latency[way].append(1000 * (time.perf_counter() - begun))
            own[way].append(1000 * (time.process_time() - mine) / _REQUESTS.value)
            cpu[way].append(1000 * (fleet.cpu_s(parts[way]) - before) / _REQUESTS.value)
    measured = {
        way: {
            "servers_cpu_ms": float(np.median(cpu[way])),
            "caller_cpu_ms": float(np.median(own[way])),
            "latency_ms": {f"p{p}": float(np.percentile(latency[way], p)) for p in (50, 95, 99)},
        }
        for way in clients
    }
    return {
        "history_length": length,
        "num_requests": len(latency["one"]),
        "load_average": os.getloadavg()[0],
        "equal": {way: _same(answers[way], answers["one"]) for way in ("client", "server")},
        **measured,
    }


def _same(ours: list[Any], theirs: list[Any]) -> dict[str, Any]:
    """How many lists hold the same items in the same order, and how far scores are apart."""
    ids = [[one.item_id for one in answer.candidates] for answer in ours]
    same = sum(mine == [one.item_id for one in answer.candidates] for mine, answer in zip(ids, theirs, strict=True))
    scores = [np.array([one.score for one in answer.candidates]) for answer in (*ours, *theirs)]
    apart = [np.abs(a - b).max() for a, b in zip(scores[: len(ours)], scores[len(ours) :], strict=True)]
    assert max(apart) < _SCORES_NEAR, apart
    return {"lists": len(ours), "same_items_in_order": same, "largest_score_difference": float(max(apart))}


def _kill(fleet: Fleet, client: Any, name: str) -> dict[str, Any]:
    """Two callers without pause; what they get before, while and after a shard is dead."""
    from longretriever_tf.serving.client import CallError
    from longretriever_tf.serving.load_run import SampledHistories, make_requests

    requests = make_requests(SampledHistories(os.path.join(_SHARDED_DIR.value, "router"), 200, 1, 100), 16, 1)
    calls = [client.prepare(rows) for rows in requests]
    seen: collections.deque[tuple[float, float, str]] = collections.deque()
    stop, start = threading.Event(), time.monotonic()

    def ask() -> None:
        number = 0
        while not stop.is_set():
            begun = time.monotonic()
            try:
                shape = client.send(calls[number % len(calls)]).outputs["missing_shard"].tensor_shape
                outcome = "partial" if shape.dim[1].size else "whole"
            except CallError as error:
                outcome = error.code
            seen.append((time.monotonic() - start, time.monotonic() - begun, outcome))
            number += 1

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(_PHASE_S.value)
    killed_s = time.monotonic() - start
    os.kill(fleet.children[name].pid, signal.SIGKILL)
    fleet.children[name].wait()
    time.sleep(_PHASE_S.value)
    started_s = time.monotonic() - start
    fleet.start(name, os.path.join(os.path.abspath(_SHARDED_DIR.value), name))
    while seen[-1][2] != "whole" and time.monotonic() - start < started_s + 300:
        time.sleep(0.1)
    whole_s = time.monotonic() - start
    time.sleep(_PHASE_S.value)
    stop.set()
    for thread in threads:
        thread.join()
    phases = {"before": (0, killed_s), "dead": (killed_s, started_s), "back": (whole_s, float("inf"))}
    report: dict[str, Any] = {"shard": name, "dead_s": whole_s - killed_s, "starts_in_s": whole_s - started_s}
    for phase, (low, high) in phases.items():
        rows = [one for one in seen if low <= one[0] - one[1] < high]
        took = 1000 * np.array([one[1] for one in rows])
        outcomes = dict(collections.Counter(one[2] for one in rows))
        report[phase] = {"answers": outcomes, "p50_ms": float(np.median(took)), "longest_ms": float(took.max())}
    return report


def _wait_for(client: Any, timeout_s: float = 300) -> None:
    from longretriever_tf.serving.client import CallError

    end = time.monotonic() + timeout_s
    while True:
        try:
            client.fingerprint()
            return
        except CallError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    flags.run_command(main)
