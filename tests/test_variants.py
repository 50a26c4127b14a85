"""Asking one run in other ways: variants, draws, the day floor, and search of the whole corpus."""

import dataclasses

import numpy as np
import pytest
import reference
from retrieval_oracle import RetrievalOracle, build_moved_models
from worlds import START, crowded_world

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, RetrievalConfig, TrainConfig
from longretriever_tf.data.batches.prepared_data import prepare
from longretriever_tf.evaluation import variants
from longretriever_tf.evaluation.evaluator import Evaluation, TaskMetrics
from longretriever_tf.evaluation.live_scorer import LiveScorer
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.models.build import build_models
from longretriever_tf.retrieval.export.publish import Source, publish

CUT = START + 185 * schema.DAY_S
TWO = RetrievalConfig(interest="paper", num_interests=2, top_interests=2, merge="raw")


@pytest.fixture(scope="module")
def world():
    model = ModelConfig(dim=8, num_heads=2, ff_dim=8, svd_dim=3, max_length=5, profile=True)
    train = TrainConfig(examples="snapshot", num_snapshots=4, snapshot_every_days=20, epochs=2)
    config = Config(DataConfig(window_days=20), model, train)
    log = crowded_world(num_categories=7, num_items=41)
    prepared = prepare(config, log, CUT)
    models = build_models(config, prepared.corpus, prepared.item_svd)
    rng = np.random.default_rng(1)
    for variable in models.retriever.trainable_variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return config, log, prepared, models


def scorer_of(world, retrieval: RetrievalConfig = TWO, **kwargs) -> LongRetrieverScorer:
    config, _, prepared, models = world
    kwargs.setdefault("every_category", False)
    return LongRetrieverScorer(config, prepared, models.retriever, models.interest, retrieval, **kwargs)


def drawn_by(scorer: LongRetrieverScorer, world, users: np.ndarray) -> np.ndarray:
    """Which categories each user's list shows, [B, C] bool."""
    scores, offset = scorer.score(users), world[2].corpus.category_offset
    return np.stack([(scores[:, a:b] > -np.inf).any(1) for a, b in zip(offset, offset[1:], strict=False)], 1)


def test_each_day_floor_has_interests_of_its_own(world):
    _, log, prepared, _ = world
    users = np.flatnonzero(np.diff(prepared.log.offset))  # without any history, everyone's categories stand in
    first = scorer_of(world)
    asked = [(floor, first.with_retrieval("", dataclasses.replace(TWO, day_floor=floor))) for floor in (0.1, 1.0, 7.0)]
    for floor, scorer in asked + asked[::-1]:  # the second time from the shared cache
        found = scorer.interest(users).drawn_by
        for row, user in enumerate(users):
            history = [b for b in reference.request_history(log, user) if b.timestamp < CUT]
            for at, name in enumerate(prepared.corpus.category_name):
                expected = reference.interest_score([b for b in history if b.category == name], CUT, floor)
                assert found[row, at] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_a_draw_is_the_users_own_whoever_stands_beside_and_another_draw_is_another(world):
    users = np.arange(world[1].num_users)
    random = dataclasses.replace(TWO, num_interests=2, top_interests=5)
    first = scorer_of(world, random)
    whole = drawn_by(first, world, users)
    assert (whole.sum(1) <= 2).all() and len({tuple(row) for row in whole.tolist()}) > 3
    part = users[[7, 2, 5]]
    np.testing.assert_array_equal(drawn_by(first, world, part), whole[part])
    np.testing.assert_array_equal(drawn_by(first.with_retrieval("same", random), world, users), whole)
    others = [drawn_by(first.with_retrieval("", random, draw=draw), world, users) for draw in (1, 2)]
    assert (others[0] != whole).any() and (others[1] != others[0]).any()
    best = [drawn_by(first.with_retrieval("", TWO, draw=draw), world, users) for draw in (0, 3)]
    np.testing.assert_array_equal(*best)  # N = M leaves nothing to chance


def test_a_scorer_of_towers_in_training_follows_them(world):
    """Once renewed it says what a scorer of the weights as they are says: of the user tower, of items, of both."""
    config, log, prepared, _ = world
    models, rng = build_moved_models(config, prepared), np.random.default_rng(5)
    moved = world[0], log, prepared, models
    live, users, said = LiveScorer(config, prepared, models), np.arange(log.num_users), []
    for tower in ("user_tower", "item_tower"):
        for variable in getattr(models.retriever, tower).trainable_variables:
            variable.assign_add(rng.normal(0, 0.3, variable.shape))
        live.renew()
        said.append(live.within(users))
    np.testing.assert_allclose(said[-1], scorer_of(moved).within(users), rtol=1e-4, atol=1e-4)
    before, after = (scores[:, schema.FIRST_KNOWN :] for scores in said)
    assert (np.abs(after - before) > 1e-3).mean() > 0.5


