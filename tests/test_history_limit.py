"""--history_events: one rule in the oracle, for a log's histories, in training batches, in evaluation and in the
export."""

import dataclasses

import numpy as np
import pytest
import reference
import tensorflow as tf
from worlds import START, crowded_world, make_log

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, RetrievalConfig, TrainConfig
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.interests import InterestSource
from longretriever_tf.data.batches.prepared_data import example_history_embeddings, prepare, prepare_examples
from longretriever_tf.data.corpus import encode_log, fit_corpus
from longretriever_tf.data.recipe.history_embedding import fold_of_users, item_keys
from longretriever_tf.data.search.history_limit import visible_histories
from longretriever_tf.data.search.request_history import keep_visible
from longretriever_tf.data.search.user_activity import user_activity
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.models.build import build_models
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.signatures import make_signatures

END = START + 400 * schema.DAY_S
HISTORY = pytest.mark.parametrize("history_events", [1, 7, 10**6])


def raw(corpus, items) -> list:
    return corpus.item_id[np.asarray(items)].tolist()


@HISTORY
def test_visible_histories_and_their_activity(history_events):
    log = crowded_world(seed=4)
    corpus = fit_corpus(log, END)
    encoded = encode_log(log, corpus)
    as_of_times = np.concatenate([np.unique(log.timestamp)[::11], [START - 1, START, END]])
    for user in range(log.num_users):
        users = np.full(len(as_of_times), user)
        start, stop = visible_histories(encoded, users, as_of_times, history_events)
        activity = user_activity(encoded, users, as_of_times, history_events)
        history = reference.request_history(log, user)
        for at, as_of in enumerate(as_of_times.tolist()):
            expected = reference.visible(history, as_of, history_events)
            assert raw(corpus, encoded.item[start[at] : stop[at]]) == [b.item for b in expected]
            wanted = reference.activity_at([b.timestamp for b in expected], as_of)
            np.testing.assert_allclose(activity[at], wanted, rtol=1e-6, atol=1e-7)


def test_a_basket_at_the_border_counts_whole():
    """Five events of four times: of the last 2, the second oldest falls into a basket of two, which counts whole."""
    day = START + np.array([0, 1, 1, 2, 3]) * schema.DAY_S
    log = make_log([1] * 5, [5, 6, 7, 8, 9], day, {"category": ["c"] * 5}, basket=[1, 2, 2, 3, 4])
    corpus = fit_corpus(log, END)
    encoded = encode_log(log, corpus)
    shown = []
    for history_events in (1, 2, 3, 4, 5, 0):
        start, stop = visible_histories(encoded, np.array([0]), np.array([END]), history_events)
        shown.append(sorted(raw(corpus, encoded.item[start[0] : stop[0]])))
    assert shown == [[9], [8, 9], [6, 7, 8, 9], [6, 7, 8, 9], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9]]
    past = keep_visible(
        tf.constant([[True, True, False, True, True, True]]), tf.constant([[3, 2, 9, 1, 2, 0]], tf.int64), 2
    )
    assert past.numpy().tolist() == [[True, True, False, False, True, False]]
    nothing = keep_visible(tf.zeros([2, 0], tf.bool), tf.zeros([2, 0], tf.int64), 2)
    assert nothing.shape == (2, 0)


class Ready:
    """An untrained model of a crowded world, read three ways."""

    def __init__(self, history_events: int) -> None:
        model = ModelConfig(
            dim=8, num_heads=2, ff_dim=8, svd_dim=3, max_length=5, history_events=history_events, user_context=True
        )
        train = TrainConfig(examples="snapshot", num_snapshots=4, snapshot_every_days=20, epochs=2, interest_epochs=1)
        retrieval = RetrievalConfig(interest="paper", num_interests=3, top_interests=3)
        self.config = Config(DataConfig(window_days=20), model, train, retrieval)
        self.log = crowded_world(seed=6)
        self.cut = int(START + 150 * schema.DAY_S)
        self.prepared = prepare(self.config, self.log, self.cut)
        self.corpus = self.prepared.corpus
        self.models = build_models(self.config, self.corpus, self.prepared.item_svd)
        # Untrained features and biases are nearly silent: a loud model tells histories apart.
        rng = np.random.default_rng(1)
        for variable in self.models.retriever.trainable_variables + self.models.interest.trainable_variables:
            variable.assign(rng.normal(0, 0.3, variable.shape))

    def history(self, user: int, time: int) -> list[reference.Behavior]:
        history = reference.request_history(self.log, user)
        known = set(self.corpus.item_id[2:].tolist())
        return reference.visible([b for b in history if b.item in known], time, self.config.model.history_events)


@pytest.fixture(scope="module", params=[1, 9])
def ready(request) -> Ready:
    return Ready(request.param)


