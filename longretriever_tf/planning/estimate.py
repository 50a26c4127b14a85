"""The figures of a plan, each with where it comes from and how far it may be off. Imports no TensorFlow."""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

from longretriever_tf.config.config import Config
from longretriever_tf.planning.fitted import FittedModel

EVENTS_PER_SHARD, MAX_SHARDS = 2_000_000, 100_000
"""As `prepare` cuts by itself, and how many shards it takes at most."""

_HEADROOM = 0.6
"""Share of a machine's memory that one model may fill: a new version is loaded while the old one still serves."""

_FURTHER_DEVICE = 0.6
"""What each further device adds, as a share of the first."""

_ID_BYTES = 100
"""Of an id in a worker's tables, and of what is counted by it."""

_SERVED = {"items_per_category": 65_493 / 302, "categories": 302.0}
"""Of the export whose requests were measured as served."""


@dataclasses.dataclass(frozen=True)
class PlanInputs:
    """What is planned for.

    Attributes:
      users, items, events_per_user, categories: of the log.
      examples: of an epoch.
      epochs: of the towers' training.
      qps: requests a second, with histories of `events_per_user` events.
      machines, cores, memory_gb: machines for the preparation; cores and memory of each machine.
      devices: accelerators.
      load: share of a serving core's time that requests take.
    """

    users: float
    items: float
    events_per_user: float
    categories: float
    examples: float
    epochs: float
    qps: float
    machines: int
    cores: int
    memory_gb: float
    devices: int
    load: float

    @property
    def events(self) -> float:
        """Of the whole log."""
        return self.users * self.events_per_user

    @property
    def shards(self) -> int:
        """Of the prepared log."""
        return min(_up(self.events / EVENTS_PER_SHARD), MAX_SHARDS)

    @property
    def shard_events(self) -> float:
        """Of one shard: no fewer than a whole one, however short the last one is."""
        return max(min(self.events, EVENTS_PER_SHARD), self.events / MAX_SHARDS)

    def fits(self, in_memory_gb: float) -> bool:
        """Whether `train` keeps so much in memory by itself: at most half of a machine's."""
        return in_memory_gb <= self.memory_gb / 2

    @property
    def items_per_category(self) -> float:
        """On average."""
        return self.items / self.categories


class PlanLine(NamedTuple):
    """A figure of the plan.

    Attributes:
      key: its name in JSON.
      part: of the work.
      label: what it is.
      value: the number.
      unit: of it.
      basis: "measured": within the sizes that were measured; "extrapolated": beyond them; "estimated": not measured.
      why: the files of measurements with their error, or the arithmetic.
    """

    key: str
    part: str
    label: str
    value: float
    unit: str
    basis: str
    why: str


def estimate(inputs: PlanInputs, models: Mapping[str, FittedModel]) -> list[PlanLine]:
    """Every figure of the plan, in order."""
    plan = _Plan(inputs, models)
    return [*plan.preparation(), *plan.training(), *plan.serving()]


