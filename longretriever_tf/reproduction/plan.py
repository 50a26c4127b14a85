"""A plan: which runs, which measures of them, and what the report shows. Read from TOML; unknown keys are errors.

`configs/reproduce/quick.toml` is a short example: sections [runs.NAME], [measures.NAME] and [rows.NAME], and lists
[[tables]], [[comparisons]], [[findings]] and [[plots]], each with the fields of the class below.
"""

import dataclasses
import re
from typing import Any

from longretriever_tf.common.errors import require
from longretriever_tf.common.toml_files import read_toml
from longretriever_tf.config.config import from_dict
from longretriever_tf.config.shipped import find_shipped

PLACEHOLDER = re.compile(r"\{run:([\w.-]+)\}")
"""`{run:NAME}` in the flags of a measure or a later run: that run's directory, of the same seed (or its only one)."""

COSTS = {"processor_minutes": "processor_seconds", "minutes": "seconds"}
"""Table columns, and what a job's stamp calls it in seconds: what a window's own runs took, those that not all windows
share. The first is the second panel of the plot "windows": it does not depend on what else the machine does."""

PLOTS = ("bars", "windows", "history_length", "category_size", "repeat_novel", "training", "calibration")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_DEFAULT_COLUMNS = (
    "all recall@100",
    "novel recall@100",
    "within_category recall@20",
    "within_category_novel recall@20",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A training, once per seed; or an export or a refresh of one.

    Attributes:
      flags: of `command`; --run_dir and --seed are added. `{run:NAME}` becomes the directory of a run above this one,
        which is done before.
      seeds: one job each.
      minutes: declared cost of one seed on two cores; replaced by what was measured, once there is a measurement.
      command: module of this package.
      output: file in the run directory that shows that the job ran to its end.
      directory_flag: the flag that gets the job's directory; any but run_dir (export_dir, to_dir) is of a command that
        takes no --seed.
    """

    flags: tuple[str, ...]
    seeds: tuple[int, ...] = (1,)
    minutes: float = 10.0
    command: str = "train"
    output: str = "training.json"
    directory_flag: str = "run_dir"


@dataclasses.dataclass(frozen=True)
class Measure:
    """A command that measures finished runs, once per run and seed.

    Attributes:
      runs: which.
      flags: of `command`; --run_dir and --output are added. `{run:NAME}` becomes that run's directory.
      seeds: only these; empty: every seed of the run.
      minutes: as of a run.
      command: module of this package.
      output: file that `--output` names, JSON.
    """

    runs: tuple[str, ...]
    flags: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    minutes: float = 3.0
    command: str = "evaluate"
    output: str = "metrics.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """One model, or several that a pattern names, in the output of a measure; its seeds are averaged.

    Attributes:
      run: of the measure.
      runs: in place of `run`, the same model trained before several windows of time: a metric is the mean over windows
        of the mean over seeds, and its spread is over windows.
      measures: in place of `measure`, those of one run on several windows of time.
      model: key below `at` in the JSON; `*` and `?` match several, each a row of its own.
      label: what tables call it; empty: the model's own name.
      skip: of the models that `model` matches, those that this pattern matches are left out.
      at: key of the mapping of models; dots descend. Of a list, [mean, low, high], the first number counts.
    """

    measure: str = ""
    run: str = ""
    runs: tuple[str, ...] = ()
    model: str = "longretriever"
    label: str = ""
    skip: str = ""
    at: str = "models"
    measures: tuple[str, ...] = ()

    @property
    def windows(self) -> tuple[tuple[str, str], ...]:
        """Run and measure: one pair, or one for each window."""
        if self.measures:
            return tuple((self.run, measure) for measure in self.measures)
        return tuple((run, self.measure) for run in self.runs or (self.run,))


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of rows by columns; a column is the path of a number below the model: "all recall@100"."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...] = _DEFAULT_COLUMNS
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A row against the best of others, user by user.

    Attributes:
      ours: name of a row.
      against: names of rows; the best of them on each metric is the opponent.
      metrics: as table columns; what `evaluate` keeps of every user (all or novel recall@50, recall@100 and ndcg@100,
        within_category recall at any k) gets an interval.
      claim: what a source says holds; the report marks it as held, not held or not settled. Empty: none.
      targets: by metric, the value to reach.
    """

    ours: str
    against: tuple[str, ...]
    metrics: tuple[str, ...] = ("all recall@100", "novel recall@100")
    claim: str = ""
    targets: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Finding:
    """Sentences that a measure itself wrote into its output (say, which of the paper's directions hold).

    Attributes:
      at: key of a list of objects, each with a `statement`; dots descend.
    """

    title: str
    run: str
    measure: str
    at: str


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot of some rows.

    Attributes:
      kind: one of `PLOTS`.
      metric: what is drawn, where the kind leaves a choice.
    """

    title: str
    kind: str
    rows: tuple[str, ...]
    metric: str = "all recall@100"
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The whole of a plan file."""

    title: str
    runs: dict[str, Run]
    measures: dict[str, Measure]
    rows: dict[str, Row]
    about: str = ""
    tables: tuple[Table, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    findings: tuple[Finding, ...] = ()
    plots: tuple[Plot, ...] = ()


_TABLES_OF = {"runs": Run, "measures": Measure, "rows": Row}
_LISTS_OF = {"tables": Table, "comparisons": Comparison, "findings": Finding, "plots": Plot}


def load_plan(path: str) -> Plan:
    """Reads and checks a plan.

    Raises:
      UserError: no such file, not TOML, an unknown or missing key, or a name that nothing defines.
    """
    values = read_toml(find_shipped("--plan", path, "reproduce"), "plan", "configs/reproduce")
    parts: dict[str, Any] = {}
    for key, cls in _TABLES_OF.items():
        entries = values.get(key, {})
        require(isinstance(entries, dict), f"{path}: {key} is a list; expected sections [{key}.NAME]")
        parts[key] = {name: _parse(cls, entry, f"{path}: {key}.{name}") for name, entry in entries.items()}
    for key, cls in _LISTS_OF.items():
        entries = values.get(key, [])
        require(isinstance(entries, list), f"{path}: {key} is one section; expected [[{key}]], once for each")
        parts[key] = tuple(_parse(cls, entry, f"{path}: {key}[{i}]") for i, entry in enumerate(entries))
    plan: Plan = _parse(Plan, {**values, **parts}, path)
    _check(plan, path)
    return plan


def _parse(cls: Any, values: Any, where: str) -> Any:
    """`cls` from a TOML table, its types checked against the fields' own."""
    require(isinstance(values, dict), f"{where}: {values!r}; expected a section of keys")
    types: dict[Any, Any] = {str: str, float: (int, float), tuple[str, ...]: list, tuple[int, ...]: list}
    for field in dataclasses.fields(cls):
        if field.name not in values:
            has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            require(has_default, f"{where}: no {field.name!r}; every {cls.__name__.lower()} has one")
        elif wanted := types.get(field.type):
            expected = "a list" if wanted is list else getattr(field.type, "__name__", "")
            value = values[field.name]
            require(isinstance(value, wanted), f"{where}: {field.name} = {value!r}; expected {expected}")
    return from_dict(cls, values, where)


def _check(plan: Plan, path: str) -> None:
    """Every name must be defined, and must make a file name."""
    for name in (*plan.runs, *plan.measures):
        require(bool(_NAME.fullmatch(name)), f"{path}: name {name!r}; expected letters, digits, '_', '.', '-'")
    for name in plan.measures:
        require(
            name not in plan.runs, f"{path}: {name!r} is a run and a measure; names must differ, since --only uses them"
        )
    above: dict[str, Run] = {}
    for name, run in plan.runs.items():
        require(len(run.seeds) > 0, f"{path}: runs.{name}: seeds = []; expected at least one seed")
        grown_from = tuple(other for flag in run.flags for other in PLACEHOLDER.findall(flag))
        _known(above, grown_from, f"{path}: runs.{name}, whose flags may name the runs above it", "run")
        above[name] = run
    for name, measure in plan.measures.items():
        others = [run for flag in measure.flags for run in PLACEHOLDER.findall(flag)]
        _known(plan.runs, (*measure.runs, *others), f"{path}: measures.{name}", "run")
    for name, row in plan.rows.items():
        require(
            bool(row.run) != bool(row.runs), f"{path}: rows.{name}: expected either run or runs, for several windows"
        )
        require(
            bool(row.measure) != bool(row.measures) and not (row.runs and row.measures),
            f"{path}: rows.{name}: expected either measure, or measures of one run, for several windows",
        )
    read = [pair for row in plan.rows.values() for pair in row.windows]
    read += [(one.run, one.measure) for one in plan.findings]
    for run_name, name in read:
        where = f'{path}: run = "{run_name}", measure = "{name}"'
        _known(plan.runs, (run_name,), where, "run")
        _known(plan.measures, (name,), where, "measure")
        runs = plan.measures[name].runs
        require(run_name in runs, f"{where}: that measure is of the runs {', '.join(runs)}")
    for title, rows in [(shown.title, shown.rows) for shown in plan.tables] + [(p.title, p.rows) for p in plan.plots]:
        _known(plan.rows, rows, f"{path}: {title!r}", "row")
    for comparison in plan.comparisons:
        _known(plan.rows, (comparison.ours, *comparison.against), f"{path}: comparisons", "row")
    for plot in plan.plots:
        require(plot.kind in PLOTS, f"{path}: {plot.title!r}: kind = {plot.kind!r}; expected one of {', '.join(PLOTS)}")


def _known(names: dict[str, Any], wanted: tuple[str, ...], where: str, what: str) -> None:
    for name in wanted:
        require(name in names, f"{where}: no {what} is named {name!r}; there are: {', '.join(names) or 'none'}")
