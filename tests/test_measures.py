"""A log's history: a log small enough to count by hand, then a larger one against loops over dictionaries."""

import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest

from longretriever_tf.common.schema import DAY_S, MISSING, MISSING_CONTEXT
from longretriever_tf.datasets.log import EventColumn, LifelongLog
from longretriever_tf.datasets.splits import global_time_cuts
from longretriever_tf.inspection.advice import evaluate_fit, find_warnings
from longretriever_tf.inspection.measures import measure_history, measure_window, measure_windows, read_contexts
from longretriever_tf.inspection.statistics import context_statistics, describe, history_statistics
from tests.worlds import START, block_world, make_log


def _tiny() -> LifelongLog:
    """Users a, b, c over 20 days; items 1 and 2 are tea, 3 and 4 are jam, 5 has no category, 6 no event.

    a: day 0 item 1, day 1 item 3, day 2 item 1, day 12 items 1 and 2 at one time, day 20 item 4
    b: day 3 item 4, day 13 item 5, day 20 item 4
    c: day 19 item 3
    """
    days = [0, 1, 2, 12, 12, 20, 3, 13, 20, 19]
    return make_log(
        user=list("aaaaaabbbc"),
        item=[1, 3, 1, 1, 2, 4, 4, 5, 4, 3],
        timestamp=[START + day * DAY_S for day in days],
        item_id=[1, 2, 3, 4, 5, 6],
        item_features={"category": ["tea", "tea", "jam", "jam", "", "tea"], "brand": ["x", "", "x", "", "y", "z"]},
        profile={"age": ["old", "", ""]},
    )


def _statistics(log: LifelongLog, window_days: float, max_length: int = 2) -> dict:
    contexts = read_contexts(log, log.context)
    windows = measure_windows(log, contexts, global_time_cuts(log.timestamp, window_days), 1.0)
    return history_statistics(log, measure_history(log, contexts, max_length), windows, max_length)


def test_every_number_of_a_log_counted_by_hand() -> None:
    statistics = _statistics(_tiny(), window_days=4)

    log = statistics["log"]
    assert (log["events"], log["users"], log["items"], log["items_without_events"]) == (10, 3, 5, 1)
    assert (log["categories"], log["days"], log["has_baskets"], log["has_weights"]) == (3, 20, False, False)
    assert log["first"] == "2020-09-13 12:26"

    histories = statistics["lives"]
    assert histories["events_per_user"] == {
        "min": 1,
        "median": 3,
        "mean": pytest.approx(10 / 3),
        "max": 6,
        "p90": pytest.approx(5.4),
        "p99": pytest.approx(5.94),
    }
    assert (histories["categories_per_user"]["median"], histories["categories_per_user"]["max"]) == (2, 2)
    assert histories["share_beyond_last"] == {"50": 0, "200": 0}
    assert histories["repeat_share"] == 0.3  # a's item 1 on days 2 and 12, b's item 4 on day 20

    subsequences = statistics["subsequences"]  # a: 4 tea, 2 jam; b: 2 jam, 1 missing; c: 1 jam
    assert subsequences["pairs"] == 5
    assert (subsequences["length"]["median"], subsequences["length"]["max"]) == (2, 4)
    assert (subsequences["share_short"], subsequences["share_above_max"]) == (0.8, 0.2)
    # found before: a's tea 0, 1, 2, 2 (one time); a's jam 0, 1; b's jam 0, 1; b's missing 0; c's jam 0
    assert (subsequences["share_found_none"], subsequences["found"]["mean"]) == (0.5, pytest.approx(0.7))
    assert subsequences["share_found_more_than_short"] == 0

    negatives = statistics["negatives"]  # tea: items 1, 2; jam: 3, 4; missing: 5
    assert (negatives["items_per_category"]["min"], negatives["items_per_category"]["median"]) == (1, 2)
    assert (negatives["categories_below"], negatives["event_share_below"]) == ({"64": 3, "512": 3}, {"64": 1, "512": 1})
    assert negatives["largest"] == [
        {"category": "jam", "events": 5, "items": 2},
        {"category": "tea", "events": 4, "items": 2},
        {"category": MISSING_CONTEXT, "events": 1, "items": 1},
    ]

    two_thirds = pytest.approx(2 / 3)
    assert statistics["columns"] == [
        {"table": "item", "column": "category", "values": 2, "missing_share": 0.2, "missing_event_share": 0.1},
        {"table": "item", "column": "brand", "values": 2, "missing_share": 0.4, "missing_event_share": 0.4},
        {"table": "user", "column": "age", "values": 1, "missing_share": two_thirds, "missing_event_share": 0.4},
    ]


