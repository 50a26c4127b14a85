"""Examples and batches of the neural baselines: strictly past histories, whole epochs, repeatable draws."""

import collections
import dataclasses

import numpy as np
import pytest
from worlds import START, crowded_world

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.baselines import BaselineConfig
from longretriever_tf.config.config import Config, ModelConfig, TrainConfig
from longretriever_tf.data.batches.prepared_data import Prepared, prepare
from longretriever_tf.models.baselines.batches import UserBatch, UserBatchSource, rows_per_batch
from longretriever_tf.models.baselines.examples import UserExamples, build_user_examples, sampling_probability

CUT = START + 170 * DAY_S
LENGTH, HORIZON = 7, 14
KINDS = pytest.mark.parametrize("kind", ["snapshot", "event"])


def make_config(kind: str = "snapshot", loss: str = "in_batch", **baseline) -> Config:
    train = TrainConfig(
        examples=kind, loss=loss, snapshot_every_days=9, num_snapshots=8, horizon_days=HORIZON, batch_size=5
    )
    return Config(
        model=ModelConfig(model="mind", svd_dim=0),
        train=train,
        baseline=BaselineConfig(**{"recent_length": LENGTH, **baseline}),
    )


@dataclasses.dataclass(frozen=True)
class Ready:
    config: Config
    prepared: Prepared
    examples: UserExamples
    source: UserBatchSource

    def batches(self, epoch: int = 0, first: int = 0) -> list[UserBatch]:
        return [UserBatch(*(part.numpy() for part in batch)) for batch in self.source.make_dataset(epoch, first)]


def make_ready(config: Config) -> Ready:
    prepared = prepare(config, crowded_world(), CUT)
    examples = build_user_examples(config, prepared.log, prepared.stats.time)
    source = UserBatchSource(config, prepared.corpus, prepared.log, examples, prepared.stats)
    return Ready(config, prepared, examples, source)


def histories_of(prepared: Prepared) -> list[list[tuple[int, int]]]:
    log = prepared.log
    return [
        [(int(log.item[e]), int(log.timestamp[e])) for e in range(log.offset[u], log.offset[u + 1])]
        for u in range(log.num_users)
    ]


def expected_rows(kind: str, prepared: Prepared) -> list[tuple]:
    """(time, history newest first with ages in days, targets) of every example, by asking each history anew."""
    rows = []
    for history in histories_of(prepared):
        if kind == "snapshot":
            last = CUT - HORIZON * DAY_S
            spans = [(last - 9 * DAY_S * s, HORIZON * DAY_S) for s in range(8)]
        else:
            spans = [(t, 1) for t in sorted({t for _, t in history})]
        for as_of, length in spans:
            past = [(item, round((as_of - t) / DAY_S, 3)) for item, t in history if t < as_of][::-1][:LENGTH]
            targets = {item for item, t in history if as_of <= t < as_of + length}
            if past and targets:
                rows.append((as_of, tuple(past), tuple(sorted(targets))))
    return sorted(rows)


def rows_of(batch: UserBatch) -> list[tuple]:
    found = []
    for row, as_of in enumerate(batch.time):
        real = batch.token_item[row] > 0
        ages = np.expm1(batch.features[row, real, 0].astype(np.float64))
        past = [(int(item), round(float(age), 3)) for item, age in zip(batch.token_item[row, real], ages, strict=True)]
        target = batch.item[batch.target_local[batch.target_row == row]]
        found.append((int(as_of), tuple(past), tuple(sorted(target.tolist()))))
        np.testing.assert_array_equal(batch.item[batch.token_local[row]], batch.token_item[row])
    return found


@KINDS
def test_an_epoch_holds_every_example_once_and_its_strict_past_alone(kind):
    ready = make_ready(make_config(kind))
    wanted = expected_rows(kind, ready.prepared)
    found = sorted(row for batch in ready.batches() for row in rows_of(batch))
    assert len(wanted) > 40 and len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one[0] == other[0] and one[2] == other[2]
        assert [item for item, _ in one[1]] == [item for item, _ in other[1]]
        np.testing.assert_allclose([age for _, age in one[1]], [age for _, age in other[1]], atol=2e-3)


