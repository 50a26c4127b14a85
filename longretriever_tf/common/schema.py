"""Names, reserved ids and shape letters that every module shares. Imports nothing.

Shape letters: B requests (or examples) in a batch, T events of a history, L tokens of a subsequence, D embedding width,
C categories, V items, N interests drawn per request, M interests drawn from, K list length, U users, E events.
"""

PADDING = 0
"""Index of padding in every vocabulary."""

UNKNOWN = 1
"""Index of an id, a category or a value that training never saw; trained by dropout to unknown."""

FIRST_KNOWN = 2
"""First index of a known id."""

DAY_S = 86_400
"""Seconds in a day: timestamps are int64 seconds UTC, ages are float32 days."""

MISSING = ""
"""A missing side feature or profile value, in text form: a value of its own."""

MISSING_CONTEXT = "(missing)"
"""The category of an item whose context column is empty."""
