"""Asks an export, or a run, in this process: the requests and answers of the client without a server."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, RetrievalConfig, load_config
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.models.build import load_for_export
from longretriever_tf.retrieval.export.explanation import refusal
from longretriever_tf.retrieval.export.saved_model import extra_config_dir, latest_version, load_extra, load_version
from longretriever_tf.retrieval.fingerprint import read_fingerprint
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.request_options import default_columns
from longretriever_tf.retrieval.signatures import make_signatures
from longretriever_tf.serving.client.input_spec import InputSpec
from longretriever_tf.serving.client.request import Request, make_columns
from longretriever_tf.serving.client.response import Interest, Response, read_interests, read_responses
from longretriever_tf.serving.explorer.users import sample_users

_ASKED = ("serving_default", "interests")
_DTYPES = {tf.int64: "DT_INT64", tf.int32: "DT_INT32", tf.float32: "DT_FLOAT", tf.string: "DT_STRING"}


class LocalClient:
    """The latest version under a directory, asked as `serving.client.client.Client` asks a server.

    Args:
      export_dir: holds one folder per version.

    Attributes:
      corpus: what the model knows: items with their names, categories.
      as_of: until when the model counts events, seconds UTC: the training cut, or the time of the last refresh.

    Raises:
      UserError: there is no version, or it cannot be loaded.
    """

    def __init__(self, export_dir: str) -> None:
        self.version_dir = latest_version(export_dir)
        self.corpus = load_extra(self.version_dir)
        self.as_of = read_fingerprint(extra_config_dir(self.version_dir)).statistics_as_of or self.corpus.cut
        self._model = load_version(self.version_dir)
        retrieval = load_config(extra_config_dir(self.version_dir)).retrieval
        self._open(dict(self._model.signatures), retrieval)

    @classmethod
    def of_run(cls, config: Config) -> "LocalClient":
        """A finished run, asked as its export would be, by exact search; nothing is written.

        Args:
          config: of the run.

        Raises:
          UserError: the run has not finished.
        """
        client = cls.__new__(cls)
        client.version_dir = ""
        client.corpus, arrays, models = load_for_export(config)
        client.as_of = client.corpus.cut
        interest = models.interest if config.train.interest_epochs else None
        client._model = MultiContextRetriever(config, client.corpus, models.retriever, interest, arrays)
        signatures = make_signatures(client._model, config.retrieval)
        client._open({name: signatures[name].get_concrete_function() for name in _ASKED}, config.retrieval)
        return client

    def _open(self, signatures: Mapping[str, Any], retrieval: RetrievalConfig) -> None:
        self._signatures = signatures
        positional, specs = signatures["serving_default"].structured_input_signature
        specs = {spec.name: spec for spec in positional} | specs  # by name once it has been saved
        # A model that is asked in Python does not fill its defaults in, as a server does.
        dtype, has_actions = specs["history_item_id"].dtype, "history_action" in specs
        defaults = default_columns(retrieval, dtype, has_actions, self.corpus.event_values)
        self._inputs = {
            name: InputSpec(_DTYPES[spec.dtype], defaults[name].numpy() if name in defaults else None)
            for name, spec in specs.items()
        }

    def retrieve(self, requests: Sequence[Request]) -> list[Response]:
        """The list and the interests of each request.

        Raises:
          UserError: a request that the model cannot take.
        """
        return read_responses(self._ask("serving_default", requests))

    def interests(self, requests: Sequence[Request]) -> list[tuple[Interest, ...]]:
        """The interests that each request would search, without a search."""
        return read_interests(self._ask("interests", requests))

    def _ask(self, signature: str, requests: Sequence[Request]) -> Mapping[str, np.ndarray]:
        columns = make_columns(requests, self._inputs)
        try:
            answer = self._signatures[signature](**{name: tf.constant(value) for name, value in columns.items()})
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"the model refuses the request: {refusal(error)}") from error
        return {name: value.numpy() for name, value in answer.items()}


def request_of(log: LifelongLog, user: str, as_of: int, **options: Any) -> Request:
    """The request that a user of the log would send at a time.

    Args:
      log: the log.
      user: id as text.
      as_of: seconds UTC; events at or after it are left out.
      **options: further fields of `Request`: k, seed, forbidden_category, ...

    Raises:
      UserError: the user is not in the log.
    """
    (user_history,) = sample_users(log, as_of, 1, [user])
    history = {name: user_history[name] for name in ("profile", "request_timestamp")}
    return Request(
        user_history["item_id"],
        user_history["timestamp"],
        history_weight=user_history.get("weight"),
        history_action=user_history.get("action"),
        **history,
        **options,
    )
