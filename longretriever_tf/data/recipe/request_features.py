"""What the time of a request says, as tokens of the user tower: the hour of the day and the day of the week.

A training example has the time of its event, or the moment of its snapshot; a request has its `request_timestamp`. So
nothing is stored and nothing is asked beyond the times that are there.
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
