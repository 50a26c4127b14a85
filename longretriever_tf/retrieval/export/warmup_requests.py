"""Warm-up requests of an export: one of each kind, with the answers of the process that exported it.

TensorFlow Serving replays the file before it serves a version, so that no user's request is the first; it ignores the
answers. `export --check` compares them with those of a fresh process.
"""

import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from longretriever_tf.common import schema
from longretriever_tf.common.text import as_raw_ids, is_text
from longretriever_tf.config.config import Config
from longretriever_tf.config.input_names import profile_inputs
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.retrieval.request_options import default_columns

WARMUP_NAME = "tf_serving_warmup_requests"
"""TensorFlow Serving looks for this file in `assets.extra`."""

_SHAPES = ((1, 8), (1, 512), (8, 64))
"""(users, events per user) of the requests; TensorFlow's kernels choose their ways by size."""

_SEED = 1
_DRAWN = ("serving_default", "top_k", "interests", "interest_embeddings")
"""Signatures that draw interests: without a seed their answer is another one each time, and is not kept."""

_DAYS = 300
Columns = dict[str, tf.Tensor]


def write_warmup(
    directory: str,
    signatures: Mapping[str, tf.types.experimental.GenericFunction],
    config: Config,
    corpus: Corpus,
    towers: str,
) -> int:
    """Writes a TFRecord file of PredictionLog; returns the number of records.

    Args:
      directory: `assets.extra` of the version.
      signatures: of the model, by name.
      config: of the run.
      corpus: what histories are made of.
      towers: the fingerprint that the model is asked for: mixed-up files fail here, and are not served.
    """
    return write_records(directory, signatures, _questions(config, corpus, towers))


def write_records(
    directory: str,
    signatures: Mapping[str, tf.types.experimental.GenericFunction],
    questions: Iterable[tuple[str, Columns]],
) -> int:
    """Writes a record for each (signature, columns), with the answer of this process; returns their number.

    What is not kept is not asked: the first call of a signature takes seconds.
    """
    count = 0
    with tf.io.TFRecordWriter(os.path.join(directory, WARMUP_NAME)) as writer:
        for name, columns in questions:
            log = prediction_log_pb2.PredictionLog()
            request, response = log.predict_log.request, log.predict_log.response
            request.model_spec.name = response.model_spec.name = "longretriever"
            request.model_spec.signature_name = response.model_spec.signature_name = name
            _fill(request.inputs, columns)
            if "seed" in columns or name not in _DRAWN:
                _fill(response.outputs, signatures[name].get_concrete_function()(**columns))
            writer.write(log.SerializeToString(deterministic=True))
            count += 1
    return count


def read_warmup(path: str) -> Iterator[prediction_log_pb2.PredictionLog]:
    """The records of a warm-up file."""
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        yield prediction_log_pb2.PredictionLog.FromString(record)


def _fill(target: Mapping[str, predict_pb2.PredictRequest], columns: Mapping[str, tf.Tensor]) -> None:
    for name, value in columns.items():
        target[name].CopyFrom(tf.make_tensor_proto(value.numpy(), dtype=value.dtype, shape=value.shape))


def _questions(config: Config, corpus: Corpus, towers: str) -> Iterator[tuple[str, Columns]]:
    """Signature names and columns; every input is given, for servers that know no defaults."""
    rng = np.random.default_rng(_SEED)
    dtype = tf.string if is_text(corpus.item_id) else tf.int64
    profile = profile_inputs(corpus.profile_values, config.model.profile)
    # One seed per request: what is drawn without one could not be compared.
    defaults = default_columns(config.retrieval, dtype, len(corpus.action_name) > 0, corpus.event_values)
    options = defaults | {"seed": tf.constant([_SEED], tf.int64)}
    yield "fingerprint", {"expected": tf.constant([towers])}  # first: of mixed-up files every other answer is wrong too
    for num_users, length in _SHAPES:
        history = _history(rng, corpus, profile, num_users, length)
        rows = {name: _repeat(value, num_users) for name, value in options.items()}
        yield "serving_default", history | rows
    history = _history(rng, corpus, profile, *_SHAPES[0])
    first = corpus.item_category[min(schema.FIRST_KNOWN, corpus.num_items - 1)]
    category = {"category": tf.constant([str(corpus.category_name[first])])}
    yield "top_k", history | {"k": tf.constant([10], tf.int32)}
    yield "interests", history | options
    yield "interest_embeddings", history | options
    yield "retrieve_in_category", history | category | options
    of_events = {
        name: options[name] for name in ("history_weight", "history_action", *corpus.event_values) if name in options
    }
    yield "user_embeddings", history | category | of_events
    yield "item_embeddings", {"item_id": history["history_item_id"][0]}


def _repeat(value: tf.Tensor, num: int) -> tf.Tensor:
    return tf.broadcast_to(value, [num, *value.shape[1:]])


def _history(rng: np.random.Generator, corpus: Corpus, profile: list[str], num_users: int, length: int) -> Columns:
    """Made-up histories: any offered items, at any time of the last months before the cut."""
    known = as_raw_ids(corpus.item_id)[schema.FIRST_KNOWN : corpus.num_offered]
    items = rng.choice(known, [num_users, length]) if len(known) else np.empty([num_users, 0], known.dtype)
    age = rng.integers(1, _DAYS * schema.DAY_S, items.shape)
    return {
        "history_item_id": tf.constant(items),
        "history_timestamp": tf.constant(np.sort(np.maximum(corpus.cut - age, 1), axis=1)),
        "request_timestamp": tf.fill([num_users], tf.constant(corpus.cut, tf.int64)),
        **{name: tf.fill([num_users], schema.MISSING) for name in profile},
    }
