"""A few kills of the real commands by the harness of benchmarks/kill_trials.py, which makes hundreds.

test_resume.py and test_train_on_disk.py kill in between.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_killed_commands_end_as_uninterrupted_ones(tmp_path):
    output = tmp_path / "kills.json"
    flags = ["--kills=2", "--kills_per_trial=1", "--targets=prepare,interest", f"--output={output}", "--seed=3"]
    done = subprocess.run(
        [sys.executable, "benchmarks/kill_trials.py", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(output.read_text())
    assert made["kills"] >= 2 and made["different"] == 0 and not made["problems"]
    assert set(made["by_target"]) <= {"prepare", "interest"}
