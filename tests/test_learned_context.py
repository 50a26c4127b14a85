"""The learned context: k-means of item vectors, one more mutually exclusive item column."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from worlds import START, block_world, make_log

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.check import num_clusters
from longretriever_tf.config.config import Config, DataConfig
from longretriever_tf.data.batches.prepared_data import prepare
from longretriever_tf.data.corpus import fit_corpus
from longretriever_tf.data.recipe.learned_context import cluster_context, with_trained_clusters
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets.log import ItemTable
from longretriever_tf.datasets.splits import global_time_cuts
from longretriever_tf.inspect_log import inspect_log

CUT = START + 100 * DAY_S


def two_history_embeddings(future: int = 7):
    """Users of even rows take items 10-13, the others 20-23, each all of them; item 30 and 31 come after the cut."""
    user = np.repeat(np.arange(12), 4)
    item = np.where(user % 2, 20, 10) + np.tile(np.arange(4), 12)
    after = [(0, 30), (1, 31), (0, future)]
    user = np.append(user, [u for u, _ in after])
    item = np.append(item, [i for _, i in after])
    time = START + np.append(np.arange(48) % 7, [150] * 3) * DAY_S
    ids = np.unique(item)
    kind = {10: "tea", 11: "tea", 12: "tea", 13: "cake", 20: "cake", 21: "cake", 22: "nuts", 23: "nuts"}
    return make_log(user, item, time, {"category": [kind.get(i, {30: "tea", 31: "new"}.get(i, "cake")) for i in ids]})


def names_of(log, context) -> dict[int, str]:
    return dict(zip(log.items.item_id.tolist(), log.items.features[context].tolist(), strict=True))


def test_items_that_the_same_users_take_share_a_cluster_across_categories():
    log = cluster_context(two_history_embeddings(), "clusters:2", CUT, seed=1)
    name = names_of(log, "clusters:2")
    assert log.context == "clusters:2" and set(name.values()) == {"cluster 0", "cluster 1"}
    assert len({name[i] for i in (10, 11, 12, 13)}) == len({name[i] for i in (20, 21, 22, 23)}) == 1
    assert name[10] != name[20]
    # Items that come after the cut: where their category went; of a category without any, where most items went.
    assert name[30] == name[10] and name[7] == name[20] and name[31] in name.values()
    assert log.items.features["category"][0] == "cake"  # the log's own category is a side feature now


def test_one_cluster_makes_the_whole_history_one_subsequence():
    """The control of configs/ablations/whole_history.flags: a user has one history, of all items."""
    log = block_world(num_users=40)
    config = Config(DataConfig(dataset="event_log", events="e.csv", context="clusters:1"))
    prepared = prepare(config, log, CUT)
    assert prepared.corpus.category_name[2:].tolist() == ["cluster 0"]
    assert prepared.corpus.category_size[2:].tolist() == [len(prepared.corpus.item_id) - 2]
    assert "category" in prepared.corpus.feature_values, "the log's own category is a side feature"
    num_events = np.bincount(log.event_user()[log.timestamp < CUT], minlength=log.num_users)
    assert np.diff(prepared.order.segment_offset).tolist() == num_events[num_events > 0].tolist()


def test_clusters_rest_on_what_lies_before_the_cut_and_on_the_seed():
    log = block_world(num_users=40)
    before = names_of(cluster_context(log, "clusters:5", CUT, 1), "clusters:5")
    assert names_of(cluster_context(log, "clusters:5", CUT, 1), "clusters:5") == before
    rng = np.random.default_rng(2)
    later = np.where(log.timestamp < CUT, log.item_row, rng.integers(0, len(log.items.item_id), log.num_events))
    upset = dataclasses.replace(log, item_row=later.astype(log.item_row.dtype))
    known = set(log.items.item_id[log.item_row[log.timestamp < CUT]].tolist())
    after = names_of(cluster_context(upset, "clusters:5", CUT, 1), "clusters:5")
    assert {i: after[i] for i in known} == {i: before[i] for i in known}


def test_a_corpus_of_clusters_is_like_any_other():
    config = Config(DataConfig(context="clusters:5"))
    prepared = prepare(config, block_world(num_users=40), CUT)
    corpus = prepared.corpus
    assert corpus.context == "clusters:5" and 2 <= corpus.num_categories - 2 <= 5
    assert list(corpus.feature_values) == ["category", "brand"]
    assert (np.diff(corpus.item_category[2:]) >= 0).all() and (corpus.category_size[2:] > 0).all()
    table = ItemTable(np.array([100, 101, 999]), {"category": np.array(["c0", "c6", "c6"])}, np.array(["", "", ""]))
    made = with_trained_clusters(table, "category", corpus).features["clusters:5"]
    own = {int(i): str(corpus.category_name[c]) for i, c in zip(corpus.item_id, corpus.item_category, strict=True)}
    assert made[:2].tolist() == [own[100], own[101]] and made[2] == own[101]  # 101 is the only other item of c6 here


def test_more_clusters_than_items_and_no_clusters_at_all():
    log = two_history_embeddings()
    assert len(set(names_of(cluster_context(log, "clusters:300", CUT, 1), "clusters:300").values())) <= 8
    assert cluster_context(log, "category", CUT, 1) is log
    one = dataclasses.replace(log, context="category")
    with pytest.raises(UserError, match="no event lies before the training cut"):
        cluster_context(one, "clusters:3", START, 1)
    assert fit_corpus(log, CUT).context == "category"


def without_category(log, **features):
    """The log as it is read from tables that have no column `category`."""
    features = {name: np.array(column, object) for name, column in features.items()}
    return dataclasses.replace(log, items=dataclasses.replace(log.items, features=features), context="")


def test_clusters_need_no_category():
    log = two_history_embeddings()
    kind = {30: "green", 31: "", 7: "blue"}  # of the items that come after the cut
    color = [kind.get(i, "green" if i < 20 else "red") for i in log.items.item_id.tolist()]
    made = cluster_context(without_category(log, color=color), "clusters:2", CUT, seed=1)
    name = names_of(made, "clusters:2")
    assert made.context == "clusters:2" and list(made.items.features) == ["color", "clusters:2"]
    assert len({name[i] for i in (10, 11, 12, 13)}) == len({name[i] for i in (20, 21, 22, 23)}) == 1
    # By who takes what alone, so as with a category; then with their like by a feature; else where most items are.
    assert name[10] != name[20] and name[30] == name[10]
    most = names_of(cluster_context(without_category(log), "clusters:2", CUT, seed=1), "clusters:2")
    assert {most[30], most[31], most[7]} == {name[31]} == {name[7]} and list(most) == list(name)
    auto = cluster_context(without_category(log), "clusters:auto", CUT, seed=1)
    assert auto.context == "clusters:auto" and names_of(auto, "clusters:auto") == most  # two is the least
    corpus = prepare(Config(DataConfig(context="clusters:2")), without_category(log), CUT).corpus
    assert corpus.num_categories == 4 and corpus.feature_values == {}
    table = ItemTable(np.array(["10", "99"], object), {}, np.array(["", ""], object))
    assert corpus.item_id.dtype.kind == "i"
    spread = with_trained_clusters(table, "category", corpus).features["clusters:2"]
    assert spread.tolist() == [most[10], most[7]]  # ids of a table of text, and no feature to go by
    with pytest.raises(UserError, match="the id 'x10', and the run was trained on whole numbers"):
        with_trained_clusters(dataclasses.replace(table, item_id=np.array(["x10", "99"], object)), "", corpus)


def test_inspect_inspects_the_clusters_as_training_fits_them():
    log = block_world(num_users=40)
    constant = dataclasses.replace(log.items, features={"category": np.full(len(log.items.item_id), "same", object)})
    config = Config(DataConfig(context="clusters:5", window_days=14))
    for given in (dataclasses.replace(log, items=constant), without_category(log)):
        statistics = inspect_log(given, config).statistics
        assert statistics["log"]["context"] == "clusters:5" and statistics["log"]["categories"] == 5
        cut = global_time_cuts(log.timestamp, 14).validation_start
        trained = prepare(config, given, cut).corpus
        sizes = dict(zip(trained.category_name[2:].tolist(), trained.category_size[2:].tolist(), strict=True))
        shown = {row["category"]: row["items"] for row in statistics["negatives"]["largest"]}
        assert shown.keys() == sizes.keys() and all(shown[name] >= size for name, size in sizes.items())


def test_a_table_without_a_category_is_read_where_clusters_are_asked_for(tmp_path):
    events = pd.DataFrame({"user_id": [1, 1, 2], "item_id": ["a", "b", "a"], "timestamp": [START, START + 1, START]})
    events.to_csv(tmp_path / "e.csv", index=False)
    pd.DataFrame({"item_id": ["a", "b", "c"], "category": ["x", "", "y"]}).to_csv(tmp_path / "i.csv", index=False)
    spec = DataConfig(dataset="event_log", events=f"{tmp_path}/e.csv", data_dir=f"{tmp_path}/t", context="clusters:3")
    log = load_log(spec)
    assert (log.context, log.items.features, log.num_events) == ("", {}, 3)
    log = load_log(dataclasses.replace(spec, items=f"{tmp_path}/i.csv"))
    assert (log.context, log.items.features["category"].tolist()) == ("category", ["x", "(missing)", "y"])
    with pytest.raises(UserError, match="no column 'category'"):
        load_log(dataclasses.replace(spec, context=""))


@pytest.mark.parametrize(
    "context",
    ["clusters:", "clusters:0", "clusters:many", "clusters:-3", "clusters:2.5", "clusters:\u00b2"],
)
def test_a_number_of_clusters_that_cannot_be_is_named(context):
    with pytest.raises(UserError, match=f"--context={context}: expected clusters:"):
        Config(DataConfig(context=context))
    assert num_clusters("clusters:300", 9) == 300 and num_clusters("brand", 9) == 0
    assert [num_clusters("clusters:auto", num_items) for num_items in (0, 640, 10**6)] == [2, 10, 300]
