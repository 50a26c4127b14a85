"""The package and the one file of the paper, `longretriever_tf.minimal`, hold each other to the same answers.

The package runs `--recipe=paper`. What that recipe adds to the paper is taken away here, and nothing else: weights of
targets, the full softmax of small categories, the category's embedding in [CLS], and the features of the tokens.
"""

import collections
import dataclasses
import itertools
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import reference
import tensorflow as tf
from worlds import crowded_world

from longretriever_tf import minimal
from longretriever_tf.common import schema
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, RetrievalConfig, TrainConfig
from longretriever_tf.config.recipes import PAPER, RECIPES
from longretriever_tf.data.batches.in_context import Batch, BatchSource
from longretriever_tf.data.batches.prepared_data import Prepared, prepare, prepare_examples
from longretriever_tf.datasets.complete_journey.complete_journey_dataset_builder import (
    package_data,
    read_complete_journey,
)
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.models.build import Models, build_models
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.signatures import make_signatures

ROOT = pathlib.Path(__file__).resolve().parent.parent
L, D, HEADS, FF, K = 7, 8, 2, 16, 17


@pytest.fixture(scope="module", autouse=True)
def small_sizes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MAX_LENGTH": L, "DIM": D, "NUM_HEADS": HEADS, "FF_DIM": FF, "LIST_LENGTH": K}.items():
            patch.setattr(minimal, name, value)
        yield


@dataclasses.dataclass(frozen=True)
class World:
    """One log and the same weights, twice."""

    raw: LifelongLog
    log: minimal.Log
    prepared: Prepared
    models: Models
    config: Config
    minimal: minimal.LongRetriever


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    raw = crowded_world(num_users=19)  # ties and baskets; here with integer ids, no weights, and users in the profile
    ids = 100 + np.arange(len(raw.items.item_id))
    profile = {"household": raw.user_id, **raw.profile}
    items, weight = dataclasses.replace(raw.items, item_id=ids), np.ones_like(raw.weight)
    raw = dataclasses.replace(raw, items=items, weight=weight, profile=profile)
    config = make_config()
    prepared = prepare(config, raw, int(raw.timestamp.max()) - 14 * schema.DAY_S)
    models = build_models(config, prepared.corpus, prepared.item_svd)
    make_literal(models)
    log = minimal_log(raw, prepared)
    world = World(raw, log, prepared, models, config, minimal.LongRetriever(log))
    copy_weights(world, str(tmp_path_factory.mktemp("weights")))
    return world


def make_config() -> Config:
    paper = RECIPES[PAPER]
    sizes = {"max_length": L, "dim": D, "num_heads": HEADS, "ff_dim": FF}
    interests = {"num_interests": 3, "top_interests": 3}  # N = M draws nothing, so that the lists compare
    return Config(
        DataConfig(dataset="event_log"),
        ModelConfig(**paper["model"] | sizes),
        TrainConfig(**paper["train"] | {"batch_size": 32, "small_category": 1}),
        RetrievalConfig(**paper["retrieval"] | interests),
    )


def make_literal(models: Models) -> None:
    """Weights that leave no part of the towers silent, but for what the paper does not have."""
    rng = np.random.default_rng(5)
    for variable in models.retriever.trainable_variables:
        variable.assign_add(rng.normal(size=variable.shape).astype(np.float32) * 0.3)
    tower = models.retriever.user_tower
    extras = [tower.category_table, *(v for v in tower.variables if "embed_features" in v.name)]
    assert len(extras) == 3
    for variable in extras:
        variable.assign(tf.zeros_like(variable))


