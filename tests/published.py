"""Small made files in the layout of published logs: names, headers or none, separators, encodings, units of time."""

import gzip
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

START = 1_511_000_000
DAYS, NUM_USERS, PER_USER, NUM_ITEMS, NUM_CATEGORIES = 150, 24, 30, 12, 3


class Event(NamedTuple):
    """An event that counts: user and item from 0, seconds since 1970."""

    user: int
    item: int
    second: int


def made_events() -> list[Event]:
    """Distinct seconds, so that no two events become one."""
    rng = np.random.default_rng(5)
    seconds = START + np.sort(rng.choice(DAYS * 86_400, NUM_USERS * PER_USER, replace=False))
    return [Event(row % NUM_USERS, int(rng.integers(NUM_ITEMS)), int(at)) for row, at in enumerate(seconds.tolist())]


def category_of(item: int) -> int:
    return item % NUM_CATEGORIES


def _iso(second: int, tail: str = "Z") -> str:
    return str(np.datetime64(second, "s")) + tail


def _text(path: pathlib.Path, lines: Iterator[str] | list[str], encoding: str = "utf-8") -> str:
    path.write_text("".join(line + "\n" for line in lines), encoding=encoding)
    return str(path)


def _json_lines(path: pathlib.Path, rows: list[dict[str, Any]]) -> str:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


TAOBAO_START = 1_511_539_200
TAOBAO_OTHERS = ("buy", "cart", "fav")


def taobao_second(event: Event) -> int:
    """Days become hours, within the nine days that the file is of."""
    return TAOBAO_START + (event.second - START) // 24


