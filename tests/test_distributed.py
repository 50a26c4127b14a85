"""The parts of a training on several devices, each alone; test_distributed_runs.py has the whole, by its commands."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from worlds import block_world

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig, to_json
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.on_device import DeviceSource
from longretriever_tf.data.batches.prepared_data import prepare, prepare_examples
from longretriever_tf.models.build import build_models, set_token_scale
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.models.stateless_dropout import Groups, StatelessRng
from longretriever_tf.training.device_phase import DevicePhase
from longretriever_tf.training.distributed import gradients as gradients_lib
from longretriever_tf.training.distributed.agreement import choose_groups, require_same_logs, require_same_settings
from longretriever_tf.training.distributed.cluster import Cluster
from longretriever_tf.training.distributed.grouped_device_phase import GroupedDevicePhase
from longretriever_tf.training.distributed.grouping import group_phase, own_by_category
from longretriever_tf.training.distributed.step_table import by_range, category_ranges, in_turn
from longretriever_tf.training.distributed.tf_config import Workers, read_workers
from longretriever_tf.training.phases import Phase

WORKERS = ["10.0.0.1:2222", "host-b:80", "[::1]:9"]


def tf_config(cluster, kind="worker", index=0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_workers_are_read_from_tf_config():
    assert read_workers(tf_config({"worker": WORKERS}, index=2)) == Workers(tuple(WORKERS), 2)
    with_chief = {"worker": WORKERS[1:], "chief": WORKERS[:1]}
    assert read_workers(tf_config(with_chief, "chief")) == Workers(tuple(WORKERS), 0)
    assert read_workers(tf_config(with_chief, index=1)) == Workers(tuple(WORKERS), 2)


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "TF_CONFIG, which is not set"),
        ("", "TF_CONFIG, which is not set"),
        ("{", "no JSON"),
        ("[1]", "'cluster' is None"),
        (json.dumps({"task": {"type": "worker", "index": 0}}), "'cluster' is None"),
        (json.dumps({"cluster": {"worker": WORKERS}}), "'task' is None"),
        (tf_config({"worker": WORKERS}, index="0"), "'index' is '0'"),
        (tf_config({"worker": WORKERS}, index=True), "'index' is True"),
        (tf_config({"worker": WORKERS}, index=3), "task is 'worker' number 3, but cluster has 3"),
        (tf_config({"worker": WORKERS}, index=-1), "number -1"),
        (tf_config({"worker": WORKERS}, "chief"), "task is 'chief' number 0"),
        (tf_config({"worker": []}), "0 workers"),
        (tf_config({"worker": "a:1"}), "'a:1', not a list"),
        (tf_config({"worker": ["a"]}), "'a'; expected host:port"),
        (tf_config({"worker": ["a:0"]}), "'a:0'; expected host:port"),
        (tf_config({"worker": ["a:70000"]}), "'a:70000'"),
        (tf_config({"worker": ["http://a:1"]}), "'http://a:1'"),
        (tf_config({"worker": [7]}), "holds 7"),
        (tf_config({"worker": ["a:1", "b:1", "a:1"]}), "a:1 twice"),
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}), "cluster has ps"),
        (tf_config({"worker": ["a:1"], "chief": ["b:1", "c:1"]}), "2 chiefs"),
    ],
)
def test_a_tf_config_that_cannot_be_used_is_explained(text, said):
    with pytest.raises(UserError) as caught:
        read_workers(text)
    assert said in str(caught.value) and '{"cluster"' in str(caught.value)


@pytest.mark.parametrize("num_batches, groups", [(0, 2), (1, 3), (6, 3), (7, 3), (5, 1)])
def test_in_turn_takes_each_batch_once_and_in_order(num_batches, groups):
    table = in_turn(num_batches, groups)
    assert table.shape == (-(-num_batches // groups), groups)
    assert table[table >= 0].tolist() == list(range(num_batches))
    assert (table[:-1] >= 0).all()


def test_ranges_hold_every_category_and_are_as_level_as_categories_allow():
    rng = np.random.default_rng(5)
    for _ in range(50):
        num_batches = rng.integers(0, 30, rng.integers(8, 40)) * (rng.random() < 0.9)
        groups = int(rng.integers(1, 6))
        if np.count_nonzero(num_batches) < groups:
            with pytest.raises(UserError, match="--item_tables=by_category"):
                category_ranges(num_batches, groups)
            continue
        ranges = category_ranges(num_batches, groups)
        assert ranges[0] == 0 and ranges[-1] == len(num_batches) and (np.diff(ranges) > 0).all()
        sizes = np.add.reduceat(num_batches, ranges[:-1])
        assert (sizes > 0).all() and sizes.max() <= num_batches.sum() / groups + 2 * num_batches.max()
        category = rng.permutation(np.repeat(np.arange(len(num_batches)), num_batches))
        table = by_range(category, ranges)
        assert np.sort(table[table >= 0]).tolist() == list(range(len(category)))
        for g in range(groups):
            mine = table[:, g][table[:, g] >= 0]
            assert (np.diff(mine) > 0).all() and table[0, g] >= 0
            assert ((ranges[g] <= category[mine]) & (category[mine] < ranges[g + 1])).all()
        assert (table >= 0).any(1).all(), "no step is empty: the fullest range sets their number"


def settings(**train) -> dict:
    config = Config(data=DataConfig(dataset="event_log"), train=TrainConfig(**train))
    return {"config": json.loads(to_json(config)), "code": "v1", "groups": 2}


def test_workers_of_other_flags_code_or_data_are_refused_by_what_differs():
    chief, same = settings(batches_per_step=2), settings(run_dir="elsewhere", checkpoint_every_s=5.0)
    require_same_settings([chief, same])
    with pytest.raises(UserError, match=r"--epochs|--learning_rate: 0.003 on worker 0, 0.1 on worker 1"):
        require_same_settings([chief, settings(learning_rate=0.1)])
    with pytest.raises(UserError, match=r"code: v1 on worker 0, v2 on worker 2"):
        require_same_settings([chief, same, {**same, "code": "v2"}])
    require_same_logs(["one", "one"])
    with pytest.raises(UserError, match=r"different logs: one on worker 0, other on worker 1"):
        require_same_logs(["one", "other"])


def test_the_batches_of_a_step_follow_the_devices_the_run_or_the_flag(tmp_path):
    def config(**train) -> Config:
        return Config(train=TrainConfig(run_dir=str(tmp_path / "run"), **train))

    assert choose_groups(config(batches_per_step=3), 1) == 3
    assert choose_groups(config(distribute="multi_worker"), 4) == 4
    assert choose_groups(config(distribute="multi_worker", batches_per_step=8), 4) == 8
    with pytest.raises(UserError, match=r"--batches_per_step=6 is not a multiple of 4"):
        choose_groups(config(distribute="mirrored", batches_per_step=6), 4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(config(batches_per_step=4)))
    assert choose_groups(config(distribute="multi_worker"), 2) == 4, "a run keeps its own"
    with pytest.raises(UserError, match=r"--batches_per_step=4 is not a multiple of 3"):
        choose_groups(config(distribute="multi_worker"), 3)


@pytest.mark.parametrize("xla", [False, True])
def test_stacked_groups_draw_what_each_draws_alone(xla):
    @tf.function(jit_compile=xla)
    def draw(first, stacked, shapes):
        rng = StatelessRng(3, tf.constant(7), Groups(first, stacked))
        return [rng.keep(tf.constant(shape), 0.4) for shape in shapes]

    shapes = [12, 5], [3, 2, 7], [6], [96, 50]
    apart = [[shape[0] // 3, *shape[1:]] for shape in shapes]
    together = draw(tf.constant(0), 3, shapes)
    alone = [draw(tf.constant(group), 1, apart) for group in range(3)]
    plain = StatelessRng(3, tf.constant(7))
    for shape, drawn, *parts in zip(shapes, together, *alone, strict=True):
        drawn, parts = drawn.numpy(), [part.numpy() for part in parts]
        np.testing.assert_array_equal(drawn, np.concatenate(parts))
        np.testing.assert_array_equal(parts[0], plain.keep(tf.constant([shape[0] // 3, *shape[1:]]), 0.4).numpy())
        assert shape[0] * np.prod(shape[1:]) < 9 or (parts[0] != parts[1]).any()
    assert abs(together[3].numpy().mean() - 0.6) < 0.03


def test_groups_of_any_shapes_draw_apart():
    """Of one shape they are stacked; else each has a stream of its own."""
    drawn = [
        StatelessRng(3, tf.constant(7), Groups(tf.constant(group))).keep(tf.constant([size]), 0.5).numpy()
        for group, size in ((0, 4000), (1, 4000), (2, 2000))
    ]
    np.testing.assert_array_equal(drawn[0], StatelessRng(3, tf.constant(7)).keep(tf.constant([4000]), 0.5).numpy())
    for one, other in ((0, 1), (0, 2), (1, 2)):
        size = min(len(drawn[one]), len(drawn[other]))
        assert abs((drawn[one][:size] == drawn[other][:size]).mean() - 0.5) < 0.05


def test_the_graph_of_a_step_does_not_grow_with_its_groups():
    """A node for each group took minutes to build where a step has a hundred."""

    def num_nodes(groups):
        world = build({"max_length": 4}, device_input=True, batches_per_step=groups, num_snapshots=1)
        phase = GroupedDevicePhase("towers", 1, world.phase.model, world.device, 1)
        epoch, block = next(iter(world.device.make_dataset(0)))

        @tf.function
        def loss(bounds, step):
            return phase.loss(world.device.build(epoch, bounds, block.shape), step, Groups(tf.constant(0), groups))

        graph = loss.get_concrete_function(tf.constant(block.bounds[0]), tf.constant(0, tf.int64)).graph
        return len(graph.as_graph_def().node)

    assert num_nodes(2) == num_nodes(5)


MODEL = {"dim": 8, "num_heads": 2, "ff_dim": 16, "svd_dim": 4, "profile": True, "item_id": True}
MODEL |= {"dropout": 0.3, "history_dropout": 0.3, "unknown_rate": 0.1}
TRAIN = {"examples": "snapshot", "num_snapshots": 2, "snapshot_every_days": 7, "horizon_days": 14, "batch_size": 23}
IN_BATCH = {"loss": "in_batch", "small_category": 8}
WITHOUT_RECIPE = {"repeat_term": False, "item_stats": False, "user_context": False}


@dataclasses.dataclass(frozen=True)
class World:
    config: Config
    phase: Phase
    source: BatchSource
    device: DeviceSource | None
    offset: np.ndarray


def build(model: dict | None = None, **train) -> World:
    config = Config(
        data=DataConfig(dataset="event_log"),
        model=ModelConfig(**{**MODEL, **(model or {})}),
        train=TrainConfig(**{**TRAIN, **train}),
    )
    log = block_world(num_users=19, num_items=41, num_categories=5, events_per_user=31)
    prepared = prepare(config, log, int(log.timestamp.max()) - 14 * schema.DAY_S)
    retriever = build_models(config, prepared.corpus, prepared.item_svd).retriever
    source = BatchSource(config, prepared, prepare_examples(config, prepared)[0])
    set_token_scale(retriever.user_tower, source.make_dataset(0).take(8))
    phase = Phase("towers", 1, retriever, source, config.train.seed)
    device = DeviceSource(config, prepared, source) if config.train.device_input else None
    return World(config, phase, source, device, prepared.corpus.category_offset)


def weights(phase: Phase) -> dict[str, np.ndarray]:
    return {f"{i} {variable.name}": variable.numpy() for i, variable in enumerate(phase.variables())}


def oracle_steps(world: World, table: np.ndarray) -> list[float]:
    """The mean gradient of each step's batches, batch after batch, moved by the ordinary optimizer: losses."""
    optimizer = LazyAdamW(0.02, 0.01, len(table))
    optimizer.build(world.phase.variables())
    plan, losses = world.source.plan(0), []
    for row in table:
        with tf.GradientTape() as tape:
            each = [
                world.phase.loss(
                    world.source.build(tf.constant(plan.rows[plan.start[i] : plan.stop[i]])),
                    optimizer.iterations,
                    Groups(tf.constant(g)),
                )
                for g, i in enumerate(row.tolist())
                if i >= 0
            ]
            loss = tf.add_n(each) / len(each)
        optimizer.apply(tape.gradient(loss, world.phase.variables()))
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize(
    "model, train, small_table",
    [
        ({}, {}, 131_072),
        ({}, {}, 50),
        (WITHOUT_RECIPE, IN_BATCH, 131_072),
        (WITHOUT_RECIPE, {**IN_BATCH, "item_tables": "by_category"}, 131_072),
        ({}, {"item_tables": "by_category"}, 50),
    ],
    ids=["full", "rows gathered", "in-batch", "in-batch by category", "full by category"],
)
def test_a_step_is_the_mean_of_its_batches_and_stays_lazy(model, train, small_table, monkeypatch):
    monkeypatch.setattr(gradients_lib, "SMALL_TABLE", small_table)
    world = build(model, batches_per_step=3, **train)
    owned = None
    if world.config.train.item_tables == "by_category":
        owned = own_by_category(world.config, world.source, world.phase.model.item_tower, world.offset)
    grouped = group_phase(world.phase, world.source, world.config, Cluster(), owned)
    table = in_turn(world.source.num_batches(), 3) if owned is None else owned.table(0)
    assert (table < 0).any(), "the last step, or a short range, leaves a group empty"
    optimizer = LazyAdamW(0.02, 0.01, grouped.num_steps())
    before, step = weights(grouped), grouped.make_step(optimizer, xla=False)
    losses = [float(step(batches)) for batches in grouped.source.make_dataset(0)]
    oracle = build(model, batches_per_step=3, **train)
    np.testing.assert_allclose(losses, oracle_steps(oracle, table), rtol=1e-4)
    after, expected = weights(grouped), weights(oracle.phase)
    for name, value in expected.items():
        if "key_value/bias" not in name:  # no softmax hears a key's bias: its gradient is rounding alone
            np.testing.assert_allclose(after[name], value, atol=3e-4, err_msg=name)
    still = next(name for name in after if "item_id" in name)
    np.testing.assert_array_equal(after[still][0] == before[still][0], expected[still][0] == before[still][0])
    moved = (after[still] != before[still]).any(1)
    np.testing.assert_array_equal(moved, (expected[still] != before[still]).any(1), "rows that no batch has read stay")


