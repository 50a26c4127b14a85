"""The capacity planner: figures that never fall as a log grows, models of results/, words on bad input."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
from trained import ROOT, run_module

from longretriever_tf.__main__ import module_of
from longretriever_tf.planning.estimate import PlanInputs, PlanLine, estimate
from longretriever_tf.planning.fitted import load_models

SHOP = PlanInputs(
    users=5e6,
    items=1e6,
    events_per_user=300.0,
    categories=2_000.0,
    examples=3e9,
    epochs=1.0,
    qps=500.0,
    machines=4,
    cores=16,
    memory_gb=64.0,
    devices=1,
    load=0.6,
)
SIZES = ("--users=5e6", "--items=1e6", "--events_per_user=300")
GROWS = ("users", "items", "events_per_user", "examples", "epochs", "qps")  # more categories are smaller ones


def figures(inputs: PlanInputs) -> dict[str, PlanLine]:
    return {line.key: line for line in estimate(inputs, load_models())}


@pytest.mark.parametrize("name", GROWS)
@pytest.mark.parametrize("size", [0.001, 1.0, 1000.0])
def test_no_figure_falls_as_an_input_grows(name, size):
    before = dataclasses.replace(SHOP, **{name: getattr(SHOP, name) * size})
    after = figures(dataclasses.replace(before, **{name: getattr(before, name) * 3}))
    grown = []
    for key, line in figures(before).items():
        assert after[key].value >= line.value * (1 - 1e-9), key
        grown += [key] * (after[key].value > line.value)
    assert grown or size < 1  # small shops need one shard and one replica


@pytest.mark.parametrize("name", ["machines", "cores", "memory_gb", "devices"])
def test_no_figure_grows_as_machines_are_added(name):
    after = figures(dataclasses.replace(SHOP, **{name: getattr(SHOP, name) * 2}))
    for key, line in figures(SHOP).items():
        if name != "memory_gb" or key != "replicas":  # fewer shards, so more replicas of each
            assert after[key].value <= line.value * (1 + 1e-9), key


def test_a_busy_server_waits_longer_and_one_core_as_the_textbook_says():
    one = dataclasses.replace(SHOP, cores=1, load=0.75)
    returned = figures(one)
    assert returned["latency_ms"].value == pytest.approx(returned["request_ms"].value * (1 + 0.75 / 0.25))
    shares = [dataclasses.replace(SHOP, load=load) for load in (0.3, 0.6, 0.9)]
    waits = [figures(share)["latency_ms"].value for share in shares]
    assert waits == sorted(waits) and waits[0] < waits[-1]


def test_what_lies_beyond_the_measurements_says_so():
    near = figures(dataclasses.replace(SHOP, users=1000.0, items=60_000.0, categories=300.0))
    far = figures(dataclasses.replace(SHOP, users=9e8, items=1.5e8, events_per_user=2e4, devices=8))
    for key in ("core_hours", "log_gb", "export_gb"):
        assert (near[key].basis, far[key].basis) == ("measured", "extrapolated")
        assert "results/" in far[key].why and "where checked" in far[key].why
    assert far["devices_hours"].basis == far["replicas"].basis == far["h100_hours"].basis == "estimated"
    assert near["h100_hours"].basis == "measured"
    assert "no other size" in far["h100_hours"].why


def test_the_models_are_those_of_the_measurements(tmp_path):
    """fitted.json is what fit_plan.py writes from results/; each error rests on two sizes that the fit did not see."""
    script, output = os.path.join(ROOT, "benchmarks", "fit_plan.py"), tmp_path / "fitted.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, f"--output={output}"], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    again, shipped = (
        json.loads(path.read_text())["models"] for path in (output, ROOT / "longretriever_tf/planning/fitted.json")
    )
    assert set(again) == set(shipped)
    for name, model in shipped.items():
        assert again[name]["coefficients"] == pytest.approx(model["coefficients"], rel=1e-6)
        assert all(os.path.exists(ROOT / source) for source in model["sources"])
        assert all(weight >= 0 for weight in model["coefficients"].values())
        errors = [abs(one["predicted"] / one["measured"] - 1) for one in model["held_out"]]
        assert len(errors) >= 2 or model["worst_error"] is None
        assert model["worst_error"] is None or model["worst_error"] == pytest.approx(max(errors))
    assert [name for name, model in shipped.items() if model["worst_error"] is None] == ["training_h100_s_per_example"]


def test_the_command_prints_the_plan_and_what_to_type(tmp_path):
    path = tmp_path / "plan.json"
    flags = ("--machines=4", "--devices=2", "--qps=500", "--memory_gb=2", f"--json={path}")
    done = run_module("plan", *SIZES, *flags)
    assert done.returncode == 0, done.stderr
    for words in ("PREPARATION", "TRAINING", "SERVING", "extrapolated", "estimated", "results/bench_sizes.json"):
        assert words in done.stdout
    returned = json.loads(path.read_text())
    assert returned["inputs"]["machines"] == 4 and returned["inputs"]["examples"] == 2 * 5e6 * 300
    expected = figures(dataclasses.replace(SHOP, categories=300.0, devices=2, memory_gb=2.0))
    assert {one["key"]: one["value"] for one in returned["figures"]} == pytest.approx(
        {key: line.value for key, line in expected.items()}
    )
    assert "--category_shards=3" in done.stdout and "launch --num_processes=2 -- --data=prepared" in done.stdout
    commands = [line for line in done.stdout.splitlines() if line.startswith("longretriever ")]
    assert commands and commands == [line for line in done.stdout.splitlines()[-len(commands) :]]
    for line in commands:
        own, _, of_train = line.partition(" -- ")
        name = module_of(own.split()[1])
        for command, words in ((name, own), ("train", of_train)):
            known = run_module(command, "--helpfull").stdout if words else ""
            for flag in re.findall(r"--(\w+)", words):
                assert re.search(rf"--(\[no\])?{flag}\b", known), (command, flag)


def test_a_prepared_log_says_its_own_size(tmp_path):
    script = os.path.join(ROOT, "benchmarks", "make_log.py")
    sizes = ("--num_events=20000", "--num_users=100", "--num_items=500", "--num_categories=20")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    made = [sys.executable, script, f"--output={tmp_path}/made", *sizes]
    subprocess.run(made, check=True, capture_output=True, env=environment)
    tables = (f"--events={tmp_path}/made/events-*.parquet", f"--items={tmp_path}/made/items.parquet")
    done = run_module("prepare", "--dataset=event_log", *tables, f"--output={tmp_path}/log", "--num_workers=1")
    assert done.returncode == 0, done.stderr
    done = run_module("plan", f"--data={tmp_path}/log", f"--json={tmp_path}/plan.json")
    assert done.returncode == 0, done.stderr
    inputs = json.loads((tmp_path / "plan.json").read_text())["inputs"]
    assert (inputs["users"], inputs["categories"]) == (100, 20)
    assert 19_000 < inputs["users"] * inputs["events_per_user"] <= 20_000 and inputs["items"] == 500


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--users=-5",), ("--users=-5", "above 0")),
        (("--users=0",), ("--users=0", "above 0")),
        (("--items=nan",), ("items", "nan")),
        (("--items=inf",), ("items", "inf")),
        (("--events_per_user=many",), ("events_per_user", "many")),
        (("--users=",), ("users",)),
        (("--qps=-1",), ("--qps=-1", "0 or more")),
        (("--cores=0",), ("--cores=0", "above 0")),
        (("--load=1",), ("--load=1", "below 1")),
        (("--users=1e30",), ("--users=1e+30", "1e18")),
        (("--json=/proc/none/plan.json",), ("/proc/none",)),
        (("--data=/nowhere",), ("/nowhere",)),
    ],
)
def test_bad_input_is_one_line(flags, words):
    done = run_module("plan", *SIZES, *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not done.stdout
    assert all(word in done.stderr for word in words), done.stderr


def test_what_is_missing_is_named():
    done = run_module("plan", "--users=5e6")
    assert done.returncode == 2 and "--items, --events_per_user" in done.stderr and "--data=DIR" in done.stderr
