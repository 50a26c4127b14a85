"""Batching across requests: who shares a batch, padding, limits, and answers equal to those without."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_clients import call, error_of, predict, serving, wait_until
from serving_conformance import BATCHING, BATCHING_UTIL, OBSERVED, OURS, conforms
from toy_models import save_toy

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server import batching, config_files
from longretriever_tf.serving.server.batching import BatchScheduler
from longretriever_tf.serving.server.config_files import BatchingOptions
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.status import ServingError

pytestmark = pytest.mark.serving
SCHEDULER = "tensorflow: core/kernels/batching_util/shared_batch_scheduler.h"


class _Model:
    """Stands in for a loaded model: doubles `x`, notes the batches, can be held up or refuse a value."""

    def __init__(self) -> None:
        self.batches: list[dict[str, np.ndarray]] = []
        self.go = threading.Event()
        self.go.set()

    def run(self, signature, inputs, outputs):
        self.batches.append(inputs)
        self.go.wait()
        if (inputs["x"] < 0).any():
            raise ServingError("INVALID_ARGUMENT", "negative")
        return [inputs["x"] * 2]


class _Signature:
    name = "serving_default"


class _Scheduler(BatchScheduler):
    """Counts the parts that it has taken in or refused."""

    def __init__(self, options: BatchingOptions) -> None:
        self.submitted = threading.Semaphore(0)
        super().__init__(options, Metrics())

    def _submit(self, *args):
        try:
            return super()._submit(*args)
        finally:
            self.submitted.release()


def _gather(model: _Model, requests: list[dict], *, flush: bool = True, **options) -> list:
    """Submits requests, each once the one before is queued, and returns answers or errors in their order.

    Batches that are not full wait for an hour: `flush` closes the scheduler, which runs them, before answers are read.
    """
    options = {"max_batch_size": 8, "batch_timeout_micros": 3_600_000_000, "num_batch_threads": 1} | options
    scheduler = _Scheduler(BatchingOptions(**options))

    def ask(request):
        try:
            return scheduler.run(model, _Signature, request, ["y"])[0]
        except ServingError as error:
            return error

    with ThreadPoolExecutor(len(requests)) as pool:
        futures = []
        for request in requests:
            futures.append(pool.submit(ask, request))
            for _ in range(-(-len(request["x"]) // options["max_batch_size"])):
                scheduler.submitted.acquire()
            if not model.go.is_set():
                wait_until(lambda: model.batches)  # the one that is held up has left the queue
        model.go.set()
        if flush:
            scheduler.close()
        answers = [future.result() for future in futures]
    scheduler.close()
    return answers


def _column(*values: float, width: int = 0) -> dict:
    array = np.array(values, np.float32)
    return {"x": array if not width else np.repeat(array[:, None], width, 1)}


@conforms("requests that come together", "one run of the model; each gets its own rows", BATCHING)
def test_requests_share_a_batch():
    model = _Model()
    answers = _gather(model, [_column(1), _column(2, 3), _column(4)])
    assert [answer.tolist() for answer in answers] == [[2], [4, 6], [8]]
    assert [batch["x"].tolist() for batch in model.batches] == [[1, 2, 3, 4]]


@conforms("max_batch_size", "a batch that is full runs at once; what does not fit begins the next", SCHEDULER)
def test_full_batches_do_not_wait():
    model = _Model()
    requests = [_column(1, 2, 3), _column(4, 5), _column(6, 7)]
    answers = _gather(model, requests, flush=False, max_batch_size=4)  # who waits, waits for an hour
    assert [answer.tolist() for answer in answers] == [[2, 4, 6], [8, 10], [12, 14]]
    assert [batch["x"].tolist() for batch in model.batches] == [[1, 2, 3], [4, 5, 6, 7]]


@conforms("a request larger than max_batch_size", "split over batches, its rows put together again", OBSERVED)
def test_large_requests_are_split():
    model = _Model()
    values = [float(value) for value in range(11)]
    (answer,) = _gather(model, [_column(*values)], max_batch_size=4, max_enqueued_batches=10)
    assert answer.tolist() == [2 * value for value in values]
    assert [len(batch["x"]) for batch in model.batches] == [4, 4, 3]


@conforms("allowed_batch_sizes", "filled up to the next size by repeating a row, which nobody sees", BATCHING)
def test_allowed_sizes():
    model = _Model()
    answers = _gather(model, [_column(1), _column(2, 3)], max_batch_size=8, allowed_batch_sizes=(4, 8))
    assert [answer.tolist() for answer in answers] == [[2], [4, 6]]
    assert [batch["x"].tolist() for batch in model.batches] == [[1, 2, 3, 2]]


@conforms(
    "unequal lengths without pad_variable_length_inputs",
    "TensorFlow Serving fails them; here each length has its batch",
    f"{BATCHING}; {OURS}",
)
def test_unequal_lengths_stay_apart():
    model = _Model()
    answers = _gather(model, [_column(1, width=2), _column(2, width=3), _column(3, width=2)])
    assert [answer.shape for answer in answers] == [(1, 2), (1, 3), (1, 2)]
    assert sorted(batch["x"].shape for batch in model.batches) == [(1, 3), (2, 2)]


@conforms(
    "pad_variable_length_inputs",
    "padded to the longest by each request's own first element",
    "batching/batching_session.h; batching/batching_util.cc",
)
def test_padding_repeats_the_first_element():
    model = _Model()
    requests = [{"x": np.array([[5.0, 6.0]])}, {"x": np.array([[1.0, 2.0, 3.0]])}]
    _gather(model, requests, pad_variable_length_inputs=True)
    assert [batch["x"].tolist() for batch in model.batches] == [[[5, 6, 5], [1, 2, 3]]]


def test_an_empty_list_is_not_padded_by_an_id_that_somebody_may_have():
    model = _Model()
    requests = [_column(7, width=2), {"x": np.zeros([1, 0], np.float32)}, _column(8, width=3)]
    answers = _gather(model, requests, pad_variable_length_inputs=True)
    assert [answer.shape for answer in answers] == [(1, 3), (1, 0), (1, 3)]
    assert sorted(batch["x"].shape for batch in model.batches) == [(1, 0), (2, 3)]


def test_padding_of_empty_and_text_rows():
    numbers = [np.zeros([1, 0], np.int64), np.array([[7, 8]])]
    assert batching.merge(numbers, 2).tolist() == [[0, 0], [7, 8]]
    text = [np.array([[b"a"]], object), np.array([[b"b", b"c"]], object)]
    assert batching.merge(text, 3).tolist() == [[b"a", b"a"], [b"b", b"c"], [b"b", b"c"]]


def test_long_requests_are_not_padded_together_beyond_what_one_request_may_hold():
    """One long history would make every other row of its batch as long."""
    model = _Model()
    wide = {"x": np.ones([1, 1_500_000], np.float32)}
    narrow = {"x": np.ones([1, 2], np.float32)}
    answers = _gather(model, [narrow, wide, narrow, narrow], pad_variable_length_inputs=True)
    assert [answer.shape[1] >= 2 for answer in answers] == [True] * 4
    assert max(batch["x"].size for batch in model.batches) <= 1 << 22 and len(model.batches) > 1


def test_requests_that_nobody_awaits_leave_the_queue():
    model = _Model()
    scheduler = BatchScheduler(BatchingOptions(batch_timeout_micros=0), Metrics())
    with pytest.raises(ServingError, match="CANCELLED"):
        scheduler.run(model, _Signature, _column(1), ["y"], lambda: False)
    assert model.batches == []
    scheduler.close()


@conforms("max_enqueued_batches", "UNAVAILABLE beyond it", SCHEDULER)
def test_a_full_queue_sheds_load():
    model = _Model()
    model.go.clear()
    answers = _gather(model, [_column(i) for i in range(5)], max_batch_size=1, max_enqueued_batches=2)
    refused = [answer for answer in answers if isinstance(answer, ServingError)]
    assert [(error.code, error.http_status) for error in refused] == [("UNAVAILABLE", 503)] * 2
    assert "The batch scheduling queue to which this task was submitted is full" in refused[0].message


@conforms("one request of a batch fails", "TensorFlow Serving fails all; here the others are answered", OURS)
def test_a_bad_request_fails_alone():
    model = _Model()
    answers = _gather(model, [_column(1), _column(-1), _column(3)])
    assert [answers[0].tolist(), answers[2].tolist()] == [[2], [6]]
    assert isinstance(answers[1], ServingError) and answers[1].message == "negative"


@conforms(
    "inputs without a common first dimension, with batching",
    "INVALID_ARGUMENT in its words",
    f"{BATCHING_UTIL}; {OBSERVED}",
)
def test_batched_inputs_need_equal_rows(tmp_path):
    save_toy(tmp_path, 1)
    columns = {"ids": [[1]], "weight": [0.5], "name": ["a"], "flag": [True], "k": [3, 4]}
    with serving(str(tmp_path), batching=BatchingOptions(), grpc_port=None) as server:
        status, message = error_of(server, {"inputs": columns})
        assert status == 400
        assert message.startswith("Batching Run() input tensors must have equal 0th-dimension size")
        status, message = error_of(server, {"signature_name": "half_plus_two", "inputs": 1.0})
        assert (status, message) == (400, "Batching Run() input tensors must have at least one dimension")
        status, message = error_of(server, {"signature_name": "scalar", "inputs": [1.0]})
        assert (status, message) == (400, "Batched output tensor has 0 dimensions")


@conforms("answers with and without batching", "the same, over 200 concurrent requests of several lengths", OURS)
def test_batching_changes_no_answer(tmp_path):
    save_toy(tmp_path, 1)
    rng = np.random.default_rng(7)
    bodies = []
    for _ in range(200):
        rows, width = int(rng.integers(1, 4)), int(rng.integers(1, 5))
        ids = rng.integers(0, 9, [rows, width]).tolist()
        columns = {"ids": ids, "weight": [0.5] * rows, "name": ["a"] * rows, "flag": [True] * rows, "k": [3] * rows}
        bodies.append({"inputs": columns})
    options = BatchingOptions(
        max_batch_size=16, batch_timeout_micros=2000, max_enqueued_batches=100, num_batch_threads=2
    )
    with serving(str(tmp_path), batching=options, grpc_port=None, metrics_path="/m") as server:
        with ThreadPoolExecutor(16) as pool:
            outputs = list(pool.map(lambda body: predict(server, body)["outputs"]["total"], bodies))
        assert outputs == [[sum(row) for row in body["inputs"]["ids"]] for body in bodies]
        page = call(server, "GET", "/m")[1].decode()
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert lines[":tensorflow:serving:batching_session:input_batch_size_count{}"] == "200"
    assert float(lines[":tensorflow:serving:batching_session:processed_batch_size_count{}"]) < 200


@conforms(
    "batching parameters file",
    "wrapped values as { value: N }; contradictions and unknown fields stop the start",
    "servables/tensorflow/session_bundle_config.proto",
)
def test_parameters_file(tmp_path):
    path = tmp_path / "batching.txt"
    path.write_text("max_batch_size { value: 32 } batch_timeout_micros { value: 500 } pad_variable_length_inputs: true")
    options = config_files.read_batching(str(path))
    assert (options.max_batch_size, options.batch_timeout_micros, options.pad_variable_length_inputs) == (32, 500, True)
    assert options.max_enqueued_batches == 10
    path.write_text("max_batch_size { value: 32 } allowed_batch_sizes: 8")
    with pytest.raises(UserError, match=r"\[8\].*must equal max_batch_size, here 32"):
        config_files.read_batching(str(path))
    path.write_text("max_batch_sise { value: 32 }")
    with pytest.raises(UserError, match="Invalid protobuf file.*max_batch_sise.*BatchingParameters in text form"):
        config_files.read_batching(str(path))
    with pytest.raises(UserError, match="No such file"):
        config_files.read_batching(str(tmp_path / "none"))