def minimal_log(raw: LifelongLog, prepared: Prepared) -> minimal.Log:
    """The columns that `minimal.load_log` would read of this log."""
    corpus, width = prepared.corpus, int(np.diff(raw.offset).max())
    history, timestamp = np.zeros([2, raw.num_users, width], np.int64)
    for user in range(raw.num_users):
        events = slice(raw.offset[user], raw.offset[user + 1])
        history[user, : events.stop - events.start] = raw.items.item_id[raw.item_row[events]]
        timestamp[user, : events.stop - events.start] = raw.timestamp[events]
    known = np.arange(schema.UNKNOWN, corpus.num_items)  # the unknown item stands in row 0
    known_category = np.append("", corpus.category_name[corpus.item_category[known[1:]]])
    columns = {"item_id": corpus.item_id[known].astype(str), "category": known_category}
    for f, (name, values) in enumerate(corpus.feature_values.items()):
        columns[name] = values[corpus.item_feature[known, f]]
    return minimal.Log(
        profile=pairs(raw.profile),
        history=history,
        timestamp=timestamp,
        item_id=corpus.item_id[known],
        item_name=corpus.item_name[known],
        item_category=known_category,
        item_feature=pairs(columns),
        cut=corpus.cut,
    )


def pairs(columns: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([np.char.add(f"{name}=", column.astype(str)) for name, column in columns.items()], 1)


def copy_weights(world: World, directory: str) -> None:
    """Into the minimal towers, by the weights' names in a checkpoint: these stay, since former runs must load."""
    path = tf.train.Checkpoint(retriever=world.models.retriever).write(os.path.join(directory, "weights"))
    reader = tf.train.load_checkpoint(path)
    corpus, user, item = world.prepared.corpus, world.minimal.user_tower, world.minimal.item_tower
    user(tf.constant(world.log.profile[:1]), tf.ones([1, 1], tf.int64))  # makes its weights

    def read(*names: str) -> np.ndarray:
        return reader.get_tensor("/".join(["retriever", *names, ".ATTRIBUTES", "VARIABLE_VALUE"]))

    item_rows = {"item_id": corpus.item_id, "category": corpus.category_name, **corpus.feature_values}
    item_tables = {name: name if name in ("item_id", "category") else f"feature_{name}" for name in item_rows}
    values = np.unique(world.log.item_feature)
    item.embedding.set_weights([rows_of(values, item_rows, lambda name: read("item_tower", item_tables[name]))])
    values = np.array(user.profile_row.get_vocabulary())[1:]
    table = rows_of(values, corpus.profile_values, lambda name: read("user_tower", f"profile_{name}"))
    user.profile_embedding.set_weights([np.concatenate([np.zeros([1, D]), table])])
    user.cls.set_weights([read("user_tower", "cls")])
    user.position.set_weights([read("user_tower", "position")])
    user.token_type.set_weights([read("user_tower", "token_type")[[0, 1, 3]]])  # its third is of another recipe's token
    encoder = ("user_tower", "_encoder")

    def dense(*names: str) -> list[np.ndarray]:
        return [read(*names, "kernel"), read(*names, "bias")]

    def norm(*names: str) -> list[np.ndarray]:
        return [read(*names, "gamma"), read(*names, "beta")]

    for number, layer in enumerate(user.layers):
        own = (*encoder, "_layers", str(number))
        query, keys = dense(*own, "_query"), dense(*own, "_key_value")
        projections = [query, [part[..., :D] for part in keys], [part[..., D:] for part in keys]]
        by_head = [part.reshape([*part.shape[:-1], HEADS, D // HEADS]) for pair in projections for part in pair]
        output = dense(*own, "_output")
        layer.attention.set_weights([*by_head, output[0].reshape([HEADS, D // HEADS, D]), output[1]])
        layer.attention_norm.set_weights(norm(*own, "_norm_attention"))
        layer.ff_norm.set_weights(norm(*own, "_norm_ff"))
        layer.ff.set_weights([*dense(*own, "_expand"), *dense(*own, "_contract")])
    user.final_norm.set_weights(norm(*encoder, "_final_norm"))


def rows_of(pairs: np.ndarray, rows: dict[str, np.ndarray], table_of: Callable[[str], np.ndarray]) -> np.ndarray:
    """The package's row of each "name=value", of its unknown value where it does not know it, [n, D]."""
    found = []
    for pair in pairs:
        name, _, value = pair.partition("=")
        known = rows[name][schema.FIRST_KNOWN :].astype(str).tolist()
        row = schema.FIRST_KNOWN + known.index(value) if value in known else schema.UNKNOWN
        found.append(table_of(name)[row])
    return np.array(found)


def package_batches(world: World) -> Iterator[Batch]:
    examples, _ = prepare_examples(world.config, world.prepared)
    yield from BatchSource(world.config, world.prepared, examples).make_dataset(epoch=0)


def as_minimal(world: World, batch: Batch) -> tuple[tf.Tensor, ...]:
    """A batch of the package in raw profiles and in the minimal file's items."""
    values = world.prepared.corpus.profile_values
    profile = {name: values[name][batch.profile.numpy()[:, p]] for p, name in enumerate(values)}
    row = tf.maximum(batch.token_item - 1, 0)  # the package has a row more: padding and unknown are two
    item = tf.gather(tf.reshape(batch.item, [-1]), batch.target_local) - 1
    return tf.constant(pairs(profile)), row, item, batch.target_probability


def examples_of(batch: tuple[tf.Tensor, ...]) -> list[tuple]:
    """(household, S_u, positive, probability) of each row."""
    profile, subsequence, item, probability = (part.numpy() for part in batch)
    found = [tuple(row[row > 0].tolist()) for row in subsequence]
    return list(zip(profile[:, 0].astype(str), found, item.tolist(), probability.round(5).tolist(), strict=True))


def test_examples_and_their_subsequences_are_the_packages(world):
    batches = list(minimal.in_context_batches(world.log, world.minimal.item_tower))
    ours = collections.Counter(example for batch in batches for example in examples_of(batch))
    package = [as_minimal(world, batch) for batch in package_batches(world)]
    assert ours == collections.Counter(example for batch in package for example in examples_of(batch))
    lengths = collections.Counter(len(found) for _, found, _, _ in ours)
    assert lengths[0] and lengths[L] > lengths[L - 1], "no empty or no cut subsequence: the case would not test them"
    category = world.minimal.item_tower.category.numpy()
    assert all(len(set(category[batch[2].numpy()])) == 1 for batch in batches)


def test_subsequence_is_the_oracles(world):
    """Strictly before by time and by basket, the latest L, newest first."""
    histories = world.minimal.item_tower.encode(tf.constant(world.log.history), tf.constant(world.log.timestamp))
    names = world.minimal.item_tower.category_name
    known = set(world.log.item_id.tolist())
    num = 0
    for user in range(world.raw.num_users):
        history = [b for b in reference.request_history(world.raw, user) if b.item in known]
        for asked in history[::3]:
            found = reference.hard_search(history, asked.category, asked.timestamp, asked.basket, L)
            category = np.flatnonzero(names == asked.category)
            row = minimal.hard_search(
                histories,
                tf.constant([user]),
                tf.constant(category, tf.int32),
                tf.constant([asked.timestamp], tf.int64),
            )
            assert world.log.item_id[row[0]].tolist() == [b.item for b in reversed(found)]
            num += len(found) > 0
    assert num > 50


def test_vectors_are_the_packages_for_the_same_weights(world):
    every = np.arange(schema.FIRST_KNOWN, world.prepared.corpus.num_items)
    expected = world.models.retriever.item_tower(tf.constant(every, tf.int32))
    np.testing.assert_allclose(world.minimal.item_tower(tf.constant(every - 1)), expected, rtol=1e-5, atol=1e-5)
    for batch in itertools.islice(package_batches(world), 0, None, 4):
        profile, subsequence, _, _ = as_minimal(world, batch)
        vectors = world.models.retriever.item_tower(tf.reshape(batch.item, [-1]))
        expected = world.models.retriever.encode(batch, vectors).embedding
        np.testing.assert_allclose(world.minimal.user_tower(profile, subsequence), expected, rtol=1e-4, atol=1e-4)


def test_loss_is_the_packages_for_the_same_batch(world):
    losses = []
    for batch in package_batches(world):
        if len(batch.target_row) == 1:
            continue  # no negative: both losses are 0, and Keras warns
        ours = world.minimal.compute_loss(as_minimal(world, batch))
        batch = batch._replace(target_weight=tf.ones_like(batch.target_weight))
        losses.append((float(ours), float(world.models.retriever.compute_loss((batch, None)))))
    ours, expected = np.array(losses).T
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    assert len(losses) > 5 and expected.std() > 0.1


def test_list_is_the_packages_for_the_same_weights(world, monkeypatch):
    """Eq. 3, the best N interests, a search in each one's category, the merge: from raw histories to raw ids."""
    monkeypatch.setattr(minimal, "TOP_INTERESTS", 3)
    monkeypatch.setattr(minimal, "NUM_INTERESTS", 3)
    arrays = {
        "item_stats": world.prepared.stats.item[-1],
        "category_stats": world.prepared.stats.category[-1],
        "taste_rows": world.prepared.history_embedding_rows,
    }
    models, config = world.models, world.config
    package = MultiContextRetriever(config, world.prepared.corpus, models.retriever, models.interest, arrays)
    ask = make_signatures(package, config.retrieval)["serving_default"]
    served = minimal.MultiContextRetriever(world.minimal, world.log)
    lengths = set()
    nobody = served.retrieve(
        world.log.profile[0], world.log.history[0] * 0, world.log.timestamp[0] * 0, world.log.cut, 1
    )
    assert nobody["item_id"].shape == nobody["interest_category"].shape == [0]
    for user in np.flatnonzero(((world.log.history > 0) & (world.log.timestamp < world.log.cut)).any(1)):
        history, timestamp = world.log.history[user], world.log.timestamp[user]
        expected = ask(
            history_item_id=tf.constant(history[None]),
            history_timestamp=tf.constant(timestamp[None]),
            request_timestamp=tf.constant([world.log.cut], tf.int64),
            k=tf.constant([K]),
            **{name: tf.constant([str(column[user])]) for name, column in world.raw.profile.items()},
        )
        answer = served.retrieve(world.log.profile[user], history, timestamp, world.log.cut, 1)
        num, num_interests = int(expected["num_valid"][0]), int(expected["num_interests_drawn"][0])
        assert answer["item_id"].numpy().tolist() == expected["item_id"][0, :num].numpy().tolist()
        assert (
            answer["interest_category"].numpy().tolist()
            == expected["interest_category"][0, :num_interests].numpy().tolist()
        )
        np.testing.assert_allclose(answer["interest_score"], expected["interest_score"][0, :num_interests], rtol=1e-4)
        lengths.add(num)
    assert K in lengths and len(lengths) > 1, "no short list: the case would not test lists of unequal length"


def test_draw_is_uniform_among_the_best(monkeypatch):
    monkeypatch.setattr(minimal, "TOP_INTERESTS", 4)
    monkeypatch.setattr(minimal, "NUM_INTERESTS", 2)
    score = tf.constant([0.0, 0.7, 0.1, 0.9, 0.3, 0.8, 0.2])  # the best four: 3, 5, 1, 4
    draws = [tuple(minimal.draw_interests(score, tf.constant(seed, tf.int64)).numpy()) for seed in range(300)]
    assert draws[7] == tuple(minimal.draw_interests(score, tf.constant(7, tf.int64)).numpy())
    counts = collections.Counter(draws)
    assert set(counts) == set(itertools.combinations([3, 5, 1, 4], 2))  # best first
    assert min(counts.values()) > 25  # of 50 expected
    assert minimal.draw_interests(tf.constant([0.0, 0.0, 0.4]), tf.constant(1, tf.int64)).numpy().tolist() == [2]


ASK = """
import sys
import numpy as np
import scann
import tensorflow as tf
columns = dict(np.load(sys.argv[2]))
retrieve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
rows = [{name: tf.constant(column[row]) for name, column in columns.items()} for row in range(len(columns["time"]))]
answers = [retrieve(**row) for row in rows]
assert "longretriever_tf" not in sys.modules
np.save(sys.argv[3], np.stack([answer["item_id"] for answer in answers]))
"""


@pytest.mark.scann
def test_each_category_answers_from_its_own_searcher_in_a_fresh_process(monkeypatch, tmp_path):
    """Searchers that share a name would answer each interest with the items of one category."""
    for name, value in {"TOP_INTERESTS": 4, "NUM_INTERESTS": 4, "LIST_LENGTH": 40}.items():
        monkeypatch.setattr(minimal, name, value)
    num_items, num_users = 3 * 240 + 90, 9  # three big categories, and a small one
    category = np.minimum(np.arange(num_items) // 240, 3)
    rng = np.random.default_rng(3)
    log = minimal.Log(
        profile=np.array([[f"user_id={user}"] for user in range(num_users)]),
        history=1 + rng.integers(0, num_items, [num_users, 40]),
        timestamp=np.sort(rng.integers(1, 90, [num_users, 40])) * minimal.DAY_S,
        item_id=np.arange(num_items + 1),
        item_name=np.arange(num_items + 1).astype(str),
        item_category=np.append("", np.array(["a", "b", "c", "d"])[category]),
        item_feature=np.array([[f"item_id={item}"] for item in range(num_items + 1)]),
        cut=100 * minimal.DAY_S,
    )
    model = minimal.LongRetriever(log)
    exact, scann = build_retrievers(model, log, monkeypatch)
    assert (len(exact.layers), len(scann.layers)) == (0, 3)
    columns = {"profile": log.profile, "item_id": log.history, "timestamp": log.timestamp}
    columns |= {"time": np.full(num_users, log.cut), "seed": np.ones(num_users, np.int64)}
    expected = np.stack([exact.retrieve(*row)["item_id"] for row in zip(*columns.values(), strict=True)])
    tf.saved_model.save(scann, str(tmp_path / "model"), signatures={"serving_default": scann.retrieve})
    np.savez(tmp_path / "columns.npz", **columns)
    paths = [str(tmp_path / name) for name in ("model", "columns.npz", "answer.npy")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *paths], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = np.load(paths[-1])
    np.testing.assert_array_equal(log.item_category[found], log.item_category[expected])  # in turn, as they should be
    assert len(set(log.item_category[found].ravel())) == 4
    assert np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)]) > 0.7


def build_retrievers(
    model: minimal.LongRetriever, log: minimal.Log, monkeypatch: pytest.MonkeyPatch
) -> list[minimal.MultiContextRetriever]:
    """One that searches every category exactly, and one with ScaNN for categories of at least 200 items."""
    found = []
    for least in (10**9, 200):
        monkeypatch.setattr(minimal, "SCANN_MIN_ITEMS", least)
        found.append(minimal.MultiContextRetriever(model, log))
    return found


@pytest.mark.slow
def test_a_newcomer_runs_it(tmp_path):
    """The command as README gives it, in a data folder of its own: prepares the log, trains, serves, explains."""
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "longretriever_tf.minimal"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"mean_loss: ([0-9.]+)", done.stdout)]
    assert len(losses) == minimal.EPOCHS and losses[-1] < losses[0]
    interests = re.findall(r"^   \d+\.\d{3}  (.+): read (\d+) purchases, the latest (.+)$", done.stdout, re.M)
    listed = re.findall(r"^   [* ] +-?\d+\.\d{3}  (.+?): (.+)$", done.stdout, re.M)
    categories = [category for category, _, _ in interests]
    assert len(set(categories)) == len(categories) == 5
    assert [category for category, _ in listed] == categories * 4  # in turn
    items = read_complete_journey(package_data()).items
    category_of = set(zip(items.features["product_category"].tolist(), items.name.tolist(), strict=True))
    assert category_of.issuperset(listed) and category_of.issuperset((c, name) for c, _, name in interests)
