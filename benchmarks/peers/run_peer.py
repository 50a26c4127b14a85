r"""Tunes a peer on a validation window, or trains it with settings so chosen; writes its lists and what it cost.

  PEER/bin/python benchmarks/peers/run_peer.py ials --split_dir=.peers/splits/cj --output=.peers/lists/ials.parquet
  PEER/bin/python benchmarks/peers/run_peer.py ials --split_dir=.peers/splits/cj_test \
      --settings=.peers/lists/ials.json --output=.peers/lists/ials_test.parquet

The first reads events before the validation window, tries at most --budget settings, the peer's own first, and keeps
that with the largest geometric mean of recall@100 on all items and on novel ones. The second tries nothing. Next to
the lists, OUTPUT.json says every setting that was tried with its recall, the examples that each has seen, versions and
seed. `evaluate --lists=NAME:OUTPUT.parquet` reads the lists.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import shlex
import sys
import time
from typing import Any

import numpy as np
from peer_split import Score, Split, measure, read_split, write_lists

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
    split = read_split(arguments.split_dir)
    report: dict[str, Any] = {
        "peer": arguments.peer,
        "packages": {name: importlib.metadata.version(name) for name in module.PACKAGES},
        "python": sys.version.split()[0],
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": arguments.seed,
        "split": split.facts,
    }
    if arguments.settings:
        with open(arguments.settings, encoding="utf-8") as file:
            chosen = json.load(file)["chosen"]
        score, examples = module.fit(arguments.peer, split, chosen, arguments.seed)
        report |= {"settings": arguments.settings, "chosen": chosen, "examples": examples}
    else:
        tried, score = _tune(module, arguments, split)
        best = max(tried, key=lambda one: one["mean"])
        report |= {
            "chosen": best["setting"],
            "budget": {"settings": len(tried), "examples": sum(one["examples"] for one in tried)},
            "tried": tried,
        }
    write_lists(arguments.output, split, score)
    path = os.path.splitext(arguments.output)[0] + ".json"
    with open(f"{path}.aside", "w", encoding="utf-8") as file:
        file.write(json.dumps(report, indent=2) + "\n")
    os.replace(f"{path}.aside", path)
    print(f"written: {arguments.output}, {path}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(PEERS), help="which")
    parser.add_argument("--split_dir", required=True, help="a directory that export_split.py wrote")
    parser.add_argument("--output", required=True, help="where the lists go, a .parquet file")
    parser.add_argument("--settings", default="", help="the .json of a tuned peer: train with its choice, try nothing")
    parser.add_argument("--budget", type=int, default=12, help="settings to try at most, in the peer's own order")
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
    if arguments.budget < 1:
        parser.error(f"--budget={arguments.budget}: expected at least 1")
    os.makedirs(os.path.dirname(os.path.abspath(arguments.output)), exist_ok=True)
    return arguments


def _tune(module: Any, arguments: argparse.Namespace, split: Split) -> tuple[list[dict[str, Any]], Score]:
    """All that was tried, and the scores of the best."""
    tried: list[dict[str, Any]] = []
    best: Score | None = None
    settings = module.settings(arguments.peer)[: arguments.budget]
    for number, setting in enumerate(settings, 1):
        start = time.monotonic()
        score, examples = module.fit(arguments.peer, split, setting, arguments.seed)
        metrics = {name: float(value) for name, value in measure(split, score).items()}
        mean = float(np.sqrt(np.prod(list(metrics.values()))))
        seconds = round(time.monotonic() - start, 1)
        tried.append({"setting": setting, **metrics, "mean": mean, "examples": examples, "seconds": seconds})
        print(f"{arguments.peer} {number} of {len(settings)}: {json.dumps(tried[-1])}", flush=True)
        if mean >= max(one["mean"] for one in tried):
            best = score
    assert best is not None
    return tried, best


if __name__ == "__main__":
    main()
