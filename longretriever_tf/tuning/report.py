"""What a search leaves: a table, the flags of its best trial, trials.json and tune.png. Imports no TensorFlow."""

import dataclasses
import json
import os
from collections.abc import Sequence

from longretriever_tf.common.files import write_bytes_atomically, write_text_atomically
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.common.text_table import render_table
from longretriever_tf.plots.panels import Panel, Series
from longretriever_tf.tuning.space import Setting, Space
from longretriever_tf.tuning.study import Trial
from longretriever_tf.tuning.trials import Question, flag_of

FLAGS_FILE, TRIALS_FILE, CHART_FILE = "best.flags", "trials.json", "tune.png"
_SHOWN = 10


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The done trial of the highest value, the earlier of two; None where none is done."""
    done = [trial for trial in trials if trial.value is not None]
    return max(done, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def text_report(trials: Sequence[Trial], question: Question) -> str:
    """The best trials as a table for a terminal, then those that failed or were refused."""
    done = sorted((trial for trial in trials if trial.value is not None), key=lambda t: (-(t.value or 0), t.number))
    rows = [
        [
            " ".join([f"{trial.number}:", *(flag_of(*item) for item in trial.settings.items())]),
            f"{trial.value:.4f}",
            *(f"{trial.metrics[path]:.4f}" if path in trial.metrics else "-" for path in question.objective),
        ]
        for trial in done[:_SHOWN]
    ]
    lines = render_table(["trial", "objective", *question.objective], rows) if rows else []
    if len(done) > _SHOWN:
        lines.append(f"and {len(done) - _SHOWN} more: {TRIALS_FILE}")
    for outcome in ("refused", "failed"):
        ended = [trial for trial in trials if trial.outcome == outcome]
        if ended:
            lines.append(f"{outcome}: {len(ended)}, the last since {ended[-1].reason or 'it was stopped'}")
    return "\n".join(lines)


def write_report(trials: Sequence[Trial], space: Space, question: Question, work_dir: str) -> list[str]:
    """Writes the files of a search; the flags and the plot where a trial is done. Returns their paths.

    Raises:
      UserError: they cannot be written.
    """
    best = best_of(trials)
    facts = {
        "run": describe_origin("longretriever tune", question.seed),
        **dataclasses.asdict(question),
        "space": space.describe(),
        "best": best.number if best else None,
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }
    paths = [os.path.join(work_dir, TRIALS_FILE)]
    write_text_atomically(paths[0], json.dumps(facts, indent=2) + "\n")
    if best is None:
        return paths
    from longretriever_tf.plots.page import draw_page

    chosen = [flag_of(*item) for item in best.settings.items()]
    lines = [
        f"# Trial {best.number} of {len(trials)}: {best.value:.4f} on the validation window, the geometric mean of",
        f"# {', '.join(question.objective)}. First the flags of the search, then those that it chose.",
        *question.flags,
        f"--seed={question.seed}",
        *chosen,
    ]
    paths += [os.path.join(work_dir, name) for name in (FLAGS_FILE, CHART_FILE)]
    write_text_atomically(paths[1], "\n".join(lines) + "\n")
    png = draw_page(f"Search in {os.path.normpath(work_dir)}", panels(trials, space), ", ".join(question.objective))
    write_bytes_atomically(paths[2], png)
    return paths


def panels(trials: Sequence[Trial], space: Space) -> list[Panel]:
    """The value by trial with the best so far, and by each setting that was drawn."""
    done = [trial for trial in trials if trial.value is not None]
    values = tuple(float(trial.value or 0.0) for trial in done)
    best_so_far = tuple(max(values[: i + 1]) for i in range(len(values)))
    number = tuple(float(trial.number) for trial in done)
    series = (Series("trial", number, values), Series("best so far", number, best_so_far))
    made = [Panel("objective by trial", "scatter", "trial", "objective", series)]
    return made + [_panel_of(setting, done, values) for setting in space.settings.values()]


def _panel_of(setting: Setting, done: Sequence[Trial], values: tuple[float, ...]) -> Panel:
    drawn = [trial.settings[setting.name] for trial in done]
    title, ticks = f"--{setting.name}", tuple(str(choice) for choice in setting.choices)
    x = tuple(float(setting.choices.index(one)) if ticks else float(one) for one in drawn)
    series = (Series("trial", x, values),)
    kind = "scatter_log" if setting.log else "scatter"
    return Panel(title, kind, setting.name, "objective", series, ticks)
