"""`prepare` on runners of Apache Beam writes the same bytes as in processes of its own; run by `make test-beam`."""

import json

import numpy as np
import pandas as pd
import pytest
from trained import run_module

RUNNERS = {
    "DirectRunner": "direct_num_workers=2,direct_running_mode=multi_processing",
    "apache_beam.runners.dask.dask_runner.DaskRunner": "dask_partition_size=1",
}


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("log")
    rng = np.random.default_rng(0)
    for number in range(4):
        item = rng.integers(0, 40, 500)
        columns = {
            "user_id": [f"u{u}" for u in rng.integers(0, 30, 500)],
            "item_id": [f"0{i}" for i in item],
            "timestamp": 1_600_000_000 + rng.integers(0, 10**7, 500),
            "category": [f"c{i % 3}" for i in item],
        }
        pd.DataFrame(columns).to_parquet(folder / f"{number}.parquet")
    return str(folder)


def _prepare(events, output, *flags):
    return run_module(
        "prepare", "--dataset=event_log", f"--events={events}", f"--output={output}", "--num_shards=3", *flags
    )


@pytest.mark.slow
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_runner_writes_the_same_shards(tmp_path, events, runner):
    pytest.importorskip("apache_beam", reason="needs the extra beam: make test-beam")
    if "dask" in runner:
        pytest.importorskip("distributed", reason="needs apache-beam[dask]: make test-beam")
    here = _prepare(events, tmp_path / "here")
    assert here.returncode == 0, here.stderr
    there = _prepare(events, tmp_path / "there", f"--runner={runner}", f"--beam_options={RUNNERS[runner]}")
    assert there.returncode == 0, there.stderr
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("here", "there")]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_a_mistake_in_the_tables_is_one_line(tmp_path, events):
    pytest.importorskip("apache_beam", reason="needs the extra beam: make test-beam")
    bad = tmp_path / "log"
    bad.mkdir()
    pd.DataFrame({"user_id": [1], "item_id": [None], "timestamp": [1], "category": ["a"]}).to_csv(
        bad / "a.csv", index=False
    )
    options = f"--beam_options={RUNNERS['DirectRunner']}"
    failed = _prepare(bad, tmp_path / "out", "--runner=DirectRunner", options)
    assert failed.returncode == 2
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert "1 of 1 rows have no id" in line
    unknown = _prepare(events, tmp_path / "out2", "--runner=NoSuchRunner")
    assert unknown.returncode == 2 and "--runner=NoSuchRunner cannot be used" in unknown.stderr


def test_a_runner_without_beam_says_what_to_install(tmp_path, events):
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        failed = _prepare(events, tmp_path / "out", "--runner=DirectRunner")
        assert failed.returncode == 2 and "pip install 'longretriever_tf[beam]'" in failed.stderr
    else:
        pytest.skip("apache-beam is installed")
    lonely = _prepare(events, tmp_path / "out", "--beam_options=a=b")
    assert lonely.returncode == 2 and "belongs to --runner" in lonely.stderr
