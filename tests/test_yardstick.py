"""The trees over counts: lists of the window's users that `evaluate` reads, fitted on the validation window alone."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from trained import ROOT, run_module, write_tables
from worlds import block_world


@pytest.mark.slow
def test_trees_over_counts_rank_candidates_that_baselines_found(tmp_path):
    flags = (*write_tables(block_world(num_items=241, events_per_user=89), tmp_path), "--dataset=event_log")
    flags = (*flags, "--window_days=20", "--user_features=taste")
    for split in ("validation", "test"):
        lists = tmp_path / f"{split}.parquet"
        command = [sys.executable, "benchmarks/yardstick.py", *flags, f"--split={split}", f"--lists={lists}"]
        command += ["--candidates=60", "--folds=2", f"--baseline_settings={tmp_path}/s.json"]
        if split == "validation":
            command.pop()  # the baselines are tuned, and their settings kept
        # LightGBM's threads wait by spinning: on busy cores several take minutes for what one does at once.
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, env=env)
        assert done.returncode == 0, done.stderr
        if split == "validation":
            (tmp_path / "baseline_settings.json").rename(tmp_path / "s.json")
        report = json.loads((tmp_path / f"{split}.json").read_text())
        assert [one["task"] for one in report["rankers"]] == (
            ["all", "all", "novel", "novel"] if split == "validation" else ["all", "novel"]
        )
        output = tmp_path / "metrics.json"
        done = run_module(
            *("evaluate_baselines", *flags, f"--split={split}", "--baselines=simple", f"--output={output}"),
            f"--lists=trees:{lists}",
        )
        assert done.returncode == 0, done.stderr
        models = json.loads(output.read_text())["models"]
        assert models["trees"]["all"]["num_users"] == models["popularity"]["all"]["num_users"]
        assert models["trees"]["all"]["recall@50"] > models["popularity"]["all"]["recall@50"]
        assert set(pd.read_parquet(lists)["task"]) == {"all", "novel"}
