"""CPU time of one request by part, alongside the plain design, in one run and on one thread.

  python benchmarks/bench_request.py --run_dir=runs/demo --output=results/bench_request.json

A finished run is exported with signatures that stop early; a fresh process with one thread loads it as the server does
and asks each in turn, so that a part costs what its signature takes longer than the one before:

  history     look-up of ids, sums over the history by category, interest features
  interest    the learned interest score and the choice of interests
  encoder     hard search of the chosen categories, tokens, user tower
  search      index, merge, explanation
  json        the request's body to arrays and the answer to a body, in the server's code

`ours` is the request that names no number of interests: the export's default. `ours_fixed` is the same request with
--bench_interests, asked in turn with it; `default_over_fixed` is their ratio, and `interests` how many the default
searched on average.

`plain` is numpy and Python around the same user tower padded to L: eq. 3 instead of the learned score, one TFRS layer
per category (ScaNN with TFRS's own settings from 100 items on), lists merged by score; no repeat logit, no explanation,
one request after another. It searches the --bench_interests categories that ours drew. `plain_reordered` has layers of
more effort.
Histories are generated: each user takes items of his own 2,000, unequally often, over two years. Freed memory is kept,
and oneDNN is off, as in the server. Ratios are taken round by round, in a process where ours and the plain design are
asked in turn.
"""

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import plain_design
from absl import flags as absl_flags
from fresh_process import AS_SERVED, ONE_THREAD, ask_in_fresh_process

from longretriever_tf.config import flags
from longretriever_tf.config.config import Config, load_config
from longretriever_tf.serving.server import memory

_RUN_DIR = absl_flags.DEFINE_string("run_dir", "runs/demo", "Run directory of a finished training.")
_HISTORY = absl_flags.DEFINE_integer("bench_history", 20_000, "T: events per history.", lower_bound=1)
_BATCHES = absl_flags.DEFINE_list("bench_batches", ["1", "32"], "B: histories per request.")
_INTERESTS = absl_flags.DEFINE_integer(
    "bench_interests", 20, "N: interests of the request beside the default one, the best.", lower_bound=1
)
_ROUNDS = absl_flags.DEFINE_integer("bench_rounds", 15, "Rounds; the median counts.", lower_bound=1)
_KINDS = absl_flags.DEFINE_list("bench_plain", ["plain", "plain_reordered"], "Plain designs to measure.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Also write the JSON there.")
_TOP = 20
_PARTS = ("history", "interest", "encoder", "search")


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    del argv
    from longretriever_tf.common.files import write_text_atomically
    from longretriever_tf.common.provenance import describe_origin
    from longretriever_tf.data.search.behavior_index import max_sliced

    config = load_config(_RUN_DIR.value)
    # Of a run of before it was the default, too: what is measured is today's default request.
    retrieval = dataclasses.replace(config.retrieval, num_interests=0)
    config = dataclasses.replace(config, retrieval=retrieval)
    facts = describe_origin("python benchmarks/bench_request.py", 1) | {"threads": 1, "unit": "CPU ms per history"}
    with tempfile.TemporaryDirectory() as folder:
        facts |= _save(config, folder)
        sizes = list(map(int, _BATCHES.value))
        plan = {"batches": sizes, "length": _HISTORY.value, "fixed": _INTERESTS.value, "rounds": _ROUNDS.value}
        plan["max_events"] = max_sliced(config.model)
        environment = ONE_THREAD | AS_SERVED | {name: str(value) for name, (_, value) in memory.SETTINGS.items()}
        ours = ask_in_fresh_process("bench_request", "ours", folder, plan, environment=environment)
        for kind in _KINDS.value:
            _save_layers(kind, folder, np.load(os.path.join(folder, "drawn.npy")))
            ours[kind] = ask_in_fresh_process("bench_request", "plain", folder, plan, environment=environment)
    facts |= plan | ours | {"load_average": os.getloadavg()[0]}
    for size in map(str, sizes):
        one = facts["ours"][size]
        parts = "  ".join(f"{name} {ms:.2f}" for name, ms in one.items())
        print(f"B={size:3s} CPU ms per history, default ({facts['interests'][size]:.0f} interests): {parts}")
        parts = "  ".join(f"{name} {ms:.2f}" for name, ms in facts["ours_fixed"][size].items())
        print(f"      {plan['fixed']} interests: {parts}; default over it: {facts['default_over_fixed'][size]:.2f}")
        for kind in _KINDS.value:
            times, recall = facts[kind][size], facts[kind]["recall"]
            print(
                f"      {kind} {times['plain']:.2f} (recall {recall:.3f}), alongside it ours {times['ours']:.2f}: "
                f"ratio {times['ratio']:.2f}"
            )
    print(json.dumps(facts, indent=2))
    if _OUTPUT.value:
        write_text_atomically(_OUTPUT.value, json.dumps(facts, indent=2) + "\n")


