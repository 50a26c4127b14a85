"""What version 0.1.0 wrote still loads: a run directory is evaluated and exported, an export answers and is refreshed.

`data/run_of_0.1.0.tar.xz` was written by 0.1.0's own commands (`trained.FLAGS` on `worlds.block_world`), and holds the
log, the run with its metrics, and the export.
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from trained import run_module

from longretriever_tf.serving.client import Request
from longretriever_tf.serving.client.in_process import LocalClient
from longretriever_tf.training.run_dir import CHART_FILE

ARCHIVE = pathlib.Path(__file__).parent / "data" / "run_of_0.1.0.tar.xz"


@pytest.fixture(scope="module")
def former(tmp_path_factory):
    """The archive, unpacked; its config names the log where it lies now."""
    directory = tmp_path_factory.mktemp("former")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    (directory / "run" / CHART_FILE).touch()  # a picture, which the archive spares
    config = directory / "run" / "config.json"
    values = json.loads(config.read_text())
    for name in ("events", "items", "users", "data_dir"):
        values["data"][name] = str(directory / values["data"][name])
    values["train"]["run_dir"] = str(directory / "run")
    config.write_text(json.dumps(values))
    return directory


@pytest.mark.slow
def test_a_former_run_is_evaluated_to_the_figures_that_it_wrote(former, tmp_path):
    done = run_module("evaluate", f"--run_dir={former}/run", "--split=validation", f"--output={tmp_path}/metrics.json")
    assert done.returncode == 0, done.stderr
    wrote, now = (
        json.loads(path.read_text())["models"] for path in (former / "run/metrics.json", tmp_path / "metrics.json")
    )
    assert now["longretriever"].keys() == wrote["longretriever"].keys()
    for task, metrics in wrote["longretriever"].items():
        for name, value in metrics.items():
            np.testing.assert_allclose(
                now["longretriever"][task][name], value, rtol=1e-5, atol=1e-7, err_msg=f"{task} {name}"
            )


@pytest.mark.slow
def test_a_former_export_answers_as_one_made_of_the_same_run_now(former, tmp_path):
    done = run_module("export", f"--run_dir={former}/run", f"--export_dir={tmp_path}/export", "--nocheck")
    assert done.returncode == 0, done.stderr
    request = Request([101, 103, 140], [1_600_000_000, 1_600_086_400, 1_600_172_800], 1_609_600_000, k=20, seed=1)
    before, now = (LocalClient(str(path)).retrieve([request])[0] for path in (former / "export", tmp_path / "export"))
    assert before.candidates and [c.item_id for c in before.candidates] == [c.item_id for c in now.candidates]
    np.testing.assert_allclose(
        [c.score for c in before.candidates], [c.score for c in now.candidates], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_a_former_export_is_refreshed(former):
    done = run_module(
        "refresh", f"--run_dir={former}/run", f"--export_dir={former}/export", f"--items={former}/log/items.parquet"
    )
    assert done.returncode == 0, done.stderr
    assert tf.io.gfile.exists(f"{former}/export/2/saved_model.pb")


@pytest.mark.slow
def test_a_former_run_is_gone_on_from(former, tmp_path):
    done = run_module("train", f"--warm_start={former}/run", "--cut=test", f"--run_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert "14.0 new days" in done.stdout and "generation 1" in done.stdout
