"""Raw columns to whole histories, against a slow and obvious rule."""

from collections import Counter

import numpy as np
import pytest
from worlds import START, block_world, make_log

from longretriever_tf.datasets import accounts, baskets, build_log
from longretriever_tf.datasets.log import EventColumn, ItemTable


def obvious_histories(user, item, time, basket, weight):
    """{user: [(second, item, basket, weight)]} by the rule of the data contract, one by one; times may be fractions."""
    earliest = {}
    for b, t in zip(basket, time, strict=True):
        if b >= 0:
            earliest[b] = min(earliest.get(b, t), t)
    histories = {}
    for u, i, t, b, w in zip(user, item, time, basket, weight, strict=True):
        as_of = earliest[b] if b >= 0 else t
        history = histories.setdefault(u, [])
        twin = next((event for event in history if (int(event[0]), *event[1:3]) == (int(as_of), b, i)), None)
        if twin is not None:
            twin[0] = min(twin[0], as_of)
            twin[3] += w
        else:
            history.append([as_of, b, i, w])
    return {u: [[int(t), i, b, w] for t, b, i, w in sorted(history)] for u, history in histories.items()}


@pytest.mark.parametrize("with_fractions", [True, False])
@pytest.mark.parametrize("with_baskets", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_build_log_equals_the_obvious_rule(seed, with_baskets, with_fractions):
    rng = np.random.default_rng(seed)
    size = 211
    user = rng.integers(0, 7, size)
    item = rng.integers(0, 5, size)
    time = rng.integers(0, 23 * 8, size) / 8 if with_fractions else rng.integers(0, 23, size)
    basket = np.where(rng.random(size) < 0.3, -1, user * 100 + rng.integers(0, 11, size)) if with_baskets else None
    weight = rng.integers(1, 4, size).astype(np.float32)
    ids, rows = np.unique(user, return_inverse=True)
    items = ItemTable(np.arange(5), {"category": np.array(list("abcde"), object)}, np.array(list("abcde"), object))
    seconds = np.floor(time).astype(np.int64)
    nanosecond = ((time - seconds) * 1e9).astype(np.int64) if with_fractions else None
    events = build_log.RawEvents(rows, item, seconds, basket, weight, nanosecond)
    log = build_log.build_log(events, ids, {}, items, "category")

    baskets = np.full(size, -1) if basket is None else basket
    expected = obvious_histories(*(column.tolist() for column in (user, item, time, baskets, weight)))
    assert log.user_id.tolist() == sorted(expected)
    for row, user_id in enumerate(log.user_id.tolist()):
        history = slice(log.offset[row], log.offset[row + 1])
        found = zip(
            log.timestamp[history].tolist(),
            log.items.item_id[log.item_row[history]].tolist(),
            log.basket_id[history].tolist(),
            log.weight[history].tolist(),
            strict=True,
        )
        assert [list(event) for event in found] == expected[user_id]
    counts = log.counts
    assert counts["rows"] == size and counts["kept"] == log.num_events and accounts.adds_up(counts)
    assert bool(counts["same_basket"]) == with_baskets


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_rows_never_counts(seed):
    rng = np.random.default_rng(seed)
    size = 509
    columns = build_log.RawEvents(
        user_row=rng.integers(0, 7, size),
        item_row=rng.integers(0, 5, size),
        timestamp=rng.integers(0, 23, size),
        basket_id=rng.integers(-1, 31, size) * 7,
        weight=rng.lognormal(0, 9, size).astype(np.float32),  # sums of such numbers depend on their order
        nanosecond=rng.choice([0, 1, 999_999_999], size),
        action=rng.integers(0, 3, size),
    )
    columns = columns._replace(basket_id=np.where(columns.basket_id < 0, -1, columns.basket_id + columns.user_row))
    items = ItemTable(np.arange(5), {"category": np.array(list("abcde"), object)}, np.array(list("abcde"), object))
    device = EventColumn(np.array(list("xyz"), object), rng.integers(0, 3, size).astype(np.int32))

    def ordered(order: np.ndarray) -> build_log.RawEvents:
        plain = {name: column[order] for name, column in columns._asdict().items() if column is not None}
        return build_log.RawEvents(**plain, features={"device": device.of(order)})

    logs = [
        build_log.build_log(ordered(order), np.arange(7), {}, items, "category")
        for order in (np.arange(size), rng.permutation(size), np.arange(size)[::-1])
    ]
    for name in ("offset", "item_row", "timestamp", "basket_id", "weight", "action"):
        assert len({getattr(log, name).tobytes() for log in logs}) == 1, name
    assert len({log.event_features["device"].row.tobytes() for log in logs}) == 1


def obvious_pieces(hours, limit):
    """Sizes of the baskets that one basket of these hours becomes."""
    hours = sorted(hours)
    if hours[-1] - hours[0] <= limit:
        return [len(hours)]
    visits = [[hours[0]]]
    for hour in hours[1:]:
        if hour - visits[-1][-1] > limit / 4:
            visits.append([])
        visits[-1].append(hour)
    return [n for visit in visits for n in Counter((hour - visit[0]) // limit for hour in visit).values()]


@pytest.mark.parametrize("seed", range(5))
def test_long_baskets_are_cut_at_pauses_and_then_by_the_clock(seed):
    rng = np.random.default_rng(seed)
    hours = [np.cumsum(rng.choice([0, 1, 2, 7, 25], 1 + rng.integers(0, 40))) for _ in range(17)]
    basket = np.repeat(np.arange(17) * 3, [len(h) for h in hours])
    time, loose = np.concatenate(hours) * 3600, rng.permutation(len(basket) + 5)
    basket, time = np.append(basket, np.full(5, -1))[loose], np.append(time, np.arange(5))[loose]
    cut = baskets.cut_long_baskets(basket, time, 24)
    assert (cut.basket_id[basket < 0] == -1).all()
    pieces = [obvious_pieces(h.tolist(), 24) for h in hours]
    for number, sizes in enumerate(pieces):
        inside = cut.basket_id[basket == number * 3]
        assert sorted(Counter(inside.tolist()).values()) == sorted(sizes)
        assert not set(inside) & set(cut.basket_id[basket != number * 3])
    long = [len(p) for p, h in zip(pieces, hours, strict=True) if h[-1] - h[0] > 24]
    assert (cut.counts["baskets"], cut.counts["long_baskets"], cut.counts["cut_baskets"]) == (17, len(long), sum(long))
    assert cut.counts["longest_basket_s"] == max(h[-1] - h[0] for h in hours) * 3600
    for piece in set(cut.basket_id.tolist()) - {-1}:
        times = time[cut.basket_id == piece]
        assert times.max() - times.min() <= 24 * 3600


def test_a_log_without_weights_weighs_one_even_where_duplicates_merge():
    log = make_log([5, 5, 5], [1, 1, 2], [START, START, START], {"category": ["a", "b"]})
    assert log.num_events == 2
    assert log.weight.tolist() == [1.0, 1.0]


def test_text_ids_and_items_without_events():
    log = make_log(
        ["zoe", "al", "al"], ["q", "p", "q"], [30, 20, 10], {"category": ["a", "b", "c"]}, item_id=["p", "q", "r"]
    )
    assert log.user_id.tolist() == ["al", "zoe"]
    assert log.items.item_id[log.item_row].tolist() == ["q", "p", "q"]
    assert log.offset.tolist() == [0, 2, 3]
    assert log.items.item_id.tolist() == ["p", "q", "r"]


def test_block_world_has_its_pattern_and_its_seed():
    world, again, other = block_world(seed=3), block_world(seed=3), block_world(seed=4)
    assert (world.item_row == again.item_row).all()
    assert not np.array_equal(world.item_row, other.item_row)
    brand = world.items.features["brand"][world.item_row]
    own = np.mean(brand == world.profile["taste"][world.event_user()])
    assert 0.92 < own < 0.98  # 0.9, and half of the random tenth
    category = world.items.features["category"][world.item_row]
    pairs = set(zip(world.event_user().tolist(), category.tolist(), strict=True))
    assert len(pairs) <= 3 * world.num_users
