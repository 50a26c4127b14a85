"""Loads an exported version in a fresh process and holds every category to exact search.

Nothing less shows that an export answers right: within the process that built them, searchers that share a name do not
mix; loaded elsewhere, they silently answer every category from one of them.
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.retrieval.export.saved_model import load_version
from longretriever_tf.retrieval.index.exact import PackedIndex
from longretriever_tf.retrieval.index.scann import TUNED_K
from longretriever_tf.retrieval.index.scann_tuning import CheckQueries, recall_of

_QUERIES_PER_EXACT = 4
"""Item vectors that a category without check queries is asked about."""


def measure_recall_in_fresh_process(
    version_dir: str, packed: PackedIndex, queries: dict[int, CheckQueries]
) -> dict[int, float]:
    """Recall of the best min(100, n) of every category that has items, in a process that knows the files alone.

    Args:
      version_dir: what was exported.
      packed: every item, for exact search.
      queries: check queries by category; categories without any are asked about items of their own.

    Raises:
      UserError: the version cannot be loaded or searched.
    """
    vectors, bias, offset = packed.item_vectors.numpy(), packed.item_bias.numpy(), packed.category_offset
    arrays = {"vectors": vectors, "bias": bias, "offset": offset}
    for category in range(schema.FIRST_KNOWN, len(offset) - 1):
        low, high = offset[category : category + 2]
        if low == high:
            continue
        some = vectors[np.linspace(low, high - 1, _QUERIES_PER_EXACT).astype(int)]
        arrays[f"category_{category}"] = queries[category].check if category in queries else some
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "questions.npz")
        np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes every keyword for allow_pickle
        code = f"from {__name__} import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, version_dir, path], capture_output=True, text=True, env=_environment()
        )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{version_dir!r} cannot be searched in a fresh process: {why}")
    return {int(category): recall for category, recall in json.loads(done.stdout.splitlines()[-1]).items()}


def main() -> None:
    """What the fresh process does: prints the recall of each category as JSON."""
    version_dir, path = sys.argv[1:]
    index = load_version(version_dir).index
    with np.load(path) as stored:
        questions = dict(stored)
    offset, recall = questions["offset"], {}
    for name, asked in questions.items():
        if not name.startswith("category_"):
            continue
        category = int(name.removeprefix("category_"))
        low, high = offset[category : category + 2]
        k = int(min(TUNED_K, high - low))
        item = index.ask(asked, np.full(len(asked), category, np.int32), np.int32(k)).item.numpy()
        position = np.where((item >= low) & (item < high), item - low, -1)
        logits = asked @ questions["vectors"][low:high].T + questions["bias"][low:high]
        recall[category] = recall_of(position, logits, k)
    print(json.dumps(recall))


def _environment() -> dict[str, str]:
    """This process's, with its import path: the package may be run from a checkout."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
