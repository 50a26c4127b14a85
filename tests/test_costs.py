"""What a request must not cost, read from its graph: copies of variables, sorts of whole histories, rows that no one
reads.

Answers would be right without these cures, so only the work itself can be tested; clocks would test the machine.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from worlds import START, crowded_world

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config, DataConfig, ModelConfig
from longretriever_tf.data.corpus import fit_corpus
from longretriever_tf.data.recipe.interest_features import NUM_FEATURES
from longretriever_tf.data.recipe.tokens import num_token_features
from longretriever_tf.data.search.history_summary import summarise_history
from longretriever_tf.data.search.request_history import RawHistories, order_segments, read_histories
from longretriever_tf.models.build import build_models
from longretriever_tf.models.towers import UserInputs
from longretriever_tf.retrieval.freeze import freeze
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.signatures import make_signatures

CONFIG = Config(data=DataConfig(dataset="event_log"), model=ModelConfig(dim=6, num_heads=2, ff_dim=11, svd_dim=3))
_READS, _GATHERS = {"ReadVariableOp"}, {"ResourceGather", "ResourceGatherNd"}


@pytest.fixture(scope="module")
def corpus():
    return fit_corpus(crowded_world(), START + 400 * schema.DAY_S)


@pytest.fixture(scope="module")
def signatures(corpus):
    models = build_models(CONFIG, corpus, np.zeros([corpus.num_items, 3], np.float32))
    item, category = (np.zeros([size, 3], np.float32) for size in (corpus.num_items, corpus.num_categories))
    arrays = dict(item_stats=item, category_stats=category, taste_rows=np.stack([item, item]))
    model = MultiContextRetriever(CONFIG, corpus, models.retriever, models.interest, arrays)
    return make_signatures(model, CONFIG.retrieval)


def test_no_variable_is_both_gathered_from_and_read_whole(signatures):
    """A variable that is ever gathered from is copied by each of its dense reads: 15 MB a request, for the index."""
    for name in ("serving_default", "item_embeddings"):
        graph = signatures[name].get_concrete_function().graph.as_graph_def()
        functions = {function.signature.name: function for function in graph.library.function}
        uses = [*variable_uses(graph.node, functions, {})]
        read, gathered = ({variable for op, variable in uses if op in ops} for ops in (_READS, _GATHERS))
        assert read and not read & gathered, name
        assert gathered or name != "serving_default"


def variable_uses(nodes, functions, given):
    """(operation, variable) of each read and gather, in branches and loops too, whose inputs are `given` by name."""
    for node in nodes:
        names = [name.split(":")[0] for name in node.input if not name.startswith("^")]
        inputs = [given.get(name, name) for name in names]
        if node.op in _READS | _GATHERS:
            yield node.op, inputs[0]
        for called in (attribute.func.name for attribute in node.attr.values() if attribute.HasField("func")):
            function = functions[called]
            handed = inputs[1:] if node.op in ("If", "StatelessIf") else inputs  # a branch is not given the condition
            inner = dict(zip((one.name for one in function.signature.input_arg), handed, strict=True))
            yield from variable_uses(function.node_def, functions, inner)


def test_a_long_history_is_never_sorted_whole(corpus, monkeypatch):
    sorted_sizes, argsort = [], tf.argsort

    def spy(values, *args, **kwargs):
        sorted_sizes.append(int(values.shape[0]))
        return argsort(values, *args, **kwargs)

    monkeypatch.setattr(tf, "argsort", spy)
    length, rng = 20_011, np.random.default_rng(1)
    item = rng.integers(schema.FIRST_KNOWN, corpus.num_items, [1, length]).astype(np.int32)
    timestamp = START + rng.integers(0, 190 * schema.DAY_S, [1, length])
    time, category = np.array([START + 200 * schema.DAY_S]), corpus.item_category
    weight = np.ones([1, length], np.float32)
    raw = RawHistories(item, timestamp, weight, time)
    histories = read_histories(raw, tf.identity, category, corpus.num_categories)
    summarise_history(histories.history, category, 1, corpus.num_categories, 1.0)
    assert not sorted_sizes
    order_segments(
        histories, np.zeros(2, np.int32), np.array([2, 3], np.int32), corpus.num_categories, corpus.num_categories
    )
    assert set(sorted_sizes) == {int(np.isin(category[item], [2, 3]).sum())} and max(sorted_sizes) < length


@pytest.mark.parametrize("asked_per_request", [3, 40])
def test_a_history_in_order_of_time_is_not_sorted_at_all(monkeypatch, asked_per_request):
    """Nor is what is cut out of it, and the runs are those of the same events in any order."""
    length, many, rng = 2_003, 90, np.random.default_rng(2)
    category = np.concatenate([[0, 1], 2 + np.sort(rng.integers(0, many - 2, 500))]).astype(np.int32)
    item = rng.integers(schema.FIRST_KNOWN, len(category), [2, length]).astype(np.int32)
    timestamp = START + np.sort(rng.choice(190 * schema.DAY_S, [2, length], replace=False), axis=1)
    time = np.full(2, START + 200 * schema.DAY_S)
    row = np.repeat(np.arange(2, dtype=np.int32), asked_per_request)
    seen = np.unique(category[item])
    asked = np.concatenate([rng.permutation(seen)[:asked_per_request] for _ in range(2)]).astype(np.int32)
    shuffled = rng.permutation(length)

    def runs(*columns):
        raw = RawHistories(*columns, np.ones([2, length], np.float32), time)
        histories = read_histories(raw, tf.identity, category, many)
        return order_segments(histories, row, asked, 2 * many, many)

    expected = runs(item[:, shuffled], timestamp[:, shuffled])
    monkeypatch.setattr(tf, "argsort", lambda *_, **__: pytest.fail("sorted"))
    for name, column in runs(item, timestamp)._asdict().items():
        np.testing.assert_array_equal(column, getattr(expected, name), name)
    assert np.all(expected.stop > expected.start)
    for r, c, start, stop in zip(row, asked, expected.start, expected.stop, strict=True):
        np.testing.assert_array_equal(expected.timestamp[start:stop], timestamp[r, category[item[r]] == c])


def test_more_categories_than_are_grouped_are_sorted():
    """Past what two passes tell apart, the same runs come of sorting."""
    length, many, rng = 4_001, 1_300, np.random.default_rng(3)
    category = np.arange(many, dtype=np.int32)  # an item each
    item = rng.integers(schema.FIRST_KNOWN, many, [1, length]).astype(np.int32)
    timestamp = START + np.sort(rng.choice(190 * schema.DAY_S, [1, length], replace=False), axis=1)
    raw = RawHistories(item, timestamp, np.ones([1, length], np.float32), np.array([START + 200 * schema.DAY_S]))
    histories = read_histories(raw, tf.identity, category, many)
    asked = np.unique(item).astype(np.int32)
    assert len(asked) > 1024
    runs = order_segments(histories, np.zeros(len(asked), np.int32), asked, many, many)
    for c, start, stop in zip(asked, runs.start, runs.stop, strict=True):
        np.testing.assert_array_equal(runs.timestamp[start:stop], timestamp[0, item[0] == c])


def test_weights_are_constants_of_the_graph(corpus):
    """Reading a weight takes a request no operation."""
    models = build_models(CONFIG, corpus, np.zeros([corpus.num_items, 3], np.float32))
    interest, many = models.interest, corpus.num_categories
    inputs = [tf.random.normal(shape) for shape in ([2, many, NUM_FEATURES], [2, many], [2, 3])]
    expected = interest(*inputs)
    before = [weight.numpy() for weight in interest.weights]
    frozen = freeze(interest)
    call, trained = (tf.function(layer.call).get_concrete_function(*inputs) for layer in (frozen, interest))
    assert not call.graph.variables and trained.graph.variables
    np.testing.assert_allclose(call(*inputs), expected, rtol=1e-5, atol=1e-5)
    for weight, value in zip(interest.weights, before, strict=True):  # the original can be trained on
        np.testing.assert_array_equal(weight, value)
    assert len(interest.trainable_weights) > 9


@pytest.mark.parametrize(("repeat_term", "rows"), [(False, 1), (True, 2 + 7)])
def test_the_last_layer_writes_only_what_is_read(corpus, repeat_term, rows):
    """Without the copy term only [CLS] is read: the feed-forward block of the last layer then runs for one row."""
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, repeat_term=repeat_term, num_layers=2))
    tower = build_models(config, corpus, np.zeros([corpus.num_items, 3], np.float32)).retriever.user_tower
    features = tf.zeros([3, 7, num_token_features(config.model)])

    @tf.function
    def encode():
        index = tf.zeros([3, len(corpus.profile_values)], tf.int32)
        history_embedding = tf.zeros([3, config.model.svd_dim])
        return tower(
            UserInputs(tf.zeros([3, 7, 6]), tf.ones([3, 7], tf.bool), features, index[:, 0], index, history_embedding)
        )

    layers = {"layer_0": 9, "layer_1": rows}
    for layer, expected in layers.items():
        outputs = [
            node.outputs[0].shape
            for node in encode.get_concrete_function().graph.get_operations()
            if f"{layer}/expand/" in node.name and node.type == "BiasAdd"
        ]
        assert outputs == [[3 * expected, 11]], layer
