"""One rule, three forms: the oracle on raw histories, the training graph, and the exported signature in a fresh
process.

The export is loaded by a child process that imports TensorFlow alone, as a server would.
"""

import dataclasses
import json
import os

import numpy as np
import pytest
import reference
import tensorflow as tf
from fresh import ask_fresh
from trained import run_module

from longretriever_tf.common import schema
from longretriever_tf.data.batches.examples import Examples
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.prepared_data import load_saved, prepare_requests
from longretriever_tf.data.corpus import load_corpus
from longretriever_tf.data.search.user_activity import user_activity
from longretriever_tf.datasets.load import load_log
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.models.build import load_models
from longretriever_tf.retrieval.interests import draw_interests
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.signatures import make_signatures

K = 17


class Parts:
    """The run, read three ways; requests are asked at the training cut."""

    def __init__(self, trained) -> None:
        self.config = trained.config
        self.version = os.path.join(trained.export_dir, "1")
        self.corpus, arrays = load_saved(trained.run_dir)
        self.as_of = self.corpus.cut
        self.log = load_log(self.config.data)
        self.prepared = prepare_requests(self.log, self.corpus, arrays, self.as_of)
        self.models = load_models(self.config, self.corpus, arrays["item_svd"])
        self.users = np.arange(0, self.log.num_users, 4)

    def history(self, user: int) -> list[reference.Behavior]:
        return [b for b in reference.request_history(self.log, user) if b.timestamp < self.as_of]

    def columns(self, users, shuffle: int | None = None, pad: int = 0, extra: int = 0) -> dict[str, np.ndarray]:
        """Request columns; `extra` events that must be ignored join each history (unknown ids, the future)."""
        histories = [[(b.item, b.timestamp) for b in self.history(u)] for u in users]
        for history in histories:
            history += [(999_000 + i, self.as_of - 60 * (i + 1)) for i in range(extra)]  # items nobody knows
            history += [(100, self.as_of + i) for i in range(extra)]  # now, and later
        width = max(map(len, histories)) + pad
        item, time = np.zeros([len(histories), width], np.int64), np.zeros([len(histories), width], np.int64)
        rng = np.random.default_rng(shuffle)
        for row, history in enumerate(histories):
            at = np.arange(len(history)) if shuffle is None else rng.permutation(width)[: len(history)]
            for column, (raw, as_of) in zip(at, history, strict=True):
                item[row, column], time[row, column] = raw, as_of
        return {
            "history_item_id": item,
            "history_timestamp": time,
            "request_timestamp": np.full(len(histories), self.as_of),
            "taste": self.log.profile["taste"][np.asarray(users)].astype(str),
        }


def options(n: int = 5, m: int = 5, k: int = K, seed: int = 3) -> dict[str, np.ndarray]:
    whole = {"k": k, "num_interests": n, "top_interests": m}
    return {name: np.array([value], np.int32) for name, value in whole.items()} | {"seed": np.array([seed], np.int64)}


