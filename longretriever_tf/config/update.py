"""Settings of a warm start: a run that goes on from another one, on a log with new days. Imports no TensorFlow."""

import dataclasses
from typing import Any

from longretriever_tf.common.errors import require
from longretriever_tf.config.baselines import LONGRETRIEVER
from longretriever_tf.config.field import setting


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """What `--warm_start` reads besides the settings of the run that it names."""

    warm_start: str = setting(
        "",
        "A finished run to go on from, on the same log with new days: its weights and tables grow, and examples come "
        "from the new days and a share of the old ones. Its settings hold where no flag says otherwise, but for one "
        "epoch of each phase and --warm_learning_rate; it stays as it is. See docs/every_day.md.",
    )
    replay_share: float = setting(
        0.2,
        "warm_start: this share of the examples is drawn from the days that the earlier run has seen, so that what it "
        "learned of them is kept; the others are all those of the new days.",
        least=0,
        most=0.95,
    )
    warm_optimizer: str = setting(
        "carry",
        "warm_start: carry: the optimizer goes on with the earlier run's moments; reset: with none.",
        ("carry", "reset"),
    )
    warm_learning_rate: float = setting(
        1e-3,
        "warm_start: peak learning rate of the update, in place of --learning_rate.",
        above=0,
    )
    svd_refit_days: float = setting(
        28.0,
        "warm_start: fit the items' SVD anew, and rotate it onto the earlier one, where the last fit lies so many days "
        "of the log back; until then its rows stay, and new items get rows from those who took them. 0: fit it in each "
        "update.",
        least=0,
    )


def check_update(config: Any) -> None:
    """Refuses what cannot be updated.

    Args:
      config: a whole `Config`.

    Raises:
      UserError: names the flag.
    """
    update, train = config.update, config.train
    if not update.warm_start:
        return
    named = f"--warm_start={update.warm_start}"
    require(
        config.model.model == LONGRETRIEVER,
        f"{named} with --model={config.model.model}: only longretriever is updated; train the baseline anew",
    )
    require(
        train.distribute == "none",
        f"{named} with --distribute={train.distribute}: an update runs on one device; leave --distribute out",
    )
    require(
        train.item_tables == "replicated",
        f"{named} with --item_tables={train.item_tables}: an update runs on one device; leave --item_tables out",
    )
