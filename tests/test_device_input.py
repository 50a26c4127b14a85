"""Input on the device: the same batches, losses and steps as the ordinary path, in few shapes."""

import dataclasses
import functools
import threading

import numpy as np
import pytest
import tensorflow as tf
from worlds import block_world

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.on_device import DeviceSource
from longretriever_tf.data.batches.prepared_data import prepare, prepare_examples
from longretriever_tf.models.build import build_models, set_token_scale
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.training.device_phase import DevicePhase
from longretriever_tf.training.phases import Phase

MODEL = {"dim": 8, "num_heads": 2, "ff_dim": 16, "svd_dim": 4, "unknown_rate": 0.0, "profile": True}
MODEL |= {"request_features": ("hour", "weekday"), "timezone_offset_hours": 2.0}
MODEL |= {"dropout": 0.0, "history_dropout": 0.0}  # the two paths draw differently
TRAIN = {
    "examples": "snapshot",
    "num_snapshots": 3,
    "snapshot_every_days": 7,
    "epochs": 2,
    "horizon_days": 14,
    "batch_size": 23,
    "device_input": True,
    "steps_per_call": 3,
}


@functools.cache
def the_log():
    return block_world(num_users=23, num_items=71, num_categories=5, events_per_user=53)


@dataclasses.dataclass(frozen=True)
class World:
    config: Config
    ordinary: Phase
    device: DevicePhase
    source: BatchSource

    def weights(self) -> dict[str, np.ndarray]:
        return {f"{i} {v.name}": v.numpy() for i, v in enumerate(self.device.variables())}


def build(model: dict | None = None, **train) -> World:
    config = Config(
        data=DataConfig(dataset="event_log"),
        model=ModelConfig(**{**MODEL, **(model or {})}),
        train=TrainConfig(**{**TRAIN, **train}),
    )
    prepared = prepare(config, the_log(), int(the_log().timestamp.max()) - 14 * schema.DAY_S)
    examples, _ = prepare_examples(config, prepared)
    folds = prepared.history_embedding_rows if config.train.cross_fit_items else None
    retriever = build_models(config, prepared.corpus, prepared.item_svd, folds).retriever
    source = BatchSource(config, prepared, examples)
    ordinary = Phase("towers", config.train.epochs, retriever, source, config.train.seed)
    set_token_scale(retriever.user_tower, source.make_dataset(0).take(8))
    device = DevicePhase(
        "towers", config.train.epochs, retriever, DeviceSource(config, prepared, source), config.train.seed
    )
    return World(config, ordinary, device, source)


def steps_of(world: World, epoch: int) -> list[list[np.ndarray]]:
    """The example rows of each group of each step, in the order of the blocks."""
    columns, blocks = world.device.source.plan(epoch)
    steps = []
    for block in blocks:
        for bounds in block.bounds[: block.num_steps]:
            steps.append([columns.rows[low : low + size] for low, size, _, targets in bounds if targets])
    return steps


@pytest.mark.parametrize("groups", [1, 3])
def test_blocks_hold_the_batches_of_the_plan_once(groups):
    world = build(batches_per_step=groups)
    for epoch in (0, 1):
        plan = world.source.plan(epoch)
        planned = sorted(tuple(plan.rows[a:b]) for a, b in zip(plan.start, plan.stop, strict=True))
        steps = steps_of(world, epoch)
        assert sorted(tuple(rows) for step in steps for rows in step) == planned
        assert len(steps) == world.device.num_steps() and all(1 <= len(step) <= groups for step in steps)
        blocks = world.device.source.plan(epoch)[1]
        assert len(blocks) == world.device.source.num_batches()
        assert sum(block.num_examples for block in blocks) == world.device.source.num_rows == len(plan.rows)
    again = steps_of(build(batches_per_step=groups), 1)
    assert [list(map(tuple, step)) for step in again] == [list(map(tuple, step)) for step in steps]
    other = steps_of(world, 0)
    assert [list(map(tuple, step)) for step in other] != [list(map(tuple, step)) for step in steps]


def test_shapes_are_few_and_hold_what_they_must():
    world = build(model={"max_length": 11})
    assert {shape.length for shape in world.device.source.shapes} <= {1, 4, 11}
    assert {shape.items for shape in world.device.source.shapes} == {128}  # 71 items in 5 categories
    assert len(world.device.source.shapes) <= 4


