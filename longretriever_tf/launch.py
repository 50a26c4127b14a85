"""Starts a training in several processes of this machine, one for each GPU; what follows -- are flags of `train`.

  longretriever launch --num_processes=2 -- --flagfile=configs/demo.flags --run_dir=runs/two

Each process is a worker of `train --distribute=multi_worker`. Where one fails, all end, and the same command goes on
from the last checkpoint. For several machines set TF_CONFIG on each and start `train --distribute=multi_worker` there:
see docs/scaling.md.
"""

import sys
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags
from longretriever_tf.training.distributed.launcher import launch

_NUM_PROCESSES = absl_flags.DEFINE_integer("num_processes", 2, "Processes: one for each GPU; without GPUs, any number.")
_of_train: list[str] = []


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    del argv
    if _NUM_PROCESSES.value < 1:
        raise UserError(f"--num_processes={_NUM_PROCESSES.value}: expected at least 1")
    if not _of_train:
        raise UserError(
            "no flags of `train` are given; they follow --, as in: longretriever launch "
            f"--num_processes={_NUM_PROCESSES.value} -- --flagfile=configs/demo.flags"
        )
    return launch(_NUM_PROCESSES.value, _of_train)


if __name__ == "__main__":
    _of_train[:] = flags.take_after_dashes(sys.argv)
    flags.run_command(main)
