"""The paper in one file: LongRetriever (Ren, Chai, Xiao, Zheng, Wu; ByteDance, 2025), to be read from top to bottom.

`longretriever minimal` trains it on households of Complete Journey and explains a list, in two minutes.
"Open" marks what the paper does not say: there this file does what `configs/paper.flags` does, and
`tests/test_minimal.py` holds both to the same subsequences, vectors, losses and lists.

Shapes: U users, T events of a history, V items, C categories, P profile features, F item features, D embedding width,
R examples of a batch, S tokens, L behaviors of a subsequence, N interests of a request, K list length.
"""

import argparse
import functools
import tempfile
import uuid
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tensorflow_recommenders as tfrs

import longretriever_tf.datasets  # noqa: F401 - registers complete_journey with TFDS

MAX_LENGTH, TOP_INTERESTS, NUM_INTERESTS, LIST_LENGTH = 50, 20, 5, 20  # L, M, N, K
DIM, NUM_LAYERS, NUM_HEADS, FF_DIM, DROPOUT = 64, 2, 4, 128, 0.1
BATCH_SIZE, LEARNING_RATE, EPOCHS, NUM_USERS = 256, 2e-3, 2, 64
CONTEXT, SIDE_FEATURES = "product_category", ("product_type", "brand", "manufacturer")
scann_ops: Any = getattr(tfrs.layers.factorized_top_k, "scann_ops", None)  # TFRS imports ScaNN if it is installed
DAY_S, SCANN_MIN_ITEMS = 86_400, 200  # a category of at least so many items has a ScaNN index
_INTEGERS, _INTEGER = tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64)


class Log(NamedTuple):
    """Lifelong behaviors B_u and profiles P_u of users, and the items. Item 0 is padding and whatever is unknown."""

    profile: np.ndarray  # "name=value", the user's id among them, [U, P] of str
    history: np.ndarray  # item ids, oldest first, right-padded by 0, [U, T] int64
    timestamp: np.ndarray  # seconds UTC, the same for all events of a basket, [U, T] int64
    item_id: np.ndarray  # [V] int64
    item_name: np.ndarray  # [V] of str
    item_category: np.ndarray  # [V] of str
    item_feature: np.ndarray  # "name=value", the item's id among them, [V, F] of str
    cut: int  # training reads the events strictly before this time, seconds UTC


def load_log(num_users: int) -> Log:
    """Reads households of Complete Journey, and the items that they bought before the last 28 days."""
    users = tfds.load("complete_journey/users", split=f"log[:{num_users}]").padded_batch(num_users)
    users = next(users.as_numpy_iterator())
    cut = int(users["timestamp"].max()) - 28 * DAY_S
    items = tfds.as_numpy(tfds.load("complete_journey/items", split="log", batch_size=-1))
    known = np.isin(items["item_id"], users["item_id"][users["timestamp"] < cut])
    columns = (items | items.pop("feature")).items()
    items = {name: np.insert(column[known], 0, type(column[0])()) for name, column in columns}

    def pairs(columns: dict[str, np.ndarray], *names: str) -> np.ndarray:
        return np.stack([np.char.add(f"{name}=", columns[name].astype(np.str_)) for name in names], 1)

    profile = pairs(users | users["profile"], "user_id", *users["profile"])
    name, category = (items[column].astype(np.str_) for column in ("name", CONTEXT))
    feature = pairs(items, "item_id", CONTEXT, *SIDE_FEATURES)
    return Log(profile, users["item_id"], users["timestamp"], items["item_id"], name, category, feature, cut)


class Histories(NamedTuple):
    """Events, oldest first, right-padded by 0: items, their categories, times in seconds UTC; [U, T] each."""

    item: tf.Tensor
    category: tf.Tensor
    timestamp: tf.Tensor


def hard_search(histories: Histories, user: tf.Tensor, category: tf.Tensor, time: tf.Tensor) -> tf.Tensor:
    """S_u(c, t) of eq. 1: the latest L behaviors of category c strictly before time t, and so of another basket.

    Takes u (row of the histories), c and t of R searches, [R] each. Returns items, newest first, [R, at most L].
    """
    item, category_of, timestamp = (tf.gather(column, user) for column in histories)  # [R, T]
    is_found = (category_of == category[:, None]) & (timestamp < time[:, None])
    latest = tf.ragged.boolean_mask(item, is_found)[:, -MAX_LENGTH:]
    return tf.reverse(latest, [1]).to_tensor(shape=[None, None])  # right-padded by 0


