"""The load generator: counts, the open loop's clock, and a run by command."""

import json
import os
import threading

import pytest
from serving_clients import serving
from trained import run_module

from longretriever_tf.serving import load_run
from longretriever_tf.serving.client.transport import CallError
from longretriever_tf.serving.load_run import Arrivals, run_load


def test_closed_loop_asks_each_number_once():
    asked = []
    report = run_load(asked.append, Arrivals(None, 1.0, 103, 7, 1))
    assert sorted(asked) == list(range(103))
    assert (report.num_requests, report.num_errors, report.loop) == (103, 0, "closed")


class _Clock:
    """Stands in for `time`: callers that sleep move it on, and nothing else does. For one caller."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():  # which only looks on
            self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(load_run, "time", clock)
    return clock


def test_closed_loop_stops_in_time_and_measures_each_call(clock):
    report = run_load(lambda number: clock.sleep(0.02), Arrivals(None, 0.51, 0, 1, 1))
    assert report.num_requests == 26 and report.wall_s == pytest.approx(0.52)
    assert report.latency_ms == pytest.approx(dict.fromkeys(report.latency_ms, 20.0))
    assert report.throughput_per_s == pytest.approx(50)


def test_open_loop_counts_the_wait_of_requests_that_were_due(clock):
    """One caller, 20 ms a call, 200 a second due: the 40th answer comes about 0.8 s after the start, due at 0.2 s."""
    report = run_load(lambda number: clock.sleep(0.02), Arrivals(200.0, 9.0, 40, 1, 3))
    assert report.num_requests == 40 and report.wall_s == pytest.approx(0.8, abs=0.1)
    assert 400 < report.latency_ms["max"] < 800 and 100 < report.latency_ms["p50"] < 500


def test_open_loop_keeps_the_pace_of_its_rate(clock):
    report = run_load(lambda number: None, Arrivals(400.0, 1.0, 0, 1, 3))
    assert 340 <= report.num_requests <= 460 and 0.95 <= report.wall_s <= 1.0
    assert report.latency_ms["max"] == pytest.approx(0.0, abs=1e-9)


def test_errors_are_counted_by_what_they_say():
    def send(number: int) -> None:
        if number % 5 == 0:
            raise CallError("UNAVAILABLE", "queue is full")

    report = run_load(send, Arrivals(None, 1.0, 50, 3, 1))
    assert (report.num_errors, report.errors) == (10, {"UNAVAILABLE: queue is full": 10})
    assert "errors      10 (20.00%)" in report.text() and "10 x UNAVAILABLE: queue is full" in report.text()


def test_without_an_answer_the_report_is_still_json():
    def send(number: int) -> None:
        raise CallError("NOT_FOUND", "no model")

    report = run_load(send, Arrivals(None, 1.0, 3, 1, 1))
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["latency_ms"]["p99"] is None


@pytest.mark.serving
def test_the_command(trained, tmp_path):
    output = str(tmp_path / "load.json")
    with serving(os.path.abspath(trained.export_dir), rest_api_num_threads=4) as server:
        done = run_module(
            "serving.load_test",
            f"--url=http://127.0.0.1:{server.rest_port}",
            "--model_name=toy",
            f"--export_dir={trained.export_dir}",
            "--num_requests=20",
            "--history_length=50",
            "--batch_size=3",
            "--k=7",
            f"--output={output}",
        )
    assert done.returncode == 0, done.stderr
    assert "closed loop, 4 callers: 20 requests" in done.stdout and "p99" in done.stdout
    with open(output, encoding="utf-8") as file:
        report = json.load(file)
    assert report["num_requests"] == 20 and report["num_errors"] == 0 and report["throughput_per_s"] > 0
    assert "longretriever load_test" in report["command"] and report["commit"]


def test_a_server_that_is_not_there_is_one_line(trained):
    flags = ("--url=http://127.0.0.1:9", f"--export_dir={trained.export_dir}", "--num_requests=3", "--history_length=5")
    done = run_module("serving.load_test", *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: --url=http://127.0.0.1:9: UNAVAILABLE: cannot connect" in done.stderr
    assert done.stderr.count("error: ") == 1
