"""From an ordinary phase to one whose steps take several batches, on one device or many."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.config.baselines import BASELINES
from longretriever_tf.config.config import Config
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.models.towers import ItemTower
from longretriever_tf.training.distributed.cluster import Cluster
from longretriever_tf.training.distributed.gradients import Tables
from longretriever_tf.training.distributed.grouped_phase import ChosenSource, GroupedPhase, GroupedSource
from longretriever_tf.training.distributed.step_table import by_range, category_ranges, heaviest_share, in_turn
from longretriever_tf.training.phases import Phase


class CategorySource(Protocol):
    """Batches of one category each."""

    def batch_categories(self, epoch: int) -> np.ndarray:
        """Category of each batch of the epoch, [n] int64; how many a category has is the same in every epoch."""


BY_CATEGORY = "by_category"


@dataclasses.dataclass(frozen=True)
class OwnedTables:
    """Tables with a row for each item, whose rows move where their categories are.

    Attributes:
      tables: the variables.
      source: of the batches.
      ranges: of categories by group, [G + 1]; see `step_table.category_ranges`.
      category_offset: items of category c are `[c]` up to `[c + 1]`, [C + 1].
    """

    tables: tuple[tf.Variable, ...]
    source: CategorySource
    ranges: np.ndarray
    category_offset: np.ndarray

    def table(self, epoch: int) -> np.ndarray:
        """The batches of each step, see `step_table.by_range`: [S, G] int64."""
        return by_range(self.source.batch_categories(epoch), self.ranges)

    def states(self, optimizer: LazyAdamW, cluster: Cluster) -> list[tuple[tf.Variable, np.ndarray]]:
        """What `Cluster.merge` makes whole: tables and moments, and the rows of them that count here, [V, 1] bool."""
        each = (len(self.ranges) - 1) // cluster.num_workers
        first, last = self.ranges[cluster.worker * each], self.ranges[(cluster.worker + 1) * each]
        row = np.arange(int(self.category_offset[-1]))[:, None]
        is_mine = (self.category_offset[first] <= row) & (row < self.category_offset[last]) & (row >= FIRST_KNOWN)
        is_mine |= (row < FIRST_KNOWN) & cluster.is_chief  # all workers have moved these alike
        return [(state, is_mine) for table in self.tables for state in (table, *optimizer.moments(table))]


def item_tables(tower: ItemTower) -> tuple[tf.Variable, ...]:
    """The tables with a row for each item."""
    return tuple(table for table in (tower.id_table, tower.bias) if table is not None)


def own_by_category(
    config: Config, source: CategorySource, tower: ItemTower, category_offset: np.ndarray
) -> OwnedTables:
    """Cuts the categories into --batches_per_step ranges, one for each group.

    Raises:
      UserError: there are fewer categories than groups.
    """
    num_batches = np.bincount(source.batch_categories(0), minlength=len(category_offset) - 1)
    ranges = category_ranges(num_batches, config.train.batches_per_step)
    share = heaviest_share(num_batches, ranges)
    level = 1 / config.train.batches_per_step
    print(
        f"item tables by category: {config.train.batches_per_step} ranges of categories, the fullest with {share:.0%} "
        f"of the batches ({level:.0%} would be level): an epoch takes {share / level:.2f} times the steps of level ones"
    )
    return OwnedTables(item_tables(tower), source, ranges, category_offset)


def group_phase(
    phase: Phase, source: ChosenSource, config: Config, cluster: Cluster, owned: OwnedTables | None = None
) -> Phase:
    """The phase with --batches_per_step batches a step; as it is where a step takes one batch on one device.

    Args:
      phase: an ordinary one.
      source: its batches.
      config: the run's config.
      cluster: the replicas.
      owned: for the phase that trains them: a group takes batches of its range alone.
    """
    groups = config.train.batches_per_step
    if cluster.strategy is None and groups == 1:
        return phase

    def table_of(epoch: int) -> np.ndarray:
        return in_turn(source.num_batches(), groups) if owned is None else owned.table(epoch)

    return GroupedPhase(
        name=phase.name,
        epochs=phase.epochs,
        model=phase.model,
        source=GroupedSource(source, table_of, cluster),
        seed=phase.seed,
        validate=chief_validation(phase.validate, cluster),
        cluster=cluster,
        # A baseline's softmax over the corpus reads every row of every table.
        tables=Tables(() if owned is None else owned.tables, config.train.loss == "full" and phase.name in BASELINES),
    )


def chief_validation(validate: Callable[[], float] | None, cluster: Cluster) -> Callable[[], float] | None:
    """The chief validates; every process gets its metric, and so decides alike. None where there is no validation."""
    if validate is None:
        return None
    return lambda: cluster.from_chief(validate() if cluster.is_chief else 0.0)
