"""The items of a log without an event before the training cut: kept by the run, so that an export can hold them.

They get vectors from their side features alone, as new items of a refresh do.
"""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_os_errors, first_line, open_aside
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.number_bins import with_bins
from longretriever_tf.datasets.log import ItemTable

CATALOGUE_FILE = "items_without_events.parquet"
_FEATURE = "feature/"


def save_catalogue(run_dir: str, items: ItemTable, corpus: Corpus) -> None:
    """Writes the items of the log that the corpus does not hold.

    Args:
      run_dir: of the run.
      items: of the whole log, with a context of its own.
      corpus: fitted before the cut.

    Raises:
      UserError: the file cannot be written.
    """
    items = with_bins(items, corpus.feature_edges)
    rest = np.flatnonzero(corpus.find_items(items.item_id) == schema.UNKNOWN)
    columns = {"item_id": items.item_id, "name": items.name}
    columns |= {_FEATURE + name: column for name, column in items.features.items()}
    table = pa.table({name: pa.array(column[rest].tolist(), _type(column)) for name, column in columns.items()})
    path = os.path.join(run_dir, CATALOGUE_FILE)
    with explain_os_errors(f"cannot write {path!r}"), open_aside(path) as aside:
        pq.write_table(table, aside)


def _type(column: np.ndarray) -> pa.DataType:
    return pa.int64() if column.dtype.kind in "iu" else pa.large_string()


def load_catalogue(run_dir: str) -> ItemTable | None:
    """The items that `save_catalogue` wrote; None for a run of a version that kept none.

    Raises:
      UserError: the file is torn.
    """
    path = os.path.join(run_dir, CATALOGUE_FILE)
    if not os.path.exists(path):
        return None
    try:
        table = pq.read_table(path)
        columns = {name: _column(table.column(name)) for name in table.column_names}
        features = {name.removeprefix(_FEATURE): c for name, c in columns.items() if name.startswith(_FEATURE)}
        return ItemTable(columns["item_id"], features, columns["name"])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({first_line(error)}): restore it from a copy, or export with --catalogue=seen, "
            "which does without it"
        ) from error


def _column(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_integer(column.type):
        return column.to_numpy()
    values = np.empty(len(column), object)
    values[:] = column.to_pylist()
    return values


def whole_catalogue(corpus: Corpus, rest: ItemTable) -> ItemTable:
    """The items of a trained corpus and the rest of its log's, as an items table.

    Args:
      corpus: of the run.
      rest: the other items; where their features lack the context (learned clusters), so does the table.
    """
    known = slice(schema.FIRST_KNOWN, None)
    features = {
        name: values[corpus.item_feature[known, number]]
        for number, (name, values) in enumerate(corpus.feature_values.items())
    }
    if corpus.context in rest.features:
        features[corpus.context] = corpus.category_name[corpus.item_category[known]]
    return ItemTable(
        np.concatenate([corpus.item_id[known], rest.item_id]),
        {name: np.concatenate([column, rest.features[name]]) for name, column in features.items()},
        np.concatenate([corpus.item_name[known], rest.name]),
    )
