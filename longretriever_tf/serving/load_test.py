r"""Asks a server under load and reports throughput, latencies and errors.

  longretriever load_test --url=http://localhost:8501 --export_dir=exports/longretriever \
    --concurrency=8 --duration_s=30 --history_length=1000

closed loop: --concurrency callers, each asks again as soon as it is answered: how much the server can do. open loop:
requests come at --rate a second whether the server keeps up or not, and latency counts from the time each was due:
what users feel. Requests are made and encoded before the clock starts; nothing is tried twice.
"""

import json
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags

_URL = absl_flags.DEFINE_string("url", "http://localhost:8501", "http://host:8501, https://host or grpc://host:8500.")
_NAME = absl_flags.DEFINE_string("model_name", "longretriever", "Name of the model.")
_EXPORT_DIR = absl_flags.DEFINE_string(
    "export_dir", "exports/longretriever", "Export on this machine, whose item ids histories are made of."
)
_LOOP = absl_flags.DEFINE_enum("loop", "closed", ["closed", "open"], "Who sets the pace: the server, or --rate.")
_CONCURRENCY = absl_flags.DEFINE_integer(
    "concurrency", 4, "Callers; in the open loop, the most that can wait for answers at once.", lower_bound=1
)
_RATE = absl_flags.DEFINE_float("rate", 20.0, "loop=open: requests a second, at random times.", lower_bound=0.001)
_DURATION = absl_flags.DEFINE_float("duration_s", 10.0, "How long to ask (ignored with --num_requests).", 0.001)
_NUM = absl_flags.DEFINE_integer("num_requests", 0, "How many requests; 0: as many as --duration_s has room for.", 0)
_WARMUP = absl_flags.DEFINE_integer("warmup_requests", 4, "Asked before, and not counted.", lower_bound=0)
_LENGTH = absl_flags.DEFINE_integer("history_length", 200, "Events per user.", lower_bound=0)
_BATCH = absl_flags.DEFINE_integer("batch_size", 1, "Users per request.", lower_bound=1)
_DISTINCT = absl_flags.DEFINE_integer("distinct", 32, "Different requests, asked in turn.", lower_bound=1)
_K = absl_flags.DEFINE_integer("k", 100, "Length of the lists.", lower_bound=1)
_TIMEOUT = absl_flags.DEFINE_float("timeout_s", 10.0, "A request that takes longer is an error.", 0.001)
_SEED = absl_flags.DEFINE_integer("seed", 1, "Of histories and arrival times.", lower_bound=0)
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the report here, as JSON.")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    from longretriever_tf.common.files import require_output, write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.serving.client.client import Client, ClientOptions
    from longretriever_tf.serving.client.transport import CallError
    from longretriever_tf.serving.load_run import Arrivals, SampledHistories, make_requests, run_load

    if _OUTPUT.value:
        require_output(_OUTPUT.value)
    histories = SampledHistories(_EXPORT_DIR.value, _LENGTH.value, _BATCH.value, _K.value)
    requests = make_requests(histories, _DISTINCT.value, _SEED.value)
    arrivals = Arrivals(
        rate=_RATE.value if _LOOP.value == "open" else None,
        duration_s=_DURATION.value,
        num_requests=_NUM.value,
        concurrency=_CONCURRENCY.value,
        seed=_SEED.value,
    )
    with Client(_URL.value, _NAME.value, ClientOptions(timeout_s=_TIMEOUT.value)) as client:
        try:
            calls = [client.prepare(rows) for rows in requests]
            for number in range(_WARMUP.value):
                client.send(calls[number % len(calls)])
        except CallError as error:  # before the clock starts, a failure is a mistake and no measurement
            raise UserError(f"--url={_URL.value}: {error}") from error
        report = run_load(lambda number: client.send(calls[number % len(calls)]), arrivals)
    print(report.text())
    if _OUTPUT.value:
        origin = describe_origin("longretriever load_test", _SEED.value)
        write_text_atomically(_OUTPUT.value, json.dumps(origin | report.to_dict(), indent=2) + "\n")


if __name__ == "__main__":
    flags.run_command(main)
