"""Sentences about differences between models: which is ahead, by how much, and how sure that is."""

import dataclasses
from typing import NamedTuple

import numpy as np

from longretriever_tf.evaluation import ranking
from longretriever_tf.reproduction.plan import Comparison
from longretriever_tf.reproduction.results import Line, Results, Source

_SEED = 1
_RESAMPLINGS = 2000


class PairedDifference(NamedTuple):
    """What a row gains over another.

    Attributes:
      interval: mean and 95% interval over users.
      num_users: users that it is over, each once however many windows know them.
    """

    interval: ranking.Interval
    num_users: int


@dataclasses.dataclass(frozen=True)
class Statement:
    """A row against the best of others on one metric.

    Attributes:
      text: the sentence.
      verdict: "ahead", "behind", "even" (the interval holds 0), "unknown" (no interval, or something is missing).
      difference: mean and 95% interval over users; None without metrics of every user.
      claim: what a source says, or "".
      held: whether the claim holds, in words, or "".
      target: whether a target was reached, in words, or "".
      sources: cited.
    """

    metric: str
    text: str
    verdict: str
    difference: ranking.Interval | None = None
    claim: str = ""
    held: str = ""
    target: str = ""
    sources: tuple[Source, ...] = ()


_HELD = {"ahead": "holds here", "behind": "does not hold here", "even": "not settled here", "unknown": "not measured"}


def make_statements(comparison: Comparison, results: Results) -> list[Statement]:
    """One statement per metric."""
    return [_state(comparison, metric, results) for metric in comparison.metrics]


def _state(comparison: Comparison, metric: str, results: Results) -> Statement:
    (ours, *_), others = results.lines([comparison.ours]), results.lines(comparison.against)
    own = ours.metric(metric)
    rivals = [(value.mean, line) for line in others if line is not ours and (value := line.metric(metric))]
    claim = comparison.claim
    if own is None or not rivals:
        absent = ours.label if own is None else ", ".join(line.label for line in others)
        return Statement(metric, f"{metric}: no value of {absent}", "unknown", None, claim, claim and _HELD["unknown"])
    theirs, rival = max(rivals, key=lambda pair: pair[0])
    paired = paired_difference(ours, rival, metric)
    difference = paired and paired.interval
    verdict = _verdict(difference)
    missing = [name for name in comparison.against if not any(line.metric(metric) for line in results.lines([name]))]
    held = _HELD[verdict] + (f" against what ran (not yet: {', '.join(missing)})" if missing else "")
    return Statement(
        metric=metric,
        text=_sentence(metric, ours, rival, (own.mean, theirs), paired),
        verdict=verdict,
        difference=difference,
        claim=claim,
        held=claim and held,
        target=_target(comparison.targets.get(metric), own.mean),
        sources=tuple(dict.fromkeys(line.source for line in (ours, rival) if line.source)),
    )


def _verdict(difference: ranking.Interval | None) -> str:
    if difference is None:
        return "unknown"
    return "ahead" if difference.low > 0 else "behind" if difference.high < 0 else "even"


def _sentence(metric: str, ours: Line, rival: Line, means: tuple[float, float], paired: PairedDifference | None) -> str:
    own, theirs = means
    gap = paired.interval.mean if paired else own - theirs
    side = f"ahead of {rival.label}" if gap > 0 else f"behind {rival.label}" if gap < 0 else f"level with {rival.label}"
    ratio = f" ({own / theirs:.2f} times)" if theirs > 0 else ""
    size = f" by {abs(gap):.4f}{ratio}" if gap else ""
    text = f"{metric.replace('_', ' ')}: {ours.label} ({own:.4f}) is {side} ({theirs:.4f}){size}"
    if paired is None:
        return text + "; no interval, since metrics of every user are missing"
    _, low, high = paired.interval
    of_windows = f" in {len(ours.windows)} windows" if ours.windows else ""
    if abs(gap - (own - theirs)) > 5e-5:
        text += " where both were asked for the same items"
    text += f"; 95% from {low:+.4f} to {high:+.4f}, paired over {paired.num_users:,} users{of_windows}"
    return text + ("" if low > 0 or high < 0 else ", which does not exclude 0")


def _target(target: float | None, own: float) -> str:
    if target is None:
        return ""
    word = "reached" if own >= target else "missed"
    return f"target {target:g} {word} by {abs(own - target):.4f}"


