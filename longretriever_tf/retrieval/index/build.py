"""Builds the index of the kind asked for, and reports how near it comes to exact search in every category."""

import dataclasses
import time

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.progress import Progress
from longretriever_tf.config.config import IndexConfig
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.retrieval.index.exact import PackedIndex
from longretriever_tf.retrieval.index.scann import MIN_ITEMS, TUNED_K, ScannIndex, Searcher
from longretriever_tf.retrieval.index.scann_tuning import (
    CheckQueries,
    draw_sample,
    recall_of,
    tune_searcher,
    whole_searcher,
)

_TIMED_QUERIES = 20

_EXACT = 1 - 1e-6


@dataclasses.dataclass(frozen=True)
class CategoryReport:
    """How one category is searched, and how well, on queries that tuning did not see.

    Attributes:
      category: name.
      kind: "packed" (exact) or "scann".
      num_items: its size.
      recall: of the best min(100, num_items) against exact search; 1.0 for packed.
      log_partition_error: mean absolute error of the log-partition, in nats; 0.0 for packed.
      search_ms: median time of one query, B = 1; None where it was not measured.
      exact_ms: the same by exact search.
      leaves, leaves_to_search, reorder: the searcher's effort; 0 where it scores every item.
      num_real_queries: how many of the check queries stem from real histories.
      note: why a category that could hold a searcher has none, or else "".
    """

    category: str
    kind: str
    num_items: int
    recall: float = 1.0
    log_partition_error: float = 0.0
    search_ms: float | None = None
    exact_ms: float | None = None
    leaves: int = 0
    leaves_to_search: int = 0
    reorder: int = 0
    num_real_queries: int = 0
    note: str = ""


@dataclasses.dataclass(frozen=True)
class IndexReport:
    """What `index.json` holds.

    Attributes:
      index: the kind asked for.
      needs_scann: the model holds searchers: load ScaNN's operations before it.
      target_recall: what every searcher reaches.
      k: list length that recall is taken at.
      categories: one by one.
    """

    index: str
    needs_scann: bool
    target_recall: float
    k: int
    categories: tuple[CategoryReport, ...]

    def summary(self) -> str:
        """How many categories are searched in which way."""
        searched = sum(one.kind == "scann" for one in self.categories)
        return f"{searched} categories by ScaNN, {len(self.categories) - searched} exactly"

    def require(self, recall: dict[int, float]) -> None:
        """Holds what a fresh process measured to what each category promises.

        Args:
          recall: by category index, of the categories that have items.

        Raises:
          UserError: a searched category is below the target, or an exact one below 1.
        """
        least = {"packed": _EXACT, "scann": min(self.target_recall, _EXACT)}
        bad = {
            one.category: recall[at]
            for at, one in enumerate(self.categories, start=schema.FIRST_KNOWN)
            if at in recall and recall[at] < least[one.kind]
        }
        if bad:
            worst = min(bad, key=lambda name: bad[name])
            raise UserError(
                f"loaded in a fresh process, {len(bad)} of {len(recall)} categories miss exact search, the worst "
                f"{worst!r} with recall {bad[worst]:.4f}: the export is not published; --index=packed needs no searcher"
            )

    def table(self) -> str:
        """The ScaNN categories, and those that fell back, as text."""
        shown = [one for one in self.categories if one.kind == "scann" or one.note]
        lines = [
            f"{'category':30s} {'kind':6s} {'items':>9s} {'recall@100':>10s} {'log-part.':>9s} {'ms':>7s} {'exact':>7s}"
        ]
        for one in sorted(shown, key=lambda one: -one.num_items):
            cells = [f"{value:7.2f}" if value is not None else f"{'-':>7s}" for value in (one.search_ms, one.exact_ms)]
            lines.append(
                f"{one.category[:30]:30s} {one.kind:6s} {one.num_items:9,d} {one.recall:10.4f} "
                f"{one.log_partition_error:9.4f} {' '.join(cells)}  {one.note}".rstrip()
            )
        return "\n".join(lines)


def searched_by_scann(config: IndexConfig, category_offset: np.ndarray) -> list[int]:
    """Categories that the kind gives a searcher, if one can be built that reaches the target."""
    least = {"packed": np.inf, "auto": max(config.scann_min_items, MIN_ITEMS), "scann": MIN_ITEMS}[config.index]
    sizes = np.diff(category_offset)
    return [c for c in range(schema.FIRST_KNOWN, len(sizes)) if sizes[c] >= least]


