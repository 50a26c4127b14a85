"""Plots: the numbers drawn are those of the files, the pictures are pictures, and what lacks numbers says so."""

import contextlib
import io
import json
import pathlib

import matplotlib.image
import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from trained import run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.evaluation.charts import MAX_MODELS, chosen_models, draw_evaluation, evaluation_panels
from longretriever_tf.plots.axes import draw_axes, style_of
from longretriever_tf.plots.board import write_image
from longretriever_tf.plots.page import PRINT, draw_page
from longretriever_tf.plots.panels import Panel, Series, quantile_bins, running_mean
from longretriever_tf.training.charts import draw_training, training_panels

TRAINING = {
    "run": {"seed": 3, "date": "2031-02-03", "machine": "Toy"},
    "history": {
        "towers": [
            {"epoch": 1, "loss": 3.5, "examples_per_s": 70.0, "validation": 0.25},
            {"epoch": 2, "loss": 9.0, "examples_per_s": 1.0},
            {"epoch": 2, "loss": 2.5, "examples_per_s": 90.0, "validation": 0.375},
        ],
        "interest": [{"epoch": 1, "loss": 5.0, "examples_per_s": 11.0}],
    },
}
SCALARS = {"towers/loss": [(20.0, 4.0), (40.0, 3.0), (60.0, 2.0)], "towers/learning_rate": [(20.0, 3e-3), (60.0, 0.0)]}


def drawn(panels) -> dict[str, tuple[str, tuple, tuple]]:
    return {panel.title: (panel.x_label, panel.series[0].x, panel.series[0].y) for panel in panels}


def test_training_is_drawn_by_step_and_by_epoch_where_there_are_no_steps():
    assert drawn(training_panels(TRAINING, SCALARS)) == {
        "towers: loss": ("step", (20.0, 40.0, 60.0), (4.0, 3.0, 2.0)),
        "towers: validation: MRR within the category": ("epoch", (1.0, 2.0), (0.25, 0.375)),
        "towers: learning rate": ("step", (20.0, 60.0), (3e-3, 0.0)),
        "towers: examples per second": ("epoch", (1.0, 2.0), (70.0, 90.0)),  # run again: as it ended
        "interest score: measured once": ("epoch", (1.0,), (5.0,)),  # no lone dots
    }
    killed = drawn(training_panels({"history": {}}, SCALARS))  # before training.json was written
    assert list(killed) == ["towers: loss", "towers: learning rate"]
    (panel,) = training_panels({"history": {"mind": [{"epoch": 1, "validation": 0.5}]}}, {})
    assert (panel.title, panel.kind) == ("mind: measured once", "numbers")
    (series,) = panel.series
    assert (series.label, series.y) == ("validation: recall, all items", (0.5,))


def test_loss_is_smoothed_and_its_ends_are_not():
    loss = np.array([9.0, *([4.0, 2.0] * 99), 1.0])
    mean = running_mean(loss)
    assert (mean[0], mean[-1]) == (9.0, 1.0) and np.ptp(mean[10:-10]) < 0.2
    panels = {panel.title: panel for panel in training_panels(TRAINING, SCALARS)}
    assert [title for title, panel in panels.items() if panel.is_noisy] == ["towers: loss"]


def test_axes_of_every_width_have_ticks():
    """Two categories lie within one decade: decades alone left such axes bare."""
    for low, high in ((0.45, 0.55), (0.1, 0.4), (0.02, 0.9), (1e-8, 0.1)):
        panel = Panel("", "loglog", "predicted", "observed", (Series("p", (low, high), (low, high)),))
        with rc_context(style_of(PRINT)):
            ax = Figure().subplots()
            draw_axes(ax, panel, {"p": 0}, PRINT)
            for axis in (ax.xaxis, ax.yaxis):
                left, right = axis.get_view_interval()
                seen = [tick for tick in axis.get_ticklocs() if left <= tick <= right]
                assert len(seen) >= 2, (low, high)
                assert len({axis.get_major_formatter()(tick) for tick in seen}) == len(seen)


