"""TF_CONFIG: the workers of a training, and which of them this process is. Imports no TensorFlow."""

import dataclasses
import json
import re
from typing import Any

from longretriever_tf.common.errors import UserError

VARIABLE = "TF_CONFIG"
_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
_ADDRESS = re.compile(r"[^\s/:]+:(\d{1,5})|\[[0-9A-Fa-f:.]+\]:(\d{1,5})")


@dataclasses.dataclass(frozen=True)
class Workers:
    """The workers of a training.

    Attributes:
      addresses: "host:port" of each, the chief first.
      index: of this process among them.
    """

    addresses: tuple[str, ...]
    index: int


def read_workers(text: str | None) -> Workers:
    """The workers that TF_CONFIG names.

    >>> read_workers(_EXAMPLE)
    Workers(addresses=('host0:2222', 'host1:2222'), index=0)

    Args:
      text: the variable's value; None where it is not set.

    Raises:
      UserError: there is none, it is malformed, or it names tasks that this training has no use for.
    """
    if not text:
        raise UserError(
            f"--distribute=multi_worker reads the environment variable {VARIABLE}, which is not set; set it on every "
            f"worker, such as {_EXAMPLE}, or start all workers of this machine by longretriever launch"
        )
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _malformed(f"it is no JSON ({error})") from error
    cluster = _member(values, "cluster", dict)
    others = sorted(set(cluster) - {"chief", "worker"})
    if others:
        raise _malformed(f"cluster has {', '.join(others)}; this training has workers alone (or a chief and workers)")
    chiefs = _addresses(cluster, "chief")
    addresses = chiefs + _addresses(cluster, "worker")
    if len(chiefs) > 1 or not addresses:
        raise _malformed(f"cluster has {len(chiefs)} chiefs and {len(addresses) - len(chiefs)} workers")
    repeated = sorted({address for address in addresses if addresses.count(address) > 1})
    if repeated:
        raise _malformed(f"cluster names {', '.join(repeated)} twice; each worker needs an address of its own")
    task = _member(values, "task", dict)
    kind, index = _member(task, "type", str), _member(task, "index", int)
    if kind not in cluster or not 0 <= index < len(cluster[kind]):
        sizes = ", ".join(f"{len(members)} of type {name!r}" for name, members in cluster.items())
        raise _malformed(f"task is {kind!r} number {index}, but cluster has {sizes}")
    return Workers(tuple(addresses), index + (len(chiefs) if kind == "worker" else 0))


def _addresses(cluster: dict[str, Any], kind: str) -> list[str]:
    members = cluster.get(kind, [])
    if not isinstance(members, list):
        raise _malformed(f"cluster.{kind} is {members!r}, not a list of addresses")
    for member in members:
        match = _ADDRESS.fullmatch(member) if isinstance(member, str) else None
        if not match or not 0 < int(match[1] or match[2]) < 65_536:
            raise _malformed(f"cluster.{kind} holds {member!r}; expected host:port")
    return list(members)


def _member(values: Any, name: str, kind: type) -> Any:
    found = values.get(name) if isinstance(values, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise _malformed(f"{name!r} is {found!r}; expected {'an object' if kind is dict else kind.__name__}")
    return found


def _malformed(why: str) -> UserError:
    return UserError(f"{VARIABLE} cannot be used: {why}. Expected such as {_EXAMPLE}")
