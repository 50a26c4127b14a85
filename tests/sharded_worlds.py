"""Exports of untrained models of made logs, as one SavedModel and by category ranges; no training, seconds."""

import dataclasses
import pathlib

import numpy as np
from worlds import START, block_world, crowded_world

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, RetrievalConfig
from longretriever_tf.data.corpus import Corpus, fit_corpus
from longretriever_tf.data.recipe.tokens import num_token_features
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.models.build import build_models
from longretriever_tf.retrieval.export.publish import Source, publish
from longretriever_tf.retrieval.fingerprint import fingerprint_towers

NUM_SHARDS = 4
CUT = START + 150 * schema.DAY_S
LOGS = {
    "text": lambda: crowded_world(num_items=61, num_categories=7),
    "int": block_world,
}


@dataclasses.dataclass(frozen=True)
class Exports:
    """One model, exported in both ways."""

    log: LifelongLog
    corpus: Corpus
    source: Source
    whole: pathlib.Path
    sharded: pathlib.Path


def make_source(log: LifelongLog) -> Source:
    """A model of drawn weights: nothing is learned, and nothing is zero."""
    config = Config(
        data=DataConfig(dataset="event_log"),
        model=ModelConfig(dim=6, num_heads=2, ff_dim=11, svd_dim=3, profile=True),
        retrieval=RetrievalConfig(num_interests=3, top_interests=5),
    )
    corpus, rng = fit_corpus(log, CUT), np.random.default_rng(1)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    models = build_models(config, corpus, draw(corpus.num_items, 3))
    for part in (models.retriever, models.interest):
        for variable in part.variables:
            if variable.dtype.is_floating:
                variable.assign(variable + 0.3 * draw(*variable.shape))
    arrays = {
        "item_stats": draw(corpus.num_items, 3),
        "category_stats": draw(corpus.num_categories, 3),
        "taste_rows": draw(2, corpus.num_items, 3),
        "item_svd": draw(corpus.num_items, 3),
        "own_correction": 0.3 * draw(num_token_features(config.model) + 2),
    }
    return Source(config, corpus, arrays, models, fingerprint_towers(config, corpus, models, arrays))


def make_exports(kind: str, directory: pathlib.Path) -> Exports:
    """Exports of the log of that name."""
    log = LOGS[kind]()
    made = make_source(log)
    whole, sharded = directory / "whole", directory / "sharded"
    publish(made, str(whole), 0, None)
    publish(made, str(sharded), 0, None, NUM_SHARDS)
    for path in directory.rglob("tf_serving_warmup_requests"):  # replayed here, it would take the most of a test's time
        path.unlink()
    return Exports(log, made.corpus, made, whole, sharded)