def pairs_of(parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Every (user, category) of the sampled users, seen or not."""
    categories = np.arange(schema.FIRST_KNOWN, parts.corpus.num_categories)
    return np.repeat(parts.users, len(categories)), np.tile(categories, len(parts.users))


@pytest.fixture(scope="module")
def parts(trained) -> Parts:
    return Parts(trained)


@pytest.fixture(scope="module")
def answers(parts, tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Every question of this module, answered by one fresh process."""
    user, category = pairs_of(parts)
    names = parts.corpus.category_name[category].astype(str)
    plain, shuffled = parts.columns(parts.users), parts.columns(parts.users, shuffle=5, pad=11, extra=3)
    empty = parts.columns(parts.users[:3])
    empty["history_timestamp"] = empty["history_timestamp"] * 0
    empty["taste"] = np.array(["", "never seen", "b0"])
    one = parts.columns(parts.users[2:3])
    draw = {name: value for name, value in options(2, 5, seed=12).items()}
    spread = {**draw, "seed": np.arange(len(parts.users)) + 12}
    questions = {
        "vectors": ("user_embeddings", {**parts.columns(user, shuffle=1, pad=3, extra=2), "category": names}),
        "merged": ("serving_default", {**plain, **options()}),
        "without options": ("top_k", {**plain, "k": np.full(len(parts.users), K, np.int32)}),
        "shuffled": ("serving_default", {**shuffled, **options()}),
        "single": ("serving_default", {**one, **options()}),
        "interests": ("interests", {**shuffled, **{n: v for n, v in options().items() if n != "k"}}),
        "drawn": ("serving_default", {**plain, **spread}),
        "drawn alone": ("serving_default", {**one, **draw, "seed": np.array([14])}),
        "drawn again": ("serving_default", {**plain, **spread}),
        "empty": ("serving_default", {**empty, **options(k=200)}),
        "in category": (
            "retrieve_in_category",
            {**parts.columns(user), "category": names, "k": np.array([1000], np.int32)},
        ),
        "unknown category": (
            "retrieve_in_category",
            {**one, "category": np.array(["no such category"]), "k": np.array([5], np.int32)},
        ),
        "items": ("item_embeddings", {"item_id": np.append(parts.corpus.item_id[2:], 999_999)}),
        "k of each": ("serving_default", {**plain, **options(), "k": 1 + np.arange(len(parts.users), dtype=np.int32)}),
    }
    asked = [(parts.version, *question) for question in questions.values()]
    found = ask_fresh(tmp_path_factory.mktemp("fresh"), asked)
    return dict(zip(questions, found, strict=True))


def test_subsequence_of_rule_training_graph_and_signature(parts, answers):
    user, category = pairs_of(parts)
    source = BatchSource(parts.config, parts.prepared, requests(parts))
    for at in range(len(user)):
        name = parts.corpus.category_name[category[at]]
        found = reference.hard_search(parts.history(user[at]), name, parts.as_of, -1, parts.config.model.max_events)
        expected = reference.item_tokens(found, len(found), parts.as_of, parts.config.model.max_length)
        raw = answers["vectors"]["subsequence_item_id"][at]
        size = answers["vectors"]["subsequence_length"][at]
        assert raw[:size].tolist() == [item for item, _ in expected] and not raw[size:].any()
    groups = [np.flatnonzero(category == c) for c in np.unique(category)]
    for rows in groups:
        batch = source.build(tf.constant(rows))
        trained_items = parts.corpus.item_id[batch.token_item.numpy()]
        width = trained_items.shape[1]
        np.testing.assert_array_equal(answers["vectors"]["subsequence_item_id"][rows][:, :width], trained_items)
        vectors = parts.models.retriever.item_tower(batch.item[0])
        state = parts.models.retriever.encode(batch, vectors)
        assert_close(answers["vectors"]["embedding"][rows], state.embedding)
        assert_close(answers["vectors"]["subsequence_boost"][rows][:, :width], state.repeat_logit)


def assert_close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def requests(parts: Parts) -> Examples:
    """The sampled pairs as training examples whose time is the request's."""
    user, category = pairs_of(parts)
    order = parts.prepared.order
    start, stop = reference.slices_before(order, user, category, parts.as_of)
    time = np.full(len(user), parts.as_of)
    return Examples(
        start=np.maximum(start, stop - parts.config.model.max_events),
        stop=stop,
        num_before=stop - start,
        target_start=stop * 0,
        target_stop=stop * 0 + 1,
        user=user.astype(np.int32),
        category=category.astype(np.int32),
        time=time,
        stats_row=np.full(len(user), len(parts.prepared.stats.time) - 1, np.int32),
        length=(stop - start).astype(np.int32),
        weight=np.ones(len(user), np.float32),
        activity=user_activity(parts.prepared.log, user, time),
        id=np.arange(len(user), dtype=np.uint64),
        event_feature=np.zeros((len(user), 0), np.int32),
    )


def scorer_of(parts: Parts, **kwargs) -> LongRetrieverScorer:
    models = parts.models
    return LongRetrieverScorer(
        parts.config, parts.prepared, models.retriever, models.interest, parts.config.retrieval, **kwargs
    )


def test_logits_of_evaluation_equal_the_signatures(parts, answers):
    user, category = pairs_of(parts)
    scorer = scorer_of(parts)
    found, every = answers["in category"], dict(zip(parts.users, scorer.within(parts.users), strict=True))
    for at in range(0, len(user), 3):
        num = found["num_valid"][at]
        low, high = parts.corpus.category_offset[category[at] : category[at] + 2]
        logits = every[user[at]][low:high].astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        assert num == len(expected)
        index = np.searchsorted(parts.corpus.item_id[low : low + num], found["item_id"][at, :num])
        assert_close(found["score"][at, :num], expected[index])
        assert (np.diff(found["score"][at, :num]) <= 0).all()


def test_interests_of_rule_evaluation_and_signature(parts, answers):
    found = answers["interests"]
    scorer, by_paper = scorer_of(parts), dataclasses.replace(parts.config.retrieval, interest="paper")
    eq3 = scorer.with_retrieval("eq. 3", by_paper).interest(parts.users).drawn_by
    score = tf.constant(scorer.interest(parts.users).log_share)
    allowed = tf.range(score.shape[1])[None] >= tf.fill([len(parts.users), 1], schema.FIRST_KNOWN)
    five = tf.fill([len(parts.users)], 5)
    chosen = draw_interests(score, allowed, five, five, tf.zeros([len(parts.users)], tf.int64))
    np.testing.assert_array_equal(found["interest_category"].astype(str), parts.corpus.category_name[chosen.category])
    assert_close(found["interest_score"], chosen.score)
    for row, user in enumerate(parts.users):
        for at, name in enumerate(found["interest_category"][row].astype(str)):
            events = [b for b in parts.history(user) if b.category == name]
            assert found["interest_num_events"][row, at] == len(events)
            assert found["interest_last_timestamp"][row, at] == max((b.timestamp for b in events), default=0)
            paper = reference.interest_score(events, parts.as_of, parts.config.retrieval.day_floor)
            index = int(np.flatnonzero(parts.corpus.category_name == name)[0])
            assert eq3[row, index] == pytest.approx(paper, rel=1e-5)


def test_merged_list_is_the_evaluations(parts, answers):
    scores = scorer_of(parts, every_category=False).score(parts.users)
    found = answers["merged"]
    for row in range(len(parts.users)):
        best = reference.ranked_list(scores[row], K)
        assert found["num_valid"][row] == len(best) == K
        np.testing.assert_allclose(found["score"][row], scores[row][best], rtol=1e-4, atol=2e-5)
        by_id = dict(zip(parts.corpus.item_id.tolist(), scores[row].tolist(), strict=True))
        expected = [by_id[raw] for raw in found["item_id"][row].tolist()]
        np.testing.assert_allclose(found["score"][row], expected, rtol=1e-4, atol=2e-5)
        assert len(set(found["item_id"][row].tolist())) == K
        categories = parts.corpus.category_name[parts.corpus.item_category[index_of(parts, found["item_id"][row])]]
        np.testing.assert_array_equal(found["category"][row].astype(str), categories)
        drawn = dict(zip(found["interest_rank_drawn"][row], found["interest_category"][row].astype(str), strict=True))
        assert [drawn[rank] for rank in found["interest_rank"][row]] == categories.tolist()


def index_of(parts: Parts, raw: np.ndarray) -> list[int]:
    index = {item: at for at, item in enumerate(parts.corpus.item_id.tolist()) if at >= schema.FIRST_KNOWN}
    return [index[item] for item in raw.tolist()]


def test_shuffled_padded_histories_with_noise_change_nothing(answers):
    assert answers["merged"].keys() == answers["shuffled"].keys()
    assert (answers["shuffled"]["num_unknown_items"] == 3).all() and not answers["merged"]["num_unknown_items"].any()
    for name, value in answers["merged"].items():
        if name == "num_unknown_items":
            continue
        if value.dtype.kind == "f":
            assert_close(answers["shuffled"][name], value)
        else:
            np.testing.assert_array_equal(answers["shuffled"][name], value, err_msg=name)


def test_batch_equals_single(answers):
    for name, value in answers["single"].items():
        if value.dtype.kind == "f":
            assert_close(answers["merged"][name][2:3], value)
        else:
            np.testing.assert_array_equal(answers["merged"][name][2:3], value, err_msg=name)


def test_a_seed_decides_its_own_draw_alone(answers):
    drawn = answers["drawn"]
    np.testing.assert_array_equal(drawn["item_id"], answers["drawn again"]["item_id"])
    np.testing.assert_array_equal(drawn["item_id"][2:3], answers["drawn alone"]["item_id"])
    assert (drawn["num_interests_drawn"] == 2).all() and (drawn["interest_rank_drawn"] <= 5).all()
    assert len({tuple(row) for row in drawn["interest_rank_drawn"].tolist()}) > 2


def test_every_number_is_finite(answers):
    for question, answer in answers.items():
        for name, value in answer.items():
            assert value.dtype.kind != "f" or np.isfinite(value).all(), (question, name)


def test_an_empty_history_is_answered_from_all_categories(parts, answers):
    found = answers["empty"]
    assert (found["num_interests_drawn"] == 5).all() and not found["interest_num_events"].any()
    for row in range(3):
        valid = found["num_valid"][row]
        sizes = np.diff(parts.corpus.category_offset)
        names = parts.corpus.category_name.tolist()
        assert valid == sum(sizes[names.index(name)] for name in found["interest_category"][row].astype(str))
        assert valid < 200  # k above what the interests hold: padded, not an error
        for name in ("item_id", "score", "interest_rank"):
            assert not found[name][row, valid:].any()
        assert set(found["category"][row, valid:].tolist()) == {b""}
    assert np.abs(found["interest_score"][0] - found["interest_score"][1]).max() < 1e-5  # missing and unknown: the same


def test_unknown_categories_and_items_bring_nothing(parts, answers):
    assert answers["unknown category"]["num_valid"].tolist() == [0]
    assert not answers["unknown category"]["item_id"].any()
    vectors, bias = answers["items"]["embedding"], answers["items"]["bias"]
    assert not vectors[-1].any() and bias[-1] == 0 and (np.abs(vectors[:-1]).sum(1) > 0).all()
    assert_close(vectors[:-1], parts.models.retriever.item_tower(tf.range(2, parts.corpus.num_items)))


def test_each_request_has_its_own_k(answers, parts):
    found = answers["k of each"]
    np.testing.assert_array_equal(found["num_valid"], np.arange(1, len(parts.users) + 1))
    np.testing.assert_array_equal(
        found["item_id"][-1, : len(parts.users)], answers["merged"]["item_id"][-1, : len(parts.users)]
    )


def test_the_signature_without_options_answers_by_the_defaults(answers):
    for name in ("item_id", "score", "interest_category", "num_valid"):
        np.testing.assert_array_equal(answers["without options"][name], answers["merged"][name])


def test_optional_columns_have_defaults_in_the_signature(parts):
    """TensorFlow Serving fills them in by the SignatureDef's `defaults`."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    with open(os.path.join(parts.version, "saved_model.pb"), "rb") as file:
        model.ParseFromString(file.read())
    signature = model.meta_graphs[0].signature_def["serving_default"]
    defaults = {name: tf.make_ndarray(value).tolist() for name, value in signature.defaults.items()}
    assert defaults == {
        "k": [100],
        "num_interests": [5],
        "top_interests": [5],
        "interest_threshold": [-7.5],
        "seed": [-1],
        "exploration": [0],
        "merge": [b"calibrated"],
        "goal": [b"all"],
        "history_weight": [[1.0]],
        "exclude_item_id": [[]],
        "allowed_category": [[]],
        "forbidden_category": [[]],
        "forced_category": [[]],
        "forced_weight": [[]],
        "bandit": [b"none"],
        "bandit_prior": [100.0],
        "reward_category": [[]],
        "reward_trials": [[]],
        "reward_successes": [[]],
    }
    required = set(signature.inputs) - set(defaults)
    assert required == {"history_item_id", "history_timestamp", "request_timestamp", "taste"}
    extra = load_corpus(os.path.join(parts.version, "assets.extra", "corpus.npz"))
    np.testing.assert_array_equal(extra.item_id, parts.corpus.item_id)


@pytest.mark.parametrize("merge", ["calibrated", "raw", "round_robin", "quota"])
def test_eq3_falls_back_to_popular_categories_for_an_empty_history_and_says_so(parts, trained, merge):
    """Two requests, the first without history; eq. 3 draws seen categories alone, and is silent without any."""
    retrieval = dataclasses.replace(parts.config.retrieval, interest="paper", merge=merge)
    _, arrays = load_saved(trained.run_dir)
    served = MultiContextRetriever(
        dataclasses.replace(parts.config, retrieval=retrieval),
        parts.corpus,
        parts.models.retriever,
        parts.models.interest,
        arrays,
    )
    ask = make_signatures(served, retrieval)["serving_default"]
    columns = parts.columns(parts.users[:2]) | options(seed=5)
    columns["history_timestamp"][0] = 0
    for rows in (slice(0, 2), slice(0, 1)):  # with a neighbor, and alone
        asked = {name: tf.constant(value[rows]) for name, value in columns.items()}
        answer = {name: value.numpy() for name, value in ask(**asked).items()}
        assert answer["num_valid"][0] == K and set(answer["interest_origin"][0].astype(str)) == {"popular"}
        assert (answer["item_id"][0] > 0).all() and answer["item_id"].shape == (rows.stop, K)
        assert all(value.dtype.kind != "f" or np.isfinite(value).all() for value in answer.values())
    # The neighbor's interests are eq. 3's best, by the oracle.
    found = ask(**{name: tf.constant(value) for name, value in columns.items()})
    history = parts.history(parts.users[1])
    scores = {
        name: reference.interest_score([b for b in history if b.category == name], parts.as_of, retrieval.day_floor)
        for name in {b.category for b in history}
    }
    best = sorted(scores, key=lambda name: -scores[name])[:5]
    num = int(found["num_interests_drawn"][1])
    assert found["interest_category"][1, :num].numpy().astype(str).tolist() == best
    assert_close(found["interest_score"][1, :num], [scores[name] for name in best])
    assert int(found["num_valid"][1]) == K


def test_an_export_is_evaluated_by_its_own_answers(trained, tmp_path):
    """By the command: the row of the export has the metrics of the run asked in the same way."""
    output = str(tmp_path / "metrics.json")
    flags = f"--run_dir={trained.run_dir}", f"--export_dir={trained.export_dir}", f"--output={output}"
    done = run_module("evaluate", *flags, "--baselines=none", "--noplots")
    assert done.returncode == 0, done.stderr
    with open(output, encoding="utf-8") as file:
        models = json.load(file)["models"]
    assert next(iter(models)) == "as served, 5 of top 5" and "as served" in done.stdout
    for task in ("all", "novel"):
        served, run = (models[name][task] for name in ("as served, 5 of top 5", "longretriever, as served"))
        assert {"recall@20", "ndcg@100", "mrr@500"} <= {name.lower() for name in served}
        for name, value in run.items():
            assert served[name] == pytest.approx(value, abs=2e-3), (task, name)
    # Lists do not hold every item of a category: ranks within it are said as far as they are known, or not at all.
    served, run = (models[name]["within_category"] for name in ("as served, 5 of top 5", "longretriever, as served"))
    assert "recall@20" in run and served.items() <= run.items()