def test_a_run_without_figures_says_so(tmp_path):
    with pytest.raises(UserError, match="'history'.*older version"):
        training_panels({"run": {}, "epochs": 3}, SCALARS)
    with pytest.raises(UserError, match=r"no epoch \(phases: towers\)"):
        training_panels({"history": {"towers": []}}, {})
    with pytest.raises(UserError, match=f"{tmp_path}/training.json does not exist"):
        draw_training(str(tmp_path))
    with pytest.raises(UserError, match=r"no recall@k of all items \(models: EASE\).*evaluate again"):
        evaluation_panels({"models": {"EASE": {"AER": 0.5}}}, None)
    with pytest.raises(UserError, match=f"{tmp_path}/metrics.json does not exist.*evaluate"):
        draw_evaluation(str(tmp_path / "metrics.json"))


def metrics_of(names) -> dict:
    recall = {name: {"recall@100": 0.5 - i / 100, "recall@20": 0.25 - i / 100} for i, name in enumerate(names)}
    models = {name: {"all": values, "novel": {"recall@20": 0.125, "num_users": 7}} for name, values in recall.items()}
    return {"data": "toy", "split": "test", "seed": 3, "date": "2031-02-03", "num_users": 61, "models": models}


def users_of(names, seed: int = 5) -> dict[str, np.ndarray]:
    """61 users with 0 to 6 pairs each; the second model ranks as the first does."""
    random = np.random.default_rng(seed)
    pair_user = np.sort(random.integers(0, 61, 300))
    is_novel = random.random(300) < 0.4
    rank = random.integers(0, 60, [len(names), 300])
    rank[1] = rank[0]
    recall = random.random([len(names), 61])
    recall[:, 7] = np.nan
    tally = np.array([[5000.0, 10.0, 20.0], [99.0, 50.0, 50.0], [400.0, 100.0, 80.0], [900.0, 0.0, 0.0]])
    return {
        "model": np.array(names),
        "history_length": random.integers(1, 900, 61),
        "pair_user": pair_user,
        "pair_is_novel": is_novel,
        "category_size": random.integers(2, 500, 300),
        "all/rank": rank,
        "novel/rank": rank[:, is_novel],
        "all/recall@100": recall,
        "novel/recall@100": recall / 2,
        "calibration": tally,
        "interest_calibration": tally,
    }


def test_the_figures_drawn_are_those_of_the_file_and_of_the_users():
    names = ("ours", "ours, served", "EASE")
    metrics, users = metrics_of(names), users_of(names)
    by_title = {panel.title: panel for panel in evaluation_panels(metrics, users)}
    assert len(by_title) == 8
    panel = by_title["All items, by length of the list"]
    assert panel.ticks == ("20", "100")
    for series in panel.series:
        section = metrics["models"][series.label]["all"]
        assert series.y == (section["recall@20"], section["recall@100"])

    panel = by_title["Novel items, within the category by its size"]
    assert [series.label for series in panel.series] == ["ours", "EASE"]  # what ranks alike stands once
    place, ticks = quantile_bins(users["category_size"])
    hits: dict[int, list[bool]] = {i: [] for i in range(len(ticks))}
    for pair, rank in zip(np.flatnonzero(users["pair_is_novel"]), users["novel/rank"][2], strict=True):
        hits[int(place[pair])].append(bool(rank < 20))
    assert panel.ticks == ticks
    np.testing.assert_allclose(panel.series[1].y, [np.mean(found) for found in hits.values()])

    panel = by_title["All items, by length of the history"]
    place, _ = quantile_bins(users["history_length"])
    expected = [np.nanmean(users["all/recall@100"][1][place == i]) for i in range(len(panel.ticks))]
    np.testing.assert_allclose(panel.series[1].y, expected)
    for title in ("Is the list calibrated?", "Is the interest score calibrated?"):
        (series,) = by_title[title].series
        assert (series.x, series.y) == ((0.002, 0.25), (0.004, 0.2))  # few pairs, or none taken: no point


def test_without_users_the_means_are_drawn_and_few_models_are_chosen():
    names = [f"m{i}" for i in range(12)]
    metrics = metrics_of(names)
    metrics["models"]["m0"]["all"] = {"recall@100": 0.0}  # the run itself, however poor
    metrics["models"]["m5"]["all"] = {"ndcg@100": 0.9}
    metrics["models"]["again"] = metrics["models"]["m1"]
    assert chosen_models(metrics) == ["m0", "m1", "m2", "m3", "m4", "m6"]
    assert len(chosen_models(metrics)) == MAX_MODELS
    assert [panel.title[:5] for panel in evaluation_panels(metrics, None)] == ["All i", "Novel"]
    metrics["models"]["m11"]["novel"] = {"recall@20": 0.5}  # the last on all items, the best on novel ones
    assert chosen_models(metrics) == ["m0", "m1", "m2", "m3", "m4", "m11"]


