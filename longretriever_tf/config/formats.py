"""Published logs, as their files are published: what `--format` sets, and how a column is made of what a file holds.

A format is data. `settings` are values of `DataConfig`, and a flag that is given wins over them; `tables` say which
rows of a file count, and how columns are made that the file has in another form. `docs/data.md` has the table.
Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from longretriever_tf.common.errors import UserError


class MadeColumn(NamedTuple):
    """A column out of another one of the file.

    Attributes:
      source: the file's own column.
      how: a key of `datasets.event_log.made_columns.MAKERS`: `first` or `last` of a list or of a text with separators,
        `milliseconds` since 1970, `month_day` as in 829 for the 29th of August, `listed`: values that are not in
        `values` become missing.
      values: what `how` takes: the separator, the year, or the values.
    """

    source: str
    how: str
    values: tuple[str, ...] = ()


class TableFormat(NamedTuple):
    """What to do with a table.

    Attributes:
      file: its name as published, for errors.
      made: columns by name.
      where: a column and its values: other rows are left out; without values, rows where it is empty.
      span: a column of seconds, the first second that counts and the one after the last: others are the file's
        mistakes.
      latest: a key and a time: of rows with equal keys the latest counts.
    """

    file: str
    made: Mapping[str, MadeColumn] = {}
    where: tuple[str, tuple[str, ...]] | None = None
    span: tuple[str, int, int] | None = None
    latest: tuple[str, str] | None = None


class Format(NamedTuple):
    """A published log.

    Attributes:
      about: what it is, in a line of `--help`.
      settings: of `DataConfig`.
      tables: of `events`, `items` and `users`.
      needs: tables that must be named besides the events.
      action_column: of the events; read only where --action_weights or --target_actions asks for actions. A choice of
        rows by this column (`TableFormat.where`) does not hold then.
    """

    about: str
    settings: Mapping[str, Any]
    tables: Mapping[str, TableFormat]
    needs: tuple[str, ...] = ()
    action_column: str = ""


_GENRE = {"category": MadeColumn("genres", "first", ("|",))}

FORMATS = {
    "taobao": Format(
        "Taobao UserBehavior: page views (pv) of UserBehavior.csv, of the nine days that it is of",
        {"column_names": ("user_id", "item_id", "category", "behavior_type", "timestamp")},
        # 25 November to 3 December 2017 in China; some rows say 1902 or 2037.
        {
            "events": TableFormat(
                "UserBehavior.csv", where=("behavior_type", ("pv",)), span=("timestamp", 1_511_539_200, 1_512_316_800)
            )
        },
        action_column="behavior_type",
    ),
    "tmall": Format(
        "Tmall, IJCAI-15: user_log_format1.csv, all actions; --users=user_info_format1.csv",
        {"context": "cat_id", "timestamp_column": "timestamp", "user_features": ("age_range", "gender")},
        {
            "events": TableFormat(
                "user_log_format1.csv", {"timestamp": MadeColumn("time_stamp", "month_day", ("2014",))}
            ),
            "users": TableFormat("user_info_format1.csv"),
        },
        action_column="action_type",
    ),
    "amazon_2023": Format(
        "Amazon Reviews 2023: Books.jsonl.gz or Books.csv (rating only), --items=meta_Books.jsonl.gz",
        {"item_column": "parent_asin", "item_name_column": "title"},
        {
            "events": TableFormat(
                "<category>.jsonl.gz or .csv", {"timestamp": MadeColumn("timestamp", "milliseconds")}
            ),
            "items": TableFormat("meta_<category>.jsonl.gz", {"category": MadeColumn("categories", "last")}),
        },
        ("items",),
    ),
    "movielens_1m": Format(
        "MovieLens 1M: ratings.dat, --items=movies.dat, --users=users.dat",
        {
            "delimiter": "::",
            "encoding": "latin-1",
            "column_names": ("user_id", "item_id", "rating", "timestamp"),
            "items_column_names": ("item_id", "title", "genres"),
            "users_column_names": ("user_id", "gender", "age", "occupation", "zip_code"),
            "item_features": ("genres",),
            "item_name_column": "title",
            "user_features": ("gender", "age", "occupation"),
        },
        {
            "events": TableFormat("ratings.dat"),
            "items": TableFormat("movies.dat", _GENRE),
            "users": TableFormat("users.dat"),
        },
        ("items",),
    ),
    "movielens_25m": Format(
        "MovieLens 25M (and 20M, 32M, latest): ratings.csv, --items=movies.csv",
        {
            "user_column": "userId",
            "item_column": "movieId",
            "item_features": ("genres",),
            "item_name_column": "title",
        },
        {"events": TableFormat("ratings.csv"), "items": TableFormat("movies.csv", _GENRE)},
        ("items",),
    ),
    "retailrocket": Format(
        "Retailrocket: events.csv, all events; --items='item_properties_part*.csv'",
        {"user_column": "visitorid", "item_column": "itemid"},
        {
            "events": TableFormat("events.csv", {"timestamp": MadeColumn("timestamp", "milliseconds")}),
            "items": TableFormat(
                "item_properties_part1.csv and part2",
                {"category": MadeColumn("value", "first", (" ",))},
                where=("property", ("categoryid",)),
                latest=("itemid", "timestamp"),
            ),
        },
        ("items",),
        action_column="event",
    ),
    "kuairand": Format(
        "KuaiRand (Pure, 1K, 27K): clicks of 'log_standard_*.csv', --items=video_features_basic_1k.csv, "
        "--users=user_features_1k.csv",
        {
            "item_column": "video_id",
            "item_features": ("author_id", "video_type"),
            "user_features": ("user_active_degree",),
        },
        {
            "events": TableFormat(
                "log_standard_*.csv", {"timestamp": MadeColumn("time_ms", "milliseconds")}, where=("is_click", ("1",))
            ),
            "items": TableFormat("video_features_basic_*.csv", {"category": MadeColumn("tag", "first", (",",))}),
            "users": TableFormat("user_features_*.csv"),
        },
        ("items",),
    ),
    "lastfm_1k": Format(
        "Last.fm 1K: userid-timestamp-artid-artname-traid-traname.tsv; an item is an artist's track with an id, its "
        "category the artist; --users=userid-profile.tsv",
        {
            "quotes": False,
            "column_names": ("user_id", "timestamp", "artist_id", "artist", "track_id", "track"),
            "users_column_names": ("user_id", "gender", "age", "country", "registered"),
            "item_column": "track_id",
            "item_name_column": "track",
            "context": "artist",
            "user_features": ("gender", "country"),
        },
        {
            "events": TableFormat("userid-timestamp-artid-artname-traid-traname.tsv", where=("track_id", ())),
            "users": TableFormat("userid-profile.tsv"),
        },
    ),
    "yoochoose": Format(
        "Yoochoose, RecSys Challenge 2015: yoochoose-clicks.dat; a session is a user",
        {"delimiter": ",", "column_names": ("user_id", "timestamp", "item_id", "shown_category")},
        {
            "events": TableFormat(
                "yoochoose-clicks.dat",
                {"category": MadeColumn("shown_category", "listed", tuple(map(str, range(1, 13))))},
            )
        },
    ),
}
"""Formats by name."""

HELP = (
    "A published log, read as it is published: it sets columns, separators, units of time and the rows that count, and "
    f"a flag that is given wins. {'; '.join(f'{name}: {one.about}' for name, one in FORMATS.items())}. docs/data.md "
    "has the table."
)


def with_format(data: Any, given: Mapping[str, Any]) -> Any:
    """A `DataConfig` with the settings of its format under those that are given.

    Args:
      data: of the class `DataConfig`, its defaults or a run's.
      given: settings that were given by flag or by hand.

    Raises:
      UserError: another --dataset, or a table that the format needs is not named.
    """
    name = given.get("format", "")
    if not name:  # a run's own settings have their format's already
        return dataclasses.replace(data, **given)
    chosen = FORMATS[name]
    settings = {"dataset": "event_log", **chosen.settings}
    if not given.get("users", data.users):
        settings.pop("user_features", None)
    if chosen.action_column and (given.get("action_weights") or given.get("target_actions")):
        settings["action_column"] = chosen.action_column
    merged = dataclasses.replace(data, **{**settings, **given})
    if merged.dataset != "event_log":
        raise UserError(f"--format={name} with --dataset={merged.dataset}: a format is of --dataset=event_log")
    for table in ("events", *chosen.needs):
        if not getattr(merged, table) and not merged.data:
            raise UserError(f"--format={name} needs --{table}={chosen.tables[table].file}")
    if merged.users and "users" not in chosen.tables:
        raise UserError(f"--format={name} has no users table: leave out --users={merged.users}")
    return merged


def table_format(name: str, table: str, action_column: str = "") -> TableFormat | None:
    """What the format `name` ("": none) says of a table; with its actions, all of them count."""
    described = FORMATS[name].tables.get(table) if name else None
    if described and table == "events" and described.where and described.where[0] == action_column:
        return described._replace(where=None)
    return described