def taobao(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    lines = [f"{e.user + 100},{e.item + 7},{category_of(e.item) + 50},pv,{taobao_second(e)}" for e in events]
    lines += [f"100,7,50,{kind},{TAOBAO_START + 5}" for kind in TAOBAO_OTHERS]
    lines += [f"100,7,50,pv,{second}" for second in (-2_134_949_234, 2_122_867_355)]  # as the file has some
    return {"events": _text(folder / "UserBehavior.csv", lines)}


def tmall(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    """Days of May to November, without a year; an item once a day."""
    rows = {}
    for e in events:
        day = np.datetime64("2014-05-11") + int((e.second - START) // 86_400)
        rows[e.user, e.item, day] = f"{day.item().month}{day.item().day:02d}"
    lines = ["user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type"]
    lines += [
        f"{user},{item},{category_of(item)},9,{'' if item % 2 else 661},{when},{item % 4}"
        for (user, item, _), when in rows.items()
    ]
    users = ["user_id,age_range,gender", *(f"{user},{'' if user % 3 else 6},{user % 3}" for user in range(NUM_USERS))]
    return {
        "events": _text(folder / "user_log_format1.csv", lines),
        "users": _text(folder / "user_info_format1.csv", users),
    }


def amazon_2023(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    reviews = [
        {
            "rating": 5.0,
            "title": "Täglich",
            "text": 'a, "b"\nc',
            "images": [] if e.item % 2 else [{"small_image_url": "x"}],
            "asin": f"B{e.item:03d}X",
            "parent_asin": f"B{e.item:03d}",
            "user_id": f"AE{e.user:04d}",
            "timestamp": 1000 * e.second + 123,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for e in events
    ]
    meta = [
        {
            "main_category": None if item % 2 else "Books",
            "title": f"Book {item}",
            "average_rating": 4.5,
            "rating_number": 3,
            "features": [],
            "description": ["x"],
            "price": ["from 14.99", None, 3.5][item % 3],
            "images": [],
            "videos": [],
            "store": "S",
            "categories": [] if item == 11 else ["Books", f"Leaf {category_of(item)}"],
            "details": {"Publisher": "P"} if item % 2 else {"Pages": 3},
            "parent_asin": f"B{item:03d}",
            "bought_together": None,
        }
        for item in range(NUM_ITEMS)
    ]
    return {
        "events": _json_lines(folder / "Books.jsonl.gz", reviews),
        "items": _json_lines(folder / "meta_Books.jsonl.gz", meta),
    }


def amazon_2023_csv(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    """The files of ratings alone, beside the same metadata."""
    files = amazon_2023(folder, events)
    lines = ["user_id,parent_asin,rating,timestamp"]
    lines += [f"AE{e.user:04d},B{e.item:03d},5.0,{1000 * e.second + 123}" for e in events]
    return files | {"events": _text(folder / "Books.csv", lines)}


def movielens_1m(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    ratings = [f"{e.user + 1}::{e.item + 1}::4::{e.second}" for e in events]
    movies = [f"{item + 1}::Miséré {item} (1995)::G{category_of(item)}|Drama" for item in range(NUM_ITEMS)]
    users = [f"{user + 1}::{'FM'[user % 2]}::25::10::48067" for user in range(NUM_USERS)]
    return {
        "events": _text(folder / "ratings.dat", ratings),
        "items": _text(folder / "movies.dat", movies, "latin-1"),
        "users": _text(folder / "users.dat", users),
    }


def movielens_25m(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    ratings = ["userId,movieId,rating,timestamp", *(f"{e.user + 1},{e.item + 1},3.5,{e.second}" for e in events)]
    movies = ["movieId,title,genres"]
    movies += [f'{item + 1},"Movie, The {item} (1995)",G{category_of(item)}|Drama' for item in range(NUM_ITEMS - 1)]
    movies += [f"{NUM_ITEMS},Movie (2019),(no genres listed)"]
    return {"events": _text(folder / "ratings.csv", ratings), "items": _text(folder / "movies.csv", movies)}


def retailrocket(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    lines = ["timestamp,visitorid,event,itemid,transactionid"]
    lines += [f"{1000 * e.second + 117},{e.user},{('view', 'addtocart')[e.item % 2]},{e.item}," for e in events]
    parts = [["timestamp,itemid,property,value"] for _ in range(2)]
    for item in range(NUM_ITEMS):
        for week in range(2):  # the first snapshot says another category
            value = category_of(item) if week else 999
            parts[(item + week) % 2] += [
                f"{1000 * START + week},{item},categoryid,{value}",
                f"{1000 * START + week},{item},790,n{item}.000 1164",
            ]
    for number, part in enumerate(parts, 1):
        _text(folder / f"item_properties_part{number}.csv", part)
    return {"events": _text(folder / "events.csv", lines), "items": str(folder / "item_properties_part*.csv")}


def kuairand(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    header = (
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
        "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
    )
    parts: list[list[str]] = [[header], [header]]
    for number, e in enumerate(events):
        for is_click in (1, 0):  # an impression without a click is no event
            second = e.second + 40 * (1 - is_click)
            parts[number % 2] += [
                f"{e.user},{e.item},20220408,1200,{1000 * second + 9},{is_click},0,0,0,0,0,0,5,9,0,0,0,0,1"
            ]
    names = ("log_standard_4_08_to_4_21_1k.csv", "log_standard_4_22_to_5_08_1k.csv")
    for name, part in zip(names, parts, strict=True):
        _text(folder / name, part)
    videos = [
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
        "music_id,music_type,tag"
    ]
    videos += [
        f'{item},{item // 2},NORMAL,2022-04-01,LongImport,public,9.0,720,1280,3,9,"{category_of(item)},62"'
        for item in range(NUM_ITEMS)
    ]
    users = ["user_id,user_active_degree,is_lowactive_period", *(f"{user},full_active,0" for user in range(NUM_USERS))]
    return {
        "events": str(folder / "log_standard_*.csv"),
        "items": _text(folder / "video_features_basic_1k.csv", videos),
        "users": _text(folder / "user_features_1k.csv", users),
    }


def lastfm_1k(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    lines = [
        f'user_{e.user:06d}\t{_iso(e.second)}\tmb-{category_of(e.item)}\tThe "A" {category_of(e.item)}\tmbt-{e.item}\t'
        f"Tráck {e.item}"
        for e in events
    ]
    lines += [f"user_000000\t{_iso(START)}\t\tUnknown\t\tWithout an id"]
    users = ["#id\tgender\tage\tcountry\tregistered"]
    users += [f"user_{user:06d}\t{'mf'[user % 2]}\t\tJapan\tAug 13, 2006" for user in range(NUM_USERS)]
    return {
        "events": _text(folder / "userid-timestamp-artid-artname-traid-traname.tsv", lines),
        "users": _text(folder / "userid-profile.tsv", users),
    }


def yoochoose(folder: pathlib.Path, events: list[Event]) -> dict[str, str]:
    """The category of a click is S, 0, a brand or a real one: an item has many."""
    shown = ("S", "0", "2089046289")
    lines = [
        f"{e.user},{_iso(e.second, '.277Z')},{e.item},"
        f"{shown[number % 4] if number % 4 < 3 else category_of(e.item) + 1}"
        for number, e in enumerate(events)
    ]
    return {"events": _text(folder / "yoochoose-clicks.dat", lines)}


def _plain(number: int) -> int:
    return number


def _plus_one(number: int) -> int:
    return number + 1


Ids = tuple[Callable[[int], Any], Callable[[int], Any], Callable[[int], str]]

LOGS: dict[str, Ids] = {
    "taobao": (lambda user: user + 100, lambda item: item + 7, lambda item: str(category_of(item) + 50)),
    "tmall": (_plain, _plain, lambda item: str(category_of(item))),
    "amazon_2023": (
        "AE{:04d}".format,
        "B{:03d}".format,
        lambda item: "" if item == 11 else f"Leaf {category_of(item)}",
    ),
    "movielens_1m": (_plus_one, _plus_one, lambda item: f"G{category_of(item)}"),
    "movielens_25m": (
        _plus_one,
        _plus_one,
        lambda item: "(no genres listed)" if item == NUM_ITEMS - 1 else f"G{category_of(item)}",
    ),
    "retailrocket": (_plain, _plain, lambda item: str(category_of(item))),
    "kuairand": (_plain, _plain, lambda item: str(category_of(item))),
    "lastfm_1k": ("user_{:06d}".format, "mbt-{}".format, lambda item: f'The "A" {category_of(item)}'),
    "yoochoose": (_plain, _plain, lambda item: str(category_of(item) + 1)),
}
"""Per format: the ids of a user and of an item, and an item's category."""

WRITERS: dict[str, Callable[[pathlib.Path, list[Event]], dict[str, str]]] = {
    "taobao": taobao,
    "tmall": tmall,
    "amazon_2023": amazon_2023,
    "amazon_2023_csv": amazon_2023_csv,
    "movielens_1m": movielens_1m,
    "movielens_25m": movielens_25m,
    "retailrocket": retailrocket,
    "kuairand": kuairand,
    "lastfm_1k": lastfm_1k,
    "yoochoose": yoochoose,
}
"""By format; a name with `_csv` is the same format in its other files."""