@pytest.mark.parametrize("small_table, kind", [(131_072, "table"), (1, "rows")])
def test_a_row_that_no_batch_reads_keeps_its_value_and_its_moments(small_table, kind, monkeypatch):
    monkeypatch.setattr(gradients_lib, "SMALL_TABLE", small_table)
    table, bias = tf.Variable(tf.ones([6, 2]), name="table"), tf.Variable(tf.ones([3]), name="bias")
    optimizer = LazyAdamW(0.1, 0.0, 10)
    optimizer.build([table, bias])
    read = [tf.IndexedSlices(tf.ones([len(rows), 2]), tf.constant(rows)) for rows in ([4, 4], [1])]
    layout = gradients_lib.Layout([table, bias], [read[0], tf.ones([3])])
    assert layout.kinds == [kind, "dense"]
    packed = [layout.pack([one, tf.ones([3])], tf.constant(1.0), tf.constant(1.0)) for one in read]
    mean, loss = layout.unpack(layout.reduce([packed[0], None, packed[1]], Cluster(), 0), whole_tables=False)
    optimizer.apply(mean)
    assert float(loss) == 1.0
    assert (table.numpy() != 1).any(1).tolist() == [False, True, False, False, True, False]
    np.testing.assert_allclose(optimizer.moments(table)[0][:, 0], [0, 0.05, 0, 0, 0.1, 0], rtol=1e-6)


