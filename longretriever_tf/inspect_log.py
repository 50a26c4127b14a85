"""Says what a log holds, and whether the method fits it: a report within a minute.

    longretriever inspect_log --flagfile=configs/complete_journey.flags --output=runs/inspect

Writes life.txt (what it prints), life.json (the same numbers), life.png and panels/*.png under --output. It takes the
flags of every section, so that a run's flagfile serves here too; it reads those of the data, --max_length and
--day_floor. --new_events=today.parquet adds whether new events still look like the log, and what to do about it:
nothing, refresh, or train again.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import require_output, require_writable, write_text_atomically
from longretriever_tf.config import flags as flags_lib
from longretriever_tf.config.check import asks_clusters
from longretriever_tf.config.config import Config
from longretriever_tf.data.later_events import events_of, read_table, say_items
from longretriever_tf.data.recipe.learned_context import cluster_context
from longretriever_tf.datasets.build_log import fill_missing_context
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.splits import SPLITS, global_time_cuts
from longretriever_tf.inspection import drift
from longretriever_tf.inspection.advice import evaluate_fit, find_warnings, request_warnings
from longretriever_tf.inspection.measures import (
    HistoryMeasures,
    Window,
    measure_history,
    measure_window,
    measure_windows,
    read_contexts,
)
from longretriever_tf.inspection.numbers import number_statistics
from longretriever_tf.inspection.plots import draw_history
from longretriever_tf.inspection.statistics import Statistics, context_statistics, history_statistics
from longretriever_tf.inspection.text import render_history
from longretriever_tf.inspection.verdict import decide
from longretriever_tf.plots.board import write_image


class LogReport(NamedTuple):
    """A measured log: arrays for the plots, numbers for JSON, text for people."""

    title: str
    history: HistoryMeasures
    windows: dict[str, Window]
    statistics: Statistics
    text: str


def inspect_log(log: LifelongLog, config: Config) -> LogReport:
    """Measures the log; writes nothing.

    With --context=clusters:N or text_clusters:N the clusters are the context, fitted on what lies before the validation
    window as training fits them, and for the test window's targets on what lies before that one; on the whole log where
    it is too short to split.

    Args:
      log: the whole log.
      config: its data section, `model.max_length` (L), `model.request_features`, `retrieval.day_floor` and
        `train.seed` are read.

    Raises:
      UserError: the log is empty.
    """
    if not log.num_events:
        raise UserError("the log holds no events: there is nothing to inspect; check --events and the column flags")
    max_length, day_floor = config.model.max_length, config.retrieval.day_floor
    plain, log = log, _with_clusters(log, config)
    history = measure_history(log, read_contexts(log, log.context), max_length)
    windows, too_short = _try_windows(log, plain, history, config)
    statistics = history_statistics(log, history, windows, max_length)
    statistics["contexts"] = context_statistics(log, windows, max_length, day_floor)
    statistics["numbers"] = number_statistics(log, config.data)
    findings, warnings = evaluate_fit(statistics), [*too_short, *find_warnings(log, history, statistics)]
    warnings += request_warnings(log.timestamp, config.model.request_features)
    title = log_title(config)
    verdict = decide(statistics, config)
    text = render_history(title, statistics, findings, warnings, verdict.line())
    statistics |= {"fit": [finding._asdict() for finding in findings], "warnings": warnings}
    statistics["verdict"] = {"word": verdict.word, "flags": list(verdict.flags), "reasons": list(verdict.reasons)}
    return LogReport(title, history, windows, {"data": dataclasses.asdict(config.data), **statistics}, text)


def _with_clusters(log: LifelongLog, config: Config, cut: int | None = None) -> LifelongLog:
    """The log with the clusters that the config names, if it does, of what lies before the cut (None: of training)."""
    if not asks_clusters(config.data.context):
        return log
    try:
        cut = cut or global_time_cuts(log.timestamp, config.data.window_days).validation_start
    except UserError:  # too short: the report says so
        cut = int(log.timestamp.max()) + 1
    return cluster_context(log, config.data.context, cut, config.train.seed, config.data.text_columns)


def _try_windows(
    log: LifelongLog, plain: LifelongLog, history: HistoryMeasures, config: Config
) -> tuple[dict[str, Window], list[str]]:
    """The windows; or none, and why as a warning: a log that is too short to split is still worth a look.

    Args:
      log: with the clusters that lie before the validation window, where the config asks for some.
      plain: without them. Items that came later have no place among those clusters, and are most targets of the test
        window where items are soon replaced.
    """
    try:
        cuts = global_time_cuts(log.timestamp, config.data.window_days)
    except UserError as error:
        return {}, [f"no split: {error}"]
    contexts, day_floor = history.categories.contexts, config.retrieval.day_floor
    if not asks_clusters(config.data.context):
        return measure_windows(log, contexts, cuts, day_floor), []
    later = _with_clusters(plain, config, cuts.test_start)
    seen = {"validation": (log, contexts), "test": (later, read_contexts(later, later.context))}
    return {name: measure_window(*seen[name], *cuts.window_of(name), day_floor) for name in SPLITS}, []


def _with_drift(report: LogReport, log: LifelongLog, config: Config, table: LifelongLog) -> LogReport:
    """The report with a block on new events, before its verdict."""
    category = None
    if say_items(config.data) and log.context in table.items.features:  # else the column is blank
        category = fill_missing_context(table.items, log.context).features[log.context][table.item_row]
    if asks_clusters(config.data.context):
        category = None  # no table says the cluster of a new item
    found = drift.measure_drift(_with_clusters(log, config), events_of(table), category)
    word, reasons = drift.decide(found)
    head, _, verdict = report.text.rstrip("\n").rpartition("\n\n")
    numbers = {name: value if math.isfinite(value) else None for name, value in found._asdict().items()}
    statistics = report.statistics | {"drift": {**numbers, "verdict": word, "reasons": reasons}}
    text = f"{head}\n\n{drift.render(found)}\n\n{verdict}\n"
    return report._replace(text=text, statistics=statistics)


def log_title(config: Config) -> str:
    """The data set's name, or folder and name of the user's own events file, without its ending."""
    if config.data.dataset != "event_log" or not config.data.events:
        return config.data.dataset
    folder, name = os.path.split(os.path.splitext(config.data.events.rstrip(os.sep))[0])
    return os.path.join(os.path.basename(folder), name)


def main(argv: Sequence[str]) -> int:
    """Reads flags, loads the log, inspects it; the report goes to stdout, all else to stderr."""
    del argv
    config, output = flags_lib.config_from_flags(), flags.FLAGS.output
    json_path = flags.FLAGS.json or os.path.join(output, "life.json")
    require_writable(output)  # before the log is read, which can take minutes
    require_output(json_path)
    # TensorFlow: not for --help
    from longretriever_tf.data.window.sample import events_that_fit, load_sample, of_sample

    new_events = flags.FLAGS.new_events
    table = read_table(config.data, new_events, with_items=True) if new_events else None
    max_events = events_that_fit(config.train.max_memory_gb)
    log = load_sample(config.data, max_events, "this report is of")
    report = inspect_log(log, config)
    if table is not None:
        report = _with_drift(report, log, config, of_sample(config.data, max_events, log, table))
    print(report.text, end="", flush=True)  # the verdict is the last line
    written = [os.path.join(output, "life.txt"), json_path]
    write_text_atomically(written[0], report.text)
    write_text_atomically(written[1], json.dumps(report.statistics, indent=2) + "\n")
    if flags.FLAGS.plots:
        written += draw_history(output, report.title, report.history, report.windows, report.statistics)[:1]
        written.append(os.path.join(output, "panels", ""))
        with open(os.path.join(output, "life.png"), "rb") as file:
            write_image(os.path.join(output, "tensorboard"), "report/life", file.read())
    print(f"written: {', '.join(written)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    flags_lib.define_config_flags("data", "model", "train", "retrieval")
    flags.DEFINE_string("output", "runs/inspect", "Directory for life.txt, life.json, life.png and panels/.")
    flags.DEFINE_string("json", "", "Where to write the numbers as JSON; empty: life.json under --output.")
    flags.DEFINE_string(
        "new_events",
        "",
        "A table of events that came after the log, in its columns: the report says whether they still look like it, "
        "and whether to refresh or to train again.",
    )
    flags.DEFINE_bool("plots", True, "Draw life.png and panels/.")
    flags_lib.run_command(main)
