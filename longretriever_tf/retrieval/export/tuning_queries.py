"""User vectors of real histories, by category: what an approximate index is tuned and measured on."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.graph import graph_function
from longretriever_tf.config.config import Config
from longretriever_tf.data.corpus import Corpus, EncodedLog, encode_log
from longretriever_tf.data.window.sample import load_sample
from longretriever_tf.retrieval.index.exact import PackedIndex
from longretriever_tf.retrieval.index.scann_tuning import CheckQueries
from longretriever_tf.retrieval.multi_context import MultiContextRetriever

_MAX_USERS = 512
_USERS_AT_ONCE = 32
_MAX_EVENTS = 5_000_000
"""Events of a log on disk that are read for queries."""

_STRANGERS = 2
"""Users per round who are asked about every category, seen or not, as learned interests do."""

_QUERIES = 256
"""User vectors of a category: half tune its searcher, half check it."""

_NOISE = 0.5
"""Made queries: an item vector plus noise of this share of the vectors' standard deviation."""


def make_check_queries(
    model: MultiContextRetriever, config: Config, corpus: Corpus, categories: Sequence[int]
) -> dict[int, CheckQueries]:
    """Queries for each of the categories, half to tune on and half to measure by.

    Real ones are vectors of users of the run's log as of its cut, preferring those who have seen the category; item
    vectors plus noise fill up where the log cannot be read, or has too few users.
    """
    many, rng = _QUERIES, np.random.default_rng(config.train.seed)
    real = _real_queries(model, config, corpus, categories, rng)
    queries_of = {}
    for category in categories:
        chosen = real[category][rng.permutation(len(real[category]))[:many]]
        queries = np.concatenate([chosen, _noisy_queries(model.index, category, many - len(chosen), rng)])
        queries = queries[rng.permutation(many)]
        queries_of[category] = CheckQueries(queries[: many // 2], queries[many // 2 :], len(chosen))
    return queries_of


def _noisy_queries(index: PackedIndex, category: int, num: int, rng: np.random.Generator) -> np.ndarray:
    low, high = index.category_offset[category : category + 2]
    vectors = index.item_vectors[low:high].numpy()
    chosen = vectors[rng.integers(0, len(vectors), num)]
    return chosen + (_NOISE * vectors.std() * rng.standard_normal(chosen.shape)).astype(np.float32)


def _real_queries(
    model: MultiContextRetriever, config: Config, corpus: Corpus, categories: Sequence[int], rng: np.random.Generator
) -> dict[int, np.ndarray]:
    """User vectors by category, [n, D] each, n from 0 on."""
    vectors_of: dict[int, list[np.ndarray]] = {category: [] for category in categories}
    try:
        log = encode_log(load_sample(config.data, _MAX_EVENTS, "the index is tuned on"), corpus).before(corpus.cut)
    except (UserError, OSError) as error:
        print(f"the run's log cannot be read ({error}): the index is tuned on item vectors plus noise")
        log = None
    if log is not None:
        encode = _make_encoder(model)
        read = list(corpus.profile_values)[: len(model.profile_names)]
        for columns, row, category in _rounds(log, corpus, read, np.asarray(categories), rng):
            vectors = encode(*columns, row, category).numpy()
            for one in np.unique(category):
                vectors_of[int(one)].append(vectors[category == one])
    dim = model.index.item_vectors.shape[1]
    return {one: np.concatenate([np.zeros([0, dim], np.float32), *parts]) for one, parts in vectors_of.items()}


def _make_encoder(model: MultiContextRetriever) -> tf.types.experimental.GenericFunction:
    """Item indices, timestamps, targets and time of a round, and (row, category) pairs -> user vectors [R, D]."""

    def encode(
        item: tf.Tensor,
        timestamp: tf.Tensor,
        is_target: tf.Tensor,
        profile: tf.Tensor,
        time: tf.Tensor,
        row: tf.Tensor,
        category: tf.Tensor,
    ) -> tf.Tensor:
        columns = [*tf.unstack(profile, len(model.profile_names), 1), *[tf.fill(tf.shape(time), "")] * num_unknown]
        requests = model.look_up(item, timestamp, tf.ones([1, 1]), time, columns, is_target=is_target)
        return model.encode(requests, row, category).state.embedding

    num_unknown = len(model.event_names)  # the log's users do not ask: they say nothing of a device
    matrix = tf.TensorSpec([None, None], tf.int64)
    pairs = tf.TensorSpec([None], tf.int32)
    signature = [
        tf.TensorSpec([None, None], model.item_id_dtype),
        matrix,
        tf.TensorSpec([None, None], tf.bool),
        tf.TensorSpec([None, len(model.profile_names)], tf.string),
        tf.TensorSpec([None], tf.int64),
        pairs,
        pairs,
    ]
    return graph_function(encode, input_signature=signature)


def _rounds(
    log: EncodedLog, corpus: Corpus, names: list[str], categories: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[tuple[tf.Tensor, ...], np.ndarray, np.ndarray]]:
    """Requests of a few users at once, and the pairs to encode: categories with users who have seen them, and a few who
    have not.

    `names`: profile columns that the model reads.
    """
    length = np.diff(log.offset)
    users = rng.permutation(np.flatnonzero(length > 0))[:_MAX_USERS]
    users = users[np.argsort(length[users], kind="stable")]  # like lengths together: little padding
    for first in range(0, len(users), _USERS_AT_ONCE):
        chosen = users[first : first + _USERS_AT_ONCE]
        item = np.zeros([len(chosen), length[chosen].max()], np.int32)
        timestamp = np.full(item.shape, corpus.cut, np.int64)  # where a history ends: ignored, whatever the id
        is_target = np.ones(item.shape, bool)
        seen = np.zeros([len(chosen), corpus.num_categories], bool)
        for at, user in enumerate(chosen):
            history = slice(log.offset[user], log.offset[user + 1])
            item[at, : length[user]], timestamp[at, : length[user]] = log.item[history], log.timestamp[history]
            is_target[at, : length[user]] = True if log.is_target is None else log.is_target[history]
            seen[at, corpus.item_category[log.item[history]]] = True
        seen[rng.integers(0, len(chosen), _STRANGERS)] = True
        profile = [corpus.profile_values[name][log.profile[chosen, p]] for p, name in enumerate(names)]
        row, column = np.nonzero(seen[:, categories])
        columns = (
            tf.constant(corpus.item_id[item]),
            tf.constant(timestamp),
            tf.constant(is_target),
            tf.constant(np.stack(profile, 1) if profile else np.zeros([len(chosen), 0], "U1")),
            tf.fill([len(chosen)], tf.constant(corpus.cut, tf.int64)),
        )
        yield columns, row.astype(np.int32), categories[column].astype(np.int32)
