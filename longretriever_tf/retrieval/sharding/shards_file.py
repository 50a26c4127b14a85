"""`shards.json`: where the router and each shard of an export are served. Imports no TensorFlow.

    {"router": {"model": "longretriever-router", "address": "router:8500"},
     "shards": [{"model": "longretriever-shard-0", "address": "shard-0:8500"}, ...],
     "timeout_s": 2.0}

`export --category_shards` writes it once, with every address on this machine; whoever deploys puts their own there.
"""

import dataclasses
import json
import os

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_damage, read_json_object, write_text_atomically

SHARDS_FILE = "shards.json"
MODELS_FILE = "models.config"
ROUTER_DIR = "router"
SEARCH = "search"
"""The signature of a shard."""

_MODEL = "longretriever"
_ADDRESS = "localhost:8500"
_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")
_TIMEOUT_S = 2.0
_CURE = 'write {"router": {"model": ..., "address": "host:8500"}, "shards": [...]}, as `export --category_shards` does'


@dataclasses.dataclass(frozen=True)
class Place:
    """A model, and the host:port of its gRPC server."""

    model: str
    address: str

    def is_at(self, port: int) -> bool:
        """Whether it is served on this port of this machine."""
        host, _, own = self.address.rpartition(":")
        return own == str(port) and host in _THIS_MACHINE


@dataclasses.dataclass(frozen=True)
class ShardPlaces:
    """Where everything is served.

    Attributes:
      router: the router.
      shards: in the order of their numbers.
      timeout_s: how long a shard may take; one that takes longer is left out of the answer.
    """

    router: Place
    shards: tuple[Place, ...]
    timeout_s: float = _TIMEOUT_S


def shard_dir(number: int) -> str:
    """Folder of a shard within the export directory; it holds one folder per version, as the router's does."""
    return f"shard-{number}"


def local_places(num_shards: int) -> ShardPlaces:
    """Every model by its usual name, at one server of this machine."""
    shards = tuple(Place(f"{_MODEL}-{shard_dir(number)}", _ADDRESS) for number in range(num_shards))
    return ShardPlaces(Place(f"{_MODEL}-{ROUTER_DIR}", _ADDRESS), shards)


def read_places(path: str) -> ShardPlaces:
    """Reads a shards file.

    Raises:
      UserError: there is none, or it is malformed.
    """
    stored = read_json_object(path, _CURE)
    with explain_damage(path, _CURE):
        places = ShardPlaces(
            Place(**stored["router"]),
            tuple(Place(**one) for one in stored["shards"]),
            float(stored.get("timeout_s", _TIMEOUT_S)),
        )
    every = (places.router, *places.shards)
    for one in every:
        if not isinstance(one.model, str) or not one.model:
            raise UserError(f"{path}: a model is called {one.model!r}; {_CURE}")
        if not isinstance(one.address, str) or ":" not in one.address:
            raise UserError(
                f"{path}: the address of {one.model} is {one.address!r}; give host:port, such as {_ADDRESS}"
            )
    models = [one.model for one in every]
    twice = next((name for name in models if models.count(name) > 1), None)
    if twice or not places.shards or not places.timeout_s > 0:
        what = f"{twice} is listed twice" if twice else "no shard, or a timeout_s that is not above 0"
        raise UserError(f"{path}: {what}; {_CURE}")
    return places


def write_places(export_dir: str, places: ShardPlaces) -> None:
    """Writes shards.json and models.config (for one server of everything) where they are missing: addresses stay."""
    shards = os.path.join(export_dir, SHARDS_FILE)
    if not os.path.exists(shards):
        write_text_atomically(shards, json.dumps(dataclasses.asdict(places), indent=2) + "\n")
    models = os.path.join(export_dir, MODELS_FILE)
    if not os.path.exists(models):
        folders = [ROUTER_DIR, *map(shard_dir, range(len(places.shards)))]
        # Two versions: while the next one loads, the last one of the router and of the shards stay together.
        rest = 'model_platform: "tensorflow" model_version_policy { latest { num_versions: 2 } }'
        lines = []
        for one, folder in zip((places.router, *places.shards), folders, strict=True):
            base_path = json.dumps(os.path.join(os.path.abspath(export_dir), folder))
            lines.append(f"  config {{ name: {json.dumps(one.model)} base_path: {base_path} {rest} }}")
        write_text_atomically(models, "\n".join(["model_config_list {", *lines, "}"]) + "\n")


def require_same_shards(export_dir: str, num_shards: int) -> None:
    """Refuses to publish another number of shards, or one SavedModel, where clients expect what was there.

    Args:
      export_dir: where it goes.
      num_shards: 0: one SavedModel.

    Raises:
      UserError: naming both.
    """
    if not os.path.isdir(export_dir):
        return
    path = os.path.join(export_dir, SHARDS_FILE)
    held = len(read_places(path).shards) if os.path.exists(path) else 0
    is_whole = any(name.isdigit() for name in os.listdir(export_dir))
    if held != num_shards and (held or is_whole):
        what = f"an export of {held} category shards" if held else "an export in one SavedModel"
        raise UserError(
            f"--category_shards={num_shards}: {export_dir!r} holds {what}, and its clients expect that; name another "
            "--export_dir"
        )


def num_shards_of(export_dir: str) -> int:
    """How many category shards the export in a directory has; 0: it is one SavedModel."""
    path = os.path.join(export_dir, SHARDS_FILE)
    return len(read_places(path).shards) if os.path.exists(path) else 0
