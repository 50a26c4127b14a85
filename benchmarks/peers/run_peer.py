r"""Tunes a peer on a validation window, or trains it with settings so chosen; writes its lists and what it cost.

  PEER/bin/python benchmarks/peers/run_peer.py ials --split_dir=.peers/splits/cj --output=.peers/lists/ials.parquet
  PEER/bin/python benchmarks/peers/run_peer.py ials --split_dir=.peers/splits/cj_test \
      --settings=.peers/lists/ials.json --output=.peers/lists/ials_test.parquet

The first reads events before the validation window, tries at most --budget settings, the peer's own first, and keeps
that with the largest geometric mean of recall@100 on all items and on novel ones. Each setting is a process of its own,
--workers of them at a time, and what it found stays in OUTPUT.tried: the same command goes on after a stop. The second
tries nothing. Next to the lists, OUTPUT.json says every setting that was tried with its recall, the examples that each
has seen, versions and seed. `evaluate --lists=NAME:OUTPUT.parquet` reads the lists.
"""

import argparse
import concurrent.futures
import datetime
import importlib
import importlib.metadata
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np
from peer_split import measure, read_facts, read_split, write_lists

PEERS = {
    "ials": "peer_implicit",
    "bpr": "peer_implicit",
    "up_cf": "peer_baskets",
    "gp_topfreq": "peer_baskets",
    "mult_vae": "peer_vae",
    "recvae": "peer_vae",
    "lightgcn": "peer_graph",
    "sasrec": "peer_sequence",
    "gsasrec": "peer_sequence",
    "hstu": "peer_sequence",
}
"""Module of this folder by peer: its PACKAGES, `settings(name)`, and `fit(name, split, setting, seed)`, which returns
what scores users, and the number of examples that it has seen."""


def main() -> None:
    """Runs the command."""
    arguments = _parse()
    module = importlib.import_module(PEERS[arguments.peer])
    if arguments.only:
        _try(module, arguments)
        return
    report: dict[str, Any] = {
        "peer": arguments.peer,
        "packages": {name: importlib.metadata.version(name) for name in module.PACKAGES},
        "python": sys.version.split()[0],
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": arguments.seed,
        "split": read_facts(arguments.split_dir),
    }
    if arguments.settings:
        with open(arguments.settings, encoding="utf-8") as file:
            chosen = json.load(file)["chosen"]
        split = read_split(arguments.split_dir)
        score, examples = module.fit(arguments.peer, split, chosen, arguments.seed)
        report |= {"settings": arguments.settings, "chosen": chosen, "examples": examples}
        write_lists(arguments.output, split, score)
    else:
        tried = _tune(module, arguments)
        best = max(range(len(tried)), key=lambda at: tried[at]["mean"])
        report |= {
            "chosen": tried[best]["setting"],
            "budget": {"settings": len(tried), "examples": sum(one["examples"] for one in tried)},
            "tried": tried,
        }
        shutil.copyfile(f"{_tried(arguments, best + 1)}.parquet", f"{arguments.output}.aside")
        os.replace(f"{arguments.output}.aside", arguments.output)
    path = os.path.splitext(arguments.output)[0] + ".json"
    _write(path, report)
    print(f"written: {arguments.output}, {path}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(PEERS), help="which")
    parser.add_argument("--split_dir", required=True, help="a directory that export_split.py wrote")
    parser.add_argument("--output", required=True, help="where the lists go, a .parquet file")
    parser.add_argument("--settings", default="", help="the .json of a tuned peer: train with its choice, try nothing")
    parser.add_argument("--budget", type=int, default=12, help="settings to try at most, in the peer's own order")
    parser.add_argument("--workers", type=int, default=1, help="settings that are tried at the same time")
    parser.add_argument("--only", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    arguments = parser.parse_args()
    split = os.path.join(arguments.split_dir, "split.json")
    if not os.path.exists(split):
        parser.error(
            f"--split_dir={arguments.split_dir}: no split.json there; benchmarks/peers/export_split.py writes it"
        )
    if not arguments.settings and not os.path.exists(os.path.join(arguments.split_dir, "truth.parquet")):
        parser.error("this split has no truth.parquet to tune by (it is of a test window): name --settings=TUNED.json")
    if arguments.settings and not os.path.exists(arguments.settings):
        parser.error(f"--settings={arguments.settings}: there is no such file; tune on a validation split first")
    for name in ("budget", "workers"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name}={getattr(arguments, name)}: expected at least 1")
    os.makedirs(os.path.dirname(os.path.abspath(arguments.output)), exist_ok=True)
    return arguments


def _tried(arguments: argparse.Namespace, number: int) -> str:
    """Where a setting's lists and figures are, without the end of the name."""
    return os.path.join(f"{os.path.splitext(arguments.output)[0]}.tried", str(number))


def _write(path: str, facts: dict[str, Any]) -> None:
    with open(f"{path}.aside", "w", encoding="utf-8") as file:
        file.write(json.dumps(facts, indent=2) + "\n")
    os.replace(f"{path}.aside", path)


def _tune(module: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All that was tried, in the peer's order."""
    settings = module.settings(arguments.peer)[: arguments.budget]

    def find(number: int) -> dict[str, Any]:
        path = f"{_tried(arguments, number)}.json"
        found = _read(path, settings[number - 1], arguments)
        if found is None:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], f"--only={number}"], check=True)
            found = _read(path, settings[number - 1], arguments)
            assert found is not None
        print(f"{arguments.peer} {number} of {len(settings)}: {json.dumps(found)}", flush=True)
        return found

    with concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool:
        try:
            return list(pool.map(find, range(1, len(settings) + 1)))
        except subprocess.CalledProcessError as error:
            pool.shutdown(cancel_futures=True)
            raise SystemExit(f"a setting failed, see above; the same command goes on: {error.cmd[-1]}") from error


def _read(path: str, setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What a setting found, None where it was not tried on this split with this seed."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    same = found.pop("seed"), found.pop("split_dir"), found["setting"]
    return found if same == (arguments.seed, os.path.abspath(arguments.split_dir), setting) else None


def _try(module: Any, arguments: argparse.Namespace) -> None:
    """Fits one setting; writes its lists and figures."""
    split = read_split(arguments.split_dir)
    start, setting = time.monotonic(), module.settings(arguments.peer)[arguments.only - 1]
    score, examples = module.fit(arguments.peer, split, setting, arguments.seed)
    metrics = {name: float(value) for name, value in measure(split, score).items()}
    facts = {
        "setting": setting,
        **metrics,
        "mean": float(np.sqrt(np.prod(list(metrics.values())))),
        "examples": examples,
        "seconds": round(time.monotonic() - start, 1),
    }
    path = _tried(arguments, arguments.only)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_lists(f"{path}.parquet", split, score)
    _write(f"{path}.json", facts | {"seed": arguments.seed, "split_dir": os.path.abspath(arguments.split_dir)})


if __name__ == "__main__":
    main()
