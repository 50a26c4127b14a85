"""Asks a loaded export about a user of the log, and writes the answer for people."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_raw_ids, as_text, find_rows
from longretriever_tf.common.text_table import printable, shorten
from longretriever_tf.config.config import Config, RetrievalConfig
from longretriever_tf.config.input_names import input_of_profile
from longretriever_tf.data.window.sample import load_users
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.retrieval.export.saved_model import extra_config_dir, load_extra, load_version
from longretriever_tf.retrieval.fingerprint import read_fingerprint
from longretriever_tf.retrieval.request_options import default_columns

_SHOWN_PER_INTEREST = 5
_MAX_NAME = 60
_MAX_INTERESTS = 30


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of the export.

    Attributes:
      user: id as text; empty: the log's first user.
      k: list length.
      num_interests, top_interests, interest_threshold: None: the export's own.
      seed: of the draw.
      as_of: time as text; empty: the time until which the version counts events (the training cut, or a refresh).
      event_values: what the request says, by column of --event_features; the others are unknown.
    """

    user: str
    k: int
    num_interests: int | None
    top_interests: int | None
    interest_threshold: float | None
    seed: int
    as_of: str
    event_values: Mapping[str, str] = dataclasses.field(default_factory=dict)


def explain_user(version_dir: str, config: Config, question: Question) -> str:
    """Loads the export and answers, as readable text.

    Raises:
      UserError: the user is not in the log, a column not among the run's, the time cannot be read, or the export
        refuses the request.
    """
    corpus = load_extra(version_dir)
    _check_event_values(question.event_values, list(corpus.event_values))
    log = load_users(config.data, [question.user] if question.user else [])
    user = _find_user(log, question.user)
    counted = read_fingerprint(extra_config_dir(version_dir)).statistics_as_of or corpus.cut
    as_of_time = parse_time(question.as_of, counted)
    signatures = load_version(version_dir).signatures
    history = request_columns(log, user, as_of_time, list(corpus.profile_values))
    options = _options(question, config.retrieval, history["history_item_id"].dtype, list(corpus.event_values))

    def ask(signature: str, **others: tf.Tensor) -> dict[str, np.ndarray]:
        wanted = signatures[signature].structured_input_signature[1]
        columns = {name: column for name, column in (options | history | others).items() if name in wanted}
        try:
            return {name: value.numpy() for name, value in signatures[signature](**columns).items()}
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"the export refuses the request: {refusal(error)}") from error

    answer = ask("serving_default")
    by_threshold = not options["num_interests"][0]
    top = ask("interests") if by_threshold else ask("interests", num_interests=options["top_interests"])
    names = dict(
        zip(corpus.item_id[schema.FIRST_KNOWN :].tolist(), corpus.item_name[schema.FIRST_KNOWN :], strict=True)
    )
    head = [
        f"user {log.user_id[user]} as of {_date(as_of_time)} UTC, from {version_dir}",
        _history_line(log, user, as_of_time),
    ]
    head.append(f"popularity and repeats of items: counted until {_date(counted)} UTC")
    how = f"drawn (*) of the top {len(_drawn(top))}, seed {question.seed}"
    if by_threshold:
        least = float(options["interest_threshold"][0])
        top_m = int(options["top_interests"][0])
        how = f"searched: the top {top_m}, and all that may hold an item of log p >= {least:g}; * brought an item"
    shown = _bringing(answer) if by_threshold else _drawn(answer)
    parts = [*head, "", *_interest_lines(answer, top, shown, how, config.retrieval), ""]
    for category in shown:
        candidates = ask("retrieve_in_category", k=tf.constant([_SHOWN_PER_INTEREST]), category=tf.constant([category]))
        parts += _candidate_lines(category, candidates, names)
    return "\n".join([*parts, "", *_merged_lines(answer, names)])


def refusal(error: tf.errors.InvalidArgumentError) -> str:
    """What the graph says, without where it stands there."""
    said = re.search(r"assertion failed: (.*)", error.message)
    if said is None:
        return str(error.message).splitlines()[0]
    text = said[1].split("[[{{node")[0]
    return " ".join(part.strip("[]'\"") for part in re.findall(r"\[[^\]]*\]", text)) or text


def request_columns(log: LifelongLog, user: int, as_of_time: int, profile: list[str]) -> dict[str, tf.Tensor]:
    """The columns of a request that the log knows, for a user of the log as of a time: B = 1.

    Args:
      log: the log.
      user: row of it.
      as_of_time: seconds UTC.
      profile: columns of the log's profile; the request's inputs are called as `input_names` says.
    """
    start, stop = log.offset[user : user + 2]
    stop = start + np.searchsorted(log.timestamp[start:stop], as_of_time)
    ids = log.items.item_id[log.item_row[start:stop]]
    actions = {}
    if log.action is not None:
        names = as_text(log.actions.name)[log.action[start:stop]]
        actions["history_action"] = tf.constant(names, tf.string, [1, len(ids)])
    return {
        "history_item_id": tf.constant(as_raw_ids(ids), shape=[1, len(ids)]),
        "history_timestamp": tf.constant(log.timestamp[None, start:stop]),
        "history_weight": tf.constant(log.weight[None, start:stop]),
        **actions,
        "request_timestamp": tf.constant([as_of_time], tf.int64),
        **{input_of_profile(name): tf.constant([str(log.profile[name][user])]) for name in profile},
    }


