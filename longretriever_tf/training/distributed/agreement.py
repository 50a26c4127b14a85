"""What the workers of a training must agree on before they begin."""

from collections.abc import Sequence
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config
from longretriever_tf.training.run_dir import differing_settings, stored_batches_per_step


def choose_groups(config: Config, num_replicas: int) -> int:
    """Batches of a step: as asked; where nothing is asked, as the run has it, or one for each device.

    Args:
      config: --batches_per_step=1 asks for nothing.
      num_replicas: devices.

    Raises:
      UserError: the devices cannot share them evenly.
    """
    groups = config.train.batches_per_step
    if config.train.distribute == "none":
        return groups
    if groups == 1:
        groups = stored_batches_per_step(config.train.run_dir) or num_replicas
    if groups % num_replicas:
        raise UserError(
            f"--batches_per_step={groups} is not a multiple of {num_replicas}, the number of devices: a batch is never "
            f"split. Use a number of devices that divides {groups}, or another --batches_per_step in a new --run_dir"
        )
    return groups


def require_same_settings(begun: Sequence[dict[str, Any]]) -> None:
    """Refuses workers of other flags or another version than the chief's.

    Args:
      begun: by worker: `config` as a JSON object, `code` (versions) and, of the chief, `groups` (batches of a step).

    Raises:
      UserError: names what differs.
    """
    chief = begun[0]
    for worker, one in enumerate(begun[1:], start=1):
        theirs = {**one["config"], "train": {**one["config"]["train"], "batches_per_step": chief["groups"]}}
        if differing := differing_settings(chief["config"], theirs, "on worker 0", f"on worker {worker}"):
            raise UserError(f"the workers differ in their flags ({'; '.join(differing)}): give all of them the same")
        if one["code"] != chief["code"]:
            raise UserError(
                f"the workers differ in their code: {chief['code']} on worker 0, {one['code']} on worker {worker}; "
                "install the same on all of them"
            )


def require_same_logs(described: Sequence[str]) -> None:
    """Refuses workers that have read different logs.

    Args:
      described: by worker, `LogIdentity.describe`.

    Raises:
      UserError: names both logs.
    """
    for worker, other in enumerate(described):
        if other != described[0]:
            raise UserError(
                f"the workers read different logs: {described[0]} on worker 0, {other} on worker {worker}. Give all of "
                "them the same data"
            )
