"""Shards that are lost, late, swapped or of another export: what callers see. Shards are real, routers are made up.

A made-up router answers with a router's outputs of queries that the test writes down: what is asked here is what
happens between router and shards, and a whole router takes a minute to export.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import threading

import numpy as np
import pytest
import tensorflow as tf
from serving_clients import free_ports, serving, wait_until
from toy_models import save_answer
from trained import ROOT, command

from longretriever_tf.common.errors import UserError
from longretriever_tf.retrieval.index.exact import PackedIndex
from longretriever_tf.retrieval.sharding.ranges import (
    CategoryRange,
    ShardLayout,
    balance_ranges,
    check_ranges,
    read_layout,
    write_layout,
)
from longretriever_tf.retrieval.sharding.shard import IndexShard
from longretriever_tf.retrieval.sharding.shards_file import Place, ShardPlaces, read_places, require_same_shards
from longretriever_tf.serving.client import CallError, Client
from longretriever_tf.serving.fan_out.live_versions import LiveVersions
from longretriever_tf.serving.fan_out.shard_calls import ShardCalls
from longretriever_tf.serving.server import config_files
from longretriever_tf.serving.server.manager import ModelManager
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.status import ServingError

SIZES = (1, 1, 5, 0, 7, 3, 11, 2)
"""Items of each category, the two placeholders first."""
OFFSET = np.concatenate([[0], np.cumsum(SIZES)])
DIM, NUM_SHARDS = 3, 3
IDS = np.array(["", "", *(f"item {i}" for i in range(2, OFFSET[-1]))], object)
EXPORT = "0123456789abcdef"


def make_index() -> PackedIndex:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=[OFFSET[-1], DIM]).astype(np.float32)
    return PackedIndex(vectors, rng.normal(size=OFFSET[-1]).astype(np.float32), OFFSET)


def make_layout(export: str = EXPORT) -> ShardLayout:
    return ShardLayout(export, balance_ranges(OFFSET, NUM_SHARDS, 24))


def write_shards(directory: pathlib.Path, layout: ShardLayout, version: int = 1) -> None:
    index = make_index()
    for number in range(NUM_SHARDS):
        shard = IndexShard(index, IDS, layout, number, 50)
        path = str(directory / f"shard-{number}" / str(version))
        tf.saved_model.save(shard, path, signatures={"search": shard.signature()})


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("shards")
    write_shards(directory, make_layout())
    return directory


def routed(export: str = EXPORT, num_shards: int = NUM_SHARDS) -> dict[str, np.ndarray]:
    """Two requests: one searches the categories 2, 4 and 6, the other 7 alone, next to padding."""
    rng = np.random.default_rng(2)
    request, interest, category = np.array([[0, 0, 2], [0, 1, 4], [0, 2, 6], [1, 0, 7]], np.int32).T
    shape = (2, 3)
    columns = {
        "interest_category": np.array([[b"two", b"four", b"six"], [b"seven", b"", b""]], object),
        "interest_score": np.array([[3, 2, 1], [1, 0, 0]], np.float32),
        "interest_rank_drawn": np.array([[1, 2, 5], [1, 0, 0]], np.int32),
        "interest_origin": np.array([[b"drawn"] * 3, [b"drawn", b"", b""]], object),
        "interest_num_events": np.zeros(shape, np.int32),
        "interest_last_timestamp": np.zeros(shape, np.int64),
        "num_interests_drawn": np.array([3, 1], np.int32),
    }
    return columns | {
        "query_shard": make_layout().shard_of_category()[category],
        "query_request": request,
        "query_interest": interest,
        "query_category": category,
        "query_embedding": rng.normal(size=[4, DIM]).astype(np.float32),
        "query_token_item": np.array([[2, 3], [8, 0], [0, 0], [0, 0]], np.int32),
        "query_repeat_logit": np.array([[1, 2], [3, 0], [0, 0], [0, 0]], np.float32),
        "query_excluded_item": np.array([[4], [0], [17], [0]], np.int32),
        "log_interest": np.array([[-1, -2, -3], [-1, -9, -9]], np.float32),
        "quota": np.full(shape, 4, np.float32),
        "merge": np.array([b"calibrated", b"round_robin"], object),
        "k": np.array([20, 2], np.int32),
        "unknown_category": np.full([2, 0], b"", object),
        "num_unknown_items": np.zeros(2, np.int32),
        "num_unknown_excluded": np.zeros(2, np.int32),
        "shards_export": np.array([export.encode()], object),
        "padding_item_id": np.array([b""], object),
        "num_shards": np.array([num_shards], np.int32),
    }


@contextlib.contextmanager
def calls(addresses: list[str], names: list[str] | None = None, timeout_s: float = 60.0):
    """A caller of shards at these addresses."""
    names = names or [f"shard-{number}" for number in range(len(addresses))]
    places = tuple(Place(name, address) for name, address in zip(names, addresses, strict=True))
    live = LiveVersions(places)
    caller = ShardCalls(ShardPlaces(Place("router", "127.0.0.1:1"), places, timeout_s), live)
    try:
        yield caller
    finally:
        live.close()
        caller.close()


@contextlib.contextmanager
def served(shards: pathlib.Path):
    """A server for each shard: their addresses, and what stops each."""
    with contextlib.ExitStack() as stack:
        stacks, addresses = [], []
        for number in range(NUM_SHARDS):
            config = config_files.one_model(f"shard-{number}", str(shards / f"shard-{number}"))
            stacks.append(stack.enter_context(contextlib.ExitStack()))
            addresses.append(f"127.0.0.1:{stacks[-1].enter_context(serving(config)).grpc_port}")
        yield addresses, stacks


def expected_of(query: int) -> dict[str, float]:
    """The list of one query by hand: item -> log softmax within its category."""
    index, asked = make_index(), routed()
    category = int(asked["query_category"][query])
    low, high = OFFSET[category : category + 2]
    logit = index.item_vectors.numpy()[low:high] @ asked["query_embedding"][query] + index.item_bias.numpy()[low:high]
    for item, more in zip(asked["query_token_item"][query], asked["query_repeat_logit"][query], strict=True):
        if item:
            logit[item - low] += more
    kept = [item for item in range(low, high) if item not in asked["query_excluded_item"][query]]
    log_partition = np.log(sum(np.exp(logit[item - low]) for item in kept))
    return {IDS[item]: float(logit[item - low] - log_partition) for item in kept}


def test_lists_are_those_of_the_hand(shards):
    with served(shards) as (addresses, _), calls(addresses) as caller:
        answer = caller.answer(routed(), 1, {})
    wanted = {}
    for query, log_interest in enumerate((-1, -2, -3)):
        wanted |= {item: score + log_interest for item, score in expected_of(query).items()}
    best = sorted(wanted, key=lambda item: -wanted[item])[:20]
    assert [item.decode() for item in answer["item_id"][0]] == best + [""] * (20 - len(best))
    np.testing.assert_allclose(answer["score"][0, : len(best)], [wanted[item] for item in best], 1e-4)
    assert answer["num_valid"].tolist() == [len(best), 2] and len(best) == min(20, 4 + 7 + 10)
    seven = expected_of(3)
    assert [item.decode() for item in answer["item_id"][1, :2]] == sorted(seven, key=lambda item: -seven[item])
    assert answer["missing_shard"].shape == answer["missing_category"].shape == (2, 0)


def test_a_lost_shard_is_named_and_its_interests_are_left_out(shards):
    layout = make_layout()
    lost = int(layout.shard_of_category()[4])
    with served(shards) as (addresses, stacks), calls(addresses) as caller:
        whole = caller.answer(routed(), 1, {})
        stacks[lost].close()
        part = caller.answer(routed(), 1, {})
    gone = [b"four" if c == 4 else b"two" for c in (2, 4) if layout.shard_of_category()[c] == lost]
    gone += [b"six"] if layout.shard_of_category()[6] == lost else []
    assert part["missing_shard"][0].tolist() == [f"shard-{lost}".encode()]
    assert sorted(filter(None, part["missing_category"][0])) == sorted(gone)
    stay = [name for name in (b"two", b"four", b"six") if name not in gone]
    assert part["interest_category"][0].tolist() == stay + [b""] * len(gone)
    assert part["num_interests_drawn"].tolist() == [len(stay), 1]
    kept = [item for item, name in zip(whole["item_id"][0], whole["category"][0], strict=True) if name in stay]
    # As if those interests had not been chosen: what was there before is there in the same order, and more behind it.
    assert part["item_id"][0].tolist()[: len(kept)] == kept
    if int(layout.shard_of_category()[7]) != lost:
        assert part["item_id"][1].tolist() == whole["item_id"][1].tolist()
        assert not any(part["missing_shard"][1])


def test_no_shard_at_all_is_an_error(shards):
    with calls([f"127.0.0.1:{port}" for port in free_ports(NUM_SHARDS)]) as caller:
        with pytest.raises(CallError, match="no shard that was asked answered: shard-0") as caught:
            caller.answer(routed(), 1, {})
    assert caught.value.is_retryable


def test_two_exports_are_not_mixed(shards, tmp_path):
    with served(shards) as (addresses, _):
        with calls(addresses) as caller, pytest.raises(CallError, match="INVALID_ARGUMENT.*two exports are mixed"):
            caller.answer(routed(export="another"), 1, {})
        with calls(addresses[::-1], [f"shard-{n}" for n in (2, 1, 0)]) as caller:
            with pytest.raises(CallError, match="INVALID_ARGUMENT.*in another order"):
                caller.answer(routed(), 1, {})
        with (
            calls(addresses[:2]) as caller,
            pytest.raises(UserError, match="has 3 shards, and the shards file names 2"),
        ):
            caller.answer(routed(), 1, {})


def test_files_of_two_shards_are_not_served(shards, tmp_path):
    """Variables of another export under this graph."""
    write_shards(tmp_path, make_layout("another"))
    mixed = tmp_path / "shard-0" / "1"
    (mixed / "saved_model.pb").write_bytes((shards / "shard-0" / "1" / "saved_model.pb").read_bytes())
    with served(tmp_path) as (addresses, _), calls(addresses) as caller:
        with pytest.raises(CallError, match="variables are not those of this saved_model.pb"):
            caller.answer(routed(), 1, {})


def test_a_version_is_live_once_every_shard_is(tmp_path):
    for name in ("router", "a", "b"):
        save_answer((tmp_path / name).mkdir() or tmp_path / name, 1)
    with contextlib.ExitStack() as stack:
        lost = stack.enter_context(contextlib.ExitStack())
        servers = {
            name: holder.enter_context(serving(config_files.one_model(name, str(tmp_path / name))))
            for name, holder in (("router", stack), ("a", stack), ("b", lost))
        }
        places = {name: Place(name, f"127.0.0.1:{server.grpc_port}") for name, server in servers.items()}
        live = LiveVersions([places["a"], places["b"]], [places["router"]])
        stack.callback(live.close)
        assert live.highest() == 1
        for name in ("router", "a"):  # `latest`: version 1 goes as 2 comes
            save_answer(tmp_path / name, 2)
        wait_until(lambda: live.missing(2) == [f"b at {places['b'].address} has not loaded version 2"])
        assert live.highest() is None and "b at" in live.why()
        save_answer(tmp_path / "b", 2)
        wait_until(lambda: live.highest() == 2)
        lost.close()
        wait_until(lambda: live.is_lost(1))
        assert live.highest() == 2 and not live.is_lost(0)


def test_a_server_waits_for_a_version_that_is_not_live(tmp_path):
    tried, ready = [], threading.Event()

    class Model:
        def retire(self):
            pass

    def load(name, version, path):
        tried.append(version)
        if not ready.is_set():
            raise ServingError("UNAVAILABLE", "shard-1 has not loaded it")
        return Model()

    (tmp_path / "1").mkdir()
    manager = ModelManager(Metrics(), load)
    manager.configure(config_files.one_model("toy", str(tmp_path)))
    manager.poll()
    assert manager.waiting() == ["toy"] and not manager.failed()
    manager.poll()
    ready.set()
    manager.poll()
    assert tried == [1, 1, 1] and not manager.waiting()
    manager.close()


def test_ranges_are_balanced_and_leave_nothing_out():
    for num_shards in range(1, 6):
        ranges = balance_ranges(OFFSET, num_shards, 10)
        check_ranges(ranges, len(SIZES), "here")
        assert len(ranges) == num_shards and all(one.num_items for one in ranges)
        assert sum(one.num_items for one in ranges) == OFFSET[-1] - 2
        assert all(one.num_bytes == 10 * one.num_items for one in ranges)
    assert max(one.num_items for one in balance_ranges(OFFSET, 2, 1)) == 15  # 5+0+7+3 | 11+2 are as even as it gets
    with pytest.raises(UserError, match="--category_shards=6: .* 5 categories have items"):
        balance_ranges(OFFSET, 6, 1)
    rng = np.random.default_rng(3)
    for _ in range(50):  # the largest range is never above the best possible one's bound
        sizes = rng.integers(0, 30, 23)
        offset = np.concatenate([[0, 1, 2], 2 + np.cumsum(sizes)])
        num = int(rng.integers(1, (sizes > 0).sum() + 1))
        largest = max(one.num_items for one in balance_ranges(offset, num, 1))
        assert sizes.sum() / num <= largest <= sizes.sum() / num + sizes.max()


def test_a_layout_with_a_gap_is_refused(tmp_path):
    layout = make_layout()
    write_layout(str(tmp_path), layout)
    path = tmp_path / "category_shards.json"
    assert read_layout(str(path), len(SIZES)) == layout
    stored = json.loads(path.read_text())
    for wrong, says in (
        (stored["ranges"][:1] + stored["ranges"][2:], "every category must lie in one shard"),
        (stored["ranges"][1:], "should begin with 2"),
    ):
        path.write_text(json.dumps(stored | {"ranges": wrong}))
        with pytest.raises(UserError, match=says):
            read_layout(str(path))
    path.write_text(json.dumps(stored | {"ranges": stored["ranges"][:2]}))
    with pytest.raises(UserError, match="there are some up to 7"):
        read_layout(str(path), len(SIZES))
    path.write_text("{")
    with pytest.raises(UserError, match="export again"):
        read_layout(str(path))
    with pytest.raises(UserError, match="shard 1 holds the categories 5"):
        check_ranges([CategoryRange(2, 4, 1, 1), CategoryRange(5, 8, 1, 1)], 8, "here")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shards": []}, "no shard"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"router": {"model": "r", "address": "nowhere"}}, "'nowhere'; give host:port"),
        ({"shards": [{"model": "r", "address": "h:1"}]}, "r is listed twice"),
        ({"shards": [{"model": "", "address": "h:1"}]}, "called ''"),
        ({"shards": [{"name": "a"}]}, "name"),
        ({"router": None}, "shards.json"),
    ],
)
def test_a_malformed_shards_file_is_refused(tmp_path, change, says):
    good = {"router": {"model": "r", "address": "h:1"}, "shards": [{"model": "a", "address": "h:2"}]}
    path = tmp_path / "shards.json"
    path.write_text(json.dumps(good))
    assert read_places(str(path)).shards == (Place("a", "h:2"),)
    path.write_text(json.dumps(good | change))
    with pytest.raises(UserError, match=says):
        read_places(str(path))
    with pytest.raises(UserError):
        Client(str(tmp_path / "none.json"))


def test_another_number_of_shards_is_not_published_over_the_first(tmp_path):
    require_same_shards(str(tmp_path / "new"), 4)
    (tmp_path / "1").mkdir()
    with pytest.raises(UserError, match="--category_shards=2: .* an export in one SavedModel"):
        require_same_shards(str(tmp_path), 2)
    require_same_shards(str(tmp_path), 0)
    good = {"router": {"model": "r", "address": "h:1"}, "shards": [{"model": "a", "address": "h:2"}]}
    (tmp_path / "shards.json").write_text(json.dumps(good))
    for num_shards in (0, 2):
        with pytest.raises(UserError, match=f"--category_shards={num_shards}: .* an export of 1 category shards"):
            require_same_shards(str(tmp_path), num_shards)


@pytest.mark.scann
def test_searchers_go_with_their_category():
    """Shards of an index with searchers find what the whole index finds, by searcher and exactly."""
    from longretriever_tf.retrieval.index.scann import ScannIndex
    from longretriever_tf.retrieval.index.scann_tuning import draw_sample, whole_searcher

    rng, num = np.random.default_rng(4), 40
    offset = np.array([0, 1, 2, 2 + num, 2 + 2 * num, 2 + 3 * num, 2 + 3 * num + 5])
    vectors, bias = rng.normal(size=[offset[-1], DIM]).astype(np.float32), np.zeros(offset[-1], np.float32)
    packed = PackedIndex(vectors, bias, offset)
    wide = np.concatenate([vectors, bias[:, None]], 1)
    searchers = []
    for category in (2, 4):
        own = wide[offset[category] : offset[category + 1]]
        searchers.append(whole_searcher(category, own, draw_sample(own @ own.T, 99, rng)))
    whole = ScannIndex(packed, searchers, 1.0)
    ids = np.array([b"", b"", *(f"item {i}".encode() for i in range(2, offset[-1]))], object)
    layout = ShardLayout(EXPORT, balance_ranges(offset, 3, 1))
    for number, own in enumerate(layout.ranges):
        shard = IndexShard(whole, np.array([one.decode() for one in ids], object), layout, number, 50)
        held = [one.category for one in searchers if own.first_category <= one.category < own.stop_category]
        assert isinstance(shard.index, ScannIndex) == bool(held)
        category = np.arange(own.first_category, own.stop_category, dtype=np.int32)
        asked = rng.normal(size=[len(category), DIM]).astype(np.float32)
        expected = whole.ask(asked, category, 20)
        nothing = np.zeros([len(category), 1], np.int32)
        answer = shard.signature()(
            tf.constant([EXPORT]), tf.constant([20]), category, asked, nothing, nothing.astype(np.float32), nothing
        )
        for row, valid in enumerate(answer["num_valid"].numpy()):
            found = expected.item.numpy()[row]
            assert answer["item_id"].numpy()[row, :valid].tolist() == ids[found[found > 0]].tolist()
        np.testing.assert_allclose(answer["log_partition"], expected.log_partition, 1e-5)


@pytest.mark.serving
def test_a_shard_killed_under_load(shards, tmp_path):
    """Callers get answers all along: whole ones, then ones that name the shard, then whole ones again."""
    ports = free_ports(NUM_SHARDS)

    def start(number: int) -> subprocess.Popen:
        flags = (
            f"--port={ports[number]}",
            f"--model_name=shard-{number}",
            f"--model_base_path={shards}/shard-{number}",
        )
        with (tmp_path / f"{number}.log").open("a") as log:
            return subprocess.Popen(command("serve", *flags), cwd=ROOT, stdout=log, stderr=log)

    def is_whole(answer) -> bool:
        return not answer["missing_shard"].size

    killed = int(make_layout().shard_of_category()[6])
    children = [start(number) for number in range(NUM_SHARDS)]
    stop, errors, seen = threading.Event(), [], []
    try:
        with calls([f"127.0.0.1:{port}" for port in ports]) as caller:

            def ask() -> None:
                while not stop.is_set():
                    try:
                        seen.append(caller.answer(routed(), 1, {}))
                    except Exception as error:
                        errors.append(error)

            def answers_whole() -> bool:
                with contextlib.suppress(CallError):
                    return is_whole(caller.answer(routed(), 1, {}))
                return False

            wait_until(answers_whole)
            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(seen) > 30)
            os.kill(children[killed].pid, signal.SIGKILL)
            children[killed].wait()
            wait_until(lambda: not is_whole(seen[-1]))
            at = len(seen)
            wait_until(lambda: len(seen) > at + 30)
            children[killed] = start(killed)
            wait_until(lambda: is_whole(seen[-1]))
            stop.set()
            for thread in threads:
                thread.join()
    finally:
        stop.set()
        for child in children:
            child.terminate()
            child.wait(300)
    assert not errors
    partial = [answer for answer in seen if not is_whole(answer)]
    names = {name for answer in partial for name in answer["missing_shard"].ravel()}
    assert partial and names <= {b"", f"shard-{killed}".encode()}
