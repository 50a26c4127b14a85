"""The two models of a run: built with all their variables, their frozen feature scales set, or read as trained."""

import dataclasses
import os

import numpy as np
import tensorflow as tf
from google.protobuf import message

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import first_line
from longretriever_tf.config.baselines import LONGRETRIEVER
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.prepared_data import load_saved
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.interest_features import NUM_FEATURES
from longretriever_tf.models.interest_model import InterestModel
from longretriever_tf.models.retriever import LongRetriever

CHECKPOINT_ERRORS = (
    *(ValueError, AssertionError, IndexError, KeyError, TypeError, RuntimeError),
    *(message.DecodeError, tf.errors.OpError),
)
"""What TensorFlow raises for a checkpoint that is damaged, or of other shapes."""


@dataclasses.dataclass(frozen=True)
class Models:
    """The towers, and the learned interest score."""

    retriever: LongRetriever
    interest: InterestModel


def build_models(config: Config, corpus: Corpus, item_svd: np.ndarray, fold_svd: np.ndarray | None = None) -> Models:
    """Makes both models, weights drawn from `config.train.seed`, every variable created.

    Args:
      config: the run's config.
      corpus: vocabularies.
      item_svd: [V, svd_dim] float32.
      fold_svd: for a training with --cross_fit_items, [K, V, svd_dim] float32; see `models.towers.ItemTower`.
    """
    tf.keras.utils.set_random_seed(config.train.seed)
    policy = "mixed_bfloat16" if config.train.mixed_precision else "float32"
    retriever = LongRetriever(config, corpus, item_svd, tf.keras.mixed_precision.Policy(policy), fold_svd)
    interest = InterestModel(corpus, config.model.history_dropout)
    history_embedding = tf.zeros([1, config.model.svd_dim if config.model.reads_history_embedding else 0])
    bag = tf.zeros([1, corpus.num_categories])
    interest(tf.zeros([1, corpus.num_categories, NUM_FEATURES]), bag, history_embedding)
    return Models(retriever, interest)


def set_token_scale(layer: tf.keras.layers.Layer, batches: tf.data.Dataset) -> None:
    """Standardises the token features that a layer reads by the mean and deviation of some batches' real tokens."""
    rows = [tf.boolean_mask(batch.features, batch.token_item > 0).numpy() for batch in batches]
    _assign_scale(layer, np.concatenate(rows))


def set_interest_scale(interest: InterestModel, batches: tf.data.Dataset) -> None:
    """Standardises interest features by the mean and deviation of some batches."""
    rows = [tf.reshape(batch.features, [-1, NUM_FEATURES]).numpy() for batch in batches]
    _assign_scale(interest, np.concatenate(rows))


def _assign_scale(layer: tf.keras.layers.Layer, rows: np.ndarray) -> None:
    """Sets `feature_mean` and `feature_scale` of a layer from rows of its features, [n, F]."""
    if not len(rows):  # no example has any history: nothing to scale by
        return
    layer.feature_mean.assign(rows.mean(0, dtype=np.float64))
    deviation = rows.std(0, dtype=np.float64)
    layer.feature_scale.assign(np.where(deviation > 1e-3, 1.0 / np.maximum(deviation, 1e-3), 1.0))


def load_models(config: Config, corpus: Corpus, item_svd: np.ndarray) -> Models:
    """The trained models of a finished run of LongRetriever.

    Raises:
      UserError: the run is of another model, has not finished, or its weights are of another shape.
    """
    if config.model.model != LONGRETRIEVER:
        raise UserError(
            f"{config.train.run_dir!r} is a run of --model={config.model.model}, a baseline; `evaluate` reads it, but "
            "only --model=longretriever can be exported, refreshed and asked for recommendations"
        )
    path = find_weights(config)
    models = build_models(config, corpus, item_svd)
    read_weights(config, path, {"retriever": models.retriever, "interest": models.interest})
    return models


def load_for_export(config: Config) -> tuple[Corpus, dict[str, np.ndarray], Models]:
    """The corpus, the statistics as of the cut and the trained models of a finished run; reads no log."""
    corpus, arrays = load_saved(config.train.run_dir)
    return corpus, arrays, load_models(config, corpus, arrays["item_svd"])


def find_weights(config: Config) -> str:
    """Path of the trained weights of a run.

    Raises:
      UserError: its training has not finished.
    """
    path = os.path.join(config.train.run_dir, "checkpoints", "final", "weights")
    if not os.path.exists(path + ".index"):
        raise UserError(
            f"{config.train.run_dir!r} has no finished training ({path}.index does not exist); finish it with the "
            f"command that started it: longretriever train --run_dir={config.train.run_dir} ..."
        )
    return path


def read_weights(config: Config, path: str, models: dict[str, tf.Module]) -> None:
    """Reads the trained weights of a run into its models.

    Raises:
      UserError: they are of another shape.
    """
    checkpoint = tf.train.Checkpoint(**models)
    try:
        checkpoint.read(path).assert_existing_objects_matched().expect_partial()
    except CHECKPOINT_ERRORS as error:
        raise UserError(
            f"the checkpoint {path} does not fit {config.train.run_dir}/config.json: {first_line(error)}. "
            "Train again, or name the run that wrote it"
        ) from error
