"""TFDS builder of a user's own Parquet or CSV tables."""

import dataclasses
import functools
import hashlib
import json
from typing import Any

import tensorflow_datasets as tfds

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import is_text
from longretriever_tf.config import config as config_lib
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets import tfds_builder
from longretriever_tf.datasets.event_log import source
from longretriever_tf.datasets.event_log.locate import locate
from longretriever_tf.datasets.log import LifelongLog

CONTEXT = source.CONTEXT
_PATHS = ("events", "items", "users")
_NOT_OF_THE_RECORDS = (
    *("dataset", "data_dir", "window_days", "skip_last_days", "movielens"),
    *("action_weights", "target_actions", "numeric_bins"),
)
_OF_SOME_LOGS = ("text_columns", "embedding_column", "action_column", "numeric_features", "event_features")


@dataclasses.dataclass(eq=False)
class EventLogConfig(tfds.core.BuilderConfig):
    """A kind of record (`users` or `items`) of the tables that `spec` names; `make_config` makes one."""

    spec: DataConfig = dataclasses.field(default_factory=DataConfig)


def make_config(spec: DataConfig, kind: str) -> EventLogConfig:
    """The config, named after the spec and all files' sizes and times: a changed, new or missing file is read anew.

    Raises:
      UserError: a file that does not exist.
    """
    return EventLogConfig(
        name=f"{kind}-{_fingerprint(spec)}", spec=spec, description=f"One record per {kind[:-1]} of {spec.events}."
    )


def _fingerprint(spec: DataConfig) -> str:
    values = {name: value for name, value in dataclasses.asdict(spec).items() if name not in _NOT_OF_THE_RECORDS}
    if not spec.format:  # logs that were prepared before there were formats keep their names
        del values["format"]
    for name in _OF_SOME_LOGS:  # as those before there were such columns
        if not values[name]:
            del values[name]
    for name in _PATHS:
        path = getattr(spec, name)
        if path:
            values[name] = [tuple(file[:3]) for file in locate(f"--{name}={path}", path).files]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=1)
def _read(fingerprint: str, spec: DataConfig) -> LifelongLog:
    """One reading for both kinds of records; the fingerprint changes when a file does."""
    del fingerprint
    return source.read_event_log(spec)


def forget() -> None:
    """Frees the tables that the last builder has read."""
    _read.cache_clear()


class Builder(tfds_builder.LifelongBuilder):
    """A user's own log; its config is made from a `DataConfig`.

    After importing longretriever_tf.datasets:

        spec = {"events": "events.parquet", "user_column": "user"}    # or a DataConfig
        tfds.load("event_log", split="log", builder_kwargs={"spec": spec})          # one record per user
        tfds.load("event_log/items", split="log", builder_kwargs={"spec": spec})    # one record per item

    The tables are read when an unprepared builder is made: their columns say whether ids are numbers or text.
    """

    def __init__(
        self,
        *,
        spec: DataConfig | dict[str, Any] | None = None,
        config: str | EventLogConfig = "users",
        data_dir: str | None = None,
        version: str | None = None,
    ):
        """Builds on `spec` and a kind (`config`: users or items), or on an `EventLogConfig`."""
        if not isinstance(config, EventLogConfig):
            if spec is None:
                raise UserError("event_log needs its tables: builder_kwargs={'spec': {'events': 'log.parquet', ...}}")
            if config not in tfds_builder.KINDS:
                raise UserError(f"event_log/{config}: expected one of {', '.join(tfds_builder.KINDS)}")
            if isinstance(spec, dict):
                spec = config_lib.from_dict(DataConfig, spec, "spec")
            config = make_config(spec, config)
        super().__init__(config=config, data_dir=data_dir, version=version)

    def _create_builder_config(self, builder_config: EventLogConfig, version: Any) -> EventLogConfig:
        """As TFDS's own, without its warning that the config was made at run time: every config here is."""
        return builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        if (self.data_path / "features.json").exists():  # prepared: no need to read the tables for their types
            return self.make_info(tfds_builder.read_features(self.data_dir, self.kind))
        return super()._info()

    def layout(self) -> tfds_builder.Layout:
        log = self.source_log()
        return tfds_builder.Layout(
            is_user_text=is_text(log.user_id),
            is_item_text=is_text(log.items.item_id),
            profile=tuple(log.profile),
            item_features=tuple(log.items.features),
            has_actions=log.action is not None,
            event_features=tuple(log.event_features),
        )

    def source_log(self) -> LifelongLog:
        return _read(self.builder_config.name.split("-")[1], self.builder_config.spec)
