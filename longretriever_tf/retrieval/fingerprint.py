"""What tells one set of towers from another, and one catalogue from another.

Item vectors mean something only to the user tower that was trained with them. Every export carries the fingerprint of
its towers: in `assets.extra/fingerprint.json` for people and tools, and in the model itself, once in the graph and once
among the variables, so that files of two versions which were mixed up refuse their warm-up request and are not served.
"""

import dataclasses
import hashlib
import json
import os

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import write_text_atomically
from longretriever_tf.common.text import is_text
from longretriever_tf.config.config import Config
from longretriever_tf.config.former import by_former_names
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.own_correction import correction_of
from longretriever_tf.data.recipe.score_weights import PLAIN, weights_of
from longretriever_tf.models.build import Models
from longretriever_tf.retrieval.admission import require

FINGERPRINT_FILE = "fingerprint.json"
_LENGTH = 32


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Hexadecimal hashes, and how old the statistics are.

    Attributes:
      towers: of the trained weights, the vocabularies and the model's configuration; a refresh keeps it.
      items: of the catalogue: ids, categories, features, which of them are retired.
      statistics_as_of: the statistics of items and categories count events before it, seconds UTC: the run's cut, or
        what a refresh with --events makes of it. 0 in exports older than this field.
      later_events: names of the events beyond the run's log that these count; they lie in the run directory
        (`data.later_events`).
      generation: of the towers: 1 for a training from the start, one more for each warm start since.
    """

    towers: str
    items: str
    statistics_as_of: int = 0
    later_events: tuple[str, ...] = ()
    generation: int = 1


UNSTAMPED = Fingerprint("", "")
"""Of a model that was built by hand; no refresh takes it up."""


def fingerprint_towers(config: Config, corpus: Corpus, models: Models, arrays: dict[str, np.ndarray]) -> str:
    """Hash of all that a run learned, read from its own tables: equal for equal weights, on any machine."""
    model_settings = by_former_names(dataclasses.asdict(config.model))  # exports of 0.1.0 keep their fingerprint
    if not config.model.action_counts:  # as those of before there were actions
        del model_settings["action_counts"]
    if not config.model.request_features:  # as do those of before there were any
        del model_settings["request_features"], model_settings["timezone_offset_hours"]
    digest = hashlib.sha256(json.dumps(model_settings, sort_keys=True).encode())
    vocabularies = {"category": corpus.category_name, **corpus.feature_values, **corpus.profile_values}
    vocabularies |= {f"event {name}": values for name, values in corpus.event_values.items()}
    for name, values in vocabularies.items():
        _add(digest, name, values)
    for name, edges in corpus.feature_edges.items():
        _add(digest, f"edges of {name}", edges)
    for part, model in (("retriever", models.retriever), ("interest", models.interest)):
        for number, variable in enumerate(model.variables):  # by position: Keras numbers names anew in each process
            _add(digest, f"{part}/{number}", variable.numpy())
    for name in ("item_svd", "taste_rows"):
        _add(digest, name, arrays[name])
    if (weights := weights_of(arrays.get("score_weights"))) != PLAIN:  # others keep the fingerprint that they had
        # A run of before takers were weighed keeps its own, too.
        _add(digest, "score_weights", np.array(weights if weights.takers else weights[:-1]))
    if (own := correction_of(arrays.get("own_correction"))) is not None:
        _add(digest, "own_correction", own.to_array())
    return digest.hexdigest()[:_LENGTH]


def fingerprint_items(corpus: Corpus) -> str:
    """Hash of a catalogue."""
    digest = hashlib.sha256()
    for name in ("item_id", "item_category", "item_feature", "category_offset"):
        _add(digest, name, getattr(corpus, name))
    return digest.hexdigest()[:_LENGTH]


def write_fingerprint(directory: str, fingerprint: Fingerprint) -> None:
    """Writes fingerprint.json into `assets.extra`."""
    text = json.dumps(dataclasses.asdict(fingerprint), indent=2) + "\n"
    write_text_atomically(os.path.join(directory, FINGERPRINT_FILE), text)


def read_fingerprint(directory: str) -> Fingerprint:
    """Reads fingerprint.json from `assets.extra`.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = os.path.join(directory, FINGERPRINT_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            stored = Fingerprint(**json.load(file))
            return dataclasses.replace(stored, later_events=tuple(stored.later_events))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): which towers made this version is not known; export again"
        ) from error


def check_fingerprint(stored: tf.Variable, graph: Fingerprint, expected: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The fingerprints of the towers and of the items, [n] string each, in the graph.

    Fails with InvalidArgument where the variables are not those of this graph (files of two versions were mixed), or
    where an element of `expected` is neither "" nor the towers' fingerprint.

    Args:
      stored: the fingerprints of towers and items among the variables, [2] string.
      graph: the same ones as of the graph.
      expected: [n] string.
    """
    loaded, constant = stored.read_value(), tf.constant([graph.towers, graph.items])
    says = "the variables are not those of this saved_model.pb: fingerprints"
    whole = require(tf.reduce_all(loaded == constant), says, loaded, "and", constant)
    is_known = tf.reduce_all((expected == "") | (expected == constant[0]))
    fits = require(is_known, "these towers have the fingerprint", constant[0], "; expected was", expected)
    with tf.control_dependencies(whole + fits):
        return tf.fill(tf.shape(expected), loaded[0]), tf.fill(tf.shape(expected), loaded[1])


def _add(digest: "hashlib._Hash", name: str, values: np.ndarray) -> None:
    digest.update(f"{name}{values.shape}".encode())
    if is_text(values):
        digest.update("\0".join(values.tolist()).encode())  # not its bytes: they depend on the longest value
    else:
        digest.update(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes())