def _save(config: Config, folder: str) -> dict[str, Any]:
    """Saves the model with a signature per part, and the tower alone; returns the sizes."""
    import tensorflow as tf

    from longretriever_tf.data.corpus import save_corpus
    from longretriever_tf.models.build import load_for_export
    from longretriever_tf.retrieval.multi_context import MultiContextRetriever
    from longretriever_tf.retrieval.signatures import make_signatures

    corpus, arrays, models = load_for_export(config)
    model = MultiContextRetriever(config, corpus, models.retriever, models.interest, arrays)
    model.encode_padded = _padded_tower(model, config)
    whole = make_signatures(model, config.retrieval)["serving_default"]
    tf.saved_model.save(model, os.path.join(folder, "model"), signatures=_parts(model, config) | {"search": whole})
    save_corpus(corpus, os.path.join(folder, "corpus.npz"))
    every = tf.range(corpus.num_items)
    np.savez(os.path.join(folder, "items.npz"), *(part.numpy() for part in model.index.rows(every)))
    sizes = np.diff(corpus.category_offset)[2:]
    return {"items": int(sizes.sum()), "categories": len(sizes), "largest": int(sizes.max()), "run_dir": _RUN_DIR.value}


def _parts(model: Any, config: Config) -> dict[str, Any]:
    """Signatures that stop early; what a part makes is returned, so that nothing of it is pruned."""
    import tensorflow as tf

    from longretriever_tf.retrieval.request_options import default_columns

    def flat(**parts: Any) -> dict[str, tf.Tensor]:
        leaves = {name: tf.nest.flatten(part) for name, part in parts.items()}
        return {f"{name}_{number}": leaf for name, many in leaves.items() for number, leaf in enumerate(many)}

    def requests(at: dict[str, tf.Tensor]) -> Any:
        missing = [tf.fill(tf.shape(at["request_timestamp"]), "")] * len(model.profile_names)
        return model.look_up(*history(at), missing)

    def history(at: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        return [at[name] for name in ("history_item_id", "history_timestamp", "history_weight", "request_timestamp")]

    def choose(at: dict[str, tf.Tensor]) -> tuple[Any, Any]:
        asked = requests(at)
        return asked, model.choose(asked, model.read_options(at, tf.shape(at["request_timestamp"])[0]))

    def encode(at: dict[str, tf.Tensor]) -> Any:
        asked, chosen = choose(at)
        where = tf.where(chosen.is_real)
        row, category = tf.cast(where[:, 0], tf.int32), tf.gather_nd(chosen.category, where)
        return asked, chosen, model.encode(asked, row, category)

    bodies: dict[str, Callable[[dict[str, tf.Tensor]], Any]] = {
        "history": lambda at: model.read(*history(at)),
        "interest": choose,
        "encoder": encode,
    }
    options = default_columns(config.retrieval, model.item_id_dtype)
    kinds = {"history_item_id": ([None, None], model.item_id_dtype), "history_timestamp": ([None, None], tf.int64)}
    kinds |= {"request_timestamp": ([None], tf.int64), "seed": ([None], tf.int64)}
    kinds |= {name: ([None], tf.int32) for name in ("k", "num_interests", "top_interests")}
    kinds |= {"interest_threshold": ([None], tf.float32)}
    specs = [tf.TensorSpec(*kind, name) for name, kind in kinds.items()]

    def make(body: Callable[[dict[str, tf.Tensor]], Any]) -> Any:
        return tf.function(
            lambda *given: flat(out=body(options | dict(zip(kinds, given, strict=True)))), input_signature=specs
        )

    return {name: make(body) for name, body in bodies.items()}


def _padded_tower(model: Any, config: Config) -> Any:
    """Events of N subsequences -> e_u, [N, D]: tokens and tower of the model, every row padded to L."""
    import tensorflow as tf

    from longretriever_tf.data.recipe.tokens import make_tokens
    from longretriever_tf.data.search.hard_search import Events
    from longretriever_tf.models.towers import UserInputs

    def encode(
        item: tf.Tensor, age: tf.Tensor, length: tf.Tensor, count: tf.Tensor, category: tf.Tensor, activity: tf.Tensor
    ) -> tf.Tensor:
        num = tf.size(length)
        row = tf.repeat(tf.range(num), length)
        events = Events(row, item, age, tf.ones_like(age))
        everyone = tf.repeat(activity[None], num, 0)
        tokens = make_tokens(config.model, events, count, model._item_stats, tf.zeros([num], tf.int32), everyone)
        pad = config.model.max_length - tf.shape(tokens.item)[1]
        items, features = tf.pad(tokens.item, [[0, 0], [0, pad]]), tf.pad(tokens.features, [[0, 0], [0, pad], [0, 0]])
        profile = tf.zeros([num, len(model.profile_names)], tf.int32)
        history_embedding = tf.zeros([num, config.model.svd_dim if config.model.reads_history_embedding else 0])
        vectors = tf.gather(model._token_vectors, items)
        inputs = UserInputs(vectors, items > 0, features, category, profile, history_embedding)
        return model._user_tower(inputs).embedding

    def spec(name: str, dtype: tf.DType) -> tf.TensorSpec:
        return tf.TensorSpec([None], dtype, name)

    specs = [spec("item", tf.int32), spec("age", tf.float32), spec("length", tf.int64), spec("count", tf.int64)]
    return tf.function(encode, input_signature=[*specs, spec("category", tf.int32), spec("activity", tf.float32)])


def _save_layers(kind: str, folder: str, drawn: np.ndarray) -> None:
    """A layer per drawn category: the others cost a request nothing, and minutes to build."""
    from longretriever_tf.data.corpus import load_corpus

    with np.load(os.path.join(folder, "items.npz")) as stored:
        vectors, bias = (stored[name] for name in stored.files)
    offset = load_corpus(os.path.join(folder, "corpus.npz")).category_offset
    plain_design.save_layers(kind, vectors, bias, offset, os.path.join(folder, "plain"), np.unique(drawn).tolist())


def ask(side: str, folder: str, plan: Mapping[str, Any]) -> None:
    """What the fresh process does for "ours" or "plain"."""
    (_ask_ours if side == "ours" else _ask_plain)(folder, plan)


def _ask_ours(folder: str, plan: Mapping[str, Any]) -> None:
    """Times each signature and the JSON around the last; keeps what was drawn; prints JSON."""
    from longretriever_tf.data.corpus import load_corpus
    from longretriever_tf.serving.server.loaded import LoadedModel

    corpus = load_corpus(os.path.join(folder, "corpus.npz"))
    model = LoadedModel("bench", 1, os.path.join(folder, "model"))
    facts: dict[str, Any] = {name: {} for name in ("ours", "ours_fixed", "default_over_fixed", "interests")}
    for size in plan["batches"]:
        took, answers = {}, {}
        for name, num in (("ours", 0), ("ours_fixed", plan["fixed"])):
            feeds = _columns(corpus, model.signatures["search"], _histories(corpus, size, plan["length"]), num)
            steps = {part: _caller(model, part, feeds) for part in _PARTS}
            answers[name] = steps["search"]()
            steps |= _json_steps(model, feeds, answers[name])
            took |= {(name, step): call for step, call in steps.items()}
        took = _interleaved(took, plan["rounds"])
        for name in answers:
            mine = {step: ms for (whose, step), ms in took.items() if whose == name}
            parts = {"history": mine["history"]}
            parts |= {part: mine[part] - mine[before] for before, part in zip(_PARTS, _PARTS[1:], strict=False)}
            parts |= {"model": mine["search"], "json_decode": mine["decode"], "json_encode": mine["encode"]}
            facts[name][str(size)] = {part: float(np.median(ms)) / size for part, ms in parts.items()}
        ratio = np.median(took["ours", "search"] / took["ours_fixed", "search"])
        facts["default_over_fixed"][str(size)] = float(ratio)
        facts["interests"][str(size)] = float(answers["ours"]["num_interests_drawn"].mean())
    order = np.argsort(corpus.category_name[2:])
    names = answers["ours_fixed"]["interest_category"].astype(str)
    np.save(os.path.join(folder, "drawn.npy"), 2 + order[np.searchsorted(corpus.category_name[2:][order], names)])
    print(json.dumps(facts))


def _ask_plain(folder: str, plan: Mapping[str, Any]) -> None:
    """Times the plain design and ours in turn, round by round, over the same histories; prints JSON."""
    import longretriever_tf  # noqa: F401, I001 - selects Keras 2 before TensorFlow is imported
    import tensorflow as tf
    import tensorflow_recommenders  # noqa: F401 - registers ScaNN's operations

    from longretriever_tf.data.corpus import load_corpus
    from longretriever_tf.retrieval.index.scann_ops import load_ops
    from longretriever_tf.retrieval.index.scann_tuning import recall_of
    from longretriever_tf.serving.server.loaded import LoadedModel

    load_ops()
    corpus, drawn = load_corpus(os.path.join(folder, "corpus.npz")), np.load(os.path.join(folder, "drawn.npy"))
    model = tf.saved_model.load(os.path.join(folder, "model"))
    layers = plain_design.load_layers(os.path.join(folder, "plain"))
    by_id = 2 + np.argsort(corpus.item_id[2:])
    catalogue = plain_design.Catalogue(corpus.item_id, by_id, corpus.item_category, corpus.num_categories)
    retriever = plain_design.PlainRetriever(catalogue, model.encode_padded, layers, plan["max_events"])
    histories = _histories(corpus, len(drawn), plan["length"])
    with np.load(os.path.join(folder, "items.npz")) as stored:
        vectors, bias = (stored[name] for name in stored.files)
    recall = []
    for user_history, interests in zip(histories, drawn, strict=True):  # warms up, too
        _, embedding = retriever.retrieve(user_history, interests, _TOP)
        for one, vector in zip(interests.tolist(), embedding, strict=True):
            low, high = corpus.category_offset[one : one + 2]
            items = layers[one](np.append(vector, np.float32(1.0))[None])[1].numpy() - low
            k = int(min(plain_design.K, high - low))
            recall.append(recall_of(items[:, :k], (vectors[low:high] @ vector + bias[low:high])[None], k))
    ours = LoadedModel("bench", 1, os.path.join(folder, "model"))
    facts: dict[str, Any] = {"recall": float(np.mean(recall)), "layers": len(layers)}
    for size in plan["batches"]:
        some = [*zip(histories[:size], drawn[:size], strict=True)]
        feeds = _columns(corpus, ours.signatures["search"], histories[:size], plan["fixed"])
        steps = {
            "plain": lambda some=some: [
                retriever.retrieve(user_history, interests, _TOP) for user_history, interests in some
            ],
            "ours": _caller(ours, "search", feeds),
        }
        took = {name: ms / size for name, ms in _interleaved(steps, plan["rounds"]).items()}
        facts[str(size)] = {name: float(np.median(ms)) for name, ms in took.items()}
        facts[str(size)]["ratio"] = float(np.median(took["plain"] / took["ours"]))
    print(json.dumps(facts))


def _histories(corpus: Any, size: int, length: int) -> list[plain_design.RawHistory]:
    """Made-up histories, the same for every batch size: history r is a function of r alone."""
    known = corpus.item_id[2 : corpus.num_offered]
    histories = []
    for row in range(size):
        rng = np.random.default_rng([1, row])
        own = rng.choice(known, 2000)
        items = own[np.minimum(rng.zipf(1.2, length), len(own)) - 1]
        times = np.sort(corpus.cut - rng.integers(1, 730 * 86_400, length))
        histories.append(plain_design.RawHistory(items, times, int(corpus.cut)))
    return histories


def _columns(
    corpus: Any, signature: Any, histories: list[plain_design.RawHistory], interests: int
) -> dict[str, np.ndarray]:
    def numbers(value: int, dtype: type = np.int32) -> np.ndarray:
        return np.full(len(histories), value, dtype)

    return dict(signature.defaults) | {
        "history_item_id": np.stack([user_history.item_id for user_history in histories]),
        "history_timestamp": np.stack([user_history.timestamp for user_history in histories]),
        "request_timestamp": np.array([user_history.as_of for user_history in histories]),
        **{name: np.full(len(histories), b"", object) for name in set(signature.inputs) & set(corpus.profile_values)},
        "num_interests": numbers(interests),
        "top_interests": numbers(_TOP),
        "k": numbers(plain_design.K),
        "seed": numbers(1, np.int64),
    }


def _caller(model: Any, name: str, feeds: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    signature = model.signatures[name]
    inputs = {one: feeds[one] for one in signature.inputs}
    return lambda: model.run(signature, inputs)


def _json_steps(model: Any, feeds: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray]) -> dict[str, Callable]:
    from longretriever_tf.serving.server.json_replies import write_columns
    from longretriever_tf.serving.server.json_requests import parse_predict

    def plain(array: np.ndarray) -> Any:
        return np.vectorize(bytes.decode, [object])(array).tolist() if array.dtype == object and array.size else array

    inputs = {name: np.asarray(plain(array)).tolist() for name, array in feeds.items()}
    body = json.dumps({"inputs": inputs}, separators=(",", ":")).encode()
    dtypes = {name: spec.dtype for name, spec in model.signatures["search"].inputs.items()}
    return {"decode": lambda: parse_predict(body, lambda name: dtypes), "encode": lambda: write_columns(answer)}


def _interleaved(steps: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, np.ndarray]:
    """CPU ms of every step in every round: [rounds] each, so that steps of one round can be subtracted."""
    for step in steps.values():
        step(), step()
    took: dict[Any, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            took[name].append(1000 * (time.process_time() - start))
    return {name: np.array(ms) for name, ms in took.items()}


if __name__ == "__main__":
    flags.run_command(main)
