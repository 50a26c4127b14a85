"""Builds the two models of a run with all their variables, and sets their frozen feature scales."""

import dataclasses

import numpy as np
import tensorflow as tf

from longretriever_tf.config.config import Config
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.interest_features import NUM_FEATURES
from longretriever_tf.data.recipe.tokens import num_token_features
from longretriever_tf.models.interest_model import InterestModel
from longretriever_tf.models.retriever import LongRetriever


@dataclasses.dataclass(frozen=True)
class Models:
    """The towers, and the learned interest score."""

    retriever: LongRetriever
    interest: InterestModel


def build_models(config: Config, corpus: Corpus, item_svd: np.ndarray) -> Models:
    """Makes both models, weights drawn from `config.train.seed`, every variable created."""
    tf.keras.utils.set_random_seed(config.train.seed)
    policy = "mixed_bfloat16" if config.train.mixed_precision else "float32"
    retriever = LongRetriever(config, corpus, item_svd, tf.keras.mixed_precision.Policy(policy))
    one, history_embedding = (
        tf.ones([1, 1], tf.int32),
        tf.zeros([1, config.model.svd_dim if config.model.reads_history_embedding else 0]),
    )
    item_vectors = retriever.item_tower(tf.ones([1], tf.int32))
    retriever.user_tower(
        item_vectors[None],
        one > 0,
        tf.zeros([1, 1, num_token_features(config.model)]),
        tf.ones([1], tf.int32),
        tf.ones([1, len(corpus.profile_values)], tf.int32),
        history_embedding,
    )
    interest = InterestModel(corpus, config.model.history_dropout)
    interest(
        tf.zeros([1, corpus.num_categories, NUM_FEATURES]), tf.zeros([1, corpus.num_categories]), history_embedding
    )
    return Models(retriever, interest)


def set_token_scale(retriever: LongRetriever, batches: tf.data.Dataset) -> None:
    """Standardises token features by the mean and deviation of some batches' real tokens."""
    rows = [tf.boolean_mask(batch.features, batch.token_item > 0).numpy() for batch in batches]
    assign_scale(retriever.user_tower, np.concatenate(rows))


def set_interest_scale(interest: InterestModel, batches: tf.data.Dataset) -> None:
    """Standardises interest features by the mean and deviation of some batches."""
    rows = [tf.reshape(batch.features, [-1, NUM_FEATURES]).numpy() for batch in batches]
    assign_scale(interest, np.concatenate(rows))


def assign_scale(layer: tf.keras.layers.Layer, rows: np.ndarray) -> None:
    """Sets `feature_mean` and `feature_scale` of a layer from rows of its features, [n, F]."""
    if not len(rows):  # no example has any history: nothing to scale by
        return
    layer.feature_mean.assign(rows.mean(0, dtype=np.float64))
    deviation = rows.std(0, dtype=np.float64)
    layer.feature_scale.assign(np.where(deviation > 1e-3, 1.0 / np.maximum(deviation, 1e-3), 1.0))