def test_training_reads_only_visible_events(ready):
    prepared, config, corpus = ready.prepared, ready.config, ready.corpus
    examples, snapshots = prepare_examples(config, prepared)
    source = BatchSource(config, prepared, examples)
    index = {item: at for at, item in enumerate(corpus.item_id.tolist())}
    folds = prepared.history_embedding_rows
    for row in range(len(examples)):
        batch = source.build(tf.constant([row], tf.int64))
        time, name = int(examples.time[row]), corpus.category_name[examples.category[row]]
        history = ready.history(examples.user[row], time)
        found = [b for b in history if b.category == name]
        expected = reference.item_tokens(found[-256:], len(found), time, config.model.max_length)
        assert raw(corpus, batch.token_item.numpy()[0]) == [item for item, _ in expected]
        if expected:
            np.testing.assert_allclose(batch.features[0, :, :13], [x for _, x in expected], rtol=1e-4, atol=4e-5)
            activity = reference.activity_at([b.timestamp for b in history], time)
            np.testing.assert_allclose(batch.features[0, :, 16:], [activity] * len(expected), rtol=1e-4, atol=1e-5)
        table = folds[fold_of_users(prepared.log, item_keys(corpus.item_id), len(folds))[examples.user[row]]]
        embedding = sum(2 ** (-(time - b.timestamp) / 86400 / 90) * table[index[b.item]] for b in history) + np.zeros(3)
        trained_embedding = batch.recipe.history_embedding[0]
        np.testing.assert_allclose(
            trained_embedding,
            3 * embedding / max(np.linalg.norm(embedding), 1e-6),
            rtol=1e-4,
            atol=1e-5,
        )
    history_events = config.model.history_events
    history_embeddings = example_history_embeddings(config, prepared, snapshots)
    interest = InterestSource(prepared, snapshots, history_embeddings, 1, history_events)
    num_seen = np.exp(interest.build(tf.range(interest.num_rows, dtype=tf.int64)).features[:, :, 0].numpy()) - 1
    size = {len(ready.history(user, int(time))) for user, time in zip(snapshots.user, snapshots.time, strict=True)}
    assert num_seen.sum(1).max() == pytest.approx(max(size), rel=1e-4)


def test_evaluation_and_export_read_what_the_oracle_reads(ready):
    prepared, config, corpus, models = ready.prepared, ready.config, ready.corpus, ready.models
    users = np.flatnonzero(np.diff(prepared.log.offset) > 0)
    scorer = LongRetrieverScorer(
        config, prepared, models.retriever, models.interest, config.retrieval, every_category=False
    )
    by_paper = dataclasses.replace(config.retrieval, interest="paper")
    paper, scores = scorer.with_retrieval("eq. 3", by_paper).interest(users).drawn_by, scorer.score(users)
    stats = prepared.stats
    arrays = dict(
        item_stats=stats.item[-1],
        category_stats=stats.category[-1],
        taste_rows=prepared.history_embedding_rows,
    )
    served = MultiContextRetriever(config, corpus, models.retriever, models.interest, arrays)
    ask = make_signatures(served, config.retrieval)["serving_default"]
    rng = np.random.default_rng(3)
    for row, user in enumerate(users):
        history = [b for b in reference.request_history(ready.log, user) if b.timestamp < ready.cut]
        shown = ready.history(user, ready.cut)
        for at, name in enumerate(corpus.category_name):
            expected = reference.interest_score([b for b in shown if b.category == name], ready.cut, 1.0)
            assert paper[row, at] == pytest.approx(expected, rel=1e-4, abs=1e-7)
        # Equal times keep the log's order, as in the log; all else is shuffled.
        as_of_times = rng.permutation(sorted({b.timestamp for b in history}))
        asked = [b for as_of in as_of_times for b in history if b.timestamp == as_of]
        answer = ask(
            history_item_id=tf.constant([[b.item for b in asked]]),
            history_timestamp=tf.constant([[b.timestamp for b in asked]], tf.int64),
            history_weight=tf.constant([[b.weight for b in asked]], tf.float32),
            request_timestamp=tf.constant([ready.cut], tf.int64),
            k=tf.constant([8]),
        )
        num = int(answer["num_valid"][0])
        best = reference.ranked_list(scores[row], 8)
        assert num == len(best)
        np.testing.assert_allclose(answer["score"][0, :num], scores[row][best], rtol=1e-3, atol=1e-4)
        drawn = [name.decode() for name in answer["interest_category"][0].numpy() if name]
        counts = [sum(b.category == name for b in shown) for name in drawn]
        assert answer["interest_num_events"][0, : len(drawn)].numpy().tolist() == counts


def test_the_whole_history_and_a_border_beyond_it_are_the_same(ready):
    config = dataclasses.replace(ready.config, model=dataclasses.replace(ready.config.model, history_events=10**6))
    whole = dataclasses.replace(config, model=dataclasses.replace(config.model, history_events=0))
    users = np.arange(ready.log.num_users)
    made = [
        LongRetrieverScorer(c, ready.prepared, ready.models.retriever, ready.models.interest, c.retrieval).score(users)
        for c in (config, whole, ready.config)
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()
