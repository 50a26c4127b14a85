"""The SavedModel's signatures: named columns, optional ones with defaults, around `MultiContextRetriever`.

Columns suit REST `instances` and `inputs` alike: dense, right-padded, the first dimension the request. An optional
column holds one value per request, or one for all of them.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from longretriever_tf.common.graph import graph_function
from longretriever_tf.config.config import RetrievalConfig
from longretriever_tf.data.search.request_history import tells_targets
from longretriever_tf.retrieval.admission import admit, admit_interests
from longretriever_tf.retrieval.bandit import draw_interest_scores
from longretriever_tf.retrieval.explain import explain_interests
from longretriever_tf.retrieval.fingerprint import check_fingerprint
from longretriever_tf.retrieval.interests import Interests
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.request_options import (
    MAX_WEIGHT,
    RequestOptions,
    check_actions,
    check_history,
    default_columns,
)
from longretriever_tf.retrieval.requests import Requests, Subsequences

Columns = Mapping[str, tf.Tensor]
Specs = dict[str, tf.TensorSpec]
Body = Callable[[MultiContextRetriever, Columns], dict[str, tf.Tensor]]
Answer = Callable[[MultiContextRetriever, Columns, Requests, RequestOptions], dict[str, tf.Tensor]]


def make_signatures(
    model: MultiContextRetriever, retrieval: RetrievalConfig
) -> dict[str, tf.types.experimental.GenericFunction]:
    """All signatures by name; `serving_default` answers with the merged list.

    serving_default, interests: history_item_id [B, T], history_timestamp [B, T] int64 seconds (0: padding),
      request_timestamp [B], one [B] string column per profile feature that the towers read (`input_names` says what it
      is called); optional: `request_options.default_columns`, a [B] string column per --event_features among them.
    top_k: the same question with k [B] int32 and no other options, all of its inputs required.
    retrieve_in_category, user_embeddings: the history columns and category [B] string (retrieve_in_category: also the
      optional ones).
    interest_embeddings: the columns of `interests`; one vector per chosen interest, for a search outside this model.
    item_embeddings: item_id [n].
    fingerprint: expected [n] string, "" or the towers' fingerprint that the caller's vectors come from; tells also
      until when the statistics of items count (statistics_as_of [n] int64): they stay as ages move on.

    Every answer to a history tells it too, as `statistics_as_of` [B].

    A call is checked before anything is computed for it (`admission`). Answers tell what a request names and the model
    does not know: unknown_category [B, U], num_unknown_excluded [B], num_unknown_items [B] (events of the history).
    """
    model = _trace_once(model)
    defaults = default_columns(retrieval, model.item_id_dtype, model.actions is not None, model.event_names)
    history = {
        "history_item_id": tf.TensorSpec([None, None], model.item_id_dtype),
        "history_timestamp": tf.TensorSpec([None, None], tf.int64),
        "request_timestamp": tf.TensorSpec([None], tf.int64),
        **{name: tf.TensorSpec([None], tf.string) for name in model.profile_names},
    }
    category = {"category": tf.TensorSpec([None], tf.string)}
    item = {"item_id": tf.TensorSpec([None], model.item_id_dtype)}
    # TensorFlow Serving's REST reader wants every input, defaults or not: a body without options asks this signature.
    k = {"k": tf.TensorSpec([None], tf.int32)}
    of_history = ("history_weight", "history_action", *model.event_names)
    weight = {name: value for name, value in defaults.items() if name in of_history}
    one = tf.constant([1])
    asked = _share_question(model, history, defaults)

    def make(
        body: Body, required: Specs, optional: dict[str, tf.Tensor], lists: Callable[[Columns], tf.Tensor] | None = None
    ) -> tf.types.experimental.GenericFunction:
        """A signature whose columns are admitted first; `lists`: how many lists of length k a row asks for."""

        def admitted(at: Columns) -> dict[str, tf.Tensor]:
            return body(model, admit(at, optional, model.bounds, None if lists is None else lists(at)))

        return _make_signature(admitted, required, optional)

    retrieve = make(asked(_retrieve), history, defaults, lambda at: at["num_interests"])
    return {
        "serving_default": retrieve,
        "top_k": make(lambda _, at: retrieve(**at), history | k, {}, lambda _: defaults["num_interests"]),
        "interests": make(asked(_interests), history, defaults),
        "retrieve_in_category": make(asked(_in_category), history | category, defaults, lambda _: one),
        "user_embeddings": make(_user_embeddings, history | category, weight),
        "interest_embeddings": make(asked(_interest_embeddings), history, defaults),
        "item_embeddings": make(_item_embeddings, item, {}),
        "fingerprint": make(_fingerprint, {"expected": tf.TensorSpec([None], tf.string)}, {}),
    }


def _trace_once(model: MultiContextRetriever) -> MultiContextRetriever:
    """The same model, whose `look_up`, `encode` and `choose` are graphs that all who call them share.

    Nearly every signature calls them: traced for each, they were most of the time that an export takes.
    """
    other = copy.copy(model)

    @functools.cache
    def look_up(tells: bool) -> tf.types.experimental.ConcreteFunction:
        with tf.init_scope():
            return model.trace_look_up(tells)

    @functools.cache
    def encode(tells: bool) -> tf.types.experimental.ConcreteFunction:
        pairs = tf.TensorSpec([None], tf.int32)
        requests = tf.nest.map_structure(tf.TensorSpec.from_tensor, look_up(tells).structured_outputs)
        with tf.init_scope():
            return graph_function(model.encode, input_signature=[requests, pairs, pairs]).get_concrete_function()

    def call_look_up(*columns: Any, is_target: tf.Tensor | None = None) -> Requests:
        return look_up(is_target is not None)(*columns, *(() if is_target is None else (is_target,)))

    def call_encode(requests: Requests, row: tf.Tensor, category: tf.Tensor) -> Subsequences:
        return encode(tells_targets(requests.histories.is_target))(requests, row, category)

    choose: list[tf.types.experimental.ConcreteFunction] = []

    def call_choose(*asked: Any) -> Interests:
        if not choose:  # what `_question` gives is of one form
            specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, asked)
            with tf.init_scope():
                choose.append(graph_function(model.choose, input_signature=specs).get_concrete_function())
        return choose[0](*asked)

    other.look_up, other.encode = call_look_up, call_encode  # type: ignore[assignment, method-assign]
    other.choose = call_choose  # type: ignore[assignment, method-assign]
    return other


def _make_signature(
    body: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
    required: Specs,
    optional: dict[str, tf.Tensor],
) -> tf.types.experimental.GenericFunction:
    """A tf.function with named columns: the names differ from model to model, so the signature is built here."""

    def call(*args: Any, **kwargs: Any) -> dict[str, tf.Tensor]:
        return body(dict(zip(required | optional, args, strict=False)) | kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in required]
        + [inspect.Parameter(name, kind, default=value) for name, value in optional.items()]
    )
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in required.items()]
    specs += [tf.TensorSpec([None] * value.shape.rank, value.dtype, name) for name, value in optional.items()]
    traced = graph_function(call, input_signature=specs)

    @functools.cache
    def body_graph() -> tf.types.experimental.ConcreteFunction:
        with tf.init_scope():
            return traced.get_concrete_function()

    # TensorFlow traces a signature once more while it saves it than for a call: this shell, and not all that is in it.
    def shell(*args: Any, **kwargs: Any) -> dict[str, tf.Tensor]:
        return body_graph()(**dict(zip(required | optional, args, strict=False)) | kwargs)

    shell.__signature__ = call.__signature__  # type: ignore[attr-defined]
    return graph_function(shell, input_signature=specs)


def _look_up(model: MultiContextRetriever, at: Columns) -> Requests:
    num = tf.shape(at["request_timestamp"])
    profile = [tf.broadcast_to(at[name], num) for name in (*model.profile_names, *model.event_names)]
    item_id, timestamp, weight = at["history_item_id"], at["history_timestamp"], at["history_weight"]
    is_target = None
    if model.actions is not None:
        # Before the weights are multiplied: a product says neither what was given nor whether that was too much.
        checks = check_history(item_id, timestamp, weight) + check_actions(at["history_action"], item_id)
        with tf.control_dependencies(checks):
            of_action = model.actions.read(at["history_action"])
            weight, is_target = tf.minimum(weight * of_action.weight, MAX_WEIGHT), of_action.is_target
    return model.look_up(item_id, timestamp, weight, at["request_timestamp"], profile, is_target=is_target)


def _question(model: MultiContextRetriever, at: Columns) -> tuple[Requests, RequestOptions]:
    """Requests and what they ask for; shares are drawn where a request asks for a bandit."""
    requests, options = _look_up(model, at), model.read_options(at, tf.shape(at["request_timestamp"])[0])
    interests = draw_interest_scores(requests.interests, options.bandit, options.seed)
    return requests._replace(interests=interests), options


def _share_question(
    model: MultiContextRetriever, required: Specs, optional: dict[str, tf.Tensor]
) -> Callable[[Answer], Body]:
    """Puts `_question` before an answer, in one graph for all signatures: with one for each, exports took longer."""
    specs = required | {name: tf.TensorSpec([None] * value.shape.rank, value.dtype) for name, value in optional.items()}

    @functools.cache
    def graph() -> tf.types.experimental.ConcreteFunction:
        with tf.init_scope():
            return graph_function(lambda at: _question(model, at), input_signature=[specs]).get_concrete_function()

    def asked(answer: Answer) -> Body:
        return lambda model, at: answer(model, at, *graph()({name: at[name] for name in specs}))

    return asked


def _retrieve(
    model: MultiContextRetriever, at: Columns, requests: Requests, options: RequestOptions
) -> dict[str, tf.Tensor]:
    chosen = _choose(model, requests, options)
    return (
        model.retrieve(requests, chosen, options)
        | explain_interests(requests, chosen, model.category_name)
        | _notes(model, requests, options, at)
    )


def _choose(model: MultiContextRetriever, requests: Requests, options: RequestOptions) -> Interests:
    """The interests to encode and to search, once it is known that memory suffices for them."""
    chosen = model.choose(requests, options)
    with tf.control_dependencies(admit_interests(chosen.is_real, options.k, model.bounds)):
        return Interests(*map(tf.identity, chosen))


def _interests(
    model: MultiContextRetriever, at: Columns, requests: Requests, options: RequestOptions
) -> dict[str, tf.Tensor]:
    chosen = model.choose(requests, options)
    return explain_interests(requests, chosen, model.category_name) | _notes(model, requests, options, at)


def _notes(
    model: MultiContextRetriever, requests: Requests, options: RequestOptions, at: Columns
) -> dict[str, tf.Tensor]:
    """What the requests name and the model does not know, and as of when its statistics are."""
    return {
        "statistics_as_of": _as_of(model, requests.count),
        "unknown_category": options.unknown_category,
        "num_unknown_items": requests.histories.num_unknown,
        "num_unknown_excluded": options.num_unknown_excluded,
        **_unknown_actions(model, at),
    }


def _unknown_actions(model: MultiContextRetriever, at: Columns) -> dict[str, tf.Tensor]:
    """`num_unknown_actions` [B], where the model knows of actions."""
    if model.actions is None:
        return {}
    count = model.actions.count_unknown(at["history_action"], at["history_timestamp"], model.is_strict)
    return {"num_unknown_actions": count}


def _in_category(
    model: MultiContextRetriever, at: Columns, requests: Requests, options: RequestOptions
) -> dict[str, tf.Tensor]:
    category, unknown = model.find_category(at["category"])
    pairs = model.encode(requests, tf.range(tf.size(category)), category)
    notes = _notes(model, requests, options, at)
    return {
        **model.retrieve_in_category(pairs, options),
        **notes,
        "unknown_category": tf.concat([unknown[:, None], notes["unknown_category"]], 1),
    }


def _user_embeddings(model: MultiContextRetriever, at: Columns) -> dict[str, tf.Tensor]:
    requests, (category, unknown) = _look_up(model, at), model.find_category(at["category"])
    pairs = model.encode(requests, tf.range(tf.size(category)), category)
    return {
        "embedding": pairs.state.embedding,
        "subsequence_item_id": model.ids_of(pairs.tokens.item),
        "subsequence_boost": pairs.state.repeat_logit,
        "subsequence_length": tf.reduce_sum(tf.cast(pairs.tokens.item > 0, tf.int32), 1),
        "unknown_category": unknown[:, None],
        "num_unknown_items": requests.histories.num_unknown,
        **_unknown_actions(model, at),
    }


def _interest_embeddings(
    model: MultiContextRetriever, at: Columns, requests: Requests, options: RequestOptions
) -> dict[str, tf.Tensor]:
    """The chosen interests with all that a search outside this model needs to score their items.

    embedding [B, N, D]; log_share [B, N]: log p(category | user) for the request's task, which the calibrated merge
    adds; subsequence_item_id and subsequence_boost [B, N, L]: the repeat term, what each of these items gains. Padded
    by zeros; `num_interests_drawn` counts the real interests.
    """
    chosen = _choose(model, requests, options)
    where = tf.where(chosen.is_real)
    pairs = model.encode(requests, tf.cast(where[:, 0], tf.int32), tf.gather_nd(chosen.category, where))

    # Which pair is whose, 0 where there is none. Values themselves are not scattered: without any history n is 0.
    pair = tf.scatter_nd(where, tf.range(1, tf.shape(where)[0] + 1), tf.shape(chosen.category, tf.int64))

    def by_interest(values: tf.Tensor) -> tf.Tensor:
        """[R, n] -> [B, N, n]."""
        return tf.gather(tf.pad(values, [[1, 0], [0, 0]]), pair)

    log_share = tf.gather(model.log_share(requests, options), chosen.category, batch_dims=1)
    return (
        {
            "embedding": by_interest(pairs.state.embedding),
            "log_share": tf.where(chosen.is_real, log_share, 0.0),
            "subsequence_item_id": model.ids_of(by_interest(pairs.tokens.item)),
            "subsequence_boost": by_interest(pairs.state.repeat_logit),
        }
        | explain_interests(requests, chosen, model.category_name)
        | _notes(model, requests, options, at)
    )


def _item_embeddings(model: MultiContextRetriever, at: Columns) -> dict[str, tf.Tensor]:
    vectors, bias = model.item_embedding(at["item_id"])
    return {"embedding": vectors, "bias": bias}


def _fingerprint(model: MultiContextRetriever, at: Columns) -> dict[str, tf.Tensor]:
    towers, items = check_fingerprint(model.stored_fingerprint, model.fingerprint, at["expected"])
    return {"towers": towers, "items": items, "statistics_as_of": _as_of(model, towers)}


def _as_of(model: MultiContextRetriever, rows: tf.Tensor) -> tf.Tensor:
    """Until when the model's statistics of items and categories count, for each row, [n] int64."""
    return tf.fill(tf.shape(rows)[:1], tf.constant(model.fingerprint.statistics_as_of, tf.int64))
