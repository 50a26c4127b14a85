r"""What an index of one's own retrieves with a run's vectors, against this package's export; JSON.

  python -m longretriever_tf.export --run_dir=runs/demo --export_dir=exports/longretriever --vectors=vectors
  python -m venv .vectors && .vectors/bin/pip install numpy pyarrow faiss-cpu qdrant-client
  python benchmarks/bench_vectors.py --run_dir=runs/demo --export_dir=exports/longretriever --vectors=vectors \
      --vectors_python=.vectors/bin/python --output=results/bench_vectors.json

Every user of the test window is asked for, once by `serving_default` and once by `interest_embeddings`. The other
interpreter then searches faiss and Qdrant with these (outside_index.py, the example to copy), three ways: the vectors
alone; with the repeat term of the user's own items, which `interest_embeddings` tells; and with the log-partition
estimated from the items found. Recall@100 is over users.
"""

import json
import os
import tempfile
from typing import Any

import numpy as np
from absl import flags as absl_flags
from fresh_process import ONE_THREAD, ask_in_fresh_process

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.common.text import as_raw_ids, as_text
from longretriever_tf.config import flags
from longretriever_tf.config.config import load_config

_RUN_DIR = absl_flags.DEFINE_string("run_dir", "runs/demo", "Run directory of a finished training.")
_EXPORT_DIR = absl_flags.DEFINE_string("export_dir", "exports/longretriever", "An export of it.")
_VECTORS = absl_flags.DEFINE_string("vectors", "vectors", "Its vectors.")
_PYTHON = absl_flags.DEFINE_string("vectors_python", "", "Interpreter that has faiss and qdrant-client.")
_KINDS = absl_flags.DEFINE_list("bench_kinds", ["exact", "faiss_hnsw", "qdrant_local"], "Indexes.")
_NUM_INTERESTS = absl_flags.DEFINE_list("bench_interests", ["20", "60"], "Interests of a request, N of the top N.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")

_EVERY = {"qdrant_local": 10}
"""Its mode within a process is made for trials: it is asked for every tenth user."""

_KEPT = (
    *("embedding", "log_share", "interest_category", "num_interests_drawn"),
    *("subsequence_item_id", "subsequence_boost"),
)


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.evaluation.open_run import open_window
    from longretriever_tf.retrieval.export.saved_model import latest_version, load_version

    version_dir = latest_version(_EXPORT_DIR.value)
    manifest = _require_pair(version_dir, _VECTORS.value)
    window, model = open_window(load_config(_RUN_DIR.value), "test", "{}"), load_version(version_dir)
    facts: dict[str, Any] = describe_origin("python benchmarks/bench_vectors.py", 1)
    facts |= {"split": "test", "k": 100, "num_items": manifest["num_items"]}
    for text in _NUM_INTERESTS.value:
        questions, lists = _ask(model, window, int(text))
        facts[f"{text} interests"] = {kind: _compare(kind, questions, lists, window.truth) for kind in _KINDS.value}
        print(text, json.dumps(facts[f"{text} interests"]), flush=True)
    facts["load_average"] = os.getloadavg()[0]
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _compare(kind: str, questions: dict[str, np.ndarray], lists: list[np.ndarray], truth: Any) -> dict[str, Any]:
    """Recall@100 of `serving_default`, and of an index in another process, on the same users."""
    every = _EVERY.get(kind, 1)
    users = range(0, truth.num_users, every)
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("questions.npz", "answers.npz")]
        np.savez(paths[0], **{name: column[::every] for name, column in questions.items()})
        words = os.path.abspath(_VECTORS.value), *paths, kind
        measured = ask_in_fresh_process("outside_index", *words, python=_PYTHON.value, environment=ONE_THREAD)
        ways = {"serving_default": [lists[user] for user in users]} | _read_lists(paths[1])
    return measured | {"users": len(users), "recall@100": {way: _recall(truth, users, of) for way, of in ways.items()}}


def _require_pair(version_dir: str, vectors: str) -> dict[str, Any]:
    """The manifest of the vectors, which are those of the export."""
    from longretriever_tf.retrieval.export.saved_model import extra_config_dir
    from longretriever_tf.retrieval.fingerprint import read_fingerprint

    with open(os.path.join(vectors, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    if manifest["towers"] != (towers := read_fingerprint(extra_config_dir(version_dir)).towers):
        raise UserError(f"--vectors={vectors} are of the towers {manifest['towers']}, {version_dir} has {towers}")
    return manifest


def _ask(model: Any, window: Any, num: int) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """The answers of `interest_embeddings` for all users, and the lists of `serving_default` as item indices."""
    import tensorflow as tf

    from longretriever_tf.config.config import RetrievalConfig
    from longretriever_tf.retrieval.export.explanation import request_columns
    from longretriever_tf.retrieval.request_options import default_columns

    signatures = {name: model.signatures[name] for name in ("serving_default", "interest_embeddings")}
    profile, answers, lists = list(window.corpus.profile_values), [], []
    for user in window.truth.users.tolist():
        history = request_columns(window.log, user, window.as_of, profile)
        columns = default_columns(RetrievalConfig(), history["history_item_id"].dtype) | history
        columns |= {name: tf.constant([num]) for name in ("num_interests", "top_interests")}
        columns |= {"k": tf.constant([100]), "seed": tf.constant([user], tf.int64)}
        answers_of = {}
        for name, ask in signatures.items():
            wanted = ask.structured_input_signature[1]
            given = {key: value for key, value in columns.items() if key in wanted}
            answers_of[name] = {key: value.numpy()[0] for key, value in ask(**given).items()}
        answer = {name: answers_of["interest_embeddings"][name] for name in _KEPT}
        answer["interest_category"] = as_text(answer["interest_category"])
        answers.append(answer)
        served = answers_of["serving_default"]
        lists.append(window.corpus.find_items(as_raw_ids(served["item_id"][: served["num_valid"]])))
    width = max(answer["subsequence_boost"].shape[1] for answer in answers)
    for answer in answers:
        for name in ("subsequence_item_id", "subsequence_boost"):
            answer[name] = np.pad(answer[name], [(0, 0), (0, width - answer[name].shape[1])])
    return {name: np.stack([answer[name] for answer in answers]) for name in _KEPT}, lists


def _read_lists(path: str) -> dict[str, list[np.ndarray]]:
    """Item indices of each list, by way: the rows of the vectors begin after the two reserved items."""
    with np.load(path) as stored:
        return {way: [row[row >= 0] + FIRST_KNOWN for row in stored[way]] for way in stored}


def _recall(truth: Any, users: range, lists: list[np.ndarray]) -> float:
    """Recall@100 of all pairs, over some users of the truth."""
    taken = (truth.item[truth.offset[user] : truth.offset[user + 1]] for user in users)
    return float(np.mean([np.isin(items, found).mean() for items, found in zip(taken, lists, strict=True)]))


if __name__ == "__main__":
    flags.run_command(main)
