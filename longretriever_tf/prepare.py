"""Writes a log in shards on disk, in memory that does not grow with the log: for logs that one machine cannot hold.

    longretriever prepare --dataset=event_log --events='log/*.parquet' --items=items.parquet --output=DIR
    longretriever train --data=DIR --run_dir=...

Takes the flags of the data that `train` takes. The tables are read once, by --num_workers processes; a Parquet file is
read a few row groups at a time, text a few million rows at a time, and other formats file by file. --output gets
manifest.json, items.npz and log/shard-*.npz, and needs some three times their size while it works. A command that was
stopped goes on where it stood; a directory that holds another log is refused.

With --runner the work is an Apache Beam pipeline (pip install 'longretriever_tf[beam]'); all workers must see the
tables and --output under the same paths:

    --runner=DirectRunner --beam_options=direct_num_workers=8,direct_running_mode=multi_processing
    --runner=FlinkRunner --beam_options=flink_master=HOST:8081,parallelism=64
    --runner=DataflowRunner --beam_options=project=P,region=R,temp_location=gs://B/tmp
"""

import os
from collections.abc import Sequence

from absl import flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags as flags_lib
from longretriever_tf.config.event_features import NOT_PREPARED

flags_lib.define_config_flags("data")
_OUTPUT = flags.DEFINE_string("output", None, "The directory to write: new, empty, or begun by the same command.")
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", 0, "Shards of users. 0: one for every 2 million events.", lower_bound=0, upper_bound=100_000
)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 0, "Processes. 0: one for each core.", lower_bound=0)
_RUNNER = flags.DEFINE_string(
    "runner",
    "",
    "A runner of Apache Beam: DirectRunner, FlinkRunner, SparkRunner, ... Empty: processes of this machine.",
)
_BEAM_OPTIONS = flags.DEFINE_list(
    "beam_options", [], "With --runner: its pipeline options, name=value, comma separated."
)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    config = flags_lib.config_from_flags()
    if not _OUTPUT.value:
        raise UserError("--output is missing: name the directory to write the prepared log to")
    if config.data.data:
        raise UserError(f"--data={config.data.data} is prepared already: name tables, or leave the command out")
    if config.data.event_features:
        raise UserError(f"--event_features={','.join(config.data.event_features)}: {NOT_PREPARED}")
    if _BEAM_OPTIONS.value and not _RUNNER.value:
        raise UserError(f"--beam_options={','.join(_BEAM_OPTIONS.value)} belongs to --runner: add it, or leave it out")
    from longretriever_tf.datasets.preparation.beam import on_beam  # TFDS: not for --help
    from longretriever_tf.datasets.preparation.run import WORK, in_processes, prepare_log

    run_tasks = in_processes(_NUM_WORKERS.value)
    if _RUNNER.value:
        run_tasks = on_beam(_RUNNER.value, _BEAM_OPTIONS.value, os.path.join(_OUTPUT.value, WORK))
    print(prepare_log(config.data, _OUTPUT.value, _NUM_SHARDS.value, run_tasks))
    print(f"next: longretriever train --data={_OUTPUT.value} --run_dir=...")


if __name__ == "__main__":
    flags_lib.run_command(main)