def test_targets_end_before_the_cut_and_items_nobody_had_taken_weigh_nothing():
    assert (make_ready(make_config()).examples.time + HORIZON * DAY_S <= CUT).all()
    ready = make_ready(make_config("event"))  # whose first times lie before most items' first sale
    histories = histories_of(ready.prepared)
    assert (ready.prepared.log.timestamp[ready.examples.target_stop - 1] < CUT).all()
    weightless = 0
    for batch in ready.batches():
        for row, local, weight in zip(batch.target_row, batch.target_local, batch.target_weight, strict=True):
            as_of, item = batch.time[row], batch.item[local]
            known = any(other == item and t < as_of for history in histories for other, t in history)
            expected = np.sum(batch.target_row == row) ** -0.5 if known else 0.0
            assert weight == pytest.approx(expected, rel=1e-6)
            weightless += not known
    assert weightless > 0  # the case exists


@KINDS
def test_batches_are_a_function_of_seed_epoch_and_place(kind):
    ready = make_ready(make_config(kind, max_targets=2, uniform_negatives=3))
    whole, tail, again = ready.batches(1), ready.batches(1, first=2), make_ready(ready.config).batches(1)
    assert len(whole) == ready.source.num_batches() == len(again) == len(tail) + 2 > 4
    for expected, found in [*zip(whole, again, strict=True), *zip(whole[2:], tail, strict=True)]:
        for name, left, right in zip(expected._fields, expected, found, strict=True):
            np.testing.assert_array_equal(left, right, err_msg=name)
    assert any(not np.array_equal(a.time, b.time) for a, b in zip(whole, ready.batches(2), strict=True))


def test_drawn_targets_stand_for_all_of_them():
    config = make_config(max_targets=2)
    ready, whole = make_ready(config), make_ready(make_config())
    everything = {row[:2]: set(row[2]) for batch in whole.batches() for row in rows_of(batch)}
    seen = collections.defaultdict(set)
    for epoch in range(3):
        for batch in ready.batches(epoch):
            for row, (as_of, past, drawn) in enumerate(rows_of(batch)):
                every = everything[as_of, past]
                assert set(drawn) <= every and len(drawn) == min(2, len(every))
                weights = batch.target_weight[batch.target_row == row]
                each = len(every) ** -0.5 * len(every) / len(drawn)
                assert set(np.round(weights, 5)) <= {0.0, np.float32(round(each, 5))}
                seen[as_of, past] |= set(drawn)
    assert any(len(items) > 2 for items in seen.values())  # epochs draw anew


@pytest.mark.parametrize("max_targets", [0, 2])
@KINDS
def test_sampling_probability_counts_distinct_targets(kind, max_targets):
    ready = make_ready(make_config(kind))
    expected = np.zeros(ready.prepared.corpus.num_items)
    for _, _, targets in expected_rows(kind, ready.prepared):
        expected[list(targets)] += min(1.0, (max_targets or np.inf) / len(targets))
    found = sampling_probability(ready.prepared.log, ready.examples, max_targets, len(expected))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)


def test_uniform_negatives_are_known_items_and_the_mixture_is_told():
    ready = make_ready(make_config(uniform_negatives=11))
    num_known = ready.prepared.corpus.num_items - 2
    own = sampling_probability(ready.prepared.log, ready.examples, 0, num_known + 2)
    drawn = set()
    for batch in ready.batches():
        items = batch.item[batch.negative_local]
        assert len(items) == 11 and items.min() >= 2
        drawn |= set(items.tolist())
        num = len(batch.target_row)
        for local, found in (
            (batch.negative_local, batch.negative_probability),
            (batch.target_local, batch.target_probability),
        ):
            mixture = (num * own[batch.item[local]] + 11 / num_known) / (num + 11)
            np.testing.assert_allclose(found, mixture, rtol=1e-5)
    assert len(drawn) > 0.9 * num_known


@pytest.mark.parametrize(
    "model, loss, negatives, expected",
    [
        ("two_tower", "full", 0, 40),  # 4000 logits, one row of 100 items each
        ("comirec", "full", 0, 8),  # five interests each
        ("mind", "full", 0, 20),  # two targets each
        ("mind", "in_batch", 0, 31),  # 62 x 62 targets
        ("mind", "in_batch", 60, 20),  # 40 targets x (40 + 60)
    ],
)
def test_rows_of_a_batch_by_hand(model, loss, negatives, expected):
    config = Config(
        model=ModelConfig(model=model),
        train=TrainConfig(loss=loss, max_logits=4000),
        baseline=BaselineConfig(uniform_negatives=negatives),
    )
    assert rows_per_batch(config, 2.0, 100) == expected
    few = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=3))
    assert rows_per_batch(few, 2.0, 100) == 3
