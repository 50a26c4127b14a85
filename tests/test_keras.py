"""The retriever as a Keras model: compile, fit, evaluate, callbacks, summary, configs, weights on disk."""

import numpy as np
import pytest
import tensorflow as tf
from test_retriever import PAPER, make_config
from worlds import block_world

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.prepared_data import Prepared, prepare, prepare_examples
from longretriever_tf.models.build import build_models, set_token_scale
from longretriever_tf.models.encoder import Encoder, PreLNLayer
from longretriever_tf.models.optimizer import LazyAdamW, WarmupCosine
from longretriever_tf.models.retriever import LongRetriever
from longretriever_tf.training.phases import Phase

STEPS = 5


@pytest.fixture(scope="module")
def log():
    return block_world(num_users=19, num_items=53, num_categories=5, events_per_user=31)


def make_world(log, config: Config) -> tuple[Prepared, BatchSource, LongRetriever]:
    prepared = prepare(config, log, int(log.timestamp.max()) - 14 * schema.DAY_S)
    source = BatchSource(config, prepared, prepare_examples(config, prepared)[0])
    model = build_models(config, prepared.corpus, prepared.item_svd).retriever
    set_token_scale(model.user_tower, source.make_dataset(0).take(8))
    return prepared, source, model


class Losses(tf.keras.callbacks.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.losses.append(float(logs["loss"]))


@pytest.mark.parametrize(
    "model, train",
    [({}, {}), (PAPER["model"], PAPER["train"] | {"small_category": 10})],
    ids=["full softmax", "in-batch"],
)
def test_fit_makes_the_steps_of_the_loop(log, model, train):
    """To the last digit, dropout included: its draws are a function of (seed, step) in both."""
    config = make_config({"dropout": 0.2, "unknown_rate": 0.1, **model}, train)
    _, source, trained = make_world(log, config)
    optimizer = LazyAdamW(0.01, 0.01, STEPS)
    step = Phase("towers", 1, trained, source, config.train.seed).make_step(optimizer, xla=False)
    expected = [float(step(batch)) for batch in source.make_dataset(0).take(STEPS)]
    _, source, fitted = make_world(log, config)
    fitted.compile(optimizer=LazyAdamW(0.01, 0.01, STEPS))
    seen = Losses()
    fitted.fit(source.make_dataset(0).take(STEPS), callbacks=[seen], verbose=0)
    assert seen.losses == expected and len(set(expected)) == STEPS
    for one, other in zip(fitted.variables, trained.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.name)
    assert int(fitted.optimizer.iterations) == STEPS


def test_keras_optimizers_callbacks_and_checkpoints_work(log, tmp_path):
    config = make_config({"dropout": 0.0, "unknown_rate": 0.0})
    prepared, source, model = make_world(log, config)
    dataset = source.make_dataset(0).take(STEPS)
    model.compile(optimizer=tf.keras.optimizers.Adam(0.02))
    before = model.evaluate(dataset, return_dict=True, verbose=0)["loss"]
    callbacks = [
        tf.keras.callbacks.ModelCheckpoint(str(tmp_path / "fit"), save_weights_only=True),
        tf.keras.callbacks.EarlyStopping(monitor="val_loss", patience=2),
        tf.keras.callbacks.TensorBoard(str(tmp_path / "board")),
    ]
    history = model.fit(dataset, validation_data=dataset, epochs=3, callbacks=callbacks, verbose=0).history
    assert history["val_loss"][-1] < before - 0.05
    assert (tmp_path / "fit.index").exists() and list((tmp_path / "board").rglob("events*"))

    clone = LongRetriever.from_config(model.get_config())
    batch = next(iter(dataset))
    expected = model(batch).numpy()
    assert expected.shape == (len(batch.category), len(batch.item[0]))
    assert np.abs(clone(batch) - expected).max() > 1e-3
    model.save_weights(tmp_path / "weights")
    clone.load_weights(tmp_path / "weights")
    np.testing.assert_array_equal(clone(batch), expected)


@pytest.mark.slow
def test_the_own_optimizer_is_resumed_by_keras(log, tmp_path):
    _, source, model = make_world(log, make_config())
    dataset = source.make_dataset(0).take(3)
    model.compile(optimizer=LazyAdamW(0.01, 0.01, 6))
    model.fit(dataset, verbose=0)
    model.save_weights(tmp_path / "weights")
    model.fit(dataset, verbose=0)
    _, _, again = make_world(log, make_config())
    again.compile(optimizer=LazyAdamW(0.01, 0.01, 6))
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "weights")
    assert int(again.optimizer.iterations) == 3
    again.fit(dataset, verbose=0)
    for one, other in zip(again.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.name)


def test_the_summary_names_both_towers(log):
    _, _, model = make_world(log, make_config())
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "item_tower" in text and "user_tower" in text
    assert f"Total params: {model.count_params()}" in text


@pytest.mark.parametrize(
    "part",
    [
        PreLNLayer(6, 2, 12, 0.1, "layer_3"),
        Encoder(6, 2, 2, 12, 0.1),
        LazyAdamW(0.03, 0.2, 40),
        WarmupCosine(0.03, 40),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_config_makes_the_same_part(part):
    config = part.get_config()
    again = type(part).from_config(config)
    assert again.get_config() == config and len(config) >= 2
