"""Raw ids to indices: what the tables answer, and that they lie outside the graph."""

import numpy as np
import pytest
import tensorflow as tf
from worlds import START, make_log

from longretriever_tf.common import schema
from longretriever_tf.common.text import as_raw_ids
from longretriever_tf.config.config import Config, DataConfig, ModelConfig
from longretriever_tf.data.corpus import fit_corpus
from longretriever_tf.models.build import build_models
from longretriever_tf.retrieval.id_tables import IdTable, id_variable
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.signatures import make_signatures

CONFIG = Config(data=DataConfig(dataset="event_log"), model=ModelConfig(dim=6, num_heads=2, ff_dim=11, svd_dim=3))
ASKED = ("user_embeddings", "item_embeddings")
"""Signatures that read every table of items; the others take longer to trace."""
SMALL, LARGE = 31, 5_003


@pytest.mark.parametrize(
    ("ids", "asked"),
    [
        (np.array([0, 0, -7, 2**63 - 1, 0]), [[2**63 - 1, -7], [0, 5]]),
        (np.array(["", "", "té", "7", ""], object), [["7", "té"], ["", "07"]]),
    ],
)
def test_ids_are_found_by_what_they_are(ids, asked):
    table = IdTable(id_variable(as_raw_ids(ids), "ids"))
    # A real id may equal a placeholder's: the last one does.
    np.testing.assert_array_equal(table.lookup(tf.constant(asked)), [[3, 2], [4, schema.UNKNOWN]])
    assert table.lookup(tf.constant(asked)).shape == (2, 2)


def save(directory, num_items: int, text: bool) -> tuple[int, MultiContextRetriever]:
    """Writes an untrained model of a log of so many items; the size of its graph, and the model."""
    ids = [f"item {i:07d}" if text else 10**9 + i for i in range(num_items)]
    log = make_log(
        [f"u{i:05d}" for i in range(num_items)],
        ids,
        START + np.arange(num_items),
        {"category": [f"c{i % 5}" for i in range(num_items)]},
        item_id=ids,
    )
    corpus = fit_corpus(log, START + 400 * schema.DAY_S)
    models = build_models(CONFIG, corpus, np.zeros([corpus.num_items, 3], np.float32))
    stats, categories = (np.zeros([size, 3], np.float32) for size in (corpus.num_items, corpus.num_categories))
    arrays = dict(item_stats=stats, category_stats=categories, taste_rows=np.stack([stats, stats]))
    model = MultiContextRetriever(CONFIG, corpus, models.retriever, models.interest, arrays)
    signatures = make_signatures(model, CONFIG.retrieval)
    tf.saved_model.save(model, str(directory), signatures={name: signatures[name] for name in ASKED})
    return (directory / "saved_model.pb").stat().st_size, model


@pytest.mark.parametrize("text", [False, True])
def test_the_graph_does_not_grow_with_the_catalogue(tmp_path, text):
    """A protobuf ends at 2 GB; 31 bytes an item were in it once."""
    small, _ = save(tmp_path / "small", SMALL, text)
    large, model = save(tmp_path / "large", LARGE, text)
    # What is left: numbers of more digits. A byte an item would be 5,000.
    assert abs(large - small) < (LARGE - SMALL) / 2
    loaded = tf.saved_model.load(str(tmp_path / "large"))
    known = model.ids_of(tf.constant([2, 1_000, LARGE + 1]))
    for some in (known, tf.constant(["nobody"]) if text else tf.constant([3], tf.int64)):
        answer = loaded.signatures["item_embeddings"](item_id=some)
        for name, expected in zip(("embedding", "bias"), model.item_embedding(some), strict=True):
            np.testing.assert_array_equal(answer[name], expected)
