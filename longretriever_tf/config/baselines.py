"""Settings of the neural baselines, and which model reads which flag. Imports no TensorFlow."""

import dataclasses
from typing import Any

from longretriever_tf.common.errors import require
from longretriever_tf.config.field import setting

LONGRETRIEVER = "longretriever"
BASELINES = ("two_tower", "mind", "comirec")
MODELS = (LONGRETRIEVER, *BASELINES)


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """What `--model=two_tower|mind|comirec` reads besides dim, item tower, temperature, dropout and training."""

    recent_length: int = setting(
        200,
        "model=two_tower|mind|comirec: the user's latest events, of any category, that the user side reads. Measured: "
        "recall@100 of two_tower 0.168 (50), 0.177 (200).",
        above=0,
    )
    num_capsules: int = setting(
        5, "model=mind|comirec: interests (vectors) of a user, at most; 5 in every result.", above=0
    )
    max_targets: int = setting(
        0,
        "model=two_tower|mind|comirec: targets of a user's time in an epoch, drawn anew in each; 0: all of them. "
        "Bounds the cost of an epoch (configs/mind.flags).",
        least=0,
    )
    uniform_negatives: int = setting(
        0,
        "model=two_tower|mind|comirec with loss=in_batch: items drawn uniformly from the corpus that every example of "
        "a batch has as further negatives; the logQ correction then knows the mixture. Measured: with 4096 two_tower "
        "learns as much as with loss=full (0.176 against 0.175).",
        least=0,
    )
    item_bias: bool = setting(
        False,
        "model=two_tower|mind|comirec: give each item's logit a learned bias and weights of the statistics that "
        "longretriever reads (30-day popularity, days since anyone took it, repeat rate), as of the request; needs "
        "--loss=full. Without it a baseline has to say by inner products alone what is popular.",
    )


_READERS: dict[str, dict[str, tuple[str, ...]]] = {
    "model": dict.fromkeys(("num_layers", "num_heads"), (LONGRETRIEVER, "two_tower"))
    | dict.fromkeys(
        (
            "max_length",
            "subsequence",
            "action_counts",
            "max_events",
            "profile",
            "request_features",
            "timezone_offset_hours",
            "user_context",
            "history_dropout",
            "repeat_term",
            "item_stats",
        ),
        (LONGRETRIEVER,),
    ),
    "train": dict.fromkeys(
        (
            *("in_context", "small_category", "history_folds", "cross_fit_items", "vector_loss_weight"),
            *("own_correction", "device_input", "steps_per_call", "item_tables"),
        ),
        (LONGRETRIEVER,),
    )
    | {"mixed_precision": (LONGRETRIEVER, "two_tower")},
    "data": {"event_features": (LONGRETRIEVER,)},
    "baseline": {
        "recent_length": BASELINES,
        "num_capsules": ("mind", "comirec"),
        "max_targets": BASELINES,
        "uniform_negatives": BASELINES,
        "item_bias": BASELINES,
    },
}
"""Models that read a setting; every model reads one that is not listed."""


def check_baselines(config: Any) -> None:
    """Refuses settings of the baselines that cannot work, and settings that the model picked does not read.

    Args:
      config: a whole `Config`.

    Raises:
      UserError: names the flag.
    """
    baseline, model = config.baseline, config.model.model
    for section, readers in _READERS.items():
        for name, models in readers.items():
            _check_read(getattr(config, section), name, model, models)
    if model != LONGRETRIEVER:
        for field in dataclasses.fields(config.retrieval):
            _check_read(config.retrieval, field.name, model, (LONGRETRIEVER,))
    require(
        not (baseline.uniform_negatives and config.train.loss == "full"),
        f"--uniform_negatives={baseline.uniform_negatives} belongs to --loss=in_batch: --loss=full has every item of "
        "the corpus as a negative already",
    )
    require(
        not baseline.item_bias or config.train.loss == "full",
        f"--item_bias needs --loss=full; --loss={config.train.loss} has a sampled softmax, of inner products alone",
    )


def _check_read(section: Any, name: str, model: str, readers: tuple[str, ...]) -> None:
    default = next(field.default for field in dataclasses.fields(section) if field.name == name)
    value = getattr(section, name)
    require(
        model in readers or value == default,
        f"--{name}={value!r} is not read by --model={model} but by {', '.join(readers)}; leave the flag out",
    )
