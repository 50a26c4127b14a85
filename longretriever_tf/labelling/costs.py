"""What the questions will take, before any is sent. Imports no TensorFlow."""

import dataclasses
import math
from collections.abc import Iterable

from longretriever_tf.labelling.chat import Messages

_BYTES_PER_TOKEN = 4.0
"""Of UTF-8: about right for English; other languages take up to twice as many tokens."""

_NAME_TOKENS = 4
_ANSWER_TOKENS = 4
"""Of an answer for an item, beside the category's name: its number, quotes and commas."""

_OVERHEAD = 8
"""Tokens that a message takes beside its words."""


@dataclasses.dataclass(frozen=True)
class Prices:
    """US dollars, or what else the provider counts in, for a million tokens; None: not given."""

    tokens_in: float | None = None
    tokens_out: float | None = None

    def of(self, tokens_in: float, tokens_out: float) -> float | None:
        """What so many tokens cost; None without prices."""
        if self.tokens_in is None or self.tokens_out is None:
            return None
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Requests and their tokens."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            self.requests + other.requests, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out
        )

    def describe(self, prices: Prices) -> str:
        """In one line, with the cost where prices are known."""
        cost = prices.of(self.tokens_in, self.tokens_out)
        costs = "add --input_price and --output_price to see the cost" if cost is None else f"{show_cost(cost)} to pay"
        return f"{self.requests:,} requests, about {self.tokens_in:,} tokens in and {self.tokens_out:,} out: {costs}"


def show_cost(cost: float) -> str:
    """A cost for people.

    >>> show_cost(1234.5), show_cost(0.0004)
    ('about 1,234.50', 'less than 0.01')
    """
    return f"about {cost:,.2f}" if cost >= 0.01 else "less than 0.01"


def count_tokens(text: str) -> int:
    """About how many tokens a text has.

    >>> count_tokens("yoghurt with blueberries"), count_tokens("")
    (6, 0)
    """
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / _BYTES_PER_TOKEN)


def estimate_taxonomy(messages: Messages, number: int) -> Estimate:
    """Of the question for `number` categories."""
    return Estimate(1, _tokens_of(messages), number * (_NAME_TOKENS + 2))


def estimate_batches(batches: Iterable[tuple[Messages, int]]) -> Estimate:
    """Of questions for the categories of items, each with the number of its items."""
    made = [(1, _tokens_of(messages), size * (_NAME_TOKENS + _ANSWER_TOKENS)) for messages, size in batches]
    return Estimate(*(sum(part) for part in zip(*made, strict=True))) if made else Estimate()


def _tokens_of(messages: Messages) -> int:
    return sum(count_tokens(message["content"]) + _OVERHEAD for message in messages)
