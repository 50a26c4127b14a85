"""How fast the generator writes, in how much memory, and how its log compares with a real one; JSON.

  python benchmarks/bench_make_log.py --output=results/bench_make_log.json

Each size is made by make_log.py in a process of its own, with one process of its pool: events a second and the largest
memory of any process. The smallest is then read by `inspect_log`, and so is Complete Journey.
"""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from absl import flags as absl_flags
from measured import run_measured

from longretriever_tf.config import flags

_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")

_HERE = os.path.dirname(os.path.abspath(__file__))
_SIZES = {
    "like Complete Journey": ("--num_events=1500000", "--num_users=2500"),
    "int64 ids": ("--num_events=15000000", "--num_users=25000", "--files=16"),
    "text ids": ("--num_events=15000000", "--num_users=25000", "--files=16", "--text_ids"),
    "20,000 events a user": ("--num_events=40000000", "--num_users=2000", "--files=2"),
}
_COMPARED = {
    "median events of a user": ("lives", "events_per_user", "median"),
    "99th percentile": ("lives", "events_per_user", "p99"),
    "longest": ("lives", "events_per_user", "max"),
    "median categories of a user": ("lives", "categories_per_user", "median"),
    "share of events beyond the last 200": ("lives", "share_beyond_last", "200"),
    "share of events that repeat an item": ("lives", "repeat_share"),
    "share of (user, category) with 3 events or fewer": ("subsequences", "share_short"),
    "share of events that find none of their category": ("subsequences", "share_found_none"),
    "share of test targets that are novel": ("split", "test", "novel_share"),
    "share of test targets in the top 20 interests": ("split", "test", "all", "top_20"),
    "median items of a category": ("negatives", "items_per_category", "median"),
    "largest category": ("negatives", "items_per_category", "max"),
}


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin

    facts: dict[str, Any] = describe_origin("python benchmarks/bench_make_log.py", 1)
    with tempfile.TemporaryDirectory() as folder:
        facts["made"] = {name: _make(os.path.join(folder, name), given) for name, given in _SIZES.items()}
        first = os.path.join(folder, next(iter(_SIZES)))
        with open(os.path.join(first, "manifest.json"), encoding="utf-8") as file:
            read_by = json.load(file)["read_by"].replace("'", "").split(" ")
        made = _inspect(folder, [flag.replace("DIR", first) for flag in read_by])
        real = _inspect(folder, ["--dataset=complete_journey"])
    facts["compared"] = {name: {"made": _at(made, path), "real": _at(real, path)} for name, path in _COMPARED.items()}
    facts["load_average"] = os.getloadavg()[0]
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _make(folder: str, given: tuple[str, ...]) -> dict[str, Any]:
    command = [sys.executable, os.path.join(_HERE, "make_log.py"), f"--output={folder}", *given]
    used, _ = run_measured(command)
    num_events = int(given[0].partition("=")[2])
    size = sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
    return {
        "flags": " ".join(given),
        "events_per_s": num_events / used.wall_s,
        "events_per_cpu_s": num_events / used.cpu_s,
        "peak_mb": used.peak_mb,
        "bytes_per_event": size / num_events,
    }


def _inspect(folder: str, given: list[str]) -> dict[str, Any]:
    output = os.path.join(folder, "inspect.json")
    places = [f"--output={folder}", f"--json={output}", "--noplots"]
    if "--dataset=complete_journey" not in given:
        places.append(f"--data_dir={folder}/tfds")
    subprocess.run([sys.executable, "-m", "longretriever_tf.inspect_log", *given, *places], check=True)
    with open(output, encoding="utf-8") as file:
        return json.load(file)


def _at(facts: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        facts = facts[key]
    return facts


if __name__ == "__main__":
    flags.run_command(main)
