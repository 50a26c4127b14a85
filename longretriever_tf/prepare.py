"""Writes a log in shards on disk, in memory that does not grow with the log: for logs that one machine cannot hold.

    python -m longretriever_tf.prepare --dataset=event_log --events='log/*.parquet' --items=items.parquet --output=DIR
    python -m longretriever_tf.train --data=DIR --run_dir=...

Takes the flags of the data that `train` takes. The tables are read once, by --num_workers processes; a Parquet file is
read a few row groups at a time, text a few million rows at a time, and other formats file by file. --output gets
manifest.json, items.npz and log/shard-*.npz, and needs some three times their size while it works. A command that was
stopped goes on where it stood; a directory that holds another log is refused.
"""

from collections.abc import Sequence

from absl import flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags as flags_lib

flags_lib.define_config_flags("data")
_OUTPUT = flags.DEFINE_string("output", None, "The directory to write: new, empty, or begun by the same command.")
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", 0, "Shards of users. 0: one for every 2 million events.", lower_bound=0, upper_bound=100_000
)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 0, "Processes. 0: one for each core.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    config = flags_lib.config_from_flags()
    if not _OUTPUT.value:
        raise UserError("--output is missing: name the directory to write the prepared log to")
    if config.data.data:
        raise UserError(f"--data={config.data.data} is prepared already: name tables, or leave the command out")
    from longretriever_tf.datasets.preparation.run import prepare_log  # TFDS: not for --help

    print(prepare_log(config.data, _OUTPUT.value, _NUM_SHARDS.value, _NUM_WORKERS.value))
    print(f"next: python -m longretriever_tf.train --data={_OUTPUT.value} --run_dir=...")


if __name__ == "__main__":
    flags_lib.run_command(main)
