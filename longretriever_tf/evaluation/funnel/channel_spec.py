"""How a user names a retrieval channel: a trained run and its retrieval settings. Imports no TensorFlow."""

import dataclasses
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, RetrievalConfig

_PAPER_SERVING = {"interest": "paper", "num_interests": "5", "top_interests": "20", "merge": "round_robin"}
_FULL_CORPUS = _PAPER_SERVING | {"search": "corpus"}
_DEFAULTS = {"without_long": _PAPER_SERVING, "without_in_context": _FULL_CORPUS}
"""Settings of the paper's ablations where the user gives none; any other run is served by its own config."""

_BOOLEANS = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class ChannelSpec:
    """A run as a channel.

    Attributes:
      name: of the channel; `paper_directions.ROWS` lists the names that the paper's tables know.
      run_dir: of a finished run.
      overrides: fields of `RetrievalConfig` as text, and `every_category`.
    """

    name: str
    run_dir: str
    overrides: dict[str, str]

    def settings(self, config: Config) -> tuple[RetrievalConfig, bool]:
        """The run's own retrieval config with the overrides, and whether every category is searched.

        Raises:
          UserError: an unknown key, a value of the wrong type, or a combination that cannot work.
        """
        overrides = self.overrides or _DEFAULTS.get(self.name, {})
        fields = {field.name: field.type for field in dataclasses.fields(RetrievalConfig)}
        changes: dict[str, Any] = {}
        every_category = False
        for key, text in overrides.items():
            if key == "every_category":
                every_category = self._cast(key, text, bool)
            elif key in fields:
                changes[key] = self._cast(key, text, fields[key])
            else:
                known = ", ".join([*fields, "every_category"])
                raise UserError(f"channel {self.name!r}: unknown setting {key!r}; known: {known}")
        try:
            retrieval = dataclasses.replace(config.retrieval, **changes)
            return dataclasses.replace(config, retrieval=retrieval).retrieval, every_category
        except UserError as error:
            raise UserError(f"channel {self.name!r}: {error}") from error

    def _cast(self, key: str, text: str, kind: Any) -> Any:
        try:
            return _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError) as error:
            raise UserError(f"channel {self.name!r}: {key}={text!r} is not of type {kind.__name__}") from error


def parse_channel(text: str) -> ChannelSpec:
    """Reads NAME=RUN_DIR or NAME=RUN_DIR:key=value,key=value.

    Raises:
      UserError: it has another form.

    >>> parse_channel("top5=runs/a:num_interests=5,top_interests=5").overrides
    {'num_interests': '5', 'top_interests': '5'}
    """
    name, equals, rest = text.partition("=")
    run_dir, colon, settings = rest.rpartition(":")
    if not colon or "=" not in settings:  # a run directory may hold a colon of its own
        run_dir, settings = rest, ""
    pairs = [pair.partition("=") for pair in settings.split(",") if pair]
    if not name or not equals or not run_dir or not all(key and value for key, _, value in pairs):
        raise UserError(
            f"--channel_run={text!r}: expected NAME=RUN_DIR, or NAME=RUN_DIR:key=value,... as in "
            "top5=runs/demo:interest=paper,num_interests=5,top_interests=5,merge=round_robin"
        )
    return ChannelSpec(name, run_dir, {key: value for key, _, value in pairs})


def longretriever_channels(run_dir: str) -> list[ChannelSpec]:
    """The rows that one LongRetriever run gives: the paper's serving, its Top5, and every category calibrated."""
    top5 = _PAPER_SERVING | {"top_interests": "5"}
    return [
        ChannelSpec("longretriever", run_dir, _PAPER_SERVING),
        ChannelSpec("top5", run_dir, top5),
        ChannelSpec("every_category", run_dir, {"every_category": "true", "merge": "calibrated"}),
    ]
