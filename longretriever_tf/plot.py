"""Draws a run's pictures again: training.png, and metrics.png of every metrics file given.

  longretriever plot --run_dir=runs/demo

`train` and `evaluate` draw them anyway; this is for runs and metrics of earlier versions, or from elsewhere.
"""

import os
from collections.abc import Sequence

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags

_RUN_DIR = absl_flags.DEFINE_string("run_dir", "", "Run directory: its training.json and metrics.json are drawn.")
_METRICS = absl_flags.DEFINE_list("metrics", [], "Metrics files of `evaluate`; each gets a PNG next to it.")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    from longretriever_tf.evaluation.charts import draw_evaluation
    from longretriever_tf.training.charts import draw_training

    metrics = list(_METRICS.value)
    if _RUN_DIR.value:
        print(f"written: {draw_training(_RUN_DIR.value)}")
        own = os.path.join(_RUN_DIR.value, "metrics.json")
        metrics += [own] if os.path.exists(own) else []
    elif not metrics:
        raise UserError("nothing to draw: give --run_dir=runs/..., or --metrics=.../metrics.json")
    for path in metrics:
        written, lacking = draw_evaluation(path)
        print("\n".join(filter(None, (f"written: {written}", lacking))))


if __name__ == "__main__":
    flags.run_command(main)
