"""The lists of an evaluated model as a Parquet file, in the form that `--lists` reads. Imports no TensorFlow."""

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longretriever_tf.common.files import explain_os_errors, open_aside
from longretriever_tf.common.text import is_text

ListsHook = Callable[[str, str, np.ndarray, np.ndarray], None]
"""Takes a model's name, the task, users (rows of the log, [B]) and their lists (item indices, [B, K], -1 pads)."""


def ignore_lists(name: str, task: str, users: np.ndarray, lists: np.ndarray) -> None:
    """Writes nothing."""
    del name, task, users, lists


@contextlib.contextmanager
def writing_lists(path: str, model: str, user_id: np.ndarray, item_id: np.ndarray) -> Iterator[ListsHook]:
    """Yields what takes the lists of an evaluation; those of `model` become a row per user and item.

    The columns are user, item (raw ids), rank (1 is the best) and task ("all" or "novel"). The file has its name once
    the block has ended well.

    Args:
      path: of the file; empty: nothing is written.
      model: whose lists.
      user_id: raw ids by row of the log, [U].
      item_id: raw ids by item index, [V].

    Raises:
      UserError: it cannot be written.
    """
    if not path:
        yield ignore_lists
        return
    kinds = [pa.string() if is_text(ids) else pa.int64() for ids in (user_id, item_id)]
    schema = pa.schema([("user", kinds[0]), ("item", kinds[1]), ("rank", pa.int32()), ("task", pa.string())])

    with explain_os_errors(f"cannot write {path!r}"):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open_aside(path) as aside, pq.ParquetWriter(aside, schema) as writer:

            def write(name: str, task: str, users: np.ndarray, lists: np.ndarray) -> None:
                if name != model:
                    return
                row, column = np.nonzero(lists >= 0)
                arrays = [
                    pa.array(user_id[users[row]].tolist(), kinds[0]),
                    pa.array(item_id[lists[row, column]].tolist(), kinds[1]),
                    pa.array(column + 1, pa.int32()),
                    pa.array([task] * len(row), pa.string()),
                ]
                writer.write_table(pa.table(arrays, schema=schema))

            yield write
