"""Trained models over another catalogue: the same towers, their per-item rows gathered anew."""

import numpy as np

from longretriever_tf.config.config import Config
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.models.build import Models, build_models


def refresh_models(
    config: Config, models: Models, corpus: Corpus, item_svd: np.ndarray, trained_row: np.ndarray
) -> Models:
    """The same weights for the items of `corpus`.

    Args:
      config: of the run.
      models: as trained.
      corpus: another catalogue with the trained vocabularies.
      item_svd: rows of `corpus`, [V, svd_dim].
      trained_row: row of each item in the trained tables, [V].
    """
    refreshed = build_models(config, corpus, item_svd)
    tower = models.retriever.item_tower
    per_item = [id(table) for table in (tower.bias, tower.id_table) if table is not None]
    pairs = [
        *zip(models.retriever.variables, refreshed.retriever.variables, strict=True),
        *zip(models.interest.variables, refreshed.interest.variables, strict=True),
    ]
    for source, target in pairs:
        value = source.numpy()
        target.assign(value[trained_row] if id(source) in per_item else value)
    return refreshed
