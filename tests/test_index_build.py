"""One contract for every kind of index: exact search in numpy says what is right."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import IndexConfig
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.retrieval.export.verify_index import measure_recall_in_fresh_process
from longretriever_tf.retrieval.index import scann, scann_tuning
from longretriever_tf.retrieval.index.build import build_index, searched_by_scann
from longretriever_tf.retrieval.index.exact import PackedIndex, Queries
from longretriever_tf.retrieval.index.scann_tuning import CheckQueries, draw_sample, recall_of
from tests.conftest import SEED

DIM = 7
SIZES = (1, 1, 1, 2, 15, 16, 17, 99, 100, 101, 1301)  # the first two hold padding and unknown
OFFSET = np.concatenate([[0], np.cumsum(SIZES)]).astype(np.int64)

pytestmark = pytest.mark.scann


def make_packed(sizes=SIZES, seed=SEED):
    rng = np.random.default_rng(seed)
    offset = np.concatenate([[0], np.cumsum(sizes)])
    vectors = rng.standard_normal([offset[-1], DIM]).astype(np.float32)
    return PackedIndex(vectors, rng.standard_normal(offset[-1]).astype(np.float32), offset)


def make_corpus(offset):
    category = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    item, names = np.arange(offset[-1]), np.array([f"c{c}" for c in range(len(offset) - 1)])
    size = np.diff(offset)
    return Corpus(0, "category", item, item.astype(str), category, item[:, None], offset, size, names, {}, {})


def make_check_queries(categories, num=64):
    rng = np.random.default_rng(SEED)
    parts = {c: rng.standard_normal([2, num, DIM]).astype(np.float32) for c in categories}
    return {c: CheckQueries(part[0], part[1], 0) for c, part in parts.items()}


def make_searcher(packed, category, effort, sample_size=10**6):
    low, high = packed.category_offset[category : category + 2]
    vectors = np.concatenate([packed.item_vectors[low:high], packed.item_bias[low:high, None]], 1)
    sample = draw_sample(np.zeros([1, high - low]), sample_size, np.random.default_rng(SEED))
    return scann.take_apart(scann.build_handle(vectors, effort), category, effort, *sample)


def make_index(kind):
    """Every category of at least 16 items in a searcher that looks at everything: it must pass as exact."""
    packed = make_packed()
    if kind == "packed":
        return packed
    efforts = {c: scann.SearchParameters(0, 0, 0) for c in range(len(SIZES)) if SIZES[c] >= scann.MIN_ITEMS}
    if kind == "tree":
        efforts = {c: scann.SearchParameters(5, 5, SIZES[c]) for c in efforts}
    return scann.ScannIndex(packed, [make_searcher(packed, c, effort) for c, effort in efforts.items()], 1.0)


@pytest.fixture(scope="module", params=["packed", "whole", "tree"])
def index(request):
    return make_index(request.param)


def search_slowly(packed, queries, row, k):
    """[(item, logit)] of one query, best first, and its log-partition: item by item."""
    low, high = packed.category_offset[queries.category[row] :][:2]
    out = {int(item) for r, item in zip(queries.excluded_row, queries.excluded_item, strict=True) if r == row}
    logit = {}
    for item in range(low, high):
        if item not in out:
            score = float(queries.embedding[row] @ packed.item_vectors[item].numpy() + packed.item_bias[item].numpy())
            repeat_logits = [
                b for t, b in zip(queries.token_item[row], queries.repeat_logit[row], strict=True) if t == item
            ]
            logit[item] = score + float(sum(repeat_logits))
    partition = np.log(np.exp(list(logit.values())).sum()) if logit else None
    if queries.own_gain is not None:
        for item, gain in zip(queries.token_item[row], queries.own_gain[row], strict=True):
            if item in logit:
                logit[item] += gain + queries.own_slope[row] * (logit[item] - partition)
    return sorted(logit.items(), key=lambda pair: -pair[1])[:k], partition


def make_queries(rng, categories, num_tokens=5, share_excluded=0.4):
    """Queries with repeated tokens, repeat logits of either sign, and exclusions that name tokens and items twice."""
    num = len(categories)
    low, high = OFFSET[categories], OFFSET[categories + 1]
    tokens = rng.integers(low[:, None], high[:, None], [num, num_tokens]) * (rng.random([num, num_tokens]) < 0.7)
    excluded = [
        (row, item)
        for row in range(num)
        for item in range(low[row], high[row])
        if rng.random() < share_excluded
        for _ in range(rng.integers(1, 3))
    ]
    excluded = np.array(excluded or np.zeros([0, 2]), np.int32).reshape(-1, 2)
    return Queries(
        embedding=rng.standard_normal([num, DIM]).astype(np.float32),
        category=categories.astype(np.int32),
        token_item=tokens.astype(np.int32),
        repeat_logit=(4 * rng.standard_normal([num, num_tokens]) * (tokens > 0)).astype(np.float32),
        excluded_row=excluded[:, 0],
        excluded_item=excluded[:, 1],
    )


def as_tensors(queries):
    return Queries(*(None if part is None else tf.constant(part) for part in queries))


def compare(index, queries, k):
    found = index.search(as_tensors(queries), tf.constant(k))
    assert found.item.shape == found.logit.shape == (len(queries.category), k)
    for row in range(len(queries.category)):
        best, partition = search_slowly(index, queries, row, k)
        item, logit = found.item[row].numpy(), found.logit[row].numpy()
        assert item[: len(best)].tolist() == [pair[0] for pair in best]
        np.testing.assert_allclose(logit[: len(best)], [pair[1] for pair in best], rtol=1e-4, atol=1e-4)
        assert not item[len(best) :].any() and not logit[len(best) :].any()
        if partition is not None:
            assert found.log_partition[row].numpy() == pytest.approx(partition, abs=1e-4)


@pytest.mark.parametrize("k", [1, 13, 113])
def test_lists_repeat_logits_exclusions_and_partitions_are_those_of_exact_search(index, k):
    rng = np.random.default_rng(SEED)
    categories = rng.permutation(np.repeat(np.arange(schema.FIRST_KNOWN, len(SIZES)), 3))
    compare(index, make_queries(rng, categories), k)


@pytest.mark.parametrize("k", [1, 13])
def test_own_items_are_corrected_after_the_softmax(index, k):
    rng = np.random.default_rng(SEED)
    categories = rng.permutation(np.repeat(np.arange(schema.FIRST_KNOWN, len(SIZES)), 2))
    queries = make_queries(rng, categories)
    items = queries.token_item
    for row in items:  # a token is an item: none comes twice
        row[np.setdiff1d(np.arange(len(row)), np.unique(row, return_index=True)[1])] = 0
    gain = (4 * rng.standard_normal(items.shape) * (items > 0)).astype(np.float32)
    slope = (0.5 * rng.standard_normal(len(items))).astype(np.float32)
    repeat_logit = queries.repeat_logit * (items > 0)
    compare(index, queries._replace(repeat_logit=repeat_logit, own_gain=gain, own_slope=slope), k)


def test_longer_lists_than_the_category_and_all_but_all_excluded(index):
    rng = np.random.default_rng(SEED)
    categories = np.arange(schema.FIRST_KNOWN, len(SIZES))
    compare(index, make_queries(rng, categories, share_excluded=0.97), 211)
    found = index.search(as_tensors(make_queries(rng, categories, share_excluded=1.0)), tf.constant(3))
    assert not found.item.numpy().any() and np.isfinite(found.logit.numpy()).all()


def test_no_queries_give_empty_lists(index):
    found = index.search(as_tensors(make_queries(np.random.default_rng(1), np.zeros(0, int))), 5)
    assert found.item.shape == (0, 5) and found.log_partition.shape == (0,)


def test_a_search_that_comes_short_is_answered_exactly():
    packed, category, k = make_packed(), len(SIZES) - 1, 400
    starved = make_searcher(packed, category, scann.SearchParameters(36, 1, 100))
    handle = scann.build_handle(np.pad(packed.item_vectors[OFFSET[-2] :], ((0, 0), (0, 1))), starved.effort)
    query = np.zeros([3, DIM + 1], np.float32)
    query[:, 0] = 1
    row, _ = scann.search_handle(handle, query, k, 4, k)
    assert (row.numpy() < 0).any() or row.shape[1] < k  # ScaNN itself gives short rows here
    index = scann.ScannIndex(packed, [starved], 1.0)
    compare(index, make_queries(np.random.default_rng(SEED), np.full(3, category), share_excluded=0.0), k)


def test_missing_ranks_never_become_the_first_item():
    packed, category = make_packed(), len(SIZES) - 1
    low, high = packed.category_offset[category : category + 2]
    vectors = np.concatenate([packed.item_vectors[low:high], packed.item_bias[low:high, None]], 1)
    handle = scann.build_handle(vectors, scann.SearchParameters(36, 1, 100))
    queries = np.random.default_rng(SEED).standard_normal([50, DIM + 1]).astype(np.float32)
    row, score = (part.numpy() for part in scann.search_handle(handle, queries, 100, 1, 100))
    assert (row == -1).any()  # rows differ in length, so ScaNN pads some
    assert ((row == 0).sum(1) <= 1).all() and (score[row < 0] == score.dtype.type(tf.float32.min)).all()


def all_nodes(function):
    graph = function.get_concrete_function().graph.as_graph_def()
    return [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]


def test_neither_graph_nor_captures_grow_with_the_number_of_searchers():
    def cost(num):
        packed = make_packed((1, 1, *[20] * num))
        whole = scann.SearchParameters(0, 0, 0)
        index = scann.ScannIndex(packed, [make_searcher(packed, c, whole) for c in range(2, num + 2)], 1.0)
        return len(all_nodes(index.ask)), len(index.ask.get_concrete_function().captured_inputs)

    assert cost(2) == cost(11)


def test_requests_build_no_searcher_and_gather_on_no_variable():
    index = make_index("tree")
    rows = tf.function(index.rows, input_signature=[tf.TensorSpec([None], tf.int32)])
    ops = {node.op for function in (index.ask, rows) for node in all_nodes(function)}
    assert "Scann>ScannSearchBatched" in ops
    assert not ops & {"Scann>TensorsToScann", "Scann>ScannCreateSearcher"}  # built while loading, not by a request
    assert "ResourceGather" not in ops  # it would make every dense read of the variable copy it


def save(index, path, needs_scann=True):
    holder = tf.Module()
    holder.index = index
    tf.saved_model.save(holder, str(path))
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "index.json").write_text(json.dumps({"needs_scann": needs_scann}))


def test_a_fresh_process_agrees_with_exact_search_in_every_category(tmp_path):
    sizes = (1, 1, 7, 140, 140, 1301, 1301)  # alike in size: one's answers pass for another's until they are compared
    packed = make_packed(sizes)
    efforts = {3: (0, 0, 0), 4: (0, 0, 0), 5: (36, 36, 1301), 6: (36, 36, 1301)}
    searchers = [make_searcher(packed, c, scann.SearchParameters(*effort)) for c, effort in efforts.items()]
    save(scann.ScannIndex(packed, searchers, 1.0), tmp_path)
    recall = measure_recall_in_fresh_process(str(tmp_path), packed, make_check_queries([4, 6]))
    assert recall == {c: 1.0 for c in range(schema.FIRST_KNOWN, len(sizes))}


def test_searchers_of_one_name_are_caught_before_they_are_published(tmp_path, monkeypatch):
    packed = make_packed((1, 1, 140, 140, 140))
    corpus, queries = make_corpus(packed.category_offset), make_check_queries([2, 3, 4])

    def one_name(table):
        return ["searcher"] * len(queries)

    _, report = build_index(IndexConfig(index="scann"), packed, corpus, queries)
    monkeypatch.setattr(scann.SearcherTable, "shared_names", one_name)
    whole = scann.SearchParameters(0, 0, 0)
    save(scann.ScannIndex(packed, [make_searcher(packed, c, whole) for c in queries], 1.0), tmp_path)
    with pytest.raises(UserError, match=r"fresh process, 2 of 3 categories miss exact search, .*'c\d' with recall 0"):
        report.require(measure_recall_in_fresh_process(str(tmp_path), packed, queries))


def test_every_searcher_of_every_index_has_its_own_name():
    names = [name for _ in range(2) for name in make_index("whole").searchers.shared_names()]
    assert len(names) == 2 * sum(size >= 16 for size in SIZES) == len(set(names))


def test_the_graph_that_builds_searchers_gives_each_its_name():
    """Without one a searcher takes the name of its node, which another export's searcher has as well."""
    searchers = make_index("whole").searchers
    nodes = all_nodes(tf.function(searchers._initialize, input_signature=[]))
    names = [node.attr["shared_name"].s.decode() for node in nodes if node.op == "Scann>TensorsToScann"]
    assert names == searchers.shared_names()