class PreLNLayer(tf.keras.layers.Layer):
    """A Pre-LN Transformer layer: LayerNorm before attention and before the feed-forward block, a residual around."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        self.attention = tf.keras.layers.MultiHeadAttention(NUM_HEADS, DIM // NUM_HEADS)
        self.ff_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        self.ff = tf.keras.Sequential([tf.keras.layers.Dense(FF_DIM, "relu"), tf.keras.layers.Dense(DIM)])
        self.dropout = tf.keras.layers.Dropout(DROPOUT)

    def call(self, x: tf.Tensor, is_real: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[R, S, D] -> [R, S, D]; `is_real` is False where a token is padding, [R, S] bool."""
        normed = self.attention_norm(x)
        x += self.dropout(self.attention(normed, normed, attention_mask=is_real[:, None, :]), training=training)
        return x + self.dropout(self.ff(self.ff_norm(x)), training=training)


class ItemTower(tf.keras.layers.Layer):
    """e_v: the sum of the embeddings of an item's features, its id among them. It never sees a user."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.item_row = tf.keras.layers.IntegerLookup(vocabulary=log.item_id[1:])  # 0: padding, unknown
        self.category_name, category = np.unique(log.item_category, return_inverse=True)  # [C], [V]
        values, feature = np.unique(log.item_feature, return_inverse=True)
        self.category, self.feature = tf.constant(category, tf.int32), tf.constant(feature.reshape(len(category), -1))
        self.embedding = tf.keras.layers.Embedding(len(values), DIM)

    def encode(self, item_id: tf.Tensor, timestamp: tf.Tensor) -> Histories:
        """Raw ids and times [U, T] -> histories, in which unknown ids are padding."""
        item = self.item_row(item_id)
        return Histories(item, tf.gather(self.category, item), timestamp)

    def call(self, item: tf.Tensor) -> tf.Tensor:
        """Items [...] -> vectors [..., D]."""
        return tf.reduce_sum(self.embedding(tf.gather(self.feature, item)), -2)


class UserTower(tf.keras.layers.Layer):
    """e_u(c) of eq. 1: the final state of [CLS] after it has read the profile P_u and the subsequence S_u(c, t)."""

    def __init__(self, profile: np.ndarray, item_tower: ItemTower) -> None:
        super().__init__()
        self.profile_row = tf.keras.layers.StringLookup(vocabulary=np.unique(profile))  # 0: unknown
        self.profile_embedding = tf.keras.layers.Embedding(self.profile_row.vocabulary_size(), DIM)
        self.item_tower = item_tower  # open: the token of a behavior is the vector of its item
        self.cls = tf.keras.layers.Embedding(1, DIM)
        self.position = tf.keras.layers.Embedding(1 + profile.shape[1] + MAX_LENGTH, DIM)
        self.token_type = tf.keras.layers.Embedding(3, DIM)
        self.layers = [PreLNLayer() for _ in range(NUM_LAYERS)]
        self.final_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)

    def call(self, profile: tf.Tensor, subsequence: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Profile "name=value" [R, P] string and items [R, L], 0 where padded -> [R, D]."""
        profile = self.profile_row(profile)
        cls = tf.zeros_like(profile[:, :1])
        parts = [self.cls(cls), self.profile_embedding(profile), self.item_tower(subsequence)]
        token_type = tf.repeat([0, 1, 2], [tf.shape(part)[1] for part in parts])  # [S], S = 1 + P + L
        x = tf.concat(parts, 1) + self.token_type(token_type) + self.position(tf.range(tf.size(token_type)))
        is_real = tf.concat([cls == 0, profile >= 0, subsequence > 0], 1)  # [R, S]
        for layer in self.layers:
            x = layer(x, is_real, training=training)
        return self.final_norm(x[:, 0])


