"""Columns of an items table that are no categories: numbers, and the texts and vectors of text clusters.

Where a log is stored they lie among the features, each as it was written; here they are parted from these. Imports no
TensorFlow.
"""

import dataclasses

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.data import DataConfig
from longretriever_tf.datasets.log import ItemTable


def split_columns(items: ItemTable, data: DataConfig, own_context: str) -> ItemTable:
    """The table with its columns of text and of numbers in their places; see `split_texts` and `split_numbers`."""
    return split_numbers(split_texts(items, data, own_context), data)


def split_numbers(items: ItemTable, data: DataConfig) -> ItemTable:
    """The table with --numeric_features as `numbers`, and among the features no more.

    Args:
      items: as it was read or stored: each number as `LogTable.number_text` writes it.
      data: the flags that the log was read with.
    """
    names = [name for name in data.numeric_features if name in items.features]
    numbers = {
        name: np.array([np.nan if text == schema.MISSING else float(text) for text in items.features[name]])
        for name in names
    }
    features = {name: column for name, column in items.features.items() if name not in numbers}
    return dataclasses.replace(items, features=features, numbers={**items.numbers, **numbers})


def split_texts(items: ItemTable, data: DataConfig, own_context: str) -> ItemTable:
    """The table with --text_columns and --embedding_column as `texts`, and among the features no more.

    A column that is the category, or that --item_features names as well, stays a feature.

    Args:
      items: as it was read or stored.
      data: the flags that the log was read with.
      own_context: the column that is the log's own category; "" for none.

    Raises:
      UserError: a vector that is none, or of another length than the others.
    """
    kept = {own_context, *data.item_features}
    names = [name for name in (*data.text_columns, data.embedding_column) if name in items.features]
    texts = {name: items.features[name] for name in names if name not in kept}
    if data.embedding_column in texts:
        texts[data.embedding_column] = _read_vectors(items, data.embedding_column, texts[data.embedding_column])
    features = {name: column for name, column in items.features.items() if name not in texts}
    return dataclasses.replace(items, features=features, texts={**items.texts, **texts})


def _read_vectors(items: ItemTable, name: str, column: np.ndarray) -> np.ndarray:
    """The vectors of a column of text, [V, d] float32, 0 where it has none."""
    length, first = 0, None
    parsed: list[np.ndarray | None] = []
    for row, text in enumerate(column.tolist()):
        vector = None if text == schema.MISSING else _read_vector(text)
        item = items.item_id[row]
        if text != schema.MISSING and vector is None:
            shown = text if len(text) < 60 else f"{text[:57]}..."
            raise UserError(
                f"--embedding_column={name}: item {item!s} has {shown!r}, which is no vector; expected a list of "
                "finite numbers such as [0.1, -2]"
            )
        if vector is not None and length and len(vector) != length:
            raise UserError(
                f"--embedding_column={name}: item {item!s} has {len(vector)} numbers and item {first!s} has {length}; "
                "expected vectors of one length"
            )
        if vector is not None and not length:
            length, first = len(vector), item
        parsed.append(vector)
    if not length:
        raise UserError(f"--embedding_column={name}: no item has a vector")
    empty = np.zeros(length, np.float32)
    return np.stack([empty if vector is None else vector for vector in parsed])


def _read_vector(text: str) -> np.ndarray | None:
    """The numbers of a text, [d] float32; None where it has none, or other words."""
    try:
        vector = np.array(text.strip().strip("[]()").replace(",", " ").split(), np.float32)
    except (ValueError, OverflowError):
        return None
    return vector if len(vector) and np.isfinite(vector).all() else None
