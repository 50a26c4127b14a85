"""What preparing a log takes at several sizes, on disk and in memory: what the capacity planner is fitted on; JSON.

  python benchmarks/bench_sizes.py --output=results/bench_sizes.json

Generated logs (make_log.py), 600 events a user. `on_disk`: `prepare` with one worker, CPU seconds, memory of the
largest process, bytes of what it wrote. `in_memory`: all that `train` does before its first step, without kept
histories (--materialise_gb=0): CPU seconds and memory. Each is a process of its own.
"""

import json
import os
import sys
import tempfile
from typing import Any

from absl import flags as absl_flags
from measured import run_measured

from longretriever_tf.config import flags

_ON_DISK = absl_flags.DEFINE_list("bench_on_disk", ["1000000", "2000000", "4000000", "8000000"], "Events, on disk.")
_IN_MEMORY = absl_flags.DEFINE_list("bench_in_memory", ["100000", "200000", "400000", "800000"], "Events, in memory.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")

_HERE = os.path.dirname(os.path.abspath(__file__))
_EVENTS_PER_USER = 600
_BEGIN = f"""
import sys; sys.path[:0] = [{_HERE!r}]
from longretriever_tf.config import flags
from tower_start import start_towers
flags.define_config_flags("data", "model", "train", "retrieval")
flags.run_command(lambda argv: start_towers(flags.config_from_flags()) and None)
"""


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin

    facts: dict[str, Any] = describe_origin("python benchmarks/bench_sizes.py", 1)
    facts["events_per_user"] = _EVENTS_PER_USER
    for name, sizes, measure in (("on_disk", _ON_DISK.value, _prepare), ("in_memory", _IN_MEMORY.value, _train)):
        facts[name] = []
        for num_events in map(int, sizes):
            with tempfile.TemporaryDirectory() as folder:
                facts[name].append({"events": num_events} | measure(folder, _make(folder, num_events)))
            print(name, json.dumps(facts[name][-1]), flush=True)
    facts["load_average"] = os.getloadavg()[0]
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _make(folder: str, num_events: int) -> list[str]:
    """Makes a log; the flags that read it."""
    log = os.path.join(folder, "made")
    given = [f"--num_events={num_events}", f"--num_users={num_events // _EVENTS_PER_USER}", f"--output={log}"]
    run_measured([sys.executable, os.path.join(_HERE, "make_log.py"), *given])
    with open(os.path.join(log, "manifest.json"), encoding="utf-8") as file:
        return json.load(file)["read_by"].replace("DIR", log).replace("'", "").split()


def _prepare(folder: str, read_by: list[str]) -> dict[str, float]:
    output = os.path.join(folder, "shards")
    words = [f"--output={output}", "--num_workers=1"]
    used, _ = run_measured([sys.executable, "-m", "longretriever_tf.prepare", *read_by, *words])
    written = {name: _bytes(os.path.join(output, name)) for name in ("log", "items.npz")}
    return used._asdict() | {"log_bytes": written["log"], "items_bytes": written["items.npz"]}


def _train(folder: str, read_by: list[str]) -> dict[str, float]:
    words = ["--cut=test", "--seed=1", "--materialise_gb=0", f"--data_dir={folder}/tfds"]
    used, _ = run_measured([sys.executable, "-c", _BEGIN, *read_by, *words])
    return used._asdict()


def _bytes(path: str) -> int:
    """Of a file, or of all files below a directory."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(path) for name in names)


if __name__ == "__main__":
    flags.run_command(main)