def test_columns_of_events_are_counted_by_their_events() -> None:
    device = EventColumn(np.array([MISSING, "phone", "web"]), np.array([1, 1, 2, 0, 0, 1, 1, 1, 2, 1], np.int32))
    log = dataclasses.replace(_tiny(), event_features={"device": device})
    assert _statistics(log, window_days=4)["columns"][3:] == [
        {"table": "event", "column": "device", "values": 2, "missing_share": 0.2, "missing_event_share": 0.2}
    ]


def test_the_split_of_a_log_counted_by_hand() -> None:
    split = _statistics(_tiny(), window_days=4)["split"]  # validation: days 12 to 16; test: day 16 to the end, day 20

    assert (split["train"]["events"], split["train"]["users"], split["train"]["pairs"]) == (4, 2, 3)
    assert split["train"]["days"] == 12
    validation = split["validation"]  # pairs a1, a2, b5; items 2 and 5 are new
    assert (validation["events"], validation["pairs"], validation["new_item_pairs"]) == (3, 3, 2)
    assert (validation["targets"], validation["target_users"]) == (1, 1)
    assert (validation["novel_share"], validation["all"]["top_5"], validation["all"]["untouched"]) == (0, 1, 0)
    test = split["test"]  # pairs a4 (novel, jam seen), b4 (not novel), c3 (user new)
    assert (test["events"], test["users"], test["pairs"], test["new_user_pairs"]) == (3, 3, 3, 1)
    assert (test["targets"], test["target_users"], test["novel_share"]) == (2, 2, 0.5)
    assert test["novel"] == {"top_5": 1, "top_20": 1, "top_60": 1, "untouched": 0}


def test_interest_rank_follows_eq_3_its_floor_and_its_weights() -> None:
    # At day 10: jam 1/1 (half a day, floored) = 1; tea 1/2 + 1/2 = 1, a tie, jam first by name; rum .9/1.
    days, weights = [9.5, 8, 8, 9, 11, 11, 11, 11], [1, 1, 1, 0.9, 1, 1, 1, 1]
    log = make_log(
        ["u"] * 7 + ["v"],
        [1, 2, 3, 4, 1, 2, 4, 5],
        [int(START + day * DAY_S) for day in days],
        {"category": ["jam", "tea", "tea", "rum", "ham"]},
        weight=weights,
    )
    window = measure_window(log, read_contexts(log, "category"), START + 10 * DAY_S, START + 12 * DAY_S, 1.0)
    assert (window.interest_rank.tolist(), window.num_new_user_pairs) == ([0, 1, 2], 1)
    lower_floor = measure_window(log, read_contexts(log, "category"), START + 10 * DAY_S, START + 12 * DAY_S, 3.0)
    assert lower_floor.interest_rank.tolist() == [1, 0, 2]  # every age is 3 days: two teas beat one jam


