"""The weights of an earlier run in the tables of a grown corpus, and the moments of its optimizers."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.row_keys import CorpusGrowth, RowSource
from longretriever_tf.models.build import Models
from longretriever_tf.models.optimizer import LazyAdamW


class GrownVariable(NamedTuple):
    """A variable of the earlier models, the same one of the grown models, and where its rows come from; None: as is."""

    earlier: tf.Variable
    grown: tf.Variable
    source: RowSource | None


def grow_models(
    earlier: Models, earlier_corpus: Corpus, grown: Models, corpus: Corpus, growth: CorpusGrowth
) -> list[GrownVariable]:
    """Assigns the weights of the earlier models to the grown ones; returns what became of each variable.

    Tables with a row for each item, category or value grow by `growth`; all other weights are taken as they are.

    Args:
      earlier: as trained.
      earlier_corpus: its corpus.
      grown: of the same settings, for `corpus`.
      corpus: the grown corpus.
      growth: of the one into the other.
    """
    pairs = list(_pair_variables(earlier, earlier_corpus, grown, corpus, growth))
    for pair in pairs:
        value = pair.earlier.numpy()
        pair.grown.assign(value if pair.source is None else pair.source.grow(value))
    return pairs


def grow_moments(pairs: list[GrownVariable], earlier: LazyAdamW, grown: LazyAdamW) -> None:
    """Assigns an optimizer's moments of the earlier variables to those of the grown ones; new rows have none.

    Args:
      pairs: from `grow_models`.
      earlier: built for some of the earlier variables.
      grown: built for the same ones of the grown models; the others keep what they have.
    """
    known = {id(variable) for variable in earlier.trained_variables}
    wanted = {id(variable) for variable in grown.trained_variables}
    for pair in pairs:
        if id(pair.earlier) in known and id(pair.grown) in wanted:
            for source, target in zip(earlier.moments(pair.earlier), grown.moments(pair.grown), strict=True):
                value = source.numpy()
                target.assign(value if pair.source is None else pair.source.grow_zeros(value))


def _pair_variables(
    earlier: Models, earlier_corpus: Corpus, grown: Models, corpus: Corpus, growth: CorpusGrowth
) -> Iterator[GrownVariable]:
    """All variables of both models, tables by what their rows are of."""
    tables, grown_tables = _tables(earlier, earlier_corpus), _tables(grown, corpus)
    sources = {"items": growth.items, "categories": growth.categories}
    sources |= {f"feature/{name}": source for name, source in growth.features.items()}
    sources |= {f"profile/{name}": source for name, source in growth.profiles.items()}
    sources |= {f"event/{name}": source for name, source in growth.events.items()}
    for key, table in tables.items():
        yield GrownVariable(table, grown_tables[key], sources[key[1]])
    rest, grown_rest = (_without(models, found) for models, found in ((earlier, tables), (grown, grown_tables)))
    for one, other in zip(rest, grown_rest, strict=True):
        yield GrownVariable(one, other, None)


def _tables(models: Models, corpus: Corpus) -> dict[tuple[str, str], tf.Variable]:
    """Variables with a row for each key of a vocabulary, by (place, vocabulary)."""
    items, users, interest = models.retriever.item_tower, models.retriever.user_tower, models.interest
    tables = {
        ("bias", "items"): items.bias,
        ("id", "items"): items.id_table,
        ("items", "categories"): items.category_table,
        ("users", "categories"): users.category_table,
        **{("interest", "categories"): interest.category_table, ("bag", "categories"): interest.bag_kernel},
    }
    for name, table in zip(corpus.feature_values, items.feature_tables, strict=True):
        tables["items", f"feature/{name}"] = table
    for name, table in zip(corpus.profile_values, users.profile_tables, strict=False):  # none without --profile
        tables["users", f"profile/{name}"] = table
    for name, table in zip(corpus.event_values, users.request_tables, strict=False):  # those of the time come after
        tables["users", f"event/{name}"] = table
    return {key: table for key, table in tables.items() if table is not None}


def _without(models: Models, tables: Mapping[tuple[str, str], tf.Variable]) -> list[tf.Variable]:
    """The variables that are no such table."""
    found = {id(table) for table in tables.values()}
    variables = [*models.retriever.variables, *models.interest.variables]
    return [variable for variable in variables if id(variable) not in found]
