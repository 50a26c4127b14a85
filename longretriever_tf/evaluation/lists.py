"""Lists of any other system, read from a file and held against the same truth. Imports no TensorFlow.

A file has a row for each listed item: user, item, and rank (1 is the best) or score (higher is better); a column task
is optional. Rows of task "novel" rank items that the user never had: without any, those the user had leave the other
lists. Rows of task "within" rank items against others of their category alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.ranges import flat_ranges, offset_of
from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.common.text import as_text, find_rows, is_text
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.datasets.event_log.columns import Coded, LogTable
from longretriever_tf.datasets.event_log.delimited import TextFormat
from longretriever_tf.datasets.event_log.tables import read_column_names, read_table
from longretriever_tf.evaluation.evaluator import KS, WITHIN_KS, Evaluation, Scorer, TaskScorer
from longretriever_tf.evaluation.ground_truth import Truth

TASKS = ("all", "novel", "within")
COLUMNS = ("user", "item", "rank", "score", "task")
_SHOWN = 3


class ListFiles(NamedTuple):
    """Which files of lists are evaluated.

    Attributes:
      paths: path by the name that tables show.
      columns: of `COLUMNS`, those that the files name otherwise, and their names there.
    """

    paths: Mapping[str, str] = {}
    columns: Mapping[str, str] = {}


class RankedLists(NamedTuple):
    """One list per user: user u has items `item[offset[u]:offset[u + 1]]`, best first.

    Attributes:
      offset: by rows of the log, [U + 1] int64.
      item: indices of the corpus, distinct within a user, [n] int64.
    """

    offset: np.ndarray
    item: np.ndarray


def parse_list_files(lists: Sequence[str], columns: Sequence[str]) -> ListFiles:
    """Reads the flags.

    Args:
      lists: NAME:FILE each.
      columns: COLUMN:NAME each.

    Raises:
      UserError: a value of another form, a name that is given twice, or a column that no list has.
    """
    paths: dict[str, str] = {}
    for value in lists:
        name, colon, path = value.partition(":")
        if not (name.strip() and colon and path):
            raise UserError(f"--lists={value}: expected NAME:FILE, say --lists=ials:ials.parquet")
        if name in paths:
            raise UserError(f"--lists={value}: the name {name!r} is given twice; give each file a name of its own")
        paths[name] = path
    names: dict[str, str] = {}
    for value in columns:
        column, _, name = value.partition(":")
        if column not in COLUMNS or not name:
            raise UserError(
                f"--lists_columns={value}: expected COLUMN:NAME, where COLUMN is one of {', '.join(COLUMNS)}"
            )
        names[column] = name
    return ListFiles(paths, names)


@dataclasses.dataclass(frozen=True)
class ListScorer(TaskScorer):
    """The `Scorer` of lists: minus the rank of what is listed, -inf for the rest.

    Attributes:
      name: what the table calls it.
      path: of the file.
      lists: by task.
      num_items: V.
      notes: what reading them has found, for those who read the metrics.
    """

    name: str
    path: str
    lists: Mapping[str, RankedLists]
    num_items: int
    notes: tuple[str, ...] = ()
    lists_only = True

    def score(self, users: np.ndarray) -> np.ndarray:
        """Minus the rank for the task "all", [B, V] float32."""
        return self._score("all", users)

    def score_novel(self, users: np.ndarray) -> np.ndarray | None:
        """Minus the rank in the lists of task "novel", where there are any."""
        return self._score("novel", users) if "novel" in self.lists else None

    def within(self, users: np.ndarray) -> np.ndarray | None:
        """Minus the rank in the lists of task "within", where there are any."""
        return self._score("within", users) if "within" in self.lists else None

    def _score(self, task: str, users: np.ndarray) -> np.ndarray:
        scores = np.full((len(users), self.num_items), -np.inf, np.float32)
        if task in self.lists:
            offset, item = self.lists[task]
            row, at = flat_ranges(offset[users], offset[users + 1])
            scores[row, item[at]] = -(at - offset[users][row]).astype(np.float32)
        return scores

    def describe(self, truth: Truth, ks: tuple[int, ...] = KS) -> list[str]:
        """What a reader of its metrics should know of this truth: who has no list, which lists are short."""
        notes = []
        for task in ("all", "novel"):
            lengths = self._lengths(task, truth)
            if task == "all" and (empty := int((lengths == 0).sum())):
                notes.append(f"{empty} of {truth.num_users} users have no list; each counts as an empty one")
            counts = {k: int(((lengths < k) & (lengths > 0)).sum()) for k in ks}
            short = ", ".join(f"{count} have fewer than {k}" for k, count in counts.items() if count)
            if short:
                source = "" if task == "all" or task in self.lists else " once the items that users had are taken out"
                notes.append(f"lists of {task} items{source}: {short}; they count as they are")
        return notes

    def _lengths(self, task: str, truth: Truth) -> np.ndarray:
        """How many candidates of the task each user's list holds, [U'] int64."""
        offset, item = self.lists.get(task) or self.lists.get("all") or _EMPTY
        if not len(item):
            return np.zeros(truth.num_users, np.int64)
        row, at = flat_ranges(offset[truth.users], offset[truth.users + 1])
        if task == "novel":
            had = truth.interacted_row() * truth.num_items + truth.interacted_item
            row = row[~np.isin(row * truth.num_items + item[at], had)]
        return np.bincount(row, minlength=truth.num_users)


_EMPTY = RankedLists(np.zeros(1, np.int64), np.zeros(0, np.int64))


def read_list_scorers(files: ListFiles, corpus: Corpus, user_id: np.ndarray, truth: Truth) -> tuple[ListScorer, ...]:
    """A scorer of each file; prints what a reader of its metrics should know.

    Args:
      files: which.
      corpus: of what may be listed: items that someone took before the window.
      user_id: raw ids of the log's users, [U].
      truth: of the window: whose lists count.

    Raises:
      UserError: a file cannot be read, lacks a column, lists an item twice for a user, or names no user or no item of
        the log.
    """
    scorers = []
    for name, path in files.paths.items():
        one = _read(name, path, files.columns, corpus, user_id)
        scorers.append(dataclasses.replace(one, notes=(*one.notes, *one.describe(truth))))
        for line in scorers[-1].notes:
            print(f"--lists={name}: {line}", flush=True)
    return tuple(scorers)


def report_lists(lists: Sequence[ListScorer], evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """What `metrics.json` says of the files: `{"lists": {NAME: {"file", "notes"}}}`; nothing without files."""
    report: dict[str, Any] = {}
    for one in lists:
        lines = list(one.notes)
        for task in ("all", "novel"):
            depth = getattr(evaluations[one.name], task).rank_depth
            if depth < max(WITHIN_KS):
                lines.append(
                    f"ranks of {task} items within their category are known to depth {depth} alone, since the lists "
                    "leave out the rest: metrics beyond it are absent. Rows of task=within would tell them"
                )
        report[one.name] = {"file": one.path, "notes": lines}
    return {"lists": report} if report else {}


def require_names(scorers: Sequence[Scorer]) -> None:
    """Raises UserError where lists are called as another model of the table is."""
    names = [scorer.name for scorer in scorers]
    for one in scorers:
        if isinstance(one, ListScorer) and names.count(one.name) > 1:
            raise UserError(
                f"--lists={one.name}:{one.path}: a model of the table is called {one.name!r} already; give the lists "
                "another name"
            )


def _read(name: str, path: str, renamed: Mapping[str, str], corpus: Corpus, user_id: np.ndarray) -> ListScorer:
    source = f"--lists={name}:{path}"
    columns = _choose_columns(source, path, renamed)
    flags = {column: f"--lists_columns={key}:{column}" for key, column in columns.items()}
    table = LogTable(source, read_table(source, path, flags, TextFormat()))
    users, items = table.ids(columns["user"]), table.ids(columns["item"])
    user_row = _find(user_id, users.values)
    item_row = _find(corpus.item_id[FIRST_KNOWN:], items.values)
    item_row = np.where(item_row >= 0, item_row + FIRST_KNOWN, -1)
    notes = [
        *_unknown(table, columns["user"], users, user_row, user_id, "users", "are not in the log; they are ignored"),
        *_unknown(
            *(table, columns["item"], items, item_row, corpus.item_id[FIRST_KNOWN:], "items"),
            "were taken by nobody before the window; they leave the lists, as no model here may list them, and what "
            "follows moves up",
        ),
    ]
    order = table.numbers(columns["rank"]) if "rank" in columns else -table.numbers(columns["score"])
    task = _tasks(table, columns, len(table))
    user, item = user_row[users.row], item_row[items.row]
    lists = {}
    for number, key in enumerate(TASKS):
        rows = np.flatnonzero((task == number) & (user >= 0) & (item >= 0))
        if len(rows):
            _require_distinct(table, rows, user[rows] * corpus.num_items + item[rows])
            best = rows[np.lexsort((item[rows], order[rows], user[rows]))]
            lists[key] = RankedLists(offset_of(np.bincount(user[rows], minlength=len(user_id))), item[best])
    return ListScorer(name, path, lists, corpus.num_items, tuple(notes))


def _choose_columns(source: str, path: str, renamed: Mapping[str, str]) -> dict[str, str]:
    """The file's column names by what they hold; rank before score, where it has both."""
    there = read_column_names(source, path, TextFormat())
    columns = {key: renamed.get(key, key) for key in COLUMNS}
    wanted = ["user", "item", *renamed]
    missing = [key for key in dict.fromkeys(wanted) if columns[key] not in there]
    ranked = [key for key in ("rank", "score") if columns[key] in there]
    if missing or not ranked:
        lacks = f"no column {columns[missing[0]]!r}" if missing else "neither a column 'rank' nor 'score'"
        key = missing[0] if missing else "rank"
        raise UserError(
            f"{source}: {lacks}; it has {', '.join(there)}. A list needs user, item, and rank or score; columns of "
            f"other names are told by --lists_columns={key}:NAME"
        )
    optional = [key for key in ("task",) if columns[key] in there]
    return {key: columns[key] for key in ("user", "item", ranked[0], *optional)}


