"""The models that are served: loads new versions alongside the old, switches, unloads; and says how each version fares.

States are those of TensorFlow Serving's aspired-versions manager with its availability-preserving policy: a version is
unloaded once another one is available. A model keeps its last version even where its directory is empty for a moment,
and the versions of its labels until the labels have moved: a label moves once the version it names next is available.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tensorflow_serving.config import model_server_config_pb2

from longretriever_tf.serving.server.loaded import LoadedModel
from longretriever_tf.serving.server.metrics import LOADS, Metrics
from longretriever_tf.serving.server.status import ServingError, VersionStatus, from_exception, invalid

_LOG = logging.getLogger(__name__)
_MAX_VERSION = 2**63 - 1
_MAX_RETRY_S = 60.0
"""A version that failed, half copied perhaps, is tried again after a second, then two, four, and so on up to this."""


class _Version:
    """What is known of one version."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.state = "START"
        self.error: ServingError | None = None
        self.model: LoadedModel | None = None
        self.retry_at, self.retry_s, self.waits_for = 0.0, 1.0, ""


class ModelManager:
    """Thread-safe. `configure`, then `poll` (`start` does so on a thread), then `servable`; `close` at the end."""

    def __init__(
        self, metrics: Metrics, load: Callable[[str, int, str], LoadedModel] = LoadedModel, poll_wait_s: float = 1.0
    ) -> None:
        self._metrics, self._load_model, self._poll_wait_s = metrics, load, poll_wait_s
        self._lock = threading.Lock()  # guards the fields below; never held while a model loads
        self._configs: dict[str, Any] = {}
        self._versions: dict[str, dict[int, _Version]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._faults: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def configure(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Takes over a checked config: labels of available versions at once, the rest by the next poll."""
        with self._lock:
            self._configs = {model.name: model for model in config.model_config_list.config}
            for name in self._configs:
                self._move_labels(name)

    def start(self) -> None:
        """Polls on a thread from now on."""
        self._thread = threading.Thread(target=self._watch, name="version-watcher", daemon=True)
        self._thread.start()

    def close(self, wait_s: float | None = None) -> None:
        """Stops polling and unloads everything; requests in flight keep their model until they are done.

        Args:
          wait_s: for a version that is being loaded; None: until it is.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(wait_s)
        with self._lock:
            for known in self._versions.values():
                for version in known.values():
                    _unload(version)

    def poll(self) -> None:
        """Looks at the base paths once: loads, switches, unloads. Not for two threads at once."""
        with self._lock:
            configs = dict(self._configs)
        for name, config in configs.items():
            try:
                self._reconcile(name, config)
            except Exception as error:  # one model's directory must not keep the others from being looked at
                self._warn(name, f"looking for versions failed: {type(error).__name__}: {error}")
        with self._lock:
            for name in self._versions.keys() - configs.keys():
                for version in self._versions[name].values():
                    _unload(version)

    @contextlib.contextmanager
    def servable(self, name: str, version: int | None = None, label: str = "") -> Iterator[LoadedModel]:
        """The model for a request, kept in memory within the block: a version, a label's, or the highest available.

        Raises:
          ServingError: INVALID_ARGUMENT, no name or an unknown label; NOT_FOUND, nothing available.
        """
        model = self._hold(name, version, label)
        try:
            yield model
        finally:
            model.release()

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Every version of a model ever seen, highest first; or the one asked for.

        Raises:
          ServingError: NOT_FOUND.
        """
        with self._lock:
            known = self._versions.get(name, {})
            numbers = sorted(known, reverse=True) if version is None else [version] if version in known else []
            if not numbers:
                what = "any versions" if version is None else f"version {version}"
                raise ServingError("NOT_FOUND", f"Could not find {what} of model {name}")
            return [VersionStatus(number, known[number].state, known[number].error) for number in numbers]

    def model_names(self) -> list[str]:
        """The configured models."""
        with self._lock:
            return list(self._configs)

    def waiting(self) -> list[str]:
        """Models that have no available version yet, and none that failed."""
        with self._lock:
            versions = {name: list(self._versions.get(name, {}).values()) for name in self._configs}
            return [name for name, known in versions.items() if not any(v.model or v.error for v in known)]

    def failed(self) -> list[str]:
        """Models of which no version could be loaded, each with what went wrong."""
        with self._lock:
            versions = {name: self._versions.get(name, {}) for name in self._configs}
            lost = {name: known for name, known in versions.items() if not any(v.model for v in known.values())}
            errors = {name: known[max(known)].error for name, known in lost.items() if known}
            return [f"model {name}: {error}" for name, error in errors.items() if error is not None]

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_wait_s):
            self.poll()

    def _warn(self, name: str, fault: str) -> None:
        """Says what is wrong once, not at every look."""
        if self._faults.get(name) != fault:
            self._faults[name] = fault
            _LOG.warning("model %s: %s; it is tried again", name, fault)

    def _reconcile(self, name: str, config: Any) -> None:
        paths = find_versions(config.base_path)
        wanted = aspired_versions(paths, config.model_version_policy)
        if not wanted:  # what is served stays: a directory may be on its way from one name to another
            self._warn(name, f"{config.base_path} holds no version; a version is a directory named by a number (1, 2)")
            return
        self._faults.pop(name, None)
        with self._lock:
            known = self._versions.setdefault(name, {})
            for number in wanted:
                record = known.setdefault(number, _Version(paths[number]))
                if record.model is None:
                    record.path = paths[number]
        for number in wanted:
            if known[number].model is None:
                self._load(name, number, known[number])
        with self._lock:
            self._move_labels(name)
            if any(known[number].model for number in wanted):
                for number in known.keys() - set(wanted) - set(self._labels[name].values()):
                    _unload(known[number])

    def _move_labels(self, name: str) -> None:
        """Lets each label name the version of the config, or stay where it is while that one is not available."""
        known, before = self._versions.get(name, {}), self._labels.get(name, {})
        now = self._labels[name] = {}
        for label, number in sorted(self._configs[name].version_labels.items()):
            available = number in known and known[number].model is not None
            now[label] = number if available else before.get(label, number)
            if label in before and now[label] != before[label]:
                _LOG.info("model %s: label %s names version %d now, not %d", name, label, number, before[label])

    def _load(self, name: str, number: int, record: _Version) -> None:
        start = time.monotonic()
        if start < record.retry_at:
            return
        record.state = "LOADING"
        if not record.waits_for:
            _LOG.info("model %s, version %d: loading", name, number)
        try:
            model = self._load_model(name, number, record.path)
        except Exception as error:  # one broken version must not end the watcher
            failure = from_exception(error)
            if failure.code == "UNAVAILABLE":  # a router whose shards are not there yet is looked at again at each poll
                if record.waits_for != failure.message:
                    _LOG.info("model %s, version %d waits: %s", name, number, failure.message)
                record.state, record.waits_for = "START", failure.message
                return
            _LOG.warning("model %s, version %d could not be loaded: %s", name, number, failure)
            self._metrics.count(LOADS, model_path=record.path, status="fail")
            with self._lock:
                record.error, record.state = failure, "END"
                record.retry_at = time.monotonic() + record.retry_s
                record.retry_s = min(2 * record.retry_s, _MAX_RETRY_S)
            return
        self._metrics.count(LOADS, model_path=record.path, status="success")
        with self._lock:
            record.model, record.error, record.state = model, None, "AVAILABLE"
        _LOG.info("model %s, version %d is loaded (%.1f s)", name, number, time.monotonic() - start)

    def _hold(self, name: str, version: int | None, label: str) -> LoadedModel:
        if not name:
            raise invalid("the request names no model")
        with self._lock:
            if label:
                labels = self._labels.get(name, {}) if name in self._configs else {}
                if label not in labels:
                    raise invalid(f"model {name} has no version label {label!r}")
                version = labels[label]
            known = self._versions.get(name, {})
            latest = max((number for number, record in known.items() if record.model), default=0)
            record = known.get(latest if version is None else version)
            if record is None or record.model is None or not record.model.hold():
                what = "no available version" if version is None else f"no available version {version}"
                raise ServingError("NOT_FOUND", f"model {name} has {what}; GET /v1/models/NAME lists what there is")
            return record.model


def _unload(record: _Version) -> None:
    if record.model is not None:
        record.state = "UNLOADING"
        record.model.retire()
        record.model = None
    record.state = "END"


def find_versions(base_path: str) -> dict[int, str]:
    """Version number -> directory, for every child of `base_path` whose whole name is a number.

    Two names of one number (1, 001): the shorter wins. What is no directory, cannot be looked at (a link that leads to
    itself) or has too large a number is no version; a base path that does not exist has none.
    """
    try:
        names = sorted(os.listdir(base_path), key=len, reverse=True)
    except OSError:
        return {}
    return {
        int(name): os.path.join(base_path, name)
        for name in names
        if name.isascii() and name.isdigit() and int(name) <= _MAX_VERSION
        if os.path.isdir(os.path.join(base_path, name))
    }


def aspired_versions(paths: Mapping[int, str], policy: Any) -> list[int]:
    """The versions to serve, highest first.

    Args:
      paths: of `find_versions`.
      policy: ServableVersionPolicy proto: latest { num_versions: N } (N = 1 where unset), all {} or specific.
    """
    ordered = sorted(paths, reverse=True)
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return ordered
    if kind == "specific":
        return [version for version in ordered if version in policy.specific.versions]
    return ordered[: max(policy.latest.num_versions, 1)]
