"""The models that are served: loads new versions beside the old, switches, unloads; and says how each version fares.

States and rules are those of TensorFlow Serving's aspired-versions manager with its availability-preserving policy. Two
are safer here: a model never loses its last version because its directory is empty for a moment, and a directory that
changed after a failed load is tried again at once, not at the next retry.
"""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tensorflow_serving.config import model_server_config_pb2

from longretriever_tf.serving.server import versions
from longretriever_tf.serving.server.loaded import LoadedModel
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.status import ServingError, from_exception, invalid

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """When to look for versions, and how hard to try.

    Attributes:
      poll_wait_s: seconds between looks at the base paths; 0: look once.
      max_num_load_retries: tries after the first failure.
      load_retry_interval_micros: between tries; negative: at once.
      allow_labels_for_unavailable: a label may name a version that is not (yet) available.
    """

    poll_wait_s: float = 1.0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    allow_labels_for_unavailable: bool = False


class VersionStatus(NamedTuple):
    """A version's state (START, LOADING, AVAILABLE, UNLOADING or END) and code: "OK" unless it failed for good."""

    version: int
    state: str
    code: str
    message: str


class _Version:
    """What is known of one version."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.state = "START"
        self.error: ServingError | None = None
        self.model: LoadedModel | None = None
        self.wanted = True
        self.attempts = 0
        self.retry_at = 0.0
        self.seen: versions.Fingerprint = ()


class ModelManager:
    """Thread-safe. `configure`, then `poll` (`start` does so on a thread), then `servable`; `close` at the end."""

    def __init__(
        self, options: LoadOptions, metrics: Metrics, load: Callable[[str, int, str], LoadedModel] = LoadedModel
    ) -> None:
        self._options, self._metrics, self._load_model = options, metrics, load
        self._lock = threading.Lock()  # guards the fields below; never held while a model loads
        self._polling = threading.Lock()
        self._configs: dict[str, Any] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._versions: dict[str, dict[int, _Version]] = {}
        self._warned: set[str] = set()
        self._faults: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def configure(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Takes over a checked config; the next poll acts on it.

        Raises:
          ServingError: FAILED_PRECONDITION, a label for a version that is not available; the old config stays.
        """
        models = {model.name: model for model in config.model_config_list.config}
        with self._lock:
            labels = {name: self._check_labels(model) for name, model in models.items()}
            self._configs, self._labels = models, labels
            self._warned &= set(models)

    def start(self) -> None:
        """Polls on a thread from now on."""
        if self._options.poll_wait_s > 0:
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
                    self._unload(version)

    def poll(self) -> None:
        """Looks at the base paths once: loads, switches, unloads."""
        with self._polling:
            with self._lock:
                configs = dict(self._configs)
                gone = [name for name in self._versions if name not in configs]
            for name, config in configs.items():
                try:
                    self._reconcile(name, config)
                except Exception as error:  # one model's directory must not keep the others from being looked at
                    self._warn(name, f"{type(error).__name__}: {error}")
            with self._lock:
                for name in gone:
                    for version in self._versions[name].values():
                        self._unload(version)

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
            known = dict(sorted(self._versions.get(name, {}).items(), reverse=True))
            if version is not None:
                if version not in known:
                    raise ServingError("NOT_FOUND", f"Could not find version {version} of model {name}")
                known = {version: known[version]}
            if not known:
                raise ServingError("NOT_FOUND", f"Could not find any versions of model {name}")
            return [_status(number, record) for number, record in known.items()]

    def model_names(self) -> list[str]:
        """The configured models."""
        with self._lock:
            return list(self._configs)

    def waiting(self) -> list[str]:
        """Models that have no available version yet, but may still get one."""
        with self._lock:
            return [name for name in self._configs if not self._available(name) and not self._hopeless(name)]

    def failed(self) -> list[str]:
        """Models without an available version, all of whose versions failed: TensorFlow Serving's line for each."""
        with self._lock:
            return [
                f"{{{{name: {name} version: {number}}} due to error: {record.error}}}"
                for name in self._configs
                if not self._available(name) and self._hopeless(name)
                for number, record in self._versions[name].items()
            ]

    def _watch(self) -> None:
        while not self._stop.wait(self._options.poll_wait_s):
            try:
                self.poll()
            except Exception as error:  # the watcher must outlive whatever comes
                self._warn("", f"{type(error).__name__}: {error}")

    def _warn(self, name: str, fault: str) -> None:
        """Says what is wrong once, not at every look."""
        if self._faults.get(name) != fault:
            self._faults[name] = fault
            _LOG.warning("looking for versions of servable %s failed, and is tried again: %s", name or "any", fault)

    def _check_labels(self, model: Any) -> dict[str, int]:
        known = self._versions.get(model.name, {})
        old = self._labels.get(model.name, {})
        for label, number in model.version_labels.items():
            if self._options.allow_labels_for_unavailable and old.get(label, number) == number:
                continue
            if number not in known or known[number].state != "AVAILABLE":
                raise ServingError(
                    "FAILED_PRECONDITION",
                    f"Request to assign label to version {number} of model {model.name}, which is not currently "
                    "available for inference",
                )
        return dict(model.version_labels)

    def _reconcile(self, name: str, config: Any) -> None:
        found = versions.find_versions(config.base_path)
        wanted = versions.aspired_versions(found, config.model_version_policy)
        if not wanted:
            if name not in self._warned:
                self._warned.add(name)
                _LOG.warning(
                    "No versions of servable %s found under base path %s. Did you forget to name your leaf directory "
                    "as a number (eg. '/1/')? Looking again every second or so",
                    *(name, config.base_path),
                )
            return  # what is served stays: a directory may be on its way from one name to another
        with self._lock:
            known = self._versions.setdefault(name, {})
            for number in wanted:
                known[number] = _renewed(known.get(number), found[number])
            for number, record in known.items():
                record.wanted = number in wanted
                if not record.wanted and record.state in ("START", "LOADING"):
                    record.state = "END"
        for number in wanted:
            if known[number].state in ("START", "LOADING"):
                self._load(name, number, known[number])
        with self._lock:
            if any(record.wanted and record.state == "AVAILABLE" for record in known.values()):
                for record in known.values():
                    if not record.wanted:
                        self._unload(record)

    def _load(self, name: str, number: int, record: _Version) -> None:
        seen = versions.fingerprint(record.path)
        if seen != record.seen:
            record.attempts, record.retry_at, record.seen = 0, 0.0, seen
        while record.state in ("START", "LOADING") and record.retry_at <= time.monotonic():
            record.state = "LOADING"
            record.attempts += 1
            start = time.monotonic()
            try:
                model = self._load_model(name, number, record.path)
            except Exception as error:  # one broken version must not end the watcher
                self._note_failure(name, number, record, from_exception(error))
                continue
            self._metrics.count("load_attempts", record.path, "success")
            self._metrics.count("load_latency", record.path, by=int((time.monotonic() - start) * 1e6))
            with self._lock:
                record.model, record.error, record.state = model, None, "AVAILABLE"
            _LOG.info("Successfully loaded servable version {name: %s version: %d}", name, number)

    def _note_failure(self, name: str, number: int, record: _Version, error: ServingError) -> None:
        self._metrics.count("load_attempts", record.path, "fail")
        _LOG.warning("Loading servable: {name: %s version: %d} failed: %s", name, number, error)
        if record.attempts > self._options.max_num_load_retries:
            with self._lock:
                record.error, record.state = error, "END"
        else:
            record.retry_at = time.monotonic() + self._options.load_retry_interval_micros / 1e6

    def _unload(self, record: _Version) -> None:
        if record.model is not None:
            record.state = "UNLOADING"
            record.model.retire()
            record.model = None
            record.state = "END"

    def _available(self, name: str) -> dict[int, _Version]:
        return {n: record for n, record in self._versions.get(name, {}).items() if record.model is not None}

    def _hopeless(self, name: str) -> bool:
        records = self._versions.get(name, {}).values()
        return bool(records) and all(record.state == "END" and record.error is not None for record in records)

    def _hold(self, name: str, version: int | None, label: str) -> LoadedModel:
        if not name:
            raise invalid("ModelSpec has no name specified.")
        with self._lock:
            if label:
                if label not in self._labels.get(name, {}):
                    raise invalid(f"Unrecognized servable version label: {label}")
                version = self._labels[name][label]
            available = self._available(name)
            number = max(available, default=0) if version is None else version
            record = available.get(number)
            if record is None or record.model is None or not record.model.hold():
                request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise ServingError("NOT_FOUND", f"Servable not found for request: {request}")
            return record.model


def _renewed(record: _Version | None, path: str) -> _Version:
    """The record of a wanted version: a new one where it was not wanted before, or changed since it failed."""
    if record is None or (record.state == "END" and not record.wanted):
        return _Version(path)
    if record.state == "END" and versions.fingerprint(path) != record.seen:
        return _Version(path)
    return record


def _status(number: int, record: _Version) -> VersionStatus:
    if record.error is None:
        return VersionStatus(number, record.state, "OK", "")
    return VersionStatus(number, record.state, record.error.code, record.error.message)