def test_a_table_of_fewer_numbers_than_a_step_reads_is_reduced_whole(monkeypatch):
    """Groups that are stacked read a row many times over: gathering their rows took longer than the step."""
    monkeypatch.setattr(gradients_lib, "SMALL_TABLE", 1)
    table = tf.Variable(tf.zeros([100, 6]))

    def kind(num_read, num_packs):
        read = tf.IndexedSlices(tf.ones([num_read, 6]), tf.zeros([num_read], tf.int32))
        return gradients_lib.Layout([table], [read], gradients_lib.Tables(num_packs=num_packs)).kinds[0]

    assert [kind(80, 1), kind(90, 1), kind(40, 2), kind(45, 2)] == ["rows", "table", "rows", "table"]
    assert kind(90, 0) == "rows"
    found = []

    @tf.function(input_signature=[tf.TensorSpec([None, 6])])
    def of_any_number(values):
        read = tf.IndexedSlices(values, tf.zeros([tf.shape(values)[0]], tf.int32))
        found.extend(gradients_lib.Layout([table], [read], gradients_lib.Tables(num_packs=2)).kinds)

    of_any_number(tf.ones([90, 6]))
    assert found == ["rows"]


def test_weights_of_any_shape_have_their_place():
    """A layer that reads nothing has a kernel of no rows; a scalar has no rows at all."""
    variables = [tf.Variable(tf.zeros(shape)) for shape in ([0, 3], [], [2, 3], [4])]
    given = [tf.zeros([0, 3]), tf.constant(2.0), None, tf.range(4.0)]
    layout = gradients_lib.Layout(variables, given)
    packed = layout.pack(given, tf.constant(3.0), tf.constant(1.0))
    assert packed.buffer.shape == [layout.num_numbers]
    mean, loss = layout.unpack(layout.reduce([packed, packed], Cluster(), 0), whole_tables=False)
    assert float(loss) == 3.0 and mean[2] is None
    for one, other in zip(given, mean, strict=True):
        assert one is None or (one.shape == other.shape and np.array_equal(one, other))


@pytest.mark.slow
def test_groups_on_the_device_make_the_steps_of_one_device():
    """Draws off: with one device, which draws for all groups at once, the steps are the same but for rounding."""
    off = {"dropout": 0.0, "history_dropout": 0.0, "unknown_rate": 0.0}
    found = []
    for kind in (DevicePhase, GroupedDevicePhase):
        world = build(
            {**off, "max_length": 4}, device_input=True, batches_per_step=3, steps_per_call=2, num_snapshots=1
        )
        phase = kind("towers", 1, world.phase.model, world.device, 1)
        optimizer = LazyAdamW(0.02, 0.01, phase.num_steps())
        step = phase.make_step(optimizer, xla=False)
        found.append(([float(step(block)) for block in world.device.make_dataset(0)], weights(phase)))
        assert int(optimizer.iterations) == phase.num_steps()
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-4)
    for name, value in found[0][1].items():
        if "key_value/bias" not in name:
            np.testing.assert_allclose(found[1][1][name], value, atol=3e-4, err_msg=name)