def test_kinds_choose_their_categories():
    offset = np.concatenate([[0], np.cumsum([1, 1, 15, 16, 300, 20_000])])
    chosen = {kind: searched_by_scann(IndexConfig(index=kind), offset) for kind in ("packed", "scann", "auto")}
    assert chosen == {"packed": [], "scann": [3, 4, 5], "auto": [5]}
    assert searched_by_scann(IndexConfig(index="auto", scann_min_items=100), offset) == [4, 5]


def test_tuned_index_reaches_its_target_and_says_how_near_its_partition_comes():
    sizes = (1, 1, 40, 5003)
    packed = make_packed(sizes)
    config = IndexConfig(index="scann", scann_recall=0.9, partition_sample=512)
    index, report = build_index(config, packed, make_corpus(packed.category_offset), make_check_queries([2, 3]))
    small, large = report.categories
    assert (small.kind, small.recall, small.leaves) == ("scann", 1.0, 0)
    assert large.kind == "scann" and 0.9 <= large.recall < 1 and large.leaves_to_search < large.leaves
    assert small.log_partition_error < 1e-5 < large.log_partition_error < 0.1
    asked = np.random.default_rng(5).standard_normal([31, DIM]).astype(np.float32)
    logits = asked @ packed.item_vectors[42:].numpy().T + packed.item_bias[42:].numpy()
    found = index.ask(asked, np.full(31, 3, np.int32), 100)
    assert recall_of(found.item.numpy() - 42, logits, 100) > 0.85
    error = found.log_partition.numpy() - np.log(np.exp(logits).sum(1))
    assert abs(error.mean()) < 0.05 and np.abs(error).mean() < 0.1
    assert "c3" in report.table() and report.summary() == "2 categories by ScaNN, 0 exactly"


