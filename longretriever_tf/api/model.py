"""A finished run, or an export, asked from Python. TensorFlow is imported when it is first asked."""

import dataclasses
import datetime
import numbers
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text, find_rows, is_text
from longretriever_tf.config import config as config_lib
from longretriever_tf.config.check import evaluation_only
from longretriever_tf.datasets.frames import read_history


class Model:
    """A finished run, or an export: what `train` and `load` return.

    Attributes:
      run_dir: of the run; "" for an export.
      export_dir: of the export; "" for a run.
      config: every setting, as the rest of the package takes it.
    """

    def __init__(self, config: config_lib.Config, run_dir: str = "", export_dir: str = "") -> None:
        self.config, self.run_dir, self.export_dir = config, run_dir, export_dir
        self._client: Any = None
        self._log: Any = None

    def __repr__(self) -> str:
        return f"<{self.config.model.model}, {'run ' + self.run_dir if self.run_dir else 'export ' + self.export_dir}>"

    def evaluate(self, split: str = "", *, baselines: str = "simple", max_users: int = 0) -> pd.DataFrame:
        """Recall and NDCG on a window after the training's end, as the command `evaluate` prints them.

        Args:
          split: validation or test; "": the window that follows the training data.
          baselines: simple (popularity, the user's own items), all (tuned first: minutes; the settings go into the run
            directory) or none.
          max_users: evaluate only the first so many; 0: all.

        Returns:
          A row for each model; columns such as "all recall@100" and "novel recall@100" (items that the user never had).
          The first row is the run as requests are answered.

        Raises:
          UserError: an export, which has no window; a window that the run has seen; or the log is not there any more.
        """
        if not self.run_dir:
            raise UserError(
                f"{self.export_dir!r} is an export, which is evaluated with its run: load the run directory instead"
            )
        from longretriever_tf.evaluation.evaluate_baselines import SETTINGS_FILE, BaselineChoice
        from longretriever_tf.evaluation.evaluate_run import evaluate_run
        from longretriever_tf.evaluation.table import SHOWN

        split = split or ("test" if self.config.train.cut == "test" else "validation")
        for name, value, choices in (
            ("split", split, ("validation", "test")),
            ("baselines", baselines, ("simple", "all", "none")),
        ):
            if value not in choices:
                raise UserError(f"{name}={value!r}: expected one of {', '.join(choices)}")
        if isinstance(max_users, bool) or not isinstance(max_users, numbers.Integral) or max_users < 0:
            raise UserError(f"max_users={max_users!r}: expected a whole number, 0 (all users) or more")
        choice = BaselineChoice(baselines, output=os.path.join(self.run_dir, SETTINGS_FILE))
        metrics = evaluate_run(self.config, split, int(max_users), choice)
        rows = {
            name: {f"{section} {metric}": model.get(section, {}).get(metric, np.nan) for section, metric in SHOWN}
            for name, model in metrics["models"].items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = f"{split}, {metrics['num_users']:,} users"
        return table

    def recommend(
        self, user: Any, k: int = 20, *, as_of: Any = None, profile: Mapping[str, str] | None = None, **options: Any
    ) -> pd.DataFrame:
        """The best items for a user, with the interest (category) that brought each.

        Args:
          user: an id of the log; or a history as a DataFrame with the log's columns of item and time. No rows: a new
            user.
          k: length of the list.
          as_of: the time of the request, a date, a time or seconds UTC: events from then on are not read. None: the
            time until which the model counts events, which is the end of the training data or the last refresh; or, for
            a DataFrame, just after its last event where that is later. A user's events are those of the run's own log:
            give a DataFrame to add later ones.
          profile: the user's features, with a DataFrame.
          **options: of `serving.client.request.Request`: num_interests, goal="novel", forbidden_category, seed, ...

        Returns:
          A row for each item, best first: item_id, name (where the log has names), category, score, interest_rank.

        Raises:
          UserError: names the value at fault.
        """
        (answer,) = self._open().retrieve([self._request(user, as_of, profile, {"seed": 1, **options, "k": k})])
        rows = pd.DataFrame(answer.candidates, columns=["item_id", "score", "category", "interest_rank"])
        corpus = self._open().corpus
        named = dict(
            zip(corpus.item_id[schema.FIRST_KNOWN :].tolist(), corpus.item_name[schema.FIRST_KNOWN :], strict=True)
        )
        columns = ["item_id", "category", "score", "interest_rank"]
        names = [str(named.get(item, item)) for item in rows.item_id]
        if names != rows.item_id.astype(str).tolist():
            rows["name"] = names
            columns.insert(1, "name")
        return rows[columns]

    def interests(
        self, user: Any, *, as_of: Any = None, profile: Mapping[str, str] | None = None, **options: Any
    ) -> pd.DataFrame:
        """The categories that a request of the same arguments searches, best first.

        Returns:
          A row for each: category, score, rank, origin, num_events (of the user in it), last_event (NaT: none).
        """
        (found,) = self._open().interests([self._request(user, as_of, profile, {"seed": 1, **options})])
        names = ["category", "score", "rank", "origin", "num_events", "last_timestamp"]
        rows = pd.DataFrame(found, columns=names)
        last = pd.to_datetime(rows.pop("last_timestamp").where(lambda second: second > 0), unit="s")
        return rows.assign(last_event=last)

    def export(self, path: str | os.PathLike[str], *, check: bool = True) -> str:
        """Writes the next version of a SavedModel that answers raw histories, as the command `export` does.

        Args:
          path: holds one folder for each version.
          check: replay warm-up requests in a fresh process before the version takes its place.

        Returns:
          The version's folder.

        Raises:
          UserError: an export already, a baseline, or a directory that cannot be written or holds another catalogue.
        """
        if not self.run_dir:
            raise UserError(
                f"{self.export_dir!r} is an export already: copy the folder, or load its run and export that"
            )
        self._require_served()
        from longretriever_tf.retrieval.export.catalogue_version import export_version
        from longretriever_tf.retrieval.export.destination import require_destination
        from longretriever_tf.retrieval.export.publish import publish
        from longretriever_tf.serving.server.warmup import check_in_fresh_process

        require_destination(self.run_dir, os.fspath(path))
        source, _ = export_version(self.config)
        return publish(source, os.fspath(path), 0, check_in_fresh_process if check else None).directory

    def _require_served(self) -> None:
        if limited := evaluation_only(self.config):
            raise UserError(limited)

    def _open(self) -> Any:
        """What answers requests, opened once."""
        if self._client is None:
            self._require_served()
            from longretriever_tf.serving.client.in_process import LocalClient

            self._client = LocalClient.of_run(self.config) if self.run_dir else LocalClient(self.export_dir)
        return self._client

    def _request(self, user: Any, as_of: Any, profile: Mapping[str, str] | None, options: dict[str, Any]) -> Any:
        """The request of a user of the log, or of a history."""
        from longretriever_tf.serving.client.in_process import request_of
        from longretriever_tf.serving.client.request import Request

        _check_options(options, Request)
        if options.get("k", 1) == 0:
            raise UserError("k=0: expected 1 or more")
        corpus, data = self._open().corpus, self.config.data
        if isinstance(user, pd.DataFrame):
            history = read_history(user, data, time.time())
            last = max(history["history_timestamp"], default=0)
            until = max(self._open().as_of, last + 1) if as_of is None else _seconds(as_of)
            kept = sum(second < until for second in history["history_timestamp"])  # they are sorted
            history = {name: column[:kept] for name, column in history.items()}
            if is_text(corpus.item_id):
                history["history_item_id"] = as_text(history["history_item_id"]).tolist()
            return Request(**history, request_timestamp=until, profile=profile or {}, **options)
        if profile is not None:
            raise UserError(f"profile={profile!r}: the log knows that of user {user!r}; give it with a history")
        log = self._users(str(user))
        if find_rows(as_text(log.user_id), as_text([str(user)]))[0] < 0:
            some = ", ".join(map(str, log.user_id[:5]))
            raise UserError(f"user={user!r} is not in the log, which has {log.num_users:,} users ({some}, ...)")
        return request_of(log, str(user), self._open().as_of if as_of is None else _seconds(as_of), **options)

    def _users(self, user: str) -> Any:
        """The log, read once; of one that `prepare` wrote, this user alone."""
        from longretriever_tf.data.window.sample import load_users

        if self.config.data.data:
            return load_users(self.config.data, [user])
        if self._log is None:
            self._log = load_users(self.config.data, [])
        return self._log


def _check_options(options: Mapping[str, Any], request: type) -> None:
    known = [field.name for field in dataclasses.fields(request) if field.name not in ("profile", "request_timestamp")]
    known = [name for name in known if not name.startswith("history_")]
    for name, value in options.items():
        if name not in known:
            raise UserError(f"{name}={value!r}: a request has no such option; it has {', '.join(known)}")


def _seconds(as_of: Any) -> int:
    """Seconds UTC of a date, a time or a number of seconds; without a zone: UTC."""
    if isinstance(as_of, numbers.Integral) and not isinstance(as_of, bool):
        return int(as_of)
    try:
        if not isinstance(as_of, str | datetime.date | np.datetime64):
            raise ValueError
        stamp = pd.Timestamp(as_of)
        stamp = stamp.tz_localize("UTC") if stamp.tz is None else stamp
        return int(stamp.timestamp())
    except (ValueError, TypeError) as error:
        raise UserError(f"as_of={as_of!r} is not a time; write '2017-12-04', '2017-12-04 18:05' or seconds") from error
