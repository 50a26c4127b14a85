import numpy as np
import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.datasets.splits import Cuts, global_time_cuts

DAY = 86_400


def test_cuts_count_back_from_the_last_event():
    timestamp = np.array([100 * DAY + 7, 0, 31 * DAY], np.int64)
    cuts = global_time_cuts(timestamp, window_days=28.0)
    assert cuts == Cuts(validation_start=44 * DAY + 7, test_start=72 * DAY + 7, end=100 * DAY + 7)
    assert cuts.window_of("validation") == (44 * DAY + 7, 72 * DAY + 7)
    assert cuts.window_of("test") == (72 * DAY + 7, 100 * DAY + 8)


def test_every_event_lies_in_exactly_one_part_and_parts_follow_in_time():
    timestamp = np.random.default_rng(3).integers(0, 50 * DAY, 997)
    cuts = global_time_cuts(timestamp, window_days=7.5)
    (validation, test) = (cuts.window_of(split) for split in ("validation", "test"))
    parts = [timestamp < validation[0]] + [(timestamp >= a) & (timestamp < b) for a, b in (validation, test)]
    assert (np.sum(parts, axis=0) == 1).all()
    assert timestamp[parts[0]].max() < timestamp[parts[1]].min()
    assert timestamp[parts[1]].max() < timestamp[parts[2]].min()
    assert parts[2][timestamp.argmax()]


def test_a_log_shorter_than_its_windows_is_refused_with_its_span():
    with pytest.raises(UserError, match=r"spans 14\.0 days.*7 days.*more than 14.*--window_days"):
        global_time_cuts(np.array([0, 14 * DAY]), window_days=7.0)
    global_time_cuts(np.array([0, 14 * DAY + 1]), window_days=7.0)  # one second of training is legal


def test_empty_log_and_bad_window_are_refused():
    with pytest.raises(UserError, match="no events"):
        global_time_cuts(np.zeros(0, np.int64), window_days=7.0)
    with pytest.raises(UserError, match=r"--window_days=-1\.0"):
        global_time_cuts(np.array([0, 9]), window_days=-1.0)
    with pytest.raises(UserError, match="'train'.*validation, test"):
        Cuts(1, 2, 3).window_of("train")
