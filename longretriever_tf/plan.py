"""Says what a log of some size takes before you try: disk, core-hours, memory, training hours, shards, replicas.

    longretriever plan --users=9e8 --items=1.5e8 --events_per_user=2e4 --examples=1e10 --qps=1e5
    longretriever plan --data=prepared --qps=2000

Each figure comes from a model that was fitted on this project's own measurements. The output names their files and how
far the model was off at sizes that it was not fitted on; what was never measured is marked "estimated". The last lines
are the commands to type. --data takes users, items, events and categories from a directory that `prepare` wrote.
"""

import dataclasses
import json
import math
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import require_output, write_text_atomically
from longretriever_tf.config import flags
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.planning.estimate import PlanInputs, estimate
from longretriever_tf.planning.fitted import load_models
from longretriever_tf.planning.text import render_plan

_DATA = absl_flags.DEFINE_string("data", "", "A directory that `prepare` wrote: it says how large the log is.")
_USERS = absl_flags.DEFINE_float("users", None, "Users of the log.")
_ITEMS = absl_flags.DEFINE_float("items", None, "Items of the catalogue.")
_EVENTS = absl_flags.DEFINE_float("events_per_user", None, "Events of a user's history, on average.")
_CATEGORIES = absl_flags.DEFINE_float("categories", None, "Categories of the items; 300 where nothing says.")
_EXAMPLES = absl_flags.DEFINE_float(
    "examples", None, "Training examples of an epoch. By default two for each event, as the default recipe makes."
)
_EPOCHS = absl_flags.DEFINE_float("epochs", 1.0, "Epochs of the towers' training.")
_QPS = absl_flags.DEFINE_float("qps", 0.0, "Requests a second at the busiest time. 0: none.")
_MACHINES = absl_flags.DEFINE_integer("machines", 1, "Machines that share the preparation.")
_CORES = absl_flags.DEFINE_integer("cores", 16, "Cores of a machine.")
_MEMORY = absl_flags.DEFINE_float("memory_gb", 64.0, "Memory of a machine, in GB.")
_DEVICES = absl_flags.DEFINE_integer("devices", 1, "Accelerators that share the training.")
_LOAD = absl_flags.DEFINE_float("load", 0.6, "Share of a serving core's time that requests may take, below 1.")
_JSON = absl_flags.DEFINE_string("json", "", "Also write the figures there, as JSON.")

_CATEGORIES_IF_UNKNOWN = 300.0
_EXAMPLES_PER_EVENT = 2.0


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    if _JSON.value:
        require_output(_JSON.value)
    inputs = _read_inputs()
    lines = estimate(inputs, load_models())
    print(render_plan(inputs, lines), end="")
    if _JSON.value:
        facts = {"inputs": dataclasses.asdict(inputs), "figures": [line._asdict() for line in lines]}
        write_text_atomically(_JSON.value, json.dumps(facts, indent=2) + "\n")


_SIZES = (_USERS, _ITEMS, _EVENTS, _CATEGORIES, _EXAMPLES, _EPOCHS, _QPS, _MACHINES, _CORES, _MEMORY, _DEVICES, _LOAD)


def _read_inputs() -> PlanInputs:
    """The flags, checked; what the prepared log says where they say nothing."""
    for flag in _SIZES:
        _check(flag.name, flag.value)
    users, items, events, categories = (flag.value for flag in (_USERS, _ITEMS, _EVENTS, _CATEGORIES))
    if _DATA.value:
        log = ShardedLog(_DATA.value)
        users, items = users or float(log.num_users), items or float(log.manifest.num_items)
        events = events or log.num_events / max(log.num_users, 1)
        categories = categories or float(len(set(log.items.features[log.context].tolist())) if log.context else 1)
    if not users or not items or not events:
        missing = [
            f"--{flag.name}" for flag, value in zip(_SIZES[:3], (users, items, events), strict=True) if not value
        ]
        raise UserError(f"{', '.join(missing)}: missing; give a number such as 5e6, or --data=DIR of a prepared log")
    return PlanInputs(
        users=users,
        items=items,
        events_per_user=events,
        categories=categories or _CATEGORIES_IF_UNKNOWN,
        examples=_EXAMPLES.value or _EXAMPLES_PER_EVENT * users * events,
        epochs=_EPOCHS.value,
        qps=_QPS.value,
        machines=_MACHINES.value,
        cores=_CORES.value,
        memory_gb=_MEMORY.value,
        devices=_DEVICES.value,
        load=_LOAD.value,
    )


def _check(name: str, value: float | None) -> None:
    """Refuses what is no size.

    Raises:
      UserError: it is negative, zero where that says nothing, no finite number, or a load of 1 or more.
    """
    if value is None:
        return
    least = "0 or more" if name == "qps" else "above 0"
    if not math.isfinite(value) or value < 0 or (value == 0 and name != "qps"):
        raise UserError(f"--{name}={value:g}: expected a number {least}, such as {'1e5' if name == 'qps' else '5e6'}")
    if value > 1e18 or (name == "load" and value >= 1) or (name == "cores" and value > 4096):
        most = {"load": "below 1", "cores": "of at most 4096"}.get(name, "of at most 1e18")
        raise UserError(f"--{name}={value:g}: expected a number {most}")


if __name__ == "__main__":
    flags.run_command(main)
