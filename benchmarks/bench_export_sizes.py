"""An export at several numbers of items: bytes on disk, and memory of a process that has loaded it; JSON.

  python benchmarks/bench_export_sizes.py --output=results/bench_export_sizes.json

Models of the default recipe over generated corpora of 300 categories, untrained: sizes do not depend on the weights.
Each is made in a process of its own, and loaded as the server does by another.
"""

import dataclasses
import json
import os
import tempfile
from typing import Any

import numpy as np
from absl import flags as absl_flags
from fresh_process import AS_SERVED, ONE_THREAD, ask_in_fresh_process
from zipf_sizes import zipf_sizes

from longretriever_tf.config import flags

_ITEMS = absl_flags.DEFINE_list("bench_item_counts", ["50000", "100000", "200000", "400000"], "Items.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")
_NUM_CATEGORIES = 300


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin

    facts: dict[str, Any] = describe_origin("python benchmarks/bench_export_sizes.py", 1) | {"exports": []}
    for items in map(int, _ITEMS.value):
        with tempfile.TemporaryDirectory() as folder:
            version, environment = os.path.join(folder, "1"), ONE_THREAD | AS_SERVED
            made = ask_in_fresh_process("bench_export_sizes", "make", version, items, environment=environment)
            loaded = ask_in_fresh_process("bench_export_sizes", "load", version, items, environment=environment)
        facts["exports"].append({"items": items} | made | loaded)
        print(json.dumps(facts["exports"][-1]), flush=True)
    facts["load_average"] = os.getloadavg()[0]
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def ask(what: str, version: str, num_items: int) -> None:
    """What the fresh processes do."""
    if what == "make":
        _save(version, num_items)
        print(json.dumps({"bytes": _bytes(version), "graph_bytes": os.path.getsize(f"{version}/saved_model.pb")}))
        return
    from longretriever_tf.serving.server.loaded import LoadedModel

    model = LoadedModel("bench", 1, version)
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    print(json.dumps({"loaded_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6, "signatures": len(model.signatures)}))


def _save(version: str, num_items: int) -> None:
    """A model of the default recipe, untrained, with the signature that answers requests."""
    import tensorflow as tf

    from longretriever_tf.config.config import Config, DataConfig
    from longretriever_tf.data.corpus import Corpus
    from longretriever_tf.models.build import build_models
    from longretriever_tf.retrieval.multi_context import MultiContextRetriever
    from longretriever_tf.retrieval.signatures import make_signatures

    config = dataclasses.replace(Config(), data=DataConfig(dataset="event_log"))
    sizes = np.concatenate([[1, 1], zipf_sizes(num_items, _NUM_CATEGORIES, 0.6)])  # padding, unknown
    total, names = int(sizes.sum()), np.array(["", "?", *(f"c{c}" for c in range(_NUM_CATEGORIES))])
    category = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    offset, ids = np.concatenate([[0], np.cumsum(sizes)]), np.arange(total)
    features = np.zeros([total, 0], np.int32)
    corpus = Corpus(1_700_000_000, "category", ids, ids.astype(str), category, features, offset, sizes, names, {}, {})
    svd = np.random.default_rng(1).standard_normal([total, config.model.svd_dim], np.float32)
    models = build_models(config, corpus, svd)
    item, categories = np.zeros([total, 3], np.float32), np.zeros([len(names), 3], np.float32)
    rows = np.broadcast_to(svd[None], [config.train.history_folds, *svd.shape])
    arrays = {"item_stats": item, "category_stats": categories, "taste_rows": rows}
    model = MultiContextRetriever(config, corpus, models.retriever, models.interest, arrays)
    signature = make_signatures(model, config.retrieval)["serving_default"]
    tf.saved_model.save(model, version, signatures={"serving_default": signature})


def _bytes(path: str) -> int:
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(path) for name in names)


if __name__ == "__main__":
    flags.run_command(main)
