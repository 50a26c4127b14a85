"""The local server under load: throughput and latency over REST and gRPC, and a hot swap that no request may notice.

  python benchmarks/bench_serving.py --export_dir=exports/longretriever --output=results/bench_serving.json

Starts `python -m longretriever_tf.serve` on a copy of the newest version, asks it in a closed loop over both transports
and with short and long histories, then asks --bench_swap_requests in a row while version 2 and a broken version 3 are
published and version 4 replaces both. Callers and server share this machine; `load_average` says what else ran.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from absl import flags as absl_flags

from longretriever_tf.config import flags

_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/longretriever", "Export that is served.")
_LENGTHS = absl_flags.DEFINE_list("bench_lengths", ["200", "20000"], "Events per history.")
_CONCURRENCY = absl_flags.DEFINE_integer("bench_concurrency", 2, "Callers.", lower_bound=1)
_DURATION = absl_flags.DEFINE_float("bench_duration_s", 20.0, "Of each load test.", lower_bound=0.1)
_SWAP = absl_flags.DEFINE_integer("bench_swap_requests", 10_000, "Requests across the swaps.", lower_bound=1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")
_MODEL = "longretriever"


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.retrieval.export.saved_model import latest_version

    facts: dict[str, Any] = describe_origin("python benchmarks/bench_serving.py", 1)
    facts |= {"concurrency": _CONCURRENCY.value, "batch_size": 1, "k": 100, "load": []}
    newest = latest_version(_EXPORT_DIR.value)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(newest, os.path.join(folder, "1"))
        with _server(folder) as (rest, grpc):
            for length in map(int, _LENGTHS.value):
                for url in (f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{grpc}"):
                    one = _load(url, length, 0)
                    facts["load"].append(one)
                    latency = "  ".join(f"{name} {ms:.1f}" for name, ms in one["latency_ms"].items())
                    rate = f"{one['throughput_per_s']:6.1f}/s"
                    print(f"{one['transport']:4s} T={length:<6d} {rate}  ms: {latency}  errors {one['num_errors']}")
            facts["hot_swap"] = swap = _swap(folder, newest, rest)
    print(f"hot swap: {swap['num_requests']} requests, {swap['num_errors']} failed; {swap['versions']}")
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


@contextlib.contextmanager
def _server(folder: str) -> Iterator[tuple[int, int]]:
    """The server on free ports (REST, gRPC), until the block ends."""
    rest, grpc = _free_port(), _free_port()
    words = [f"--model_name={_MODEL}", f"--model_base_path={folder}", f"--rest_api_port={rest}", f"--port={grpc}"]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen([sys.executable, "-m", "longretriever_tf.serve", *words], stdout=log, stderr=log)
        try:
            _wait_for(rest, 1, "AVAILABLE")
            yield rest, grpc
        finally:
            child.terminate()
            child.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _states(rest: int) -> dict[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{rest}/v1/models/{_MODEL}") as reply:
            known = json.load(reply)["model_version_status"]
    except OSError:
        return {}
    return {int(one["version"]): one["state"] for one in known}


def _wait_for(rest: int, version: int, state: str, timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while _states(rest).get(version) != state:
        if time.monotonic() > end:
            raise TimeoutError(f"version {version} is not {state} after {timeout_s} s: {_states(rest)}")
        time.sleep(0.2)


def _load(url: str, length: int, num_requests: int) -> dict[str, Any]:
    """A closed loop: for some seconds, or a number of requests."""
    from longretriever_tf.serving.client.client import Client, ClientOptions
    from longretriever_tf.serving.load_run import Arrivals, SampledHistories, make_requests, run_load

    requests = make_requests(SampledHistories(_EXPORT_DIR.value, length, 1, 100), 16, 1)
    arrivals = Arrivals(None, _DURATION.value, num_requests, _CONCURRENCY.value, 1)
    with Client(url, _MODEL, ClientOptions(timeout_s=60.0)) as client:
        calls = [client.prepare(rows) for rows in requests]
        for call in calls[:4]:
            client.send(call)
        report = run_load(lambda number: client.send(calls[number % len(calls)]), arrivals)
    transport = "gRPC" if url.startswith("grpc") else "REST"
    return {"transport": transport, "history_length": length, "load_average": os.getloadavg()[0], **report.to_dict()}


def _swap(folder: str, newest: str, rest: int) -> dict[str, Any]:
    """Publishes during a load of short histories: a good version, a broken one, a good one; then what each came to."""
    failure: list[BaseException] = []
    settled_s, start = {}, time.monotonic()

    def publish() -> None:
        try:
            for version, broken, state in ((2, False, "AVAILABLE"), (3, True, "END"), (4, False, "AVAILABLE")):
                time.sleep(3)
                aside = os.path.join(folder, f".{version}.aside")
                shutil.copytree(newest, aside)
                if broken:
                    os.truncate(os.path.join(aside, "saved_model.pb"), 1000)
                os.rename(aside, os.path.join(folder, str(version)))
                _wait_for(rest, version, state, 600)
                settled_s[version] = time.monotonic() - start
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    report = _load(f"http://127.0.0.1:{rest}", 32, _SWAP.value)
    thread.join()
    if failure:
        raise failure[0]
    return report | {"versions": dict(sorted(_states(rest).items())), "settled_s": settled_s}


if __name__ == "__main__":
    flags.run_command(main)
