"""What the flags of `train` come to on a log: the number of epochs."""

import pytest

from longretriever_tf.config.config import Config, TrainConfig
from longretriever_tf.training.setup import with_epochs


@pytest.mark.parametrize(("num_examples", "epochs"), [(1, 4), (200_000, 4), (388_375, 2), (540_000, 1), (3_000_000, 1)])
def test_small_logs_are_seen_several_times(num_examples, epochs):
    """Unless flags say how often."""
    assert with_epochs(Config(), num_examples).train.epochs == epochs
    given = Config(train=TrainConfig(epochs=3))
    assert with_epochs(given, num_examples) == given
