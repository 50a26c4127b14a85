"""An export by category ranges answers as one SavedModel does, by the client and by curl; and what it says when not."""

import contextlib
import json
import pathlib

import numpy as np
import pytest
from serving_clients import call, free_ports, serving
from sharded_worlds import CUT, NUM_SHARDS, Exports, make_exports

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.retrieval.merge import MERGES
from longretriever_tf.serving.client import CallError, Client, ClientOptions, Request
from longretriever_tf.serving.server import config_files

TOLERANCE = 2e-5
"""Of scores: a log-partition is summed up in another order where lists of other lengths are padded."""
PATIENT = ClientOptions(timeout_s=600)
MISSING = {"missing_shard", "missing_category"}


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Exports:
    return make_exports("text", tmp_path_factory.mktemp("text"))  # integers as well take twice the time


def place(directory: pathlib.Path, addresses: list[str], router: str = "127.0.0.1:1", timeout_s: float = 600.0) -> str:
    """A shards file with these addresses; the usual timeout is too short for a busy machine."""
    shards = [{"model": f"longretriever-shard-{n}", "address": address} for n, address in enumerate(addresses)]
    path = directory / "shards.json"
    places = {"router": {"model": "longretriever-router", "address": router}, "shards": shards, "timeout_s": timeout_s}
    path.write_text(json.dumps(places))
    return str(path)


@contextlib.contextmanager
def served_in_shards(sharded: pathlib.Path, directory: pathlib.Path):
    """A server of everything, and one of the router that asks the first; the client's file, and the second server."""
    models = config_files.read_models(str(sharded / "models.config"))
    with serving(models) as everything:
        address = f"127.0.0.1:{everything.grpc_port}"
        path = place(directory, [address] * NUM_SHARDS, address)
        with serving(str(sharded / "router"), shards_file=path) as thin:
            yield path, thin


@pytest.fixture(scope="module")
def servers(exports, tmp_path_factory):
    """Clients of one SavedModel, of the shards, and of the thin router over both transports; and that server."""
    with contextlib.ExitStack() as stack:
        whole = stack.enter_context(serving(str(exports.whole)))
        path, thin = stack.enter_context(served_in_shards(exports.sharded, tmp_path_factory.mktemp("served")))
        urls = (f"grpc://127.0.0.1:{whole.grpc_port}", path)
        urls += (f"grpc://127.0.0.1:{thin.grpc_port}", f"http://127.0.0.1:{thin.rest_port}")
        one, *many = (stack.enter_context(Client(url, "toy", PATIENT)) for url in urls)
        yield one, many, thin, whole


def history(exports: Exports, user: int, **others) -> Request:
    log = exports.log
    events = slice(log.offset[user], log.offset[user + 1])
    ids = [log.items.item_id[row] for row in log.item_row[events]]
    profile = {name: str(values[user]) for name, values in log.profile.items()}
    return Request(ids, log.timestamp[events], CUT, profile, **{"seed": 5, **others})


def questions(exports: Exports) -> dict[str, list[Request]]:
    """Every option, alone and together; several users in one call."""
    names = [str(name) for name in exports.corpus.category_name[schema.FIRST_KNOWN :]]
    first = history(exports, 0)
    stranger = "nobody" if isinstance(first.history_item_id[0], str) else 999_999_999
    asked = {
        "defaults": [history(exports, 0, k=9)],
        "several": [history(exports, user, k=3 + 4 * user, seed=user) for user in range(6)],
        "all interests, long": [history(exports, 1, k=200, num_interests=50, top_interests=50)],
        "what passes the threshold": [
            history(exports, user, k=30, num_interests=0, top_interests=1, interest_threshold=-2.0 - user)
            for user in range(3)
        ],
        "excluded": [history(exports, 0, k=9, exclude_item_id=[*first.history_item_id[:9], stranger])],
        "novel": [history(exports, user, k=30, goal="novel", num_interests=9) for user in range(3)],
        "allowed, misspelt": [history(exports, 2, allowed_category=[names[1], names[-1], "nonsense"])],
        "forbidden": [history(exports, 2, k=40, forbidden_category=names[:3])],
        "all forbidden": [history(exports, 2, forbidden_category=names)],
        "forced": [history(exports, 3, k=20, forced_category={names[0]: 2.0, names[-1]: 0.5})],
        "exploration": [history(exports, 4, num_interests=4, exploration=2)],
        "bandit": [
            history(
                exports, user, k=20, num_interests=user, bandit="thompson", rewards={names[0]: (9, user), "x": (4, 1)}
            )
            for user in range(3)
        ],
        "nobody": [Request([], [], CUT, k=11, seed=1), Request([stranger], [CUT - 9], CUT, k=11, seed=1)],
        "weights": [history(exports, 0, history_weight=[0.5] * len(first.history_item_id))],
        "everything": [
            history(exports, user, k=8, merge=merge, goal=goal, exclude_item_id=first.history_item_id[:2])
            for user, (merge, goal) in enumerate((m, g) for m in MERGES for g in ("all", "novel"))
        ],
    }
    return asked | {f"merge {name}": [history(exports, u, k=25, merge=name) for u in (0, 4)] for name in MERGES}