def build_index(
    config: IndexConfig, packed: PackedIndex, corpus: Corpus, queries: dict[int, CheckQueries]
) -> tuple[PackedIndex, IndexReport]:
    """The index of `config.index`, and its report.

    Kind `auto`: a category whose searcher misses the target is searched exactly, and the report says so. Kind `scann`:
    it gets a searcher that scores every item.

    Args:
      config: kind, threshold, target.
      packed: every item, searched exactly.
      corpus: names of the categories.
      queries: for each of `searched_by_scann`.

    Raises:
      UserError: a forced searcher misses the target even so.
    """
    searchers, notes = _make_searchers(config, packed, queries) if queries else ([], {})
    index, scale = packed, _bias_scale(queries)
    reports: dict[int, CategoryReport] = {}
    while searchers:
        index = ScannIndex(packed, searchers, scale)
        reports = _measure(index, packed, searchers, corpus, queries)
        missed = [one for one in searchers if reports[one.category].recall < config.scann_recall]
        if not missed:
            break
        _refuse(config, [reports[one.category] for one in missed])
        notes |= {one.category: _miss(config) for one in missed}
        searchers, index = [one for one in searchers if one not in missed], packed
    for category, note in notes.items():
        size = int(np.diff(packed.category_offset)[category])
        reports.setdefault(category, CategoryReport(str(corpus.category_name[category]), "packed", size, note=note))
    return index, _whole_report(config, corpus, reports)


def _whole_report(config: IndexConfig, corpus: Corpus, reports: dict[int, CategoryReport]) -> IndexReport:
    sizes = np.diff(corpus.category_offset)
    every = [
        reports.get(c) or CategoryReport(str(corpus.category_name[c]), "packed", int(sizes[c]))
        for c in range(schema.FIRST_KNOWN, corpus.num_categories)
    ]
    needs_scann = any(one.kind == "scann" for one in every)
    return IndexReport(config.index, needs_scann, config.scann_recall, TUNED_K, tuple(every))


def _miss(config: IndexConfig) -> str:
    return f"no searcher short of scoring all items reaches recall {config.scann_recall}: searched exactly"


def _refuse(config: IndexConfig, missed: list[CategoryReport]) -> None:
    if config.index == "scann":
        worst = min(missed, key=lambda one: one.recall)
        raise UserError(
            f"--index=scann: {len(missed)} categories miss --scann_recall={config.scann_recall}, the worst "
            f"{worst.category!r} with {worst.recall:.4f}; lower the target, or use --index=auto, which searches such "
            "categories exactly"
        )


def _bias_scale(queries: dict[int, CheckQueries]) -> float:
    """A query's typical coordinate: the bias, as one more coordinate, is then quantised like any other."""
    every = [part for one in queries.values() for part in one[:2]]
    scale = float(np.sqrt(np.mean(np.concatenate(every) ** 2))) if every else 1.0
    return scale if scale > 0 else 1.0


def _make_searchers(
    config: IndexConfig, packed: PackedIndex, queries: dict[int, CheckQueries]
) -> tuple[list[Searcher], dict[int, str]]:
    """Tuned searchers, and why some categories got none."""
    scale, offset = _bias_scale(queries), packed.category_offset
    every = np.concatenate([packed.item_vectors.numpy(), packed.item_bias.numpy()[:, None] / np.float32(scale)], 1)
    searchers, notes = [], {}
    bar = Progress("index", len(queries), "categories")
    for category, asked in queries.items():
        vectors = every[offset[category] : offset[category + 1]]
        searcher = tune_searcher(category, vectors, asked, scale, config.scann_recall, config.partition_sample)
        if searcher is None and config.index == "scann":
            logits = asked.tune @ vectors[:, :-1].T + vectors[:, -1] * scale
            sample = draw_sample(logits, config.partition_sample, np.random.default_rng(category))
            searcher = whole_searcher(category, vectors, sample)
        if searcher is None:
            notes[category] = _miss(config)
        else:
            searchers.append(searcher)
        bar.update(1)
    bar.close()
    return searchers, notes


def _measure(
    index: ScannIndex,
    packed: PackedIndex,
    searchers: list[Searcher],
    corpus: Corpus,
    queries: dict[int, CheckQueries],
) -> dict[int, CategoryReport]:
    """Asks the finished index and exact search the same queries, category by category."""
    reports = {}
    for one in searchers:
        asked, low = queries[one.category], packed.category_offset[one.category]
        num_items = int(packed.category_offset[one.category + 1] - low)
        k = min(TUNED_K, num_items)
        vectors, bias = packed.rows(tf.range(low, low + num_items))
        logits = asked.check @ vectors.numpy().T + bias.numpy()
        result = index.ask(asked.check, np.full(len(asked.check), one.category, np.int32), k)
        item, partition = result.item.numpy(), result.log_partition.numpy()
        top = logits.max(1)
        true = top + np.log(np.exp(logits - top[:, None]).sum(1))
        reports[one.category] = CategoryReport(
            category=str(corpus.category_name[one.category]),
            kind="scann",
            num_items=num_items,
            recall=recall_of(np.where(item > 0, item - low, -1), logits, k),
            log_partition_error=float(np.abs(partition - true).mean()),
            search_ms=_median_ms(index, asked.check, one.category, k),
            exact_ms=_median_ms(packed, asked.check, one.category, k),
            **dataclasses.asdict(one.effort),
            num_real_queries=asked.num_real,
        )
    return reports


def _median_ms(index: PackedIndex, queries: np.ndarray, category: int, k: int) -> float:
    times = []
    for row in range(min(_TIMED_QUERIES, len(queries))):
        start = time.perf_counter()
        index.ask(queries[row : row + 1], [category], k)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))
