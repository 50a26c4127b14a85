"""Merge strategies: how the lists of several interests become one; `merge_lists` applies the one that is asked for.

Plain arithmetic, on arrays and tensors alike.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

_BEHIND = 1e6
"""Puts candidates beyond their interest's quota behind all those within."""


class Candidates(NamedTuple):
    """Candidates of N interests, in shapes that broadcast (say [B, N, K] against [B, N, 1]).

    Attributes:
      logit: inner product over temperature, with item bias and repeat logit.
      log_probability: log softmax of the item within its category.
      rank: rank within its interest's list, 0 the best.
      log_interest: log p(category | user), normalised over all categories (not only the chosen).
      order: rank of the interest among the chosen, 0 the best.
      num_interests: how many were chosen.
      is_beyond_quota: 1.0 where the interest has already brought its share of the list, else 0.0.
    """

    logit: Any
    log_probability: Any
    rank: Any
    log_interest: Any
    order: Any
    num_interests: Any
    is_beyond_quota: Any


def _calibrated(candidates: Candidates) -> Any:
    """Log p(category | user) + log p(item | category, user): one probability over the whole corpus."""
    return candidates.log_interest + candidates.log_probability


def _raw(candidates: Candidates) -> Any:
    """The logit, as if comparable across categories."""
    return candidates.logit + 0.0 * candidates.log_interest


def _round_robin(candidates: Candidates) -> Any:
    """The best of each interest in turn, then the second of each, ..."""
    return -(candidates.rank * candidates.num_interests + candidates.order)


def _quota(candidates: Candidates) -> Any:
    """Round robin within each interest's quota; what lies beyond it fills up behind."""
    return _round_robin(candidates) - _BEHIND * candidates.is_beyond_quota


MERGES: dict[str, Callable[[Candidates], Any]] = {
    "calibrated": _calibrated,
    "raw": _raw,
    "round_robin": _round_robin,
    "quota": _quota,
}
"""Strategy by name; each maps candidates to merged scores, higher is better."""
