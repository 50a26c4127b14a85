"""Trains LongRetriever, or one of the neural baselines (--model), on a log.

  longretriever train --flagfile=configs/demo.flags

The run directory (--run_dir) gets config.json, checkpoints, TensorBoard events, training.json and training.png. The
same command resumes a run that was stopped, to the step, and leaves a finished one as it is; a directory that holds a
run of other flags or of another log is refused, and so is a second training in it at the same time.

  longretriever train --warm_start=runs/monday --events=tuesday.parquet --run_dir=runs/tuesday

goes on from a finished run, on its log with new days, in another run directory: see docs/every_day.md.
"""

from collections.abc import Sequence

from longretriever_tf.common.progress import stage
from longretriever_tf.config import flags
from longretriever_tf.config.check import evaluation_only
from longretriever_tf.tracking.names import require_installed

flags.define_config_flags("data", "model", "train", "retrieval", "baseline", "update")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    config = flags.training_config()
    if limited := evaluation_only(config):
        print(f"note: {limited}", flush=True)
    require_installed(config.train.tracker)
    with stage("loading TensorFlow"):  # after the flags are checked: it takes seconds
        from longretriever_tf.training.run import train

    happened, run_dir = train(config), config.train.run_dir
    following = "export" if config.train.cut == "none" else "evaluate"  # no window is left to evaluate such a run
    print(f"{happened}\nnext: longretriever {following} --run_dir={run_dir}")


if __name__ == "__main__":
    flags.run_command(main)