class LongRetriever(tfrs.Model):
    """Both towers under eq. 2: softmax cross-entropy of the positive item against the other items of its batch."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.item_tower = ItemTower(log)
        self.user_tower = UserTower(log.profile, self.item_tower)
        loss, mean_loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True), tf.keras.metrics.Mean("mean_loss")
        self.task = tfrs.tasks.Retrieval(loss, loss_metrics=[mean_loss], remove_accidental_hits=True)

    def compute_loss(self, inputs: tuple[tf.Tensor, ...], training: bool = False) -> tf.Tensor:
        """Eq. 2 of a batch of `in_context_batches`, scalar."""
        profile, subsequence, item, probability = inputs
        return self.task(
            self.user_tower(profile, subsequence, training=training),
            self.item_tower(item),
            candidate_sampling_probability=probability,  # open: corrects for popular negatives
            candidate_ids=item,  # the same item in another row is no negative
        )


def in_context_batches(log: Log, items: ItemTower) -> tf.data.Dataset:
    """In-context training: one example per event before the cut, grouped so that a batch holds one category.

    In a mixed batch S_u would give the positive away: both are of one category, most negatives of another.
    A batch: profile [R, P], subsequence [R, L], the positive item [R] and its probability Q(item | category) [R].
    """
    histories = items.encode(tf.constant(log.history), tf.constant(log.timestamp))
    keys = tf.where((histories.item > 0) & (log.timestamp < log.cut))  # user and event of each example, [n, 2]
    count = tf.math.bincount(tf.gather_nd(histories.item, keys), minlength=len(log.item_id), dtype=tf.float32)
    total = tf.math.unsorted_segment_sum(count, items.category, len(items.category_name))
    probability = tf.math.divide_no_nan(count, tf.gather(total, items.category))  # [V]

    def search(keys: tf.Tensor) -> tuple[tf.Tensor, ...]:
        user = keys[:, 0]
        item, category, time = (tf.gather_nd(column, keys) for column in histories)
        subsequence = hard_search(histories, user, category, time)
        return tf.gather(log.profile, user), subsequence, item, tf.gather(probability, item)

    def category_of(key: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather_nd(histories.category, key), tf.int64)

    examples = tf.data.Dataset.from_tensor_slices(keys).shuffle(len(keys))
    batches = examples.group_by_window(category_of, lambda _, window: window.batch(BATCH_SIZE), BATCH_SIZE)
    return batches.map(search, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def score_interests(histories: Histories, time: tf.Tensor, num_categories: int) -> tf.Tensor:
    """Eq. 3: Score(c) = sum of 1 / t_b over the behaviors b of c, t_b in days before `time` [U] -> [U, C]."""
    days = tf.cast(time[:, None] - histories.timestamp, tf.float32) / DAY_S
    part = tf.where((histories.category > 0) & (days > 0), 1.0 / tf.maximum(days, 1.0), 0.0)  # open: t_b is at least 1
    return tf.math.bincount(histories.category, part, minlength=num_categories, maxlength=num_categories, axis=-1)


def draw_interests(score: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Random in top: N of the M best categories, uniformly without replacement, [C] -> [at most N], best first."""
    best, category = tf.math.top_k(score, tf.minimum(TOP_INTERESTS, tf.size(score)))
    top = tf.boolean_mask(category, best > 0)
    drawn = tf.random.experimental.stateless_shuffle(tf.range(tf.size(top)), [seed, 0])[:NUM_INTERESTS]
    return tf.gather(top, tf.sort(drawn))


def build_scann(vectors: tf.Tensor, items: np.ndarray) -> tf.keras.layers.Layer:
    """A ScaNN layer over the items [n] of one category; `vectors` [V, D] are those of all items."""
    layer = tfrs.layers.factorized_top_k.ScaNN(k=LIST_LENGTH, num_leaves=20, num_reordering_candidates=200)
    layer.index(tf.gather(vectors, items), tf.constant(items, tf.int32))
    # Loaded from a SavedModel, all searchers have one name, and one of them answers for all: each needs its own name.
    state, name = layer._serialized_searcher, str(uuid.uuid4())
    parts = ["dataset", "scann_config", "serialized_partitioner", "datapoint_to_token", "ah_codebook", "hashed_dataset"]
    parts = [getattr(state, part) for part in [*parts, "int8_dataset", "int8_multipliers", "dp_norms"]]
    state.recreate_handle = lambda: scann_ops.tensors_to_scann(*parts, shared_name=name)
    return layer