def test_files_are_pictures_and_tensorboard_holds_the_same(tmp_path):
    names = ("ours", "ours, served", "EASE")
    (tmp_path / "training.json").write_text(json.dumps(TRAINING))
    (tmp_path / "metrics.json").write_text(json.dumps(metrics_of(names)))
    path, lacking = draw_evaluation(str(tmp_path / "metrics.json"))
    assert path == str(tmp_path / "metrics.png") and "metrics.per_user.npz" in lacking
    np.savez(tmp_path / "metrics.per_user.npz", **users_of(names))
    path, lacking = draw_evaluation(str(tmp_path / "metrics.json"))
    assert lacking == ""
    for tag, file in (("report/metrics", path), ("report/training", draw_training(str(tmp_path)))):
        content = pathlib.Path(file).read_bytes()
        pixels = matplotlib.image.imread(io.BytesIO(content))
        assert min(pixels.shape[:2]) > 300 and 0.5 < pixels[..., :3].mean() < 0.999  # light, not empty
        width, height, png = images(tmp_path / "tensorboard")[tag]
        assert (int(height), int(width)) == pixels.shape[:2] and png == content


def images(directory: pathlib.Path) -> dict[str, list[bytes]]:
    """What TensorBoard's own reader finds, by tag; the latest of each."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    found = {}
    for path in sorted(directory.iterdir()):
        reader = PyRecordReader_New(str(path))
        with contextlib.suppress(OutOfRangeError):
            while True:
                reader.GetNext()
                for value in event_pb2.Event.FromString(reader.record()).summary.value:
                    if value.metadata.plugin_data.plugin_name == "images":
                        found[value.tag] = list(value.tensor.string_val)
    return found


def test_a_run_leaves_its_picture(trained):
    path = pathlib.Path(trained.run_dir)
    assert min(matplotlib.image.imread(path / "training.png").shape[:2]) > 300
    (_, _, png) = images(path / "tensorboard")["report/training"]
    assert png == (path / "training.png").read_bytes()


def test_a_page_of_every_kind_is_drawn_and_a_blocked_board_is_named(tmp_path):
    series = tuple(Series(f"s{i}", (0.0, 1.0), (0.1 * i, 0.2), (0.0, 0.1), (0.3, 0.4)) for i in range(5))
    kinds = [
        Panel(kind, kind, "x", "y", series[: 1 if kind == "bars" else 5], ("a", "b")) for kind in ("bars", "points")
    ]
    many = tuple(map(float, range(200)))
    lines = Panel("lines", "lines", "step", "loss", (Series("s0", many, many),), is_noisy=True, from_zero=True)
    numbers = Panel("numbers", "numbers", "epoch", "", (Series("loss", (1.0,), (2.0,)),))
    names = Panel("$a_$", "scatter", "$\\no$", "y", (Series("$_{$", (0.0, 1.0), (1.0, 2.0)),), ("$^$", "b"))
    page = draw_page("t $_$", (*kinds, lines, numbers, names), "note")
    assert matplotlib.image.imread(io.BytesIO(page)).shape[0] > 300
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=str(blocked)):
        write_image(str(blocked / "tensorboard"), "t", page)


def test_the_command_draws_or_says_what_to_give(tmp_path):
    done = run_module("plot")
    assert done.returncode == 2 and "--run_dir" in done.stderr and "--metrics" in done.stderr
    (tmp_path / "m.json").write_text(json.dumps(metrics_of(("ours", "EASE"))))
    done = run_module("plot", f"--metrics={tmp_path}/m.json")
    assert done.returncode == 0, done.stderr
    assert f"written: {tmp_path}/m.png" in done.stdout and "m.per_user.npz" in done.stdout
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


def test_text_where_a_number_belongs_is_named_with_its_file(tmp_path):
    metrics = json.loads(json.dumps(metrics_of(("ours", "EASE"))))
    section = metrics["models"]["ours"]["all"]
    section[next(iter(section))] = "many"
    (tmp_path / "m.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="m.json is damaged"):
        draw_evaluation(str(tmp_path / "m.json"))
    assert not (tmp_path / "m.png").exists()