def _world(seed: int) -> LifelongLog:
    """Uneven histories, whole-day times (many ties), weights, missing categories; items 0..52, users 0..16."""
    rng = np.random.default_rng(seed)
    user = rng.choice(17, 1009, p=rng.dirichlet(np.full(17, 0.7)))
    return make_log(
        user,
        rng.integers(0, 53, 1009),
        START + rng.integers(0, 97, 1009) * DAY_S,
        item_id=range(53),
        item_features={"category": [f"c{v % 11}" if v % 7 else "" for v in range(53)]},
        weight=rng.choice([0.5, 1, 2], 1009),
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_history_equals_loops_over_dictionaries(seed: int) -> None:
    log, max_length = _world(seed), 5
    contexts = read_contexts(log, "category")
    history = measure_history(log, contexts, max_length)
    found, repeats, ages, lengths, categories = [], [], [], [], []
    for u in range(log.num_users):
        events = [(int(log.timestamp[e]), int(log.item_row[e])) for e in range(log.offset[u], log.offset[u + 1])]
        category = [contexts.name[contexts.item_category[item]] for _, item in events]
        for e, (time, item) in enumerate(events):
            found.append(sum(t < time and category[p] == category[e] for p, (t, _) in enumerate(events)))
            repeats.append(any(t < time and other == item for t, other in events))
            if sum(c == category[e] for c in category[e + 1 :]) < max_length:
                ages.append(len(events) - 1 - e)
        lengths += Counter(category).values()
        if events:
            categories.append(len(set(category)))
    assert sorted(history.categories.num_earlier) == sorted(found)
    assert history.is_repeat.tolist() == repeats
    assert sorted(history.categories.read_age) == sorted(ages)
    assert sorted(history.categories.subsequence_length) == sorted(lengths)
    assert history.categories.categories_per_user.tolist() == categories
    assert history.events_per_day.sum() == log.num_events and history.repeats_per_day.sum() == sum(repeats)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_windows_equal_loops_over_dictionaries(seed: int) -> None:
    log = _world(seed)
    contexts, cuts = read_contexts(log, "category"), global_time_cuts(log.timestamp, 13)
    start, stop = cuts.window_of("validation")
    events = list(
        zip(log.event_user().tolist(), log.item_row.tolist(), log.timestamp.tolist(), log.weight.tolist(), strict=True)
    )
    had, score = defaultdict(set), defaultdict(lambda: defaultdict(float))
    for user, item, time, weight in events:
        if time < start:
            had[user].add(item)
            score[user][contexts.item_category[item]] += weight / max((start - time) / DAY_S, 1)
    known = set().union(*had.values())
    pairs = sorted({(user, item) for user, item, time, _ in events if start <= time < stop})
    targets = [(user, item) for user, item in pairs if had[user] and item in known]

    window = measure_windows(log, contexts, cuts, 1.0)["validation"]

    assert window.num_pairs == len(pairs)
    assert list(zip(window.target_user, window.target_item, strict=True)) == targets
    assert window.is_novel.tolist() == [item not in had[user] for user, item in targets]
    for (user, item), rank in zip(targets, window.interest_rank, strict=True):
        best = sorted(score[user], key=lambda category, of=score[user]: (-round(of[category], 9), category))
        category = contexts.item_category[item]
        assert rank == (best.index(category) if category in best else -1)


def test_other_contexts_are_measured_as_if_they_were_the_logs_own() -> None:
    log = block_world()
    contexts = read_contexts(log, log.context)
    windows = measure_windows(log, contexts, global_time_cuts(log.timestamp, 28), 1.0)
    brand = read_contexts(log, "brand")
    history = measure_history(log, brand, 50)
    rows = {row["column"]: row for row in context_statistics(log, windows, 50, 1.0)}
    assert (rows["category"]["categories"], rows["brand"]["categories"]) == (7, 2)
    assert rows["brand"]["share_found_none"] == np.mean(history.categories.num_earlier == 0)
    assert rows["brand"]["top_5"] == 1 - rows["brand"]["untouched"]


def test_describe_of_one_value() -> None:
    assert set(describe(np.array([7])).values()) == {7.0}


def _warn(log: LifelongLog) -> str:
    history = measure_history(log, read_contexts(log, log.context), 50)
    return "\n".join(find_warnings(log, history, history_statistics(log, history, {}, 50)))


def _crowd(num_users: int = 101, gap_days: int = 0) -> tuple[list[int], list[int], list[int]]:
    """Users 0..100 with 11 to 30 events each at odd seconds over 90 days, `gap_days` of silence in the middle."""
    rng = np.random.default_rng(5)
    user = np.repeat(np.arange(num_users), rng.integers(11, 31, num_users))
    time = START + rng.integers(0, 90 * DAY_S, len(user))
    time += gap_days * DAY_S * (time > START + 45 * DAY_S)
    return user.tolist(), rng.integers(0, 60, len(user)).tolist(), time.tolist()


_SIX = {"category": [f"c{v % 6}" for v in range(60)]}


def test_an_ordinary_log_raises_no_warning() -> None:
    assert _warn(make_log(*_crowd(), _SIX)) == ""


def test_a_bot_is_named_with_its_events() -> None:
    user, item, time = _crowd()
    rng = np.random.default_rng(6)
    log = make_log(
        user + [777] * 9001,
        item + rng.integers(0, 60, 9001).tolist(),
        time + (START + 1 + 2 * np.arange(9001)).tolist(),
        _SIX,
    )
    assert "1 user with more than" in _warn(log) and "777 (9,001)" in _warn(log)


def test_a_gap_is_dated_and_measured() -> None:
    warned = _warn(make_log(*_crowd(gap_days=18), _SIX))
    assert "17 days" in warned and "from 2020-10-29 on" in warned


def test_one_default_timestamp_and_whole_days_are_noticed() -> None:
    user, item, time = _crowd()
    same = [START if e % 3 else t for e, t in enumerate(time)]
    assert "the one timestamp 2020-09-13 12:26 UTC" in _warn(make_log(user, item, same, _SIX))
    daily = [t // (30 * DAY_S) * 30 * DAY_S for t in time]
    assert "Timestamps are whole days" in _warn(make_log(user, item, daily, _SIX))


def test_advice_on_ties_is_true_of_the_resolution() -> None:
    user, item, time = _crowd()
    to_the_second = _warn(make_log(user, item, [t // (30 * DAY_S) * 30 * DAY_S + 1 for t in time], _SIX))
    assert "share their time" in to_the_second and "finer ones would only order" in to_the_second
    daily = _warn(make_log(user, item, [t // (30 * DAY_S) * 30 * DAY_S for t in time], _SIX))
    assert "give them to the second" in daily and "finer ones" not in daily


def test_baskets_of_one_event_and_merged_rows_are_noticed() -> None:
    user, item, time = _crowd()
    assert "has a basket of its own" in _warn(make_log(user, item, time, _SIX, basket=range(len(user))))
    twice = _warn(make_log(user * 2, item * 2, time * 2, _SIX))
    assert f"{len(user):,} of {2 * len(user):,} rows were merged" in twice


def test_lone_events_lone_items_and_empty_columns_are_counted() -> None:
    user, item, time = _crowd()
    log = make_log(
        user + [900, 901, 902, 903, 904, 905, 906],
        item + [0, 1, 2, 3, 60, 61, 62],
        time + [START] * 7,
        {"category": [*_SIX["category"], "lone1", "lone2", "lone3"], "brand": ["x"] * 9 + [""] * 54},
    )
    warned = _warn(log)
    assert "7 users (6%) have one event" in warned
    assert "3 of 9 categories have one item" in warned
    assert "brand 86%" in warned


def test_fit_reads_the_numbers_it_shows() -> None:
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(5), 1000)
    long_histories = make_log(
        user,
        rng.integers(0, 200, 5000),
        START + rng.integers(0, 300 * DAY_S, 5000),
        {"category": [f"c{v % 2}" for v in range(200)]},
    )
    fit = {
        finding.topic: finding for finding in evaluate_fit(_statistics(long_histories, window_days=28, max_length=50))
    }
    assert list(fit) == [
        "size",
        "long histories",
        "deep subsequences",
        "targets within reach",
        "few interests",
        "hard negatives",
        "repeats",
    ]
    size = fit.pop("size")
    assert size.verdict == "poor" and size.reason.startswith("5 users: too few")
    assert {finding.verdict for finding in fit.values()} == {"good"}
    assert fit["hard negatives"].reason.startswith("100% of events lie in categories of 64 items or more")
    statistics = _statistics(long_histories, window_days=28, max_length=50)
    for users, events, verdict in ((6_000, 70_000, "fair"), (1_000, 900_000, "fair"), (6_000, 900_000, "good")):
        statistics["log"] |= {"users": users, "events": events}
        assert evaluate_fit(statistics)[0].verdict == verdict
    few = {finding.topic: finding for finding in evaluate_fit(_statistics(_tiny(), window_days=4))}
    assert few["long histories"].verdict == few["hard negatives"].verdict == few["deep subsequences"].verdict == "poor"
