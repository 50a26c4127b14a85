"""Writes a router and its shards as versions of one number, all of them or none that could be served.

export_dir/router/3/          shards.json     where each is served
export_dir/shard-0/3/ ...     models.config   for one server of everything
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import aside_path, remove_leftovers, replace_directory, require_writable
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.common.progress import Progress
from longretriever_tf.config.config import Config
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.retrieval.export.saved_model import extra_config_dir, write_report, write_version
from longretriever_tf.retrieval.export.version_dirs import versions
from longretriever_tf.retrieval.export.warmup_requests import Columns, write_records
from longretriever_tf.retrieval.fingerprint import write_fingerprint
from longretriever_tf.retrieval.index.build import IndexReport
from longretriever_tf.retrieval.index.exact import PackedIndex
from longretriever_tf.retrieval.index.scann import ScannIndex
from longretriever_tf.retrieval.sharding.ranges import (
    ShardLayout,
    balance_ranges,
    check_ranges,
    fingerprint_export,
    write_layout,
)
from longretriever_tf.retrieval.sharding.router import Router
from longretriever_tf.retrieval.sharding.shard import IndexShard
from longretriever_tf.retrieval.sharding.shards_file import ROUTER_DIR, SEARCH, local_places, shard_dir, write_places

_WARMUP_QUERIES, _WARMUP_TOKENS, _WARMUP_K = (1, 8), 5, 100

Verify = Callable[[str, PackedIndex | None], object]
"""Is shown a directory before it takes its place, and a shard's index; raises UserError where it must not."""


def export_sharded(
    router: Router,
    config: Config,
    corpus: Corpus,
    report: IndexReport,
    export_dir: str,
    version: int,
    verify: Verify,
) -> str:
    """Writes everything aside, then renames it into place: the shards first, the router last.

    Args:
      router: with its layout (`plan_layout`) and the index of all items, which it loses.
      config: of the run.
      corpus: of the run.
      report: of the index.
      export_dir: holds a folder for the router and for each shard.
      version: 0 takes the next free number; an existing one is refused.
      verify: see `Verify`.

    Returns:
      The router's version directory.

    Raises:
      UserError: an existing version, or a directory that cannot be written.
    """
    require_writable(export_dir)
    layout, index = router.layout, router.give_index_away()
    num_shards = len(layout.ranges)
    aside = aside_path(os.path.join(export_dir, str(version or "new")))
    try:
        os.makedirs(aside)
        bar = Progress("shards", num_shards, "shards")
        for number in range(num_shards):
            corrects_own = router.own_correction is not None
            shard = IndexShard(index, corpus.item_id, layout, number, config.retrieval.max_k, corrects_own)
            directory = os.path.join(aside, shard_dir(number))
            _write_shard(shard, router, layout, number, report, directory)
            verify(directory, shard.index)
            bar.update(1)
        bar.close()
        directory = os.path.join(aside, ROUTER_DIR)
        write_layout(write_version(router, config, corpus, report, directory), layout)
        verify(directory, None)
        published = _publish(aside, export_dir, version, num_shards)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"cannot write the export under {export_dir!r}: {str(error).splitlines()[0]}. No router there was changed, "
            "so that no server takes the new version up; free disk space or name another --export_dir"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    write_places(export_dir, local_places(num_shards))
    return published


def plan_layout(router: Router, config: Config, corpus: Corpus, num_shards: int) -> ShardLayout:
    """Ranges, and the fingerprint that router and shards share.

    Args:
      router: with the index of all items, of any kind.
      config: of the run.
      corpus: of the run.
      num_shards: at least 1.

    Raises:
      UserError: more shards than categories with items.
    """
    vectors, bias = router.index.item_vectors.numpy(), router.index.item_bias.numpy()
    item_bytes = vectors.itemsize * (vectors.shape[1] + 1) + 8  # vector, bias, id
    ranges = balance_ranges(corpus.category_offset, num_shards, item_bytes)
    check_ranges(ranges, corpus.num_categories, f"--category_shards={num_shards}")
    words = [*map(str, dataclasses.astuple(router.fingerprint)), config.index.index]
    return ShardLayout(fingerprint_export(vectors, bias, ranges, *words), ranges)


def _write_shard(
    shard: IndexShard, router: Router, layout: ShardLayout, number: int, report: IndexReport, directory: str
) -> None:
    signatures = {SEARCH: shard.signature()}
    tf.saved_model.save(shard, directory, signatures=signatures)
    extra = extra_config_dir(directory)
    os.makedirs(extra)
    write_fingerprint(extra, router.fingerprint)
    write_layout(extra, layout)
    own = layout.ranges[number]
    categories = report.categories[own.first_category - schema.FIRST_KNOWN : own.stop_category - schema.FIRST_KNOWN]
    needs_scann = isinstance(shard.index, ScannIndex)
    write_report(extra, dataclasses.replace(report, needs_scann=needs_scann, categories=categories))
    write_records(extra, signatures, _questions(shard, layout, number))


def _questions(shard: IndexShard, layout: ShardLayout, number: int) -> Iterator[tuple[str, Columns]]:
    """Item vectors as queries of categories that have items, each with some of the category's items as tokens."""
    index = shard.index
    own, rng, offset = layout.ranges[number], np.random.default_rng(1), index.category_offset
    filled = [c for c in range(own.first_category, own.stop_category) if offset[c + 1] > offset[c]]
    for num in _WARMUP_QUERIES:
        category = rng.choice(filled, num)
        item = rng.integers(offset[category], offset[category + 1], [_WARMUP_TOKENS, num]).T
        vectors, _ = index.rows(tf.constant(item[:, 0], tf.int32))
        low = sum(one.num_items for one in layout.ranges[:number])  # items of the shards before
        gains = {"own_gain": tf.zeros(item.shape), "own_slope": tf.zeros([num])} if shard.corrects_own else {}
        yield (
            SEARCH,
            {
                "expected": tf.constant([layout.export]),
                "k": tf.constant([_WARMUP_K]),
                "category": tf.constant(category, tf.int32),
                "embedding": vectors,
                "token_item": tf.constant(item + low, tf.int32),
                "repeat_logit": tf.ones(item.shape),
                "excluded_item": tf.constant(item[:, 1:2] + low, tf.int32),
                **gains,
            },
        )


def _publish(aside: str, export_dir: str, version: int, num_shards: int) -> str:
    """One number for all. A kill in between leaves shards without a router, which nobody asks."""
    folders = [*map(shard_dir, range(num_shards)), ROUTER_DIR]
    busy = f"another export is about to take its place in {export_dir!r} ({{}})"
    with hold_lock(export_dir, busy, wait=True):
        remove_leftovers(export_dir)
        taken = {number for folder in folders for number in versions(os.path.join(export_dir, folder))}
        if version in taken:
            raise UserError(
                f"--version={version} is there already: router and shards that are served cannot be replaced at one "
                "moment; give another number, or 0 for the next"
            )
        number = str(version or max(taken, default=0) + 1)
        for folder in folders:
            replace_directory(os.path.join(aside, folder), os.path.join(export_dir, folder, number))
    return os.path.join(export_dir, ROUTER_DIR, number)