def _find(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Row of each id among the log's, -1 where absent; whole numbers find text that spells them, not the reverse."""
    if is_text(known):
        return find_rows(known, as_text(values))
    return np.full(len(values), -1) if is_text(values) else find_rows(known, values)


def _unknown(
    table: LogTable, column: str, ids: Coded, row: np.ndarray, known: np.ndarray, what: str, fate: str
) -> list[str]:
    """A note on ids that the log lacks; all of them missing is a mistake."""
    values = ids.values[row < 0]
    if not len(values):
        return []
    first = _examples(values)
    if len(values) == len(ids.values):
        raise table.fail(
            column,
            f"none of its {len(values)} {what} ({first}) is known: those of the log look like {_examples(known)}. "
            "Write raw ids of the log, not row numbers",
        )
    return [f"{len(values)} of its {len(ids.values)} {what} ({first}) {fate}"]


def _examples(values: np.ndarray) -> str:
    shown = ", ".join(repr(value) for value in values[:_SHOWN].tolist())
    return shown if len(values) <= _SHOWN else f"{shown}, ..."


def _tasks(table: LogTable, columns: Mapping[str, str], num_rows: int) -> np.ndarray:
    """Position in `TASKS` of each row's task, [n] int64; without the column all are of "all"."""
    if "task" not in columns:
        return np.zeros(num_rows, np.int64)
    task = table.text(columns["task"])
    number = find_rows(as_text(TASKS), task.values)
    if (number < 0).any():
        wrong: Any = task.values[number < 0][0]
        raise table.fail(columns["task"], f"{wrong!r}; expected one of {', '.join(TASKS)}")
    rows: np.ndarray = number[task.row]
    return rows


def _require_distinct(table: LogTable, rows: np.ndarray, pair: np.ndarray) -> None:
    """No item stands twice in a list: which of its ranks should count?"""
    order = np.argsort(pair, kind="stable")
    again = order[1:][pair[order][1:] == pair[order][:-1]]
    if len(again):
        raise UserError(
            f"{table.source}: {len(again)} rows list an item that their user's list holds already; the first is "
            f"{table.row_words(rows[again.min()])}. Keep one row of each user and item (and task)"
        )