@pytest.mark.parametrize(("kind", "expected"), [("auto", "packed"), ("scann", "scann")])
def test_a_category_that_misses_the_target_is_not_called_good(kind, expected, monkeypatch):
    monkeypatch.setattr(scann_tuning, "_SHARES", (0.01,))  # no effort that could do
    packed = make_packed((1, 1, 5003))
    config = IndexConfig(index=kind, scann_min_items=100, scann_recall=0.99)
    index, report = build_index(config, packed, make_corpus(packed.category_offset), make_check_queries([2]))
    (only,) = report.categories
    assert (only.kind, only.recall, only.leaves) == (expected, 1.0, 0)
    assert report.needs_scann == (kind == "scann") == (index is not packed)
    assert ("0.99" in only.note) == (kind == "auto")


def test_a_sample_sums_to_the_whole_on_average():
    logits = np.random.default_rng(SEED).standard_normal([17, 2003]).astype(np.float32)
    sums = []
    for seed in range(200):
        column, log_weight = draw_sample(logits, 128, np.random.default_rng(seed))
        sums.append(np.exp(logits[:, column] + log_weight).sum(1))
    np.testing.assert_allclose(np.mean(sums, 0), np.exp(logits).sum(1), rtol=0.05)
    column, log_weight = draw_sample(logits, 2003, np.random.default_rng(0))
    assert column.tolist() == list(range(2003)) and not log_weight.any()


