"""The evaluation report: metrics.json and the metrics of the users as one PNG. Imports no TensorFlow."""

import dataclasses
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_damage, read_arrays, read_json_object, write_bytes_atomically
from longretriever_tf.evaluation.per_user import per_user_path
from longretriever_tf.evaluation.table import row_label
from longretriever_tf.plots.board import write_image
from longretriever_tf.plots.panels import Panel, Series, bin_means, calibration_series, quantile_bins

MAX_MODELS = 6
"""More lines than these hide each other; metrics.json has all."""

_K, _WITHIN_K = 100, 20
_TASKS = {"all": "all items", "novel": "novel items"}
_CALIBRATIONS = {
    "all": ("calibration", "item", "Is the list calibrated?"),
    "novel": ("interest_calibration", "category", "Is the interest score calibrated?"),
}
"""What fills the row of each task: key of the users' file, what is predicted, title."""

_CURE = "let `longretriever evaluate` write it again"

Users = Mapping[str, np.ndarray]


def evaluation_panels(metrics: Mapping[str, Any], users: Users | None) -> tuple[Panel, ...]:
    """The panels of an evaluation.

    Recall by k and recall within the category come from the means; recall by the length of the history and by the size
    of the category, and the calibration, from the users' metrics, and are left out where those lack them.

    Args:
      metrics: `metrics.json`.
      users: the arrays of `per_user.tabulate_users`; None: there are none.

    Raises:
      UserError: `metrics` holds no recall of any model.
    """
    names = chosen_models(metrics)
    has_users = users is not None and set(names) <= set(users["model"].tolist())
    panels = []
    for task in _TASKS:  # a row of the page each
        panels.append(_recall_by_k(metrics["models"], names, task))
        if users is not None and has_users:
            if f"{task}/recall@{_K}" in users:
                panels.append(_by_history(users, names, task))
            panels.append(_by_category_size(users, names, task))
            panels += _calibration(users, *_CALIBRATIONS[task])
    return tuple(_labelled(panel, metrics["models"]) for panel in panels if panel.series)


def _labelled(panel: Panel, models: Collection[str]) -> Panel:
    """With the names that the table gives to its rows."""
    series = (dataclasses.replace(one, label=row_label(one.label, models)) for one in panel.series)
    return dataclasses.replace(panel, series=tuple(series))


def chosen_models(metrics: Mapping[str, Any]) -> list[str]:
    """The models that are drawn: the first, which is the run, and the best others, in the file's order.

    The best on all items and the best on novel ones take turns, so that no panel lacks the best baseline of its task.

    Of models with the same metrics (one run, asked the same in two ways) the first stands for all.

    Raises:
      UserError: no model has a recall on all items.
    """
    models = metrics.get("models") or {}
    recall = {name: best for name, sections in models.items() if (best := _best_recall(sections)) is not None}
    if not recall:
        raise UserError(
            f"the metrics hold no recall@k of all items (models: {', '.join(models) or 'none'}): another command or an "
            "older version wrote them; run evaluate again"
        )
    known = [name for i, name in enumerate(recall) if models[name] not in [models[other] for other in [*recall][:i]]]
    novel = {name: _best_recall(models[name], "novel") or 0.0 for name in known}
    rank = {name: [sum(by[other] > by[name] for other in known[1:]) for by in (recall, novel)] for name in known}
    others = sorted(known[1:], key=lambda name: (min(rank[name]), *rank[name]))[: MAX_MODELS - 1]
    return [name for name in known if name == known[0] or name in others]


def _best_recall(sections: Mapping[str, Any], task: str = "all") -> float | None:
    return max((y for _, y in _recalls(sections.get(task, {}))), default=None)


def _recalls(section: Mapping[str, float]) -> list[tuple[int, float]]:
    """(k, recall@k) by k."""
    return sorted((int(name.split("@")[1]), value) for name, value in section.items() if name.startswith("recall@"))


def _recall_by_k(models: Mapping[str, Any], names: Sequence[str], task: str) -> Panel:
    points = {name: dict(_recalls(models[name].get(task, {}))) for name in names}
    ks = sorted({k for values in points.values() for k in values})
    x = tuple(map(float, range(len(ks))))
    series = [Series(name, x, tuple(values.get(k, np.nan) for k in ks)) for name, values in points.items() if values]
    return Panel(
        _title(task, ", by length of the list"),
        "points",
        "length of the list, k",
        "recall@k",
        tuple(series),
        tuple(map(str, ks)),
    )


