"""Small made histories as encoded logs, for tests that need users, items and times and no more."""

import numpy as np

from longretriever_tf.data.corpus import EncodedLog

NUM_ITEMS = 23


def encode(histories: list[list[tuple[int, int]]]) -> EncodedLog:
    """An encoded log of (item, timestamp) histories, each already ascending in time."""
    events = np.array([event for history in histories for event in history], np.int64).reshape(-1, 2)
    return EncodedLog(
        user_id=np.arange(len(histories)),
        profile=np.zeros((len(histories), 0), np.int32),
        offset=np.cumsum([0] + [len(history) for history in histories]),
        item=events[:, 0].astype(np.int32),
        timestamp=events[:, 1],
        weight=np.ones(len(events), np.float32),
    )


def random_histories(seed: int, num_users: int = 37) -> list[list[tuple[int, int]]]:
    """Histories of 0 to 28 events over t in 0..99; items -1, 0 and 1 are outside the vocabulary."""
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 29, num_users)
    return [
        sorted(
            zip(random.integers(-1, NUM_ITEMS, n).tolist(), random.integers(0, 100, n).tolist(), strict=True),
            key=lambda event: event[1],
        )
        for n in sizes
    ]
