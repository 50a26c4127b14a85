"""Trains LongRetriever, or one of the neural baselines (--model), on a log.

  python -m longretriever_tf.train --flagfile=configs/demo.flags

The run directory (--run_dir) gets config.json, checkpoints, TensorBoard events, training.json and training.png. The
same command resumes a run that was stopped, to the step; a directory that holds a run of other flags is refused.
"""

from collections.abc import Sequence

from longretriever_tf import flags
from longretriever_tf.config_check import evaluation_only

flags.define_config_flags("data", "model", "train", "retrieval", "baseline")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    config = flags.config_from_flags()
    if limited := evaluation_only(config):
        print(f"note: {limited}", flush=True)
    from longretriever_tf.training.run import train  # after the flags are checked: TensorFlow takes seconds to load

    train(config)
    print(f"trained; next: python -m longretriever_tf.evaluate --run_dir={config.train.run_dir}")


if __name__ == "__main__":
    flags.run_command(main)
