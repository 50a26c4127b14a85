"""The last line of `inspect_log`: go on, go on with some flags, or do not train on this log yet, and why."""

from typing import NamedTuple

from longretriever_tf.config.check import AUTO, CLUSTERS, asks_clusters, num_clusters
from longretriever_tf.config.config import Config
from longretriever_tf.config.snapshots import horizon_days
from longretriever_tf.datasets.splits import SPLITS
from longretriever_tf.inspection.statistics import Statistics, new_item_share

GO, GO_WITH, STOP = "go on", "go on with these flags", "don't"

_WINDOWS = (28.0, 21.0, 14.0, 7.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.25)
"""Window lengths in days to propose if the configured one does not fit."""

_MANY = 60
"""Interests to search where the first 20 hold too few of the targets."""


class Verdict(NamedTuple):
    """What to do next.

    Attributes:
      word: `GO`, `GO_WITH` or `STOP`.
      flags: to add to every command, with `GO_WITH`.
      reasons: of the flags or of the stop, one each.
    """

    word: str
    flags: tuple[str, ...]
    reasons: tuple[str, ...]

    def line(self) -> str:
        """The verdict in one line.

        >>> Verdict(GO_WITH, ("--window_days=7",), ("the log spans 40 days",)).line()
        'Verdict: go on with these flags: --window_days=7 (the log spans 40 days)'
        """
        if self.word == GO:
            return f"Verdict: {GO}"
        why = "; ".join(self.reasons)
        return f"Verdict: {STOP}: {why}" if self.word == STOP else f"Verdict: {GO_WITH}: {' '.join(self.flags)} ({why})"


def decide(statistics: Statistics, config: Config) -> Verdict:
    """The verdict by rules of thumb; each reason shows the number that it rests on.

    Args:
      statistics: `history_statistics`, with `contexts`.
      config: the user's; a flag that it already sets is not proposed.
    """
    stops = [*_left_out(statistics), *_no_histories(statistics), *_no_targets(statistics), *_new_items(statistics)]
    if stops:
        return Verdict(STOP, (), tuple(stops))
    window = _window(statistics, config)
    if window is None:
        span = statistics["log"]["days"]
        return Verdict(
            STOP, (), (f"all events lie within {24 * span:.2g} hours: nothing to split into past and future",)
        )
    proposals = [*window, *_context(statistics, config), *_interests(statistics, config), *_loss(statistics, config)]
    if not proposals:
        return Verdict(GO, (), ())
    flags, reasons = zip(*proposals, strict=True)
    return Verdict(GO_WITH, flags, reasons)


Proposals = list[tuple[str, str]]
"""A flag and its reason, each."""


def _left_out(statistics: Statistics) -> list[str]:
    counts = statistics["counts"]
    lost = counts.get("unknown_item", 0)
    if not counts or lost <= 0.5 * counts["rows"]:
        return []
    return [f"{lost / counts['rows']:.0%} of the rows are of items that the items table lacks: do the ids agree?"]


def _no_histories(statistics: Statistics) -> list[str]:
    """Reasons why nothing can be learned from any window."""
    log, histories = statistics["log"], statistics["lives"]
    stops = []
    if log["items"] < 2:
        stops.append("all events are of one item: there is nothing to choose from")
    if histories["events_per_user"]["max"] < 2:
        stops.append("every user has one event: nobody has a past")
    elif histories["events_per_user"]["mean"] < 1.5:
        mean = histories["events_per_user"]["mean"]
        stops.append(f"users have {mean:.2g} events on average: hardly anybody has a past to search")
    return stops


def _no_targets(statistics: Statistics) -> list[str]:
    if not statistics["split"] or statistics["split"]["test"]["target_users"]:
        return []
    return ["no user has both a past and a target in the test window: give a longer log, or a larger --window_days"]


def _new_items(statistics: Statistics) -> list[str]:
    """A reason where most of what users take did not exist at a cut: histories and statistics say nothing of it."""
    if not statistics["split"]:
        return []
    shares = [new_item_share(statistics["split"][name]) for name in SPLITS]
    if min(shares) <= 0.5:
        return []
    days = statistics["split"]["test"]["days"]
    return [
        f"{shares[1]:.0%} of what users take in the test window are items without an event before it, which a model "
        f"trained by then cannot list: items come and go within {days:.3g} days; try a smaller --window_days, and hold "
        "what you train against popularity"
    ]


def _window(statistics: Statistics, config: Config) -> Proposals | None:
    """A window that leaves half of the log to training; None where no window fits.

    One that leaves less to training than a snapshot asks for (`horizon_days`) gives no example to learn from.
    """
    if statistics["split"] and statistics["split"]["train"]["days"] > horizon_days(config):
        return []
    span = statistics["log"]["days"]
    days = next((days for days in _WINDOWS if days < config.data.window_days and 4 * days <= span), None)
    if days is None:
        return None
    return [(f"--window_days={days:g}", f"the log spans {span:.3g} days")]


def _context(statistics: Statistics, config: Config) -> Proposals:
    """A finer context where one category holds most events: another column, else learned clusters, and not too many."""
    largest, log = statistics["negatives"]["largest"][0], statistics["log"]
    if asks_clusters(config.data.context):
        fitting = config.data.context.partition(":")[0] + ":" + AUTO
        wanted, enough = (num_clusters(context, log["items"]) for context in (config.data.context, fitting))
        if wanted <= 2 * enough:
            return []
        why = f"{wanted:,} categories are many for {log['items']:,} items; {AUTO} makes {enough}"
        return [(f"--context={fitting}", why)]
    share = largest["events"] / log["events"]
    if share <= 0.5:
        return []
    others = [row for row in statistics["contexts"] if row["column"] != log["context"]]
    fit = [row for row in others if row["largest_share"] <= 0.5 and row["share_short"] <= 0.9 and row["categories"] > 1]
    if fit:
        flag = f"--context={min(fit, key=lambda row: row['share_short'])['column']}"
    elif log["items"] >= 20:
        flag = f"--context={CLUSTERS}{AUTO}"
    else:
        return []
    return [(flag, f"category {largest['category'][:40]!r} holds {share:.0%} of the events")]


def _interests(statistics: Statistics, config: Config) -> Proposals:
    retrieval = config.retrieval
    # Without a number, as many are searched as can enter the list.
    if not statistics["split"] or not retrieval.num_interests or retrieval.top_interests >= _MANY:
        return []
    test = statistics["split"]["test"]["all"]
    if test["top_20"] >= 0.7 or test["top_60"] < test["top_20"] + 0.1:
        return []
    why = f"the top 20 interests hold {test['top_20']:.0%} of the targets, the top 60 {test['top_60']:.0%}"
    return [(f"--num_interests={_MANY} --top_interests={_MANY}", why)]


def _loss(statistics: Statistics, config: Config) -> Proposals:
    share = statistics["negatives"]["event_share_below"]["64"]
    if config.train.loss == "full" or share <= 0.2:
        return []
    return [("--loss=full", f"{share:.0%} of the events lie in categories of fewer than 64 items")]