class MultiContextRetriever(tf.Module):
    """Multi-context retrieval as served: a history in, a list out. Import scann before loading its SavedModel."""

    def __init__(self, model: LongRetriever, log: Log) -> None:
        super().__init__()
        self.user_tower, self.items, self.item_id = model.user_tower, model.item_tower, tf.constant(log.item_id)
        self.vectors = tf.Variable(model.item_tower(tf.range(len(log.item_id))), trainable=False)
        category = self.items.category.numpy()
        is_big = np.bincount(category) >= (SCANN_MIN_ITEMS if scann_ops else np.inf)
        self.layers = [build_scann(self.vectors, np.flatnonzero(category == c)) for c in np.flatnonzero(is_big)]
        self.branch = tf.constant(is_big * np.cumsum(is_big), tf.int32)  # of each category, 0: exact search

    def search(self, query: tf.Tensor, category: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The best items of a category for a user vector [D]: scores, and items, 0 where there are fewer, [K] each."""

        def exact() -> tuple[tf.Tensor, tf.Tensor]:
            score = tf.matmul(query[None], self.vectors, transpose_b=True)
            return tuple(tf.math.top_k(tf.where(self.items.category == category, score, -np.inf), LIST_LENGTH))

        branches = [exact, *(functools.partial(layer, query[None]) for layer in self.layers)]
        score, item = tf.switch_case(tf.gather(self.branch, category), branches)
        return score[0], tf.where(tf.math.is_finite(score), item, 0)[0]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), _INTEGERS, _INTEGERS, _INTEGER, _INTEGER])
    def retrieve(
        self, profile: tf.Tensor, item_id: tf.Tensor, timestamp: tf.Tensor, time: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Profile [P] and history [T] as of `time` -> the list, [at most K], and the interests behind it, [N]."""
        histories = self.items.encode(item_id[None], timestamp[None])
        score = score_interests(histories, time[None], len(self.items.category_name))[0]
        interest = draw_interests(score, seed)
        user = tf.zeros_like(interest)  # one user; a single run of the tower encodes all interests
        subsequence = hard_search(histories, user, interest, tf.gather(time[None], user))
        query = self.user_tower(tf.gather(profile[None], user), subsequence)
        found = tf.map_fn(lambda x: self.search(*x), (query, interest), fn_output_signature=(tf.float32, tf.int32))
        # The merge (open): the best item of each interest in turn, then the second of each, and so on.
        logit, item = (tf.reshape(tf.transpose(part), [-1]) for part in found)
        best = tf.where(item > 0)[:LIST_LENGTH, 0]
        return {
            "item_id": tf.gather(self.item_id, tf.gather(item, best)),
            "score": tf.gather(logit, best),
            "interest": best % tf.size(interest, tf.int64),
            "interest_category": tf.gather(self.items.category_name, interest),
            "interest_score": tf.gather(score, interest),
            "subsequence": tf.gather(self.item_id, subsequence),
        }


def main() -> None:
    """Trains, saves, loads, and explains the list of one household as of the cut."""
    tf.keras.utils.set_random_seed(1)
    log = load_log(NUM_USERS)
    print(f"1. The log: {NUM_USERS} households, {np.sum(log.history > 0):,} purchases, {len(log.item_id) - 1:,} items.")
    print("2. In-context training: every batch holds one category (eq. 2).", flush=True)
    model = LongRetriever(log)
    model.compile(tf.keras.optimizers.Adam(LEARNING_RATE))
    model.fit(in_context_batches(log, model.item_tower), epochs=EPOCHS, verbose=2)
    retriever, path = MultiContextRetriever(model, log), tempfile.mkdtemp()
    tf.saved_model.save(retriever, path, signatures={"serving_default": retriever.retrieve})
    print(f"3. SavedModel {path}: ScaNN, where installed, for {len(retriever.layers)} categories, else exact search.")
    user = int(np.argmax(np.sum(log.history > 0, 1)))  # the one with the longest history
    served = tf.saved_model.load(path)
    answer = served.retrieve(log.profile[user], log.history[user], log.timestamp[user], log.cut, 7)
    answer = {name: value.numpy() for name, value in answer.items()}
    name_of = dict(zip(log.item_id, log.item_name, strict=True))
    categories = answer["interest_category"].astype(np.str_)
    bought = log.history[user][log.timestamp[user] >= log.cut]
    print(f"4. {log.profile[user, 0]}: {NUM_INTERESTS} interests, drawn from the {TOP_INTERESTS} best (eq. 3):")
    for category, score, found in zip(categories, answer["interest_score"], answer["subsequence"], strict=True):
        print(f"   {score:.3f}  {category}: read {np.sum(found > 0)} purchases, the latest {name_of[found[0]]}")
    print("5. The list, the interests in turn (*: bought in the 28 days after):")
    for item, score, interest in zip(answer["item_id"], answer["score"], answer["interest"], strict=True):
        print(f"   {'*' if item in bought else ' '} {score:7.3f}  {categories[interest]}: {name_of[item]}")


if __name__ == "__main__":  # no flags: --help shows the text above, and trains nothing
    argparse.ArgumentParser("longretriever minimal", None, __doc__, "", (), argparse.RawTextHelpFormatter).parse_args()
    main()