def test_recall_counts_ties_with_the_last_best_and_nothing_missing():
    logits = np.array([[3.0, 2.0, 2.0, 1.0]])
    assert recall_of(np.array([[0, 2]]), logits, 2) == 1.0
    assert recall_of(np.array([[0, 3]]), logits, 2) == 0.5
    assert recall_of(np.array([[1, -1]]), logits, 2) == 0.5


def test_without_scann_the_error_names_the_cure(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scann.scann_ops.py", None)
    with pytest.raises(UserError, match=r"pip install 'longretriever_tf\[scann\]'.*--index=packed"):
        scann.load_ops()


def test_refusal_names_the_worst_category_and_its_recall():
    packed = make_packed((1, 1, 40, 50))
    corpus = make_corpus(packed.category_offset)
    _, report = build_index(IndexConfig(index="scann"), packed, corpus, make_check_queries([2, 3]))
    report.require({2: 1.0, 3: 0.96})
    with pytest.raises(UserError, match="1 of 2 categories .* 'c3' with recall 0.9400"):
        report.require({2: 1.0, 3: 0.94})
    exact = dataclasses.replace(
        report, categories=tuple(dataclasses.replace(one, kind="packed") for one in report.categories)
    )
    with pytest.raises(UserError, match="'c2' with recall 0.9900"):
        exact.require({2: 0.99, 3: 1.0})