def ordinary_steps(world: World, epoch: int, optimizer: LazyAdamW) -> list[float]:
    """The same steps by the ordinary batches: the mean gradient of the groups' own losses."""
    optimizer.build(world.device.variables())
    losses = []
    for step in steps_of(world, epoch):
        with tf.GradientTape() as tape:
            each = [world.ordinary.loss(world.source.build(tf.constant(rows)), optimizer.iterations) for rows in step]
            loss = tf.add_n(each) / len(each)
        optimizer.apply(tape.gradient(loss, world.device.variables()))
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize(
    "model, train, groups, xla",
    [
        ({}, {}, 3, False),
        ({}, {"examples": "both", "history_folds": 2, "cross_fit_items": True}, 2, False),
        (
            {"subsequence": "events", "repeat_term": False, "item_stats": False, "temperature": 0.5},
            {},
            1,
            False,
        ),
        pytest.param({"item_id": True}, {}, 2, True, marks=pytest.mark.slow),
    ],
    ids=["three groups", "both kinds, folds", "bare", "xla"],
)
def test_an_epoch_on_the_device_makes_the_ordinary_steps(model, train, groups, xla):
    found = build(model, batches_per_step=groups, **train)
    optimizer = LazyAdamW(0.01, 0.01, found.device.num_steps())
    step = found.device.make_step(optimizer, xla)
    losses = [float(step(block)) for block in found.device.source.make_dataset(0)]
    oracle = build(model, batches_per_step=groups, **train)
    expected = ordinary_steps(oracle, 0, LazyAdamW(0.01, 0.01, found.device.num_steps()))
    sizes = [block.num_steps for block in found.device.source.plan(0)[1]]
    means = [part.mean() for part in np.split(np.array(expected), np.cumsum(sizes)[:-1])]
    np.testing.assert_allclose(losses, means, rtol=1e-4)
    assert int(optimizer.iterations) == len(expected) and losses[-1] != losses[0]
    for name, value in oracle.weights().items():
        if "key_value/bias" in name:
            continue  # no softmax hears a key's bias: its gradient is rounding alone, which Adam blows up
        np.testing.assert_allclose(found.weights()[name], value, atol=2e-4, err_msg=name)


def test_the_rest_of_an_epoch_can_be_asked_for():
    world = build(batches_per_step=2, steps_per_call=1)
    whole = [block for _, block in world.device.source.make_dataset(1)]
    again = [block for _, block in build(batches_per_step=2, steps_per_call=1).device.source.make_dataset(1, 3)]
    assert len(again) == len(whole) - 3 > 0
    for one, other in zip(again, whole[3:], strict=True):
        assert one.shape == other.shape and one.num_steps == other.num_steps
        np.testing.assert_array_equal(one.bounds, other.bounds)


@pytest.mark.slow
def test_xla_draws_the_same_dropout():
    """One call with and without XLA: masks are a function of the step alone."""
    losses = []
    for xla in (False, True):
        world = build({"dropout": 0.5, "unknown_rate": 0.3}, num_snapshots=1, batches_per_step=2)
        optimizer = LazyAdamW(0.01, 0.01, world.device.num_steps())
        losses.append(float(world.device.make_step(optimizer, xla)(next(world.device.source.make_dataset(0)))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_histories_that_do_not_fit_are_an_error_that_names_the_budget():
    with pytest.raises(UserError, match=r"--materialise_gb=1e-09.*raise it"):
        build(materialise_gb=1e-9)


def test_the_next_epoch_is_planned_ahead_and_no_thread_outlives_its_iterator():
    def planners():
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("plan")]

    device = build(epochs=3, num_snapshots=1).device
    expected = {epoch: device.source.plan(epoch)[0].rows for epoch in range(3)}
    whole = list(device.source.make_dataset(0))
    assert len(whole) == device.source.num_batches() and planners() == []
    stopped = device.source.make_dataset(1)
    columns, _ = next(stopped)
    assert planners() != []
    stopped.close()  # what an early stop or an error leaves behind
    assert planners() == []
    np.testing.assert_array_equal(columns.rows, expected[1])
    np.testing.assert_array_equal(next(device.source.make_dataset(2))[0].rows, expected[2])
    assert planners() == []  # nothing comes after the last epoch