def _options(
    question: Question, retrieval: RetrievalConfig, item_id_dtype: tf.DType, event_features: list[str]
) -> dict[str, tf.Tensor]:
    """All optional columns: TensorFlow Serving fills in a signature's defaults, a model loaded in Python does not."""
    num_interests = retrieval.num_interests if question.num_interests is None else question.num_interests
    top_interests = question.top_interests or max(retrieval.top_interests, num_interests)
    threshold = retrieval.interest_threshold if question.interest_threshold is None else question.interest_threshold
    if num_interests > top_interests:
        raise UserError(
            f"--num_interests={num_interests} is above --top_interests={top_interests}: N of the top M are drawn"
        )
    return default_columns(retrieval, item_id_dtype, event_features=event_features) | {
        **{name: tf.constant([value]) for name, value in question.event_values.items()},
        "k": tf.constant([question.k]),
        "num_interests": tf.constant([num_interests]),
        "top_interests": tf.constant([top_interests]),
        "interest_threshold": tf.constant([threshold], tf.float32),
        "seed": tf.constant([question.seed], tf.int64),
    }


def _check_event_values(values: Mapping[str, str], columns: list[str]) -> None:
    odd = next((name for name in values if name not in columns), None)
    if odd is not None:
        raise UserError(
            f"--event_values: {odd!r} is no column of --event_features of this export's run, which has "
            f"{', '.join(columns) or 'none'}; leave it out"
        )


def _find_user(log: LifelongLog, user: str) -> int:
    if not user:
        return 0
    row = int(find_rows(as_text(log.user_id), as_text([user]))[0])
    if row < 0:
        some = ", ".join(map(str, log.user_id[:5]))
        raise UserError(f"--user={user!r} is not in the log, which has {log.num_users:,} users ({some}, ...)")
    return row


def parse_time(text: str, default: int) -> int:
    """Seconds UTC of `text`, the default where it is empty.

    Raises:
      UserError: it is not a time.
    """
    if not text:
        return default
    try:
        as_of_time = np.datetime64(text, "s")
        if not np.datetime64("1970-01-01") <= as_of_time < np.datetime64("3000-01-01"):  # NaT is neither
            raise ValueError("expected a time from 1970 to 2999")
        return int(as_of_time.astype(np.int64))
    except ValueError as error:
        raise UserError(f"--as_of={text!r} is not a time; write 2017-12-04 or 2017-12-04T04:01:20") from error


def _date(seconds: int) -> str:
    return str(np.datetime64(int(seconds), "s")).replace("T", " ")


def _history_line(log: LifelongLog, user: int, as_of_time: int) -> str:
    times = log.timestamp[log.offset[user] : log.offset[user + 1]]
    times = times[times < as_of_time]
    if not len(times):
        return "no event before that time: the answer rests on everyone's behavior alone"
    return f"history: {len(times):,} events from {_date(times[0])[:10]} to {_date(times[-1])[:10]}"


def _drawn(answer: dict[str, np.ndarray]) -> list[str]:
    """Names of the interests that a request searched, best first."""
    return [name.decode() for name in answer["interest_category"][0] if name]


def _bringing(answer: dict[str, np.ndarray]) -> list[str]:
    """Names of the searched interests that brought an item of the list, best first."""
    brought = set(answer["category"][0].tolist())
    return [name.decode() for name in answer["interest_category"][0] if name and name in brought]


def _interest_lines(
    answer: dict[str, np.ndarray], top: dict[str, np.ndarray], marked: list[str], how: str, retrieval: RetrievalConfig
) -> list[str]:
    """The interests that could be searched, some of them marked; of a long list, the first and the marked ones."""
    score = "eq. 3" if retrieval.interest == "paper" else "log share of the next items"
    lines = [
        f"interests: {len(_drawn(answer))} {how}; score: {score}",
        "    rank  score    events  last event  category",
    ]
    left_out = 0
    for i, category in enumerate(_drawn(top)):
        if i >= _MAX_INTERESTS and category not in marked:
            left_out += 1
            continue
        last = int(top["interest_last_timestamp"][0, i])
        lines.append(
            f"  {'*' if category in marked else ' '} {top['interest_rank_drawn'][0, i]:4d}  "
            f"{top['interest_score'][0, i]:7.3f}  {top['interest_num_events'][0, i]:6d}  "
            f"{_date(last)[:10] if last else 'never     '}  {category}"
        )
    return [*lines, f"    ... and {left_out:,} more without a *"] if left_out else lines


def _candidate_lines(category: str, candidates: dict[str, np.ndarray], names: dict[Any, str]) -> list[str]:
    lines = [f"{category}: best of its own index (log share within the category)"]
    for j in range(int(candidates["num_valid"][0])):
        lines.append(f"    {float(candidates['score'][0, j]):7.3f}  {_named(candidates['item_id'][0, j], names)}")
    return lines


def _merged_lines(answer: dict[str, Any], names: dict[Any, str]) -> list[str]:
    lines = ["merged list", "     #  score    interest  item"]
    for j in range(int(answer["num_valid"][0])):
        lines.append(
            f"  {j + 1:4d}  {answer['score'][0, j]:7.3f}  {answer['interest_rank'][0, j]:8d}  "
            f"{_named(answer['item_id'][0, j], names)}  [{answer['category'][0, j].decode()}]"
        )
    return lines


def _named(raw: Any, names: dict[Any, str]) -> str:
    raw = raw.decode() if isinstance(raw, bytes) else raw
    name = str(names.get(raw, ""))
    shown = printable(str(raw))
    return f"{shown}  {shorten(name, _MAX_NAME)}" if name and name != str(raw) else shown
