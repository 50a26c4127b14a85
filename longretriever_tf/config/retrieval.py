"""Settings of requests and of the index. Imports no TensorFlow."""

import dataclasses

from longretriever_tf.config.field import setting as _field


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """How a request picks interests and merges their lists (multi-context retrieval)."""

    interest: str = _field(
        "learned",
        "Interest score. paper: eq. 3, sum of weight / max(days, floor). learned: the "
        "expected number of items that the user will take, over all categories, seen or not. Measured: recall@100 of "
        "the best 20 interests 0.251 (learned), 0.236 (paper).",
        ("learned", "paper"),
    )
    day_floor: float = _field(
        1.0, "Eq. 3: days are at least this. Measured: 0.1, 1 and 7 differ by at most 0.005.", hidden=True, above=0
    )
    num_interests: int = _field(
        0,
        "N: interests drawn from the top M and searched per request. 0: the top M, and every other one that "
        "--interest_threshold lets in. Measured: recall@100 0.158 (5), 0.251 (20), 0.293 (60), 0.297 (0: 71 on "
        "average), 0.297 (all 302).",
        least=0,
    )
    top_interests: int = _field(
        20,
        "M: the best interests that the N are drawn from. Paper: 5 of 20; N = M: the best. Measured: recall@100 0.251 "
        "(20 of 20), 0.132 (20 of 60).",
        above=0,
    )
    interest_threshold: float = _field(
        -7.5,
        "With --num_interests=0, a category is searched where the log p(item | user) of its best item, as estimated "
        "before the search, is at least this: below it hardly an item can enter a list of 100. Lower: more categories, "
        "longer requests, better long lists.",
        most=0,
    )
    unseen_boost: float = _field(
        0.0,
        "interest=learned: added to the score of the categories that the history does not hold, to explore. Measured "
        "on 600 households of Complete Journey: 0.5 takes recall@100 of what lies in such categories from 0.016 to "
        "0.030 (of novel items from 0.041 to 0.060); over all categories it stays 0.297 (novel: 0.089, then 0.087).",
        least=0,
    )
    unseen_weight: float = _field(
        0.0,
        "interest=learned: lists have the largest expected recall plus so many times the recall of what lies in "
        "categories that the history does not hold: these are raised by log(1 + unseen_weight / q), q the share of the "
        "user's next items that is expected there, and stand among each other by popularity as much as by the score. "
        "What it gains and costs on Complete Journey: docs/tuning.md.",
        least=0,
    )
    search: str = _field(
        "category",
        "Where the user vector of an interest searches. category: its own items (the paper). corpus: all items, "
        "merged raw or in turn; the ablation of in-context retrieval, in evaluation alone.",
        ("category", "corpus"),
        hidden=True,
    )
    merge: str = _field(
        "calibrated",
        "How the lists of the interests become one. calibrated: log p(category | user) "
        "+ log softmax of the item within its category; raw: inner products; quota: k split by the "
        "interest score; round_robin: the best of each in turn. Measured: recall@100 0.251, 0.243, 0.237, 0.230.",
        ("calibrated", "raw", "quota", "round_robin"),
    )
    max_k: int = _field(
        10_000,
        "Longest list that a request to the export may ask for; more is refused: memory and time grow with k.",
        least=100,
    )
    max_candidates: int = _field(
        32_000_000,
        "Most candidates of one call to the export: rows x interests x k (1000 or more an interest), and rows x "
        "categories x 30; more is refused before memory is allocated. The default takes about a gigabyte.",
        hidden=True,
    )
    max_values: int = _field(
        4_000_000,
        "Most values in one column of a call to the export, rows x the longest row, padding included: histories, lists "
        "of items and categories; more is refused.",
        hidden=True,
        above=0,
    )
    strict: bool = _field(
        False,
        "The export refuses a request that names a category, or an item to leave out, which the model does not know. "
        "By default it answers, and the answer names what it did not know.",
    )


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How an export searches a category."""

    index: str = _field(
        "packed",
        "packed: exact search of every category, runs on stock TensorFlow Serving. auto: a "
        "ScaNN searcher for each category of at least --scann_min_items items, exact search elsewhere. scann: a "
        "ScaNN searcher for every category of at least 16 items. What holds searchers needs ScaNN's operations "
        "to be served. Measured: results/bench_index.json.",
        ("packed", "auto", "scann"),
    )
    scann_min_items: int = _field(
        20_000,
        "index=auto: from this many items on a category gets a searcher. Measured: 20000 pays for single requests; "
        "batches of a hundred gain from about 3000. Changes speed, and results within --scann_recall.",
        above=0,
    )
    scann_recall: float = _field(
        0.95,
        "Recall@100 against exact search that each searcher must reach on held-out queries. auto: a category "
        "that misses it is searched exactly; scann: its searcher scores every item.",
        above=0,
        most=1,
    )
    partition_sample: int = _field(
        1024,
        "Items drawn per searched category to estimate its log-partition; a smaller category is summed exactly. "
        "1024 in every result.",
        hidden=True,
        above=0,
    )
