"""Item vectors as Parquet, for an index that people already have: faiss, a vector database.

`user_vector . vector + bias` is the logit of an item, where the user vector comes from the export's signature
`interest_embeddings`. What such an index cannot hold, and what that costs: docs/scaling.md, "Your own index".
"""

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import (
    aside_path,
    explain_os_errors,
    read_json_object,
    replace_directory,
    require_writable,
    write_text_atomically,
)
from longretriever_tf.common.text import as_raw_ids, is_text
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.retrieval.fingerprint import Fingerprint
from longretriever_tf.retrieval.index.exact import PackedIndex

FORMAT = "longretriever_tf item vectors"
_FORMAT_VERSION = 1
_ROWS_AT_ONCE = 100_000


def require_vectors_dir(directory: str, export_dir: str = "") -> None:
    """Called before long work: the directory is absent, empty, or holds an older set of vectors.

    Args:
      directory: of the vectors.
      export_dir: where the export goes, which must not lie in it.

    Raises:
      UserError: it holds something else, or could not be replaced.
    """
    flag, directory = f"--vectors={directory}", os.path.abspath(directory)
    if export_dir and f"{os.path.abspath(export_dir)}{os.sep}".startswith(f"{directory}{os.sep}"):
        raise UserError(f"{flag}: --export_dir={export_dir} lies in it; name a directory that is the vectors' alone")
    require_writable(os.path.dirname(directory))
    if not os.path.lexists(directory):
        return
    with explain_os_errors(f"cannot write {flag}"):
        names = os.listdir(directory)
    manifest = os.path.join(directory, "manifest.json")
    if names and not os.path.exists(manifest):
        raise UserError(f"{flag}: it holds {min(names)!r}, which is no set of vectors; name an empty or new directory")
    if names and read_json_object(manifest, "name another --vectors").get("format") != FORMAT:
        raise UserError(f"{flag}: its manifest.json is not of a set of vectors; name an empty or new directory")


def write_vectors(directory: str, index: PackedIndex, corpus: Corpus, fingerprint: Fingerprint) -> str:
    """Writes items.parquet, categories.parquet and manifest.json aside, then gives them the name `directory`.

    items.parquet: item_id (int64 or string), category (string), vector (fixed-size list of D float32, divided by the
    temperature), bias (float32), sorted by category. categories.parquet: category, first_row and num_items in it.

    Args:
      directory: of the vectors; an older set there is replaced.
      index: all item vectors.
      corpus: what its rows are.
      fingerprint: of the towers, which only their own user vectors fit.

    Returns:
      A line on what was written.

    Raises:
      UserError: the directory cannot be written; what was there stays.
    """
    require_vectors_dir(directory)
    directory = os.path.abspath(directory)
    aside = aside_path(directory)
    with explain_os_errors(f"cannot write --vectors={directory}"):
        try:
            os.makedirs(aside)
            with pq.ParquetWriter(os.path.join(aside, "items.parquet"), _schema(index, corpus)) as writer:
                for piece in _pieces(index, corpus):
                    writer.write_table(piece)
            pq.write_table(_categories(corpus), os.path.join(aside, "categories.parquet"))
            manifest = _manifest(index, corpus, fingerprint)
            write_text_atomically(os.path.join(aside, "manifest.json"), json.dumps(manifest, indent=2) + "\n")
            replace_directory(aside, directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return f"{directory}: vectors of {manifest['num_items']:,} items, {manifest['dim']} numbers each"


def _schema(index: PackedIndex, corpus: Corpus) -> pa.Schema:
    vector = pa.list_(pa.float32(), index.item_vectors.shape[1])
    item_id = pa.string() if is_text(corpus.item_id) else pa.int64()
    columns = {"item_id": item_id, "category": pa.string(), "vector": vector, "bias": pa.float32()}
    return pa.schema(list(columns.items()))


def _pieces(index: PackedIndex, corpus: Corpus) -> Iterator[pa.Table]:
    """The items that a search can return, some at a time."""
    names, columns = pa.array(corpus.category_name.tolist(), pa.string()), _schema(index, corpus)
    vectors, bias, ids = index.item_vectors.numpy(), index.item_bias.numpy(), as_raw_ids(corpus.item_id)
    for start in range(schema.FIRST_KNOWN, corpus.num_offered, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, corpus.num_offered))
        vector = pa.FixedSizeListArray.from_arrays(vectors[rows].ravel(), vectors.shape[1])
        category = names.take(pa.array(corpus.item_category[rows]))
        arrays = [pa.array(ids[rows], columns.field("item_id").type), category, vector, pa.array(bias[rows])]
        yield pa.Table.from_arrays(arrays, schema=columns)


def _categories(corpus: Corpus) -> pa.Table:
    offset = corpus.category_offset[schema.FIRST_KNOWN :]
    return pa.table(
        {
            "category": pa.array(corpus.category_name[schema.FIRST_KNOWN :].tolist(), pa.string()),
            "first_row": offset[:-1] - schema.FIRST_KNOWN,
            "num_items": np.diff(offset),
        }
    )


def _manifest(index: PackedIndex, corpus: Corpus, fingerprint: Fingerprint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": _FORMAT_VERSION,
        "num_items": corpus.num_offered - schema.FIRST_KNOWN,
        "num_categories": corpus.num_categories - schema.FIRST_KNOWN,
        "dim": int(index.item_vectors.shape[1]),
        "context": corpus.context,
        "similarity": "inner product",
        "score": "sum(user_vector * vector) + bias; user_vector: `embedding` of the signature interest_embeddings",
        "temperature": "the vectors are divided by it already",
        "as_one_vector": "index [vector, bias] and ask for [user_vector, 1] where an index knows no bias",
        "bias": "holds the item's own bias and its statistics (popularity) as of statistics_as_of",
        "repeat_term": "add subsequence_boost to the score of each item of subsequence_item_id",
        "merge": "log_share + score - log(sum(exp(score))) over the items found in the category",
        "towers": fingerprint.towers,
        "items": fingerprint.items,
        "statistics_as_of": fingerprint.statistics_as_of,
        "generation": fingerprint.generation,
    }
