"""Every switch of the model, and every flagfile, exported and asked by a fresh process: the lists are the oracle's.

Weights are drawn, not trained, and none stays at a value that would hide its part: what is asked here is whether the
served graph and evaluation compute what the oracle computes, under each option, goal, merge and draw.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import reference
import tensorflow as tf
from fresh import ask_fresh
from retrieval_oracle import RetrievalOracle, build_moved_models
from worlds import START, crowded_world

from longretriever_tf.common import schema
from longretriever_tf.config.check import evaluation_only
from longretriever_tf.config.config import Config, DataConfig, TrainConfig, from_dict
from longretriever_tf.data.batches.prepared_data import prepare
from longretriever_tf.data.recipe.own_correction import correction_of
from longretriever_tf.data.recipe.tokens import num_token_features
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.retrieval.export.explanation import request_columns
from longretriever_tf.retrieval.merge import MERGES
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.signatures import make_signatures

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGFILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.flags"))
CUT = START + 185 * schema.DAY_S
K = 100
"""The list that evaluation's quotas share out; longer than any of this world."""

THRESHOLD = -3.0
"""Some of seven categories of some six items each pass it, and some do not."""

TINY = {"dim": 8, "num_heads": 2, "ff_dim": 16}
WAYS = [(goal, merge) for goal in ("all", "novel") for merge in MERGES]

SWITCHES: dict[str, dict[str, dict]] = {
    "no user context, cosine": {
        "model": {"user_context": False, "normalize": True, "temperature": 0.05, "profile": True},
        "retrieval": {"interest": "paper", "day_floor": 9.0},
    },
    "no SVD, events, eq. 3 alone": {
        "model": {
            "user_context": False,
            "svd_dim": 0,
            "repeat_term": False,
            "temperature": 3.0,
            "subsequence": "events",
        },
        "train": {"interest_epochs": 0},
        "retrieval": {"interest": "paper"},
    },
    "no folds, short sight": {
        "model": {"history_events": 9, "item_stats": False, "item_id": True, "max_length": 3, "max_events": 7},
        "train": {"history_folds": 0},
    },
    "two layers, dropout": {
        "model": {"num_layers": 2, "temperature": 0.4, "profile": True, "dropout": 0.5, "unknown_rate": 0.5},
        "retrieval": {"day_floor": 0.2, "unseen_weight": 0.3},
    },
    "mixed precision": {"train": {"mixed_precision": True}},
}
"""Together with the flagfiles, every switch that a graph depends on: alone where it could hide another."""

PARSE = """
import json, sys
from absl.flags import FLAGS, DEFINE_integer, DEFINE_string
from longretriever_tf.config import config
from longretriever_tf.config import flags
flags.define_config_flags("data", "model", "train", "retrieval", "baseline")
DEFINE_string("variants", "", ""), DEFINE_integer("draw_seeds", 1, "")  # of evaluate
made = {}
for path in sys.argv[1:]:
    FLAGS(["test", "--flagfile=" + path])
    made[path] = json.loads(config.to_json(flags.config_from_flags()))
    for name in FLAGS:
        FLAGS[name].unparse()
print(json.dumps(made))
"""
IN_GRAPHS = ("interest_epochs", "history_folds", "mixed_precision")
"""Settings of the training that an export's graph depends on."""


class Case(NamedTuple):
    """An exported configuration, the oracle of it, evaluation's scorer, and what both have said, by what was asked."""

    config: Config
    version: str
    oracle: RetrievalOracle
    scorer: LongRetrieverScorer
    said: dict[tuple, np.ndarray]


class Call(NamedTuple):
    """One call of an export and, for each of its rows, how lists merge and what the oracle says: scores and logits."""

    case: Case
    columns: dict[str, np.ndarray]
    merge: list[str]
    scores: np.ndarray
    logits: np.ndarray


