r"""Training against peers on the same log and validation users: examples/s, and seconds to the same recall.

  PYTHONPATH=PEERS python benchmarks/bench_peers.py --flagfile=configs/demo.flags --cut=validation \
      --torch_python=TORCH/bin/python [--budget_s=120] [--output=...]

No peer is a dependency of this package: `PEERS` below says how each is installed, `make peers` does it. Ours is the
model that the flags name, also a baseline (--flagfile=configs/mind.flags). The peers get each (snapshot, event within
its horizon) as a row, with the latest --recent_length events before the snapshot: compare with our pairs. Recall@100,
and recall@20 within categories, are this package's metrics for all, of vectors that the peers leave while they train.
"""

import importlib.util
import json
import os
import subprocess
import tempfile
from typing import Any, NamedTuple

from absl import flags as absl_flags
from fresh_process import ask_in_fresh_process

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags


class Side(NamedTuple):
    """A peer: the file of this folder that trains it, the package it needs, and what its user must do first."""

    module: str
    package: str
    install: str


PEERS = {
    "deepmatch_mind": Side(
        "peer_deepmatch",
        "deepmatch",
        "pip install --target=PEERS --no-deps deepmatch==0.3.2 'deepctr>=0.9.4a0,<0.10', then PYTHONPATH=PEERS",
    ),
    "rechub_comirec_sa": Side(
        "peer_rechub",
        "torch_rechub",
        "python -m venv TORCH && TORCH/bin/pip install torch==2.13.0 torch-rechub==0.9.0, then "
        "--torch_python=TORCH/bin/python",
    ),
}

flags.define_config_flags("data", "model", "train", "retrieval", "baseline")
_PEERS = absl_flags.DEFINE_list("peers", list(PEERS), "Peers to run.")
_TORCH = absl_flags.DEFINE_string("torch_python", "", "Interpreter that has PyTorch and torch-rechub.")
_BUDGET = absl_flags.DEFINE_float("budget_s", 120.0, "Seconds of training for each.", lower_bound=1.0)
_PEER_BATCH = absl_flags.DEFINE_integer("peer_batch_size", 512, "Rows in a batch of the peers'.", lower_bound=1)
_NEGATIVES = absl_flags.DEFINE_integer("peer_negatives", 1023, "Negatives that the peers draw.", lower_bound=1)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    pythons = {name: _python_of(name) for name in _PEERS.value}
    config = flags.config_from_flags()
    if config.train.cut != "validation":
        raise UserError(
            f"--cut={config.train.cut}: the benchmark evaluates on the validation window; give --cut=validation"
        )
    from own_side import train_own
    from peer_scorer import evaluate_marks, seconds_to_the_same

    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.data.batches.prepared_data import load_split, prepare
    from longretriever_tf.data.batches.tables import training_cut
    from longretriever_tf.models.baselines.examples import build_user_examples
    from longretriever_tf.training.setup import validation_truth

    log, cuts = load_split(config)
    prepared = prepare(config, log, training_cut(config, cuts))
    examples = build_user_examples(config, prepared.log, prepared.stats.time)
    truth, sides = validation_truth(log, cuts, prepared), {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "arrays.npz")
        _write_arrays(path, config, prepared, examples, truth)
        for name, python in pythons.items():
            report = ask_in_fresh_process(PEERS[name].module, path, folder, python=python)
            curve = evaluate_marks(name, report.pop("marks"), folder, truth, prepared.corpus.category_offset)
            sides[name] = report | {"curve": curve}
    own = train_own(config, log, cuts, prepared, truth, _BUDGET.value)
    facts = {
        **describe_origin("python benchmarks/bench_peers.py", config.train.seed),
        "data": config.data.dataset,
        "validation_users": truth.num_users,
        "sides": sides | {config.model.model: own},
        "to_the_same": {name: seconds_to_the_same(own["curve"], side["curve"]) for name, side in sides.items()},
    }
    text = json.dumps(facts, indent=2) + "\n"
    print(text)
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, text)


def _python_of(name: str) -> str:
    """The interpreter that a peer runs by; empty: this one.

    Raises:
      UserError: there is no such peer, or it is not installed there.
    """
    if name not in PEERS:
        raise UserError(f"--peers={name}: expected some of {', '.join(PEERS)}")
    package, others = PEERS[name].package, ",".join(other for other in PEERS if other != name)
    cure = f"install it by: {PEERS[name].install}; or leave it out: --peers={others}"
    if package == "deepmatch":
        if importlib.util.find_spec(package) is None:
            raise UserError(f"peer {name!r}: this interpreter has no package {package!r}; {cure}")
        return ""
    try:
        is_installed = subprocess.run([_TORCH.value, "-c", f"import {package}"], capture_output=True).returncode == 0
    except OSError:
        is_installed = False
    if not is_installed:
        raise UserError(f"peer {name!r}: --torch_python={_TORCH.value!r} cannot import {package!r}; {cure}")
    return _TORCH.value


def _write_arrays(path: str, config: Any, prepared: Any, examples: Any, truth: Any) -> None:
    """One row per (snapshot, event within its horizon), histories newest last; and the asked users."""
    import numpy as np

    from longretriever_tf.common.ranges import flat_ranges

    length, log = config.baseline.recent_length, prepared.log

    def pad(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        items = np.zeros((len(start), length), np.int32)
        row, at = flat_ranges(start, stop)
        items[row, at - start[row]] = log.item[at]
        return items

    owner, position = flat_ranges(examples.stop, examples.target_stop)
    keep = np.sort(np.random.default_rng(config.train.seed).permutation(len(owner))[:400_000])
    owner, position = owner[keep], position[keep]
    stop = log.offset[truth.users + 1]
    start = np.maximum(log.offset[truth.users], stop - length)
    np.savez(
        path,
        history=pad(examples.start, examples.stop)[owner],
        length=(examples.stop - examples.start)[owner],
        target=log.item[position],
        asked_history=pad(start, stop),
        asked_length=stop - start,
        num_items=prepared.corpus.num_items,
        batch_size=_PEER_BATCH.value,
        negatives=_NEGATIVES.value,
        interests=config.baseline.num_capsules,
        dim=config.model.dim,
        budget_s=_BUDGET.value,
    )


if __name__ == "__main__":
    flags.run_command(main)
