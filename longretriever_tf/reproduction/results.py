"""The results of a plan's jobs: metrics by row and seed, metrics of every user, and where each comes from."""

import collections
import dataclasses
import fnmatch
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.evaluation.per_user import per_user_path
from longretriever_tf.reproduction.jobs import Job, State
from longretriever_tf.reproduction.plan import COSTS, Finding, Plan, Row

Users = dict[str, np.ndarray]
"""`per_user.tabulate_users` of one job, the models' axis taken at one model."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric's values, one per seed, or one per window where there are several; not empty."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the values (n - 1); None of a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Where metrics come from: one measure of one run, or of one for each window; all seeds.

    Attributes:
      number: as footnotes cite it.
      kind: the measure and its runs.
      jobs: the measures.
      needed: the trainings that they needed.
      facts: of the outputs, by name, values joined where seeds differ.
    """

    number: int
    kind: str
    jobs: tuple[Job, ...]
    needed: tuple[Job, ...]
    facts: dict[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """One model of a row.

    Attributes:
      label: what tables call it.
      outputs: the model's part of the JSON, by seed; empty: no job is done.
      users: metrics of every user, by seed; empty where the measure keeps none.
      source: where from; None without outputs.
      missing: jobs of the row that are not done.
      windows: a line for each window of time that has one, with `outputs` and `users` of its own; empty: one window.
      costs: minutes that the runs took that the line needs, by column (`plan.COSTS`) and job.
    """

    label: str
    outputs: tuple[Mapping[str, Any], ...]
    users: tuple[Users, ...]
    source: Source | None
    missing: tuple[Job, ...]
    windows: tuple["Line", ...] = ()
    costs: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def repeats(self) -> str:
        """The number of seeds, and of windows where there are several; empty: none is done."""
        if not self.windows:
            return str(len(self.outputs) or "")
        seeds = dict.fromkeys(window.repeats for window in self.windows)
        return f"{len(self.windows)} windows of {', '.join(seeds)}"

    def metric(self, column: str) -> Metric | None:
        """The metric at a path ("all recall@100"), over seeds or windows that have it; None where none has."""
        if column in COSTS:
            costs = self.window_costs(column)
            return Metric(costs) if costs else None
        if self.windows:
            metrics = [window.metric(column) for window in self.windows]
            means = tuple(metric.mean for metric in metrics if metric)
            return Metric(means) if means else None
        entries = [metric_at(output, column) for output in self.outputs]
        entries = [entry[0] if isinstance(entry, list) and entry else entry for entry in entries]  # mean, low, high
        values = tuple(float(entry) for entry in entries if isinstance(entry, int | float))
        return Metric(values) if values else None

    def window_costs(self, column: str) -> tuple[float, ...]:
        """Minutes of each window's own runs, those that not all windows share; of all where there is one window.

        The mean over seeds.
        """
        windows = self.windows or (self,)
        if any(column not in window.costs for window in windows):
            return ()
        costs = [window.costs[column] for window in windows]
        counted = collections.Counter(job for cost in costs for job in cost)
        is_own = {job for job, count in counted.items() if count < len(costs) or len(costs) == 1}
        return tuple(
            sum(minutes for job, minutes in cost.items() if job in is_own) / max(len(window.outputs), 1)
            for window, cost in zip(windows, costs, strict=True)
        )

    def user_means(self, name: str) -> np.ndarray | None:
        """An array of the users' metrics, averaged over seeds; None where it is not kept."""
        arrays = [users[name] for users in self.users if name in users]
        return np.mean(arrays, axis=0) if arrays and len(arrays) == len(self.outputs) else None


class Results:
    """Reads the outputs of done jobs.

    Args:
      plan: the plan.
      jobs: all its jobs.
      any_code: outputs of other versions of the code count too.
    """

    def __init__(self, plan: Plan, jobs: Mapping[str, Job], any_code: bool = False) -> None:
        self._plan, self._jobs, self._any_code = plan, jobs, any_code
        self.sources: dict[str, Source] = {}
        self._lines: dict[str, tuple[Line, ...]] = {}

    def lines(self, names: Sequence[str]) -> list[Line]:
        """The lines of rows, in their order; a row whose model is a pattern gives several."""
        for name in names:
            if name not in self._lines:
                self._lines[name] = self._read(self._plan.rows[name])
        return [line for name in dict.fromkeys(names) for line in self._lines[name]]

    def done(self, job: Job) -> bool:
        """Whether a job's output counts."""
        return job.state(self._any_code) is State.DONE

    def _jobs_of(self, measure: str, run: str) -> list[Job]:
        """The measures of a run, one per seed."""
        return [job for job in self._jobs.values() if job.kind == f"{measure}/{run}"]

    def _read(self, row: Row) -> tuple[Line, ...]:
        if not (row.runs or row.measures):
            return self._read_window(row, row.run, row.measure)
        by_label: dict[str, list[Line]] = {}
        for run, measure in row.windows:
            for line in self._read_window(row, run, measure, is_one_of_many=True):
                by_label.setdefault(line.label, []).append(line)
        return tuple(self._join_windows(row, label, parts) for label, parts in by_label.items())

    def _join_windows(self, row: Row, label: str, parts: Sequence[Line]) -> Line:
        """One line of those of several windows."""
        missing = tuple(job for part in parts for job in part.missing)
        windows = tuple(part for part in parts if part.outputs)
        done = tuple(job for run, measure in row.windows for job in self._jobs_of(measure, run) if self.done(job))
        runs, measures = (dict.fromkeys(names) for names in zip(*row.windows, strict=True))
        source = self._source(f"{', '.join(measures)}/{', '.join(runs)}", done) if windows else None
        return Line(label, (), (), source, missing, windows)

    def _read_window(self, row: Row, run: str, measure: str, is_one_of_many: bool = False) -> tuple[Line, ...]:
        jobs = self._jobs_of(measure, run)
        done = [job for job in jobs if self.done(job)]
        missing = tuple(job for job in jobs if job not in done)
        if not done:
            return (Line(row.label or row.model, (), (), None, missing),)
        outputs = [_part(job, row.at) for job in done]
        names = [name for name in outputs[0] if fnmatch.fnmatchcase(name, row.model)]
        names = [name for name in names if not (row.skip and fnmatch.fnmatchcase(name, row.skip))]
        if not names:
            raise UserError(f"{done[0].output}: no model matches {row.model!r}; it holds {', '.join(outputs[0])}")
        source = None if is_one_of_many else self._source(jobs[0].kind, tuple(done))
        return tuple(
            Line(
                label=row.label if row.label and len(names) == 1 else f"{row.label} {name}".strip(),
                outputs=tuple(output[name] for output in outputs if name in output),
                users=tuple(users for job in done if (users := _users_of(job, name)) is not None),
                source=source,
                missing=missing,
                costs=self._costs(done),
            )
            for name in names
        )

    def _costs(self, done: Sequence[Job]) -> dict[str, dict[str, float]]:
        """Minutes that the runs took that measures needed directly, by column and job."""
        stamps = {name: self._jobs[name].stamp() for job in done for name in job.needs}
        return {
            column: {name: float(stamp[key]) / 60 for name, stamp in stamps.items()}
            for column, key in COSTS.items()
            if all(key in stamp for stamp in stamps.values())  # those of an earlier version lack some
        }

    def findings(self, finding: Finding) -> tuple[list[str], Source | None]:
        """The sentences that a measure wrote itself, of its first seed that is done, and where they are from."""
        done = tuple(job for job in self._jobs_of(finding.measure, finding.run) if self.done(job))
        if not done:
            return [], None
        entries = _part(done[0], finding.at)
        return [str(entry["statement"]) for entry in entries], self._source(done[0].kind, done)

    def _source(self, kind: str, done: tuple[Job, ...]) -> Source:
        if kind not in self.sources:
            needed = tuple(self._jobs[name] for name in dict.fromkeys(name for job in done for name in job.needs))
            facts: dict[str, dict[str, None]] = {}
            for job in done:
                output = read_json(job.output)
                for key in ("data", "split", "cut", "num_users", "num_pairs", "seed", "date", "commit", "machine"):
                    if isinstance(output.get(key), str | int):
                        facts.setdefault(key, {})[str(output[key])] = None
            if any(job.state() is not State.DONE for job in (*done, *needed)):
                facts["code"] = {"another version than this report's": None}
            joined = {key: ", ".join(values) for key, values in facts.items()}
            self.sources[kind] = Source(len(self.sources) + 1, kind, done, needed, joined)
        return self.sources[kind]


def metric_at(values: Any, path: str) -> Any:
    """The value at a path of keys separated by spaces ("all recall@100"), keys with spaces included; None: no such."""
    if not isinstance(values, Mapping):
        return None
    if path in values:
        return values[path]
    head, _, rest = path.partition(" ")
    return metric_at(values.get(head), rest) if rest else None


def _part(job: Job, at: str) -> Any:
    """The value at a dotted path of a job's output."""
    values = read_json(job.output)
    for key in filter(None, at.split(".")):
        if not isinstance(values, dict) or key not in values:
            raise UserError(f"{job.output}: no key {key!r} (the plan says at = {at!r}); it holds {', '.join(values)}")
        values = values[key]
    return values


@functools.lru_cache(maxsize=64)
def _read_cached(path: str, modified: int) -> Any:
    del modified
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_json(path: str) -> Any:
    """A job's JSON.

    Raises:
      UserError: it is not JSON.
    """
    try:
        return _read_cached(path, os.stat(path).st_mtime_ns)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; delete it, and run the plan again") from error


def _users_of(job: Job, model: str) -> Users | None:
    """A model's metrics by user; None where the measure keeps none of it."""
    path = per_user_path(job.output)
    if not os.path.exists(path):
        return None
    tables = _load_users(path, os.stat(path).st_mtime_ns)
    names = tables["model"].tolist()
    if model not in names:
        return None
    index = names.index(model)
    users = {name: array[index] if "/" in name else array for name, array in tables.items()}
    if index > 0:
        users.pop("calibration", None)  # that of the run itself, the first
    return users


@functools.lru_cache(maxsize=64)
def _load_users(path: str, modified: int) -> Users:
    del modified
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
