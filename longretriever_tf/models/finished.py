"""The trained models of a finished run, read from its directory."""

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
from longretriever_tf.models.baselines.model import RecentRetriever, build_baseline
from longretriever_tf.models.build import Models, build_models

CHECKPOINT_ERRORS = (
    *(ValueError, AssertionError, IndexError, KeyError, TypeError, RuntimeError),
    *(message.DecodeError, tf.errors.OpError),
)
"""What TensorFlow raises for a checkpoint that is damaged, or of other shapes."""


def load_models(config: Config, corpus: Corpus, item_svd: np.ndarray) -> Models:
    """The trained models of a finished run of LongRetriever.

    Raises:
      UserError: the run is of another model, has not finished, or its weights are of another shape.
    """
    if config.model.model != LONGRETRIEVER:
        raise UserError(
            f"{config.train.run_dir!r} is a run of --model={config.model.model}, a baseline, which `evaluate` judges; "
            "only --model=longretriever can be exported, refreshed and asked for recommendations"
        )
    path = _find_weights(config)
    models = build_models(config, corpus, item_svd)
    _read_weights(config, path, {"retriever": models.retriever, "interest": models.interest})
    return models


def load_baseline(config: Config, corpus: Corpus, item_svd: np.ndarray) -> RecentRetriever:
    """The trained model of a finished run of a neural baseline.

    Raises:
      UserError: the run has not finished, or its weights are of another shape.
    """
    path = _find_weights(config)
    model = build_baseline(config, corpus, item_svd)
    _read_weights(config, path, {"retriever": model})
    return model


def load_for_export(config: Config) -> tuple[Corpus, dict[str, np.ndarray], Models]:
    """The corpus, the statistics as of the cut and the trained models of a finished run; reads no log."""
    corpus, arrays = load_saved(config.train.run_dir)
    return corpus, arrays, load_models(config, corpus, arrays["item_svd"])


def _find_weights(config: Config) -> str:
    path = os.path.join(config.train.run_dir, "checkpoints", "final", "weights")
    if not os.path.exists(path + ".index"):
        raise UserError(
            f"{config.train.run_dir!r} has no finished training ({path}.index does not exist); finish it with the "
            f"command that started it: python -m longretriever_tf.train --run_dir={config.train.run_dir} ..."
        )
    return path


def _read_weights(config: Config, path: str, models: dict[str, tf.Module]) -> None:
    checkpoint = tf.train.Checkpoint(**models)
    try:
        checkpoint.read(path).assert_existing_objects_matched().expect_partial()
    except CHECKPOINT_ERRORS as error:
        raise UserError(
            f"the checkpoint {path} does not fit {config.train.run_dir}/config.json: {first_line(error)}. "
            "Train again, or name the run that made it"
        ) from error