def _title(task: str, what: str) -> str:
    return f"{_TASKS[task].capitalize()}{what}"


def _rows(users: Users, names: Sequence[str]) -> list[tuple[str, int]]:
    models = users["model"].tolist()
    return [(name, models.index(name)) for name in names]


def _by_history(users: Users, names: Sequence[str], task: str) -> Panel:
    bin_of, ticks = quantile_bins(users["history_length"])
    recall = users[f"{task}/recall@{_K}"]
    everyone = np.arange(len(bin_of))
    series = [bin_means(name, recall[row], everyone, bin_of, len(ticks)) for name, row in _rows(users, names)]
    title = _title(task, ", by length of the history")
    return Panel(title, "points", "events of the user before the window", f"recall@{_K}", tuple(series), ticks)


def _by_category_size(users: Users, names: Sequence[str], task: str) -> Panel:
    kept = users["pair_is_novel"] if task == "novel" else np.ones(len(users["pair_user"]), bool)
    if not kept.any():
        return Panel("", "points", "", "", ())
    bin_of, ticks = quantile_bins(users["category_size"])
    user, series = users["pair_user"][kept], []
    depth = users.get(f"{task}/rank_depth")  # files of former versions lack it: they know all ranks
    known = [(name, row) for name, row in _rows(users, names) if depth is None or depth[row] >= _WITHIN_K]
    ranks = dict(_distinct((name, users[f"{task}/rank"][row]) for name, row in known))
    for name, rank in ranks.items():
        series.append(bin_means(name, (rank < _WITHIN_K).astype(np.float64), user, bin_of[kept], len(ticks)))
    title = _title(task, ", within the category by its size")
    return Panel(
        title, "points", "items in the category", f"recall@{_WITHIN_K} within the category", tuple(series), ticks
    )


def _distinct(ranks: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Without those that repeat earlier ones: a run asked in another way ranks a category alike."""
    seen: list[np.ndarray] = []
    for name, rank in ranks:
        if not any(np.array_equal(rank, other) for other in seen):
            seen.append(rank)
            yield name, rank


def _calibration(users: Users, key: str, what: str, title: str) -> list[Panel]:
    """Of the run, the first model; no panel where it has none."""
    if key not in users:
        return []
    series = calibration_series(str(users["model"][0]), users[key])
    panel = Panel(title, "loglog", f"predicted p({what} | user)", "frequency in the window", (series,))
    return [panel] if len(series.x) > 1 else []


def draw_evaluation(metrics_path: str) -> tuple[str, str]:
    """Draws metrics.json as metrics.png next to it, and into tensorboard/ there.

    Returns:
      The path of the picture, and a sentence about what could not be drawn, "" for nothing.

    Raises:
      UserError: `metrics_path` does not exist or holds no metrics, or the files cannot be written.
    """
    if not os.path.exists(metrics_path):
        raise UserError(f"{metrics_path} does not exist: `longretriever evaluate` writes it")
    metrics = read_json_object(metrics_path, _CURE)
    users, lacking = _read_users(per_user_path(metrics_path))
    with explain_damage(metrics_path, _CURE):  # text where a number belongs is seen only when it is drawn
        png = _draw(metrics, users)
    path = os.path.splitext(metrics_path)[0] + ".png"
    write_bytes_atomically(path, png)
    write_image(os.path.join(os.path.dirname(path), "tensorboard"), f"report/{os.path.basename(path)[:-4]}", png)
    return path, lacking


def _draw(metrics: dict[str, Any], users: Users | None) -> bytes:
    """The page as PNG."""
    from longretriever_tf.plots.page import draw_page

    panels = evaluation_panels(metrics, users)
    drawn, total = len(chosen_models(metrics)), len(metrics["models"])
    note = (
        "Whiskers: 95% over users, pairs of a user together. What ranks a category alike is drawn once."
        if users
        else ""
    )
    if drawn < total:
        note += f"  {drawn} of {total} models drawn: the run, and the best on all and on novel items."
    facts = ", ".join(f"{key} {metrics[key]}" for key in ("data", "split", "seed", "date") if key in metrics)
    return draw_page(
        f"Evaluation: {facts}, {metrics.get('num_users', 0):,} users", panels, note, math.ceil(len(panels) / 2)
    )


def _read_users(path: str) -> tuple[Users | None, str]:
    if not os.path.exists(path):
        return None, f"no {path} next to the metrics: history length, category size and calibration are not drawn"
    return read_arrays(path, _CURE), ""
