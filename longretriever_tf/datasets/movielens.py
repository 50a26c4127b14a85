"""TFDS's own MovieLens as a lifelong log: a rating is an event, a movie's first genre its context."""

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds

from longretriever_tf.common.text import as_text
from longretriever_tf.datasets import build_log
from longretriever_tf.datasets.event_log.columns import canonical_values
from longretriever_tf.datasets.log import ItemTable, LifelongLog
from longretriever_tf.datasets.tfds_prepare import prepare

CONTEXT = "genre"
_AGES = {1: "Under 18", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56+"}
_BATCH = 4096


def load_movielens(version: str, data_dir: str) -> LifelongLog:
    """The log of a MovieLens version (100k, 1m, 20m, 25m or latest-small); TFDS downloads it when needed.

    Items: movies, with `genre` (the first) and `genres` (all, joined by |). Profile: gender, age and occupation
    where the version has them. Ratings weigh 1 whatever their stars.

    Raises:
      UserError: the download or the data directory fails.
    """
    ratings, genre_names = _read(f"movielens/{version}-ratings", data_dir)
    movies, _ = _read(f"movielens/{version}-movies", data_dir)
    user_id, first, user_row = np.unique(_ids(ratings["user_id"]), return_index=True, return_inverse=True)
    items, item_row = _item_table(ratings, movies, genre_names)
    # TFDS has shuffled the ratings; build_log sorts them.
    events = build_log.RawEvents(user_row, item_row, ratings["timestamp"].astype(np.int64))
    return build_log.build_log(events, user_id, _profile(ratings, first), items, CONTEXT)


def _read(name: str, data_dir: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Columns [N] by name, text as str; `movie_genres` [N] of tuples of genre numbers. And the genres' names."""
    builder = tfds.builder(name, data_dir=data_dir or None)
    prepare(builder, downloads=True)
    parts: dict[str, list[np.ndarray]] = {}
    for batch in builder.as_dataset(split="train").ragged_batch(_BATCH):
        for column, value in batch.items():
            is_sequence = column == "movie_genres"
            array = _tuples(value.to_list()) if is_sequence else value.numpy()
            parts.setdefault(column, []).append(array)
    columns = {column: np.concatenate(arrays) for column, arrays in parts.items()}
    text = {
        column: as_text(array)
        for column, array in columns.items()
        if array.dtype == object and column != "movie_genres"
    }
    return {**columns, **text}, builder.info.features["movie_genres"].feature.names


def _tuples(lists: list[list[int]]) -> np.ndarray:
    tuples = np.empty(len(lists), dtype=object)
    tuples[:] = [tuple(values) for values in lists]
    return tuples


def _ids(column: np.ndarray) -> np.ndarray:
    return canonical_values(pa.array(column.tolist(), pa.string()))


def _item_table(
    ratings: dict[str, np.ndarray], movies: dict[str, np.ndarray], genre_names: list[str]
) -> tuple[ItemTable, np.ndarray]:
    """Rated and unrated movies, and the item row of each rating [E]."""
    raw, title, numbers = (
        np.concatenate([ratings[name], movies[name]]) for name in ("movie_id", "movie_title", "movie_genres")
    )
    item_id, first, row = np.unique(_ids(raw), return_index=True, return_inverse=True)
    genres = [[genre_names[number] for number in item_numbers] for item_numbers in numbers[first]]
    features = {
        "genre": as_text(names[0] if names else "" for names in genres),
        "genres": as_text("|".join(names) for names in genres),
    }
    return ItemTable(item_id, features, title[first]), row[: len(ratings["movie_id"])]


def _profile(ratings: dict[str, np.ndarray], first: np.ndarray) -> dict[str, np.ndarray]:
    """Profile columns [U] of str from the first rating of each user."""
    profile = {}
    if "user_gender" in ratings:
        profile["gender"] = as_text("male" if is_male else "female" for is_male in ratings["user_gender"][first])
    if "bucketized_user_age" in ratings:
        ages = ratings["bucketized_user_age"][first].astype(int).tolist()
        profile["age"] = as_text(_AGES.get(age, str(age)) for age in ages)
    if "user_occupation_text" in ratings:
        profile["occupation"] = ratings["user_occupation_text"][first]
    return profile
