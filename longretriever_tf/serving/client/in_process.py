"""Asks an export in this process: the client's requests and answers without a server, for notebooks and scripts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import load_config
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.retrieval.export.saved_model import extra_config_dir, latest_version, load_extra, load_version
from longretriever_tf.retrieval.request_options import default_columns
from longretriever_tf.serving.client.request import (
    InputSpec,
    Interest,
    Request,
    Response,
    make_columns,
    read_interests,
    read_responses,
)
from longretriever_tf.serving.explorer.users import sample_users

_DTYPES = {tf.int64: "DT_INT64", tf.int32: "DT_INT32", tf.float32: "DT_FLOAT", tf.string: "DT_STRING"}


class LocalClient:
    """The latest version under a directory, asked as `serving.client.client.Client` asks a server.

    Args:
      export_dir: holds one folder per version.

    Raises:
      UserError: there is no version, or it cannot be loaded.
    """

    def __init__(self, export_dir: str) -> None:
        self.version_dir = latest_version(export_dir)
        self.corpus = load_extra(self.version_dir)
        self._model = load_version(self.version_dir)
        function = self._model.signatures["serving_default"]
        specs = function.structured_input_signature[1]
        retrieval = load_config(extra_config_dir(self.version_dir)).retrieval
        # A model loaded in Python does not fill its defaults in, as a server does.
        defaults = default_columns(retrieval, specs["history_item_id"].dtype)
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
            answer = self._model.signatures[signature](**{name: tf.constant(value) for name, value in columns.items()})
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"the model refuses the request: {error.message.splitlines()[0]}") from error
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
        **history,
        **options,
    )