def paired_difference(ours: Line, rival: Line, metric: str) -> PairedDifference | None:
    """Mean difference and 95% interval by resampling users, each model's seeds averaged first.

    Metrics within a category count over pairs; whole users are resampled there too, since a user's pairs are not
    independent. The differences of several windows are averaged, and a user is drawn with all windows. Users of whom
    one side was asked for more than the other are left out: an item that its training has not seen is no truth for it.
    None where a side keeps no metrics of users, or none are of the same users.
    """
    own, theirs = ours.windows or (ours,), rival.windows or (rival,)
    if len(own) != len(theirs):
        return None
    gains = [_user_gains(a, b, metric) for a, b in zip(own, theirs, strict=True)]
    known = [one for one in gains if one is not None]
    if len(known) < len(gains):
        return None
    everyone = np.unique(np.concatenate([user for user, _, _ in known]))
    table = np.zeros((2, len(known), len(everyone)))  # gain and size, by window and user
    for window, (user, gain, size) in enumerate(known):
        table[:, window, np.searchsorted(everyone, user)] = gain, size
    drawn = ranking.resampled_sums(table.reshape(2 * len(known), -1), _SEED, _RESAMPLINGS)
    gain, size = drawn[:, : len(known)], drawn[:, len(known) :]
    value = float(np.mean(table[0].sum(1) / table[1].sum(1)))
    interval = ranking.percentile_interval(value, np.mean(gain / np.maximum(size, 1.0), axis=1))
    return PairedDifference(interval, int(np.count_nonzero(table[1].any(0))))


def _user_gains(ours: Line, rival: Line, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What each user of a window gains: rows of users, the sum of the differences, and over how many values."""
    if not (ours.users and rival.users):
        return None
    (row, mine, other), (section, _, name) = _both(ours, rival), metric.partition(" ")
    if section in ("all", "novel"):
        a, b = ours.user_means(f"{section}/{name}"), rival.user_means(f"{section}/{name}")
        if a is None or b is None:
            return None
        gain = a[mine] - b[other]
        is_same = _num_targets(ours, section)[mine] == _num_targets(rival, section)[other]
        has_value = ~np.isnan(gain) & is_same
        return (row[has_value], gain[has_value], np.ones(has_value.sum())) if has_value.any() else None
    if not np.array_equal(ours.users[0]["user"], rival.users[0]["user"]):
        return None  # pairs are told by their place
    if section in ("within_category", "within_category_novel") and name.startswith("recall@"):
        task, k = "novel" if section.endswith("novel") else "all", int(name[7:])
        if not all(knows_ranks(line, task, k) for line in (ours, rival)):
            return None
        (a, user, _), (b, _, _) = pair_hits(ours, task, k), pair_hits(rival, task, k)
        num_users = 1 + int(user.max(initial=-1))
        return (row[:num_users], np.bincount(user, a - b), np.bincount(user)) if num_users else None
    return None


def _both(ours: Line, rival: Line) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users that both lines of a window have, and where they lie in each; `[n]` each."""
    return np.intersect1d(ours.users[0]["user"], rival.users[0]["user"], assume_unique=True, return_indices=True)


def _num_targets(line: Line, task: str) -> np.ndarray:
    """How many items each user took, of those that the line was asked for; zeros where it does not say."""
    users = line.users[0]
    count = np.zeros(len(users["user"]), np.int64)
    if "pair_user" not in users:
        return count
    kept = users["pair_is_novel"] if task == "novel" else slice(None)
    np.add.at(count, users["pair_user"][kept], 1)
    return count


def knows_ranks(line: Line, task: str, k: int) -> bool:
    """Whether ranks within categories are known to depth k: a system that gives lists alone may not say them."""
    return bool(line.users) and all(users.get(f"{task}/rank_depth", k) >= k for users in line.users)


def pair_hits(line: Line, task: str, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each truth pair of a task: whether it ranks below k in its category, averaged over seeds; its user; its index.

    Returns:
      [Q] float64, [Q] int32 positions of users, [Q] int64 positions among all pairs.
    """
    users = line.users[0]
    kept = np.flatnonzero(users["pair_is_novel"]) if task == "novel" else np.arange(len(users["pair_user"]))
    hits = np.mean([table[f"{task}/rank"] < k for table in line.users], axis=0)
    return hits, users["pair_user"][kept], kept
