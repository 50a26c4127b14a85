"""Settings of earlier versions: those with a new name, and those that went. Imports no TensorFlow."""

from typing import Any

from longretriever_tf.common.errors import UserError

FORMER_NAMES = {"taste_dropout": "history_dropout", "taste_folds": "history_folds", "copy": "repeat_term"}
"""Flags and keys of config.json by their former name; both names are accepted."""

_REMOVED: dict[str, tuple[Any, str]] = {
    "target_weight_power": (0.5, "an example weighs (the user's targets at that time) ** -0.5"),
    "weight_decay": (1e-2, "AdamW decays kernels by 0.01"),
    "label_aware_power": (2.0, "MIND's label-aware attention has the power 2"),
    "routing_iterations": (3, "MIND routes in 3 iterations"),
    "check_queries": (256, "a searcher is tuned and checked on 256 user vectors of its category"),
}
"""Settings that no measurement kept: the one value that they had in every result, and what holds now."""


def explain_removed(name: str) -> str:
    """What became of a setting that went, in one line; "" where `name` never was one."""
    if name not in _REMOVED:
        return ""
    return f"the setting {name} was removed, since no result depends on it: {_REMOVED[name][1]}"


def by_former_names(values: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names of version 0.1.0: what is hashed by name must not change with a name."""
    former = {name: old for old, name in FORMER_NAMES.items()}
    return {former.get(name, name): value for name, value in values.items()}


def to_present(values: dict[str, Any], where: str) -> dict[str, Any]:
    """A JSON object of settings by today's names; a removed setting that had its default is left out.

    Raises:
      UserError: a removed setting had another value.
    """
    present = {}
    for name, value in values.items():
        if name not in _REMOVED:
            present[FORMER_NAMES.get(name, name)] = value
        elif value != _REMOVED[name][0]:
            raise UserError(
                f"{where}.{name}={value!r}: {explain_removed(name)}. Train again without it, or use the version that "
                "wrote this run"
            )
    return present