def same(actual, expected) -> None:
    """All outputs of one SavedModel, by arrays or lists (of JSON), and nothing missing."""
    assert actual.keys() - MISSING == expected.keys()
    for name, value in expected.items():
        got = np.array(actual[name], value.dtype if value.dtype.kind != "O" else object)
        if value.dtype.kind == "f":
            np.testing.assert_allclose(got.reshape(value.shape), value, TOLERANCE, TOLERANCE, err_msg=name)
        else:
            text = [each if isinstance(each, bytes) else str(each).encode() for each in got.ravel()]
            got = np.array(text, object) if value.dtype.kind == "O" else got
            np.testing.assert_array_equal(got.reshape(value.shape), value, err_msg=name)
    assert not any(np.size(actual[name]) for name in MISSING & actual.keys())


def test_four_shards_answer_as_one_export(exports, servers):
    one, many, _, _ = servers
    for name, requests in questions(exports).items():
        expected = one.retrieve(requests)
        for client in many:
            actual = client.retrieve(requests)
            for ours, theirs in zip(actual, expected, strict=True):
                assert [c.item_id for c in ours.candidates] == [c.item_id for c in theirs.candidates], name
                assert [i.category for i in ours.interests] == [i.category for i in theirs.interests], name
                assert ours.missing_shard == ours.missing_category == ()
            signature, columns = one.encode(requests)
            same(client.predict(*client.encode(requests)), one.predict(signature, columns))


def test_one_process_serves_a_router_and_its_own_shards(exports, servers, tmp_path):
    """The router waits for shards, and they are reached through the port of the process that waits."""
    (port,) = free_ports(1)
    path = place(tmp_path, [f"localhost:{port}"] * NUM_SHARDS)
    models = config_files.read_models(str(exports.sharded / "models.config"))
    requests = [history(exports, user, k=9) for user in range(3)]
    with serving(models, warm=False, port=port, shards_file=path) as server:
        with Client(f"http://127.0.0.1:{server.rest_port}", "longretriever-router", PATIENT) as client:
            answers = client.retrieve(requests)
    for ours, theirs in zip(answers, servers[0].retrieve(requests), strict=True):
        assert [c.item_id for c in ours.candidates] == [c.item_id for c in theirs.candidates]
        assert ours.missing_shard == ()


def test_the_other_signatures_answer_as_one_export(exports, servers):
    one, many, _, _ = servers
    corpus = exports.corpus
    ids = [corpus.item_id[2], corpus.item_id[-1], "nobody" if corpus.item_id.dtype.kind in "OU" else -5]
    _, options = one.encode([history(exports, user, k=7) for user in range(3)])
    names = corpus.category_name[[2, corpus.num_categories - 1]].tolist()
    in_category = options | {"category": np.array([*names, "nonsense"], object)}
    excluded = in_category | {"exclude_item_id": np.array([corpus.item_id[2:5].tolist()])}
    embeddings = {name: in_category[name] for name in one.inputs("user_embeddings")}
    for client in many:
        same(client.predict("retrieve_in_category", in_category), one.predict("retrieve_in_category", in_category))
        same(client.predict("retrieve_in_category", excluded), one.predict("retrieve_in_category", excluded))
        same(client.predict("user_embeddings", embeddings), one.predict("user_embeddings", embeddings))
        same(client.predict("interests", options), one.predict("interests", options))
        assert client.fingerprint() == one.fingerprint() and client.statistics_as_of() == one.statistics_as_of()
        for ours, theirs in zip(client.item_embeddings(ids), one.item_embeddings(ids), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_curl_reads_what_it_gets(exports, servers):
    """The metadata of the thin router tell the outputs that it answers with, and rows are answered by rows."""
    _, _, thin, whole = servers
    metadata = [json.loads(call(one, "GET", "/v1/models/toy/metadata")[1]) for one in (thin, whole)]
    ours, theirs = (one["metadata"]["signature_def"]["signature_def"] for one in metadata)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name]["inputs"].keys() == theirs[name]["inputs"].keys()
        assert ours[name]["outputs"].keys() - MISSING == theirs[name]["outputs"].keys()
        for output, info in theirs[name]["outputs"].items():
            assert ours[name]["outputs"][output]["dtype"] == info["dtype"]
    request = history(exports, 0)
    row = {
        "history_item_id": list(request.history_item_id),
        "history_timestamp": list(request.history_timestamp),
        "request_timestamp": CUT,
        "k": 5,
        **request.profile,
    }
    status, reply = call(thin, "POST", "/v1/models/toy:predict", {"signature_name": "top_k", "instances": [row, row]})
    assert status == 200, reply
    rows = json.loads(reply)["predictions"]
    assert [len(one["item_id"]) for one in rows] == [5, 5] and rows[0]["missing_shard"] == []


def test_what_a_request_may_not_ask_is_refused_alike(exports, servers):
    one, many, _, _ = servers
    for client in (one, *many):
        with pytest.raises(CallError, match="INVALID_ARGUMENT.*`k` must be at most"):
            client.retrieve([history(exports, 0, k=1_000_000)])


def test_a_router_alone_says_what_it_is(exports, servers, tmp_path):
    with serving(str(exports.sharded / "router")) as raw:
        with Client(f"grpc://127.0.0.1:{raw.grpc_port}", "toy", PATIENT) as client:
            with pytest.raises(UserError, match="router of an export by category ranges.*shards.json"):
                client.retrieve([history(exports, 0)])