def parse_flagfiles() -> dict[str, Config]:
    """The config of every flagfile of the repository, by the package's own reader."""
    done = subprocess.run([sys.executable, "-c", PARSE, *FLAGFILES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: from_dict(Config, values) for name, values in json.loads(done.stdout).items()}


def shrink(config: Config) -> Config:
    """The same graph in small widths; what only data and training read is everywhere the same."""
    model = dataclasses.replace(config.model, **TINY, svd_dim=min(config.model.svd_dim, 3))
    kept = {name: getattr(config.train, name) for name in IN_GRAPHS}
    train = TrainConfig(examples="snapshot", **kept, num_snapshots=4, snapshot_every_days=20)
    if not (model.repeat_term or model.item_stats):
        train = dataclasses.replace(train, loss="in_batch")
    retrieval = dataclasses.replace(config.retrieval, num_interests=3, top_interests=3)
    return Config(DataConfig(window_days=20), model, train, retrieval)


def all_configs() -> dict[str, Config]:
    """Every flagfile that can be exported, and every switch; of those that make one graph, the first."""
    configs = {name: shrink(made) for name, made in parse_flagfiles().items() if not evaluation_only(made)}
    for name, changes in SWITCHES.items():
        parts = {part: dataclasses.replace(getattr(Config(), part), **values) for part, values in changes.items()}
        configs[name] = shrink(dataclasses.replace(Config(), **parts))
    first: dict[Config, str] = {}
    for name, config in configs.items():
        first.setdefault(config, name)
    return {name: config for config, name in first.items()}


def build_case(config: Config, log: LifelongLog, directory: pathlib.Path) -> Case:
    prepared = prepare(config, log, CUT)
    models = build_moved_models(config, prepared)
    stats = prepared.stats
    arrays = dict(
        item_stats=stats.item[-1],
        category_stats=stats.category[-1],
        taste_rows=prepared.history_embedding_rows,
    )
    if config.model.repeat_term:  # every term moves lists
        weights = 0.2 * np.random.default_rng(3).normal(size=num_token_features(config.model) + 2)
        arrays["own_correction"] = weights
        prepared = dataclasses.replace(prepared, own_correction=correction_of(weights))
    served = MultiContextRetriever(config, prepared.corpus, models.retriever, models.interest, arrays)
    ask = make_signatures(served, config.retrieval)["serving_default"]
    tf.saved_model.save(served, str(directory), signatures={"serving_default": ask})
    scorer = LongRetrieverScorer(config, prepared, models.retriever, models.interest, config.retrieval)
    return Case(config, str(directory), RetrievalOracle(config, prepared, models), scorer, {})


def columns_of(case: Case, log: LifelongLog, users: np.ndarray) -> dict[str, np.ndarray]:
    """Request columns of users as of the cut, histories padded to the longest."""
    profile = ["age"] if case.config.model.profile else []
    rows = [{k: v.numpy() for k, v in request_columns(log, user, CUT, profile).items()} for user in users]
    width = max(row["history_item_id"].shape[1] for row in rows)

    def padded(row: np.ndarray) -> np.ndarray:
        fill = b"" if row.dtype == object else 0
        return np.pad(row, [(0, 0), (0, width - row.shape[1])], constant_values=fill) if row.ndim == 2 else row

    return {name: np.concatenate([padded(row[name]) for row in rows]) for name in rows[0]}


def evaluate(case: Case, users: np.ndarray, goal: str, merge: str, **retrieval: float) -> np.ndarray:
    """The oracle's scores, [B, V], which evaluation's scorer must give too."""
    key = users.tobytes(), goal, merge, *sorted(retrieval.items())
    if key in case.said:
        return case.said[key]
    asked = dataclasses.replace(case.config.retrieval, merge=merge, **retrieval)
    scorer, expected = case.scorer.with_retrieval("", asked), case.oracle.scores(users, goal, asked)
    scores = (scorer.score if goal == "all" else scorer.score_novel)(users)
    if merge in ("round_robin", "quota") or case.config.train.mixed_precision:  # equal logits may change places
        np.testing.assert_array_equal(scores > -np.inf, expected > -np.inf)
    else:
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    case.said[key] = expected
    return expected


def make_call(case: Case, log: LifelongLog, users: np.ndarray, ways: list[tuple[str, str]], **retrieval: float) -> Call:
    """Every user under each (goal, merge), in one call."""
    columns = columns_of(case, log, np.tile(users, len(ways)))
    goal, merge = (np.repeat(np.array(part), len(users)) for part in zip(*ways, strict=True))
    asked = {"k": K, **retrieval}
    request_options = {
        name: np.array([value], np.float32 if isinstance(value, float) else np.int32) for name, value in asked.items()
    }
    seeds = np.tile(users, len(ways))  # as evaluation draws
    return Call(
        case,
        columns | request_options | {"goal": goal, "merge": merge, "seed": seeds},
        merge.tolist(),
        np.concatenate([evaluate(case, users, *way, **retrieval) for way in ways]),
        np.concatenate([evaluate(case, users, way[0], "raw", **retrieval) for way in ways]),
    )


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> dict[str, tuple[Call, dict[str, np.ndarray]]]:
    """Every call of this module with its answer, given by one fresh process."""
    log, directory = crowded_world(num_users=13, num_items=41, num_categories=7), tmp_path_factory.mktemp("options")
    users = np.flatnonzero(log.timestamp[log.offset[:-1]] < CUT)
    calls = {}
    for number, (name, config) in enumerate(all_configs().items()):
        case = build_case(config, log, directory / str(number))
        calls[name] = make_call(case, log, users, WAYS)
        calls[f"{name}, drawn"] = make_call(case, log, users, WAYS, num_interests=2, top_interests=4)
        calls[f"{name}, threshold"] = make_call(
            case, log, users, WAYS, num_interests=0, top_interests=1, interest_threshold=THRESHOLD
        )
        if not number:  # one strategy for all rows is another branch of the graph than several
            calls |= {f"{name}, {way}": make_call(case, log, users, [way]) for way in WAYS}
    answers = ask_fresh(directory, [(call.case.version, "serving_default", call.columns) for call in calls.values()])
    return {name: (call, answer) for (name, call), answer in zip(calls.items(), answers, strict=True)}


def test_every_flagfile_that_trains_this_model_is_exported():
    """The others are known to be for evaluation alone, and `train` says so."""
    alone = {name for name, config in parse_flagfiles().items() if evaluation_only(config)}
    assert alone == {
        *("configs/mind.flags", "configs/comirec.flags", "configs/two_tower_50.flags", "configs/two_tower_200.flags"),
        "configs/ablations/corpus_search.flags",
    }
    assert {"configs/paper.flags", "configs/ablations/no_long_sequence.flags"} <= set(all_configs())


def assert_agrees(name: str, call: Call, answer: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
    """Holds an answer to the oracle, list by list; returns the lists.

    Lists are held by the values of what stands at each place: items of equal value may change places.
    """
    corpus = call.case.oracle.prepared.corpus
    index = {raw: at for at, raw in enumerate(corpus.item_id.tolist()) if at >= schema.FIRST_KNOWN}
    is_rough = call.case.config.train.mixed_precision
    tolerance = {"rtol": 0.05, "atol": 0.3} if is_rough else {"rtol": 1e-4, "atol": 1e-4}
    lists = []
    for row, merge in enumerate(call.merge):
        where = f"{name}, row {row}, {merge}"
        best = reference.ranked_list(call.scores[row], K)
        assert answer["num_valid"][row] == len(best) > 0, where
        found = [index[raw.decode()] for raw in answer["item_id"][row, : len(best)]]
        assert len(set(found)) == len(found), where
        if merge in ("round_robin", "quota"):
            value, category = call.logits[row], corpus.item_category
            np.testing.assert_array_equal(category[found], category[best], err_msg=where)
        else:
            value = call.scores[row]
            np.testing.assert_allclose(answer["score"][row, : len(best)], value[best], err_msg=where, **tolerance)
        np.testing.assert_allclose(value[found], value[best], err_msg=where, **tolerance)
        lists.append(tuple(found))
    return lists


def test_what_is_served_is_what_is_evaluated(answered):
    lists = []
    for name, (call, answer) in answered.items():
        assert isinstance(answer, dict), f"{name}: {answer}"
        lists += assert_agrees(name, call, answer)
    assert len(set(lists)) > 0.5 * len(lists)  # the cases do not agree by chance


def test_unseen_categories_get_more_places_by_their_weight(answered):
    """The oracle knows the formula; here: the lists hold more of what lies in unseen categories than without it."""
    case = answered["two layers, dropout"][0].case
    users = np.unique(answered["two layers, dropout"][0].columns["seed"])
    category, log = case.oracle.prepared.corpus.item_category, case.oracle.prepared.log
    places = []
    for weight in (0.0, case.config.retrieval.unseen_weight):
        asked = dataclasses.replace(case.config.retrieval, unseen_weight=weight)
        scores = case.scorer.with_retrieval("", asked, every_category=True).score(users)
        listed = category[np.argsort(-scores, axis=1)[:, :9]]
        seen = [category[log.item[log.offset[user] : log.offset[user + 1]]] for user in users]
        places.append(sum((~np.isin(*row)).sum() for row in zip(listed, seen, strict=True)))
    assert 0 < places[0] < places[1]


def test_the_default_searches_what_passes_the_threshold(answered):
    """More than the best one for some requests, and not every category for all."""
    names = [name for name in answered if name.endswith("threshold")]
    counts = np.concatenate([answered[name][1]["num_interests_drawn"] for name in names])
    assert 1 <= counts.min() < 3 < counts.max() <= 7
