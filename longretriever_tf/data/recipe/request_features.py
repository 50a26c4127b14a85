"""What a request says beside history and profile, as tokens of the user tower: its time, and its circumstances.

The time (hour of the day, day of the week) of a training example is that of its event, or the moment of its snapshot; a
request has its `request_timestamp`. So nothing is stored and nothing is asked beyond the times that are there. The
circumstances (--event_features: a device) are columns of the events: an example has those of its event, and a request
says its own.
"""

from collections.abc import Sequence

import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.config.config import ModelConfig

_HOUR_S = 3600
_FIRST_WEEKDAY = 3
"""1970 began on a Thursday; Monday is 0."""


def num_request_values(features: Sequence[str]) -> list[int]:
    """Rows of the table of each feature, padding and unknown among them.

    >>> num_request_values(["hour", "weekday"])
    [26, 9]
    """
    return [schema.FIRST_KNOWN + {"hour": 24, "weekday": 7}[name] for name in features]


def with_event_columns(profile: tf.Tensor, event_feature: tf.Tensor, example: tf.Tensor) -> tf.Tensor:
    """The columns of a profile with those of each example's event after them, [R, P + F] int32.

    Args:
      profile: [R, P] int32.
      event_feature: of all examples, [X, F] int32 or int64; F = 0 without --event_features.
      example: row of each, [R] int64.
    """
    if not event_feature.shape[1]:
        return profile
    return tf.concat([profile, tf.cast(tf.gather(event_feature, example), tf.int32)], 1)


def with_request_columns(config: ModelConfig, profile: tf.Tensor, time: tf.Tensor) -> tf.Tensor:
    """The columns of a profile with those of the request's time after them, [R, P + Q] int32.

    Args:
      config: names the features, and how far local time lies from UTC.
      profile: [R, P] int32.
      time: seconds UTC, [R] int64.

    >>> config = ModelConfig(request_features=("hour", "weekday"), timezone_offset_hours=-1.5)
    >>> with_request_columns(config, tf.zeros([1, 0], tf.int32), tf.constant([5400 + 3600 * 23], tf.int64)).numpy()
    array([[25,  5]], dtype=int32)
    """
    if not config.request_features:
        return profile
    local = time + round(config.timezone_offset_hours * _HOUR_S)
    columns = {
        "hour": local // _HOUR_S % 24,
        "weekday": (local // schema.DAY_S + _FIRST_WEEKDAY) % 7,
    }
    found = tf.stack([columns[name] + schema.FIRST_KNOWN for name in config.request_features], 1)
    return tf.concat([profile, tf.cast(found, tf.int32)], 1)