class _Plan:
    """The figures, part by part."""

    def __init__(self, inputs: PlanInputs, models: Mapping[str, FittedModel]) -> None:
        self._in, self._models = inputs, models

    def preparation(self) -> list[PlanLine]:
        """Disk, CPU and memory of `prepare`."""
        x, part = self._in, "preparation"
        log_gb = self._predict("log_bytes", events=x.events) / 1e9
        core_hours = self._predict("prepare_cpu_s", events=x.events) / 3600
        worker = self._predict("prepare_worker_mb", shard_events=x.shard_events) / 1e3
        whole = self._in_memory_gb()
        ids_gb = (x.items + x.users) * _ID_BYTES / 1e9
        hours = core_hours / (x.machines * x.cores)
        counted = "core-hours over cores; waiting for disks and network is not counted"
        return [
            self._fitted("log_bytes", "log_gb", part, "disk: the log in shards", log_gb, "GB"),
            _guess("working_gb", part, "disk while it is made", 3 * log_gb, "GB", "three times that (prepare --help)"),
            _guess("shards", part, "shards", x.shards, "", f"{x.shard_events:,.0f} events each"),
            self._fitted("prepare_cpu_s", "core_hours", part, "CPU", core_hours, "core-hours"),
            _guess("hours", part, f"on {x.machines} machines of {x.cores} cores", hours, "hours", counted),
            self._fitted("prepare_worker_mb", "worker_gb", part, "memory of a worker: its shard", worker, "GB"),
            _guess("ids_gb", part, "and its ids of items and users", ids_gb, "GB", f"{_ID_BYTES} bytes an id"),
            self._fitted("memory_path_mb", "in_memory_gb", part, "or in memory, without shards", whole, "GB"),
        ]

    def training(self) -> list[PlanLine]:
        """Hours by accelerator, and what it must hold."""
        x, part, model = self._in, "training", Config().model
        examples = x.examples * x.epochs
        gpu, cpu = (examples * self._predict(f"training_{name}_s_per_example") / 3600 for name in ("h100", "cpu"))
        many = gpu / (1 + (x.devices - 1) * _FURTHER_DEVICE)
        rows_gb = x.items * (model.svd_dim * 4 + (model.dim + 1) * 4 * 3) / 1e9
        adds = f"each further one adds {_FURTHER_DEVICE:.0%} of the first"
        shapes = "SVD rows; id vectors and biases with two moments each: from their shapes"
        one = self._fitted("training_h100_s_per_example", "h100_hours", part, "one H100, XLA", gpu, "hours")
        if not x.fits(self._in_memory_gb()):
            disk = "examples in its memory; those of a log on disk, fed to it, were not measured"
            one = one._replace(basis="estimated", why=f"{one.why}; {disk}")
        several = _guess("devices_hours", part, f"{x.devices} of them", many, "hours", adds)
        return [
            one,
            *([several] if x.devices > 1 else []),
            self._fitted("training_cpu_s_per_example", "cpu_core_hours", part, "without any", cpu, "core-hours"),
            _guess("item_rows_gb", part, "item tables on the devices", rows_gb, "GB", shapes),
        ]

    def serving(self) -> list[PlanLine]:
        """The export, its shards and replicas, and a request."""
        x, part = self._in, "serving"
        export = self._predict("export_bytes", items=x.items) / 1e9
        loaded = self._predict("loaded_mb", items=x.items) / 1e3
        shards = _up(loaded / (_HEADROOM * x.memory_gb))
        request_ms = self._request_ms()
        cores = x.qps * request_ms / 1e3 / x.load
        replicas = _up(cores / x.cores / shards) if x.qps else 0
        latency = request_ms + _wait_ms(request_ms, x.cores, x.load)
        over = f"over {_HEADROOM:.0%} of a machine's {x.memory_gb:g} GB"
        needed = f"{cores:,.0f} cores in all at a load of {x.load:.0%}, {x.cores} a machine"
        queue = "that CPU, and the wait before a machine's cores (M/M/c)"
        return [
            self._fitted("export_bytes", "export_gb", part, "disk: the export", export, "GB"),
            self._fitted("loaded_mb", "loaded_gb", part, "memory: the model", loaded, "GB"),
            _guess("category_shards", part, "shards by category", shards, "", over),
            self._fitted("served_core_ms request_cpu_ms", "request_ms", part, "CPU of a request", request_ms, "ms"),
            _guess("replicas", part, "replicas of each shard", replicas, "", needed),
            _guess("latency_ms", part, "mean latency at that load", latency, "ms", queue),
        ]

    def _in_memory_gb(self) -> float:
        return self._predict("memory_path_mb", events=self._in.events) / 1e3

    def _request_ms(self) -> float:
        """As served at the size that was measured, and what more items and categories add within the model."""
        events = self._in.events_per_user
        larger = {name: max(getattr(self._in, name), measured) for name, measured in _SERVED.items()}
        grown, measured = (self._predict("request_cpu_ms", events_per_user=events, **at) for at in (larger, _SERVED))
        return self._predict("served_core_ms", events_per_user=events) + grown - measured

    def _predict(self, name: str, **inputs: float) -> float:
        return self._models[name].predict(**inputs)

    def _fitted(self, names: str, key: str, part: str, label: str, value: float, unit: str) -> PlanLine:
        """A line that rests on fitted models, their names separated by spaces."""
        models, whys = [self._models[name] for name in names.split()], []
        for model in models:
            error = "no other size to check it by"
            if model.worst_error is not None:
                error = f"off by up to {model.worst_error:.0%} where checked"
            whys.append(f"{model.note}; {error}; {', '.join(model.sources)}")
        beyond = [getattr(self._in, term) > 1.01 * most for model in models for term, most in model.largest.items()]
        return PlanLine(
            key, part, label, value, unit, "extrapolated" if any(beyond) else "measured", "; and ".join(whys)
        )


def _guess(key: str, part: str, label: str, value: float, unit: str, why: str) -> PlanLine:
    return PlanLine(key, part, label, value, unit, "estimated", why)


def _up(value: float) -> int:
    return max(1, math.ceil(value))


def _wait_ms(service_ms: float, cores: int, load: float) -> float:
    """Mean wait of an M/M/c queue: Erlang's C, by way of Erlang's B, which its recursion keeps stable."""
    blocked = 1.0
    for core in range(1, cores + 1):
        blocked = cores * load * blocked / (core + cores * load * blocked)
    waits = blocked / (1 - load * (1 - blocked))
    return waits * service_ms / (cores * (1 - load))