@pytest.mark.parametrize("merge", ["raw", "round_robin"])
@pytest.mark.parametrize("goal", ["all", "novel"])
def test_search_of_the_whole_corpus(world, merge, goal):
    """Each interest's user vector against every item, by the oracle, then merged by hand."""
    config, log, prepared, models = world
    users, corpus = np.arange(0, log.num_users, 3), prepared.corpus
    scorer = scorer_of(world, dataclasses.replace(TWO, search="corpus", merge=merge))
    scores = scorer.score(users) if goal == "all" else scorer.score_novel(users)
    eq3 = scorer.interest(users).drawn_by
    every = RetrievalOracle(config, prepared, models).corpus_logits(users)
    for row, user in enumerate(users):
        best = [c for c in np.argsort(-eq3[row], kind="stable")[:2] if eq3[row, c] > 0]
        interacted = prepared.log.item[prepared.log.offset[user] : prepared.log.offset[user + 1]]
        expected = np.full(corpus.num_items, -np.inf)
        for rank, category in enumerate(best):
            logits = every[row, category].copy()
            if goal == "novel":
                logits[interacted] = -np.inf
            if merge == "round_robin":
                ranked = reference.ranked_list(logits, 500)
                logits = np.full(corpus.num_items, -np.inf)
                logits[ranked] = -(np.arange(len(ranked)) * 2 + rank)
            expected = np.maximum(expected, logits)
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4, atol=1e-4)
    if goal == "all":
        assert np.isfinite(scores[:, 2:]).all()  # two interests reach every category


def test_logits_of_all_categories_are_those_of_each(world):
    _, log, prepared, _ = world
    users = np.arange(log.num_users)
    scorer, offset = scorer_of(world), prepared.corpus.category_offset
    every = scorer.within(users)
    for category in range(2, prepared.corpus.num_categories):
        alone = scorer.corpus_logits(users, np.full(len(users), category))
        items = slice(offset[category], offset[category + 1])
        np.testing.assert_allclose(every[:, items], alone[:, items], rtol=1e-4, atol=1e-5)
    assert (every[:, :2] == -np.inf).all() and np.isfinite(every[:, 2:]).all()


def test_an_export_refuses_to_search_the_corpus_and_so_does_a_calibrated_merge(world, tmp_path):
    config, _, prepared, models = world
    with pytest.raises(UserError, match="--search=corpus.*--merge=calibrated.*--merge=raw"):
        dataclasses.replace(config, retrieval=RetrievalConfig(search="corpus"))
    config = dataclasses.replace(config, retrieval=dataclasses.replace(TWO, search="corpus"))
    with pytest.raises(UserError, match="--search=corpus.*--search=category"):
        publish(Source(config, prepared.corpus, {}, models, ""), str(tmp_path), 0, None)


def test_groups_of_variants():
    base = RetrievalConfig(num_interests=7, top_interests=9, merge="quota")
    paper = variants.variants_of("paper", base)
    assert (paper["Top5"].num_interests, paper["Top5"].top_interests) == (5, 5)
    assert (paper["random 5 of 20"].num_interests, paper["random 5 of 20"].top_interests) == (5, 20)
    assert {v.day_floor for v in paper.values()} == {0.1, 1.0, 7.0} and {v.interest for v in paper.values()} == {
        "paper"
    }
    merges = variants.variants_of("merges", base)
    assert {v.merge for v in merges.values()} == {"calibrated", "raw", "round_robin", "quota"}
    assert {(v.num_interests, v.top_interests) for v in merges.values()} == {(20, 20)}  # lists of a fixed number
    grid = variants.variants_of("interests", base)
    assert (grid["N=10, M=40"].num_interests, grid["N=10, M=40"].top_interests, grid["N=10, M=40"].merge) == (
        10,
        40,
        "quota",
    )
    untrained = variants.variants_of("all", dataclasses.replace(base, interest="paper"))
    assert {v.interest for v in untrained.values()} == {"paper"}  # where no interest score was learned
    assert len(variants.variants_of("all", base)) == len(paper) + len(merges) + len(grid)
    for made in (untrained, grid, paper):
        for retrieval in made.values():
            Config(retrieval=retrieval)  # each is one that a config accepts
    with pytest.raises(UserError, match="--variants=papper.*paper, merges"):
        variants.variants_of("papper", base)


def test_draws_are_averaged_and_the_rest_left_alone():
    def evaluation(recall, coverage):
        section = TaskMetrics({"recall@20": np.array(recall)}, {"item_coverage@20": coverage}, np.array([3]))
        return Evaluation(section, section)

    class Asked:
        name = "run"

        def with_retrieval(self, name, retrieval, *, draw=0):
            return name, retrieval.top_interests, draw

    asked = {"5 of 20": RetrievalConfig(num_interests=5), "Top5": RetrievalConfig(num_interests=5, top_interests=5)}
    assert variants.ask_variants(Asked(), asked, 1) == [("5 of 20", 20, 0), ("Top5", 5, 0)]
    found = variants.ask_variants(Asked(), asked, 2)
    assert found == [("5 of 20, draw 1", 20, 0), ("5 of 20, draw 2", 20, 1), ("Top5", 5, 0)]
    made = {"run": evaluation([1.0, np.nan], 0.5)}
    made |= {name: evaluation([draw, np.nan], draw) for name, _, draw in found}
    joined = variants.average_draws(made, list(asked), 2)
    assert list(joined) == ["run", "5 of 20", "Top5"]
    assert joined["5 of 20"].all.summary() == {
        "num_users": 1,
        "num_pairs": 1,
        "recall@20": 0.5,
        "item_coverage@20": 0.5,
    }
    assert joined["run"] is made["run"] and joined["Top5"] is made["Top5"]
