"""The ids that people have, each kind through every command, a server and both transports: what comes back is equal.

A log of some dozen items each; what is learned means nothing, what is spelt means all.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import pathlib
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pytest
from serving_clients import call, serving
from trained import run_module

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.common.text_table import printable, shorten
from longretriever_tf.data.corpus import load_corpus
from longretriever_tf.serving.client.client import Client, ClientOptions, Request
from longretriever_tf.serving.server import config_files

START = 1_700_000_000
DAYS, WINDOW = 60, 10
LOW, HIGH = -(2**63), 2**63 - 1

ODD_TEXTS = (
    *("007", "07", "7", "0", "-1", "1e5", "7.0", "nan", "None", "null", "true"),  # like numbers and like nothing
    *("(unknown)", "(missing)", "[UNK]", "-9223372036854775808"),  # like our own placeholders
    *('say "hi", twice', "it's", "a,b;c", "a b  c", "a\tb", "two\nlines", "a\\b", "a/b", "%2F", "<b>&amp;</b>"),
    *(
        "caf\u00e9",
        "cafe\u0301",
        "\u65e5\u672c\u8a9e",
        "\U0001f6d2",
        "\u0667",
        "\uff17",
        "\u200b",
        "x" * 3_000,
    ),
    *(str(uuid.UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC834) % 2**128)) for number in (1, 2)),
)
NUMBERS = (*(LOW, LOW + 1, -(2**53) - 1, -2, -1, 0, 1, 7, 2**31, 2**53, 2**53 + 1, 2**53 + 2, HIGH - 1, HIGH),)


@dataclasses.dataclass(frozen=True)
class Kind:
    """Ids of a kind, and what else differs from log to log.

    Attributes:
      items, users: ids of the log.
      new, stranger: ids of an item that comes later, and of none.
      categories: of the items, by turns; none: the table has no such column, and clusters are learned.
      form: of the tables.
    """

    items: tuple[Any, ...]
    users: tuple[Any, ...]
    new: Any
    stranger: Any
    categories: tuple[str, ...] = ()
    form: str = "csv"


KINDS = {
    "text": Kind(ODD_TEXTS, NUMBERS[:12], "00", "0007", ("(unknown)", "(missing)", "", 'th\u00e9, "vert"'), "parquet"),
    "int64": Kind(NUMBERS, ("o'neil", 'a,"b"', "07", str(uuid.UUID(int=7)), *map(str, range(7))), 8, 9),
}


@dataclasses.dataclass(frozen=True)
class Chain:
    """What the commands made of a kind's log: an export, and a second version with one item less and one more."""

    kind: Kind
    directory: pathlib.Path
    said: dict[str, str]

    @property
    def offered(self) -> list[Any]:
        """The items of the second version."""
        return [*self.kind.items[1:], self.kind.new]


def write_tables(kind: Kind, directory: pathlib.Path) -> tuple[str, ...]:
    """The log, the items (ids without events among them: none), and the catalogue of a later day; the log's flags."""
    rng = np.random.default_rng(1)
    num = 40 * len(kind.users)
    item = np.append(np.arange(len(kind.items)), rng.integers(0, len(kind.items), num - len(kind.items)))
    second = np.append(np.arange(len(kind.items)), np.sort(rng.integers(0, DAYS * DAY_S, num - len(kind.items))))
    users = [kind.users[row % len(kind.users)] for row in range(num)]
    tables = {"events": pd.DataFrame({"user_id": users, "item_id": [kind.items[row] for row in item]})}
    tables["events"]["timestamp"] = START + second
    for name, ids in (("items", kind.items), ("later", (*kind.items[1:], kind.new))):
        tables[name] = pd.DataFrame({"item_id": ids, "title": [f"name of {raw}" for raw in ids]})
        if kind.categories:
            tables[name]["category"] = [*itertools.islice(itertools.cycle(kind.categories), len(ids))]
    for name, table in tables.items():
        path = directory / f"{name}.{kind.form}"
        table.to_parquet(path) if kind.form == "parquet" else table.to_csv(path, index=False)
    context = () if kind.categories else ("--context=clusters:3",)
    return *(f"--{name}={directory}/{name}.{kind.form}" for name in ("events", "items")), *context


@pytest.fixture(scope="module", params=KINDS)
def chain(request, tmp_path_factory) -> Chain:
    """Every command; those that do not wait for each other side by side."""
    kind, directory = KINDS[request.param], tmp_path_factory.mktemp(request.param)
    data = (
        *("--dataset=event_log", f"--data_dir={directory}/tfds", "--item_name_column=title", f"--window_days={WINDOW}"),
        *write_tables(kind, directory),
    )
    small = ("--dim=8", "--num_heads=2", "--ff_dim=16", "--svd_dim=4", "--batch_size=16", f"--horizon_days={WINDOW}")
    once = (
        "--epochs=1",
        "--interest_epochs=1",
        "--examples=snapshot",
        "--num_snapshots=2",
        "--history_folds=2",
        "--cut=test",
    )
    run, export = f"--run_dir={directory}/run", f"--export_dir={directory}/export"
    users = ",".join('"' + str(user).replace('"', '""') + '"' for user in kind.users[:4])
    stages: tuple[dict[str, tuple[str, ...]], ...] = (
        {"inspect_log": (*data, f"--output={directory}/inspect", "--noplots")},
        {"train": (*data, *small, *once, run)},
        {"evaluate": (run, "--split=test", "--baselines=simple"), "export": (run, export, "--nocheck")},
        {
            "recommend": (export, f"--user={kind.users[1]}", "--k=50", "--num_interests=20", "--top_interests=20"),
            "sample_users": (export, f"--user_ids={users}", f"--output={directory}/users.json"),
        },
        # Alone, for the others read the latest version.
        {"refresh": (run, export, f"--items={directory}/later.{kind.form}", "--nocheck")},
    )
    said = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for stage in stages:
            running = {name: pool.submit(run_module, name, *flags) for name, flags in stage.items()}
            for name, done in running.items():
                assert done.result().returncode == 0, f"{name}: {done.result().stderr}"
                said[name] = done.result().stdout
    return Chain(kind, directory, said)


@pytest.fixture(scope="module")
def server(chain):
    config = config_files.one_model("longretriever", str(chain.directory / "export"))
    with serving(config, explorer=True, warm=False) as server:
        yield server


@pytest.mark.slow
def test_no_command_loses_an_item_or_a_user(chain):
    kind = chain.kind
    statistics = json.loads((chain.directory / "inspect" / "life.json").read_text())
    assert (statistics["log"]["items"], statistics["log"]["users"]) == (len(kind.items), len(kind.users))
    assert statistics["log"]["context"] == ("category" if kind.categories else "clusters:3")
    for place, items in (("run", kind.items), ("export/1/assets.extra", kind.items)):
        corpus = load_corpus(str(chain.directory / place / "corpus.npz"))
        assert set(corpus.item_id[2:].tolist()) == set(items) and len(corpus.item_id) == len(items) + 2
    if kind.categories:  # the items without a category have one of their own, whatever names the others have
        assert set(corpus.category_name[2:].tolist()) == {name or "((missing))" for name in kind.categories}
        category = dict(zip(corpus.item_id.tolist(), corpus.category_name[corpus.item_category], strict=True))
        assert category[kind.items[1]] == kind.categories[1]
    assert f"user {kind.users[1]} as of" in chain.said["recommend"]
    for raw in kind.items:
        assert f"{printable(str(raw))}  {shorten(f'name of {raw}', 60)}" in chain.said["recommend"]
    assert "1 new, 0 returned, 0 moved" in chain.said["refresh"] or kind.categories  # by turns: some change category
    assert ", 1 retired" in chain.said["refresh"]


def question(chain: Chain, **request_options: Any) -> Request:
    """A history of all items, one a day, and a list that is long enough for all."""
    ids = [*chain.kind.items, chain.kind.stranger]
    times = [START + day * DAY_S // 2 for day in range(len(ids))]
    everything: dict[str, Any] = {"k": len(ids) + 5, "num_interests": 20, "top_interests": 20, "seed": 1}
    return Request(ids, times, START + DAYS * DAY_S, **everything | request_options)


@pytest.mark.slow
@pytest.mark.serving
@pytest.mark.parametrize("way", ["rest", "grpc", "grpc, batched"])
def test_ids_come_back_equal_and_each_can_be_left_out(chain, server, way):
    url = f"http://127.0.0.1:{server.rest_port}" if way.startswith("rest") else f"grpc://127.0.0.1:{server.grpc_port}"
    options = ClientOptions(batched=way == "grpc, batched")
    excluded = [[], *([raw] for raw in chain.offered)]
    with Client(url, options=options) as client:
        answers = client.retrieve([question(chain, exclude_item_id=ids) for ids in excluded])
        vectors, _ = client.item_embeddings([*chain.offered, chain.kind.stranger])
    for ids, answer in zip(excluded, answers, strict=True):
        listed = [candidate.item_id for candidate in answer.candidates]
        assert len(listed) == len(set(listed)) and set(listed) == set(chain.offered) - set(ids)
    assert {type(candidate.item_id) for candidate in answers[0].candidates} == {type(chain.kind.items[0])}
    assert sum(interest.num_events for interest in answers[0].interests) == len(chain.kind.items)
    # By its features alone a new item has a vector, and an unknown id none; without features all may be one.
    assert not vectors[-1].any() and all(vector.any() for vector in vectors[:-2])


@pytest.mark.slow
@pytest.mark.serving
def test_plain_json_holds_every_id(chain, server):
    """The digits and letters of the body themselves, as any other client would read them."""
    history = question(chain)
    body = {"history_item_id": [history.history_item_id], "history_timestamp": [history.history_timestamp]}
    body |= {"request_timestamp": [history.request_timestamp], "k": [history.k]}
    path = "/v1/models/longretriever:predict"
    status, reply = call(server, "POST", path, {"signature_name": "top_k", "inputs": body})
    assert status == 200, reply
    outputs = json.loads(reply)["outputs"]
    listed = outputs["item_id"][0][: outputs["num_valid"][0]]
    assert listed and set(listed) <= set(chain.offered)
    assert all(json.dumps(raw, ensure_ascii=False).encode() in reply for raw in listed)
    names = {"item_id": [str(raw) for raw in listed]}
    status, reply = call(server, "POST", "/explorer/models/longretriever/names", names)
    assert (status, json.loads(reply)) == (
        200,
        {"names": {str(raw): f"name of {raw}" for raw in listed}, "shared": []},
    )


@pytest.mark.slow
def test_sampled_users_keep_ids(chain):
    sampled = json.loads((chain.directory / "users.json").read_text())["users"]
    assert [user["label"] for user in sampled] == [f"user {user}" for user in chain.kind.users[:4]]
    assert {raw for user in sampled for raw in user["item_id"]} <= set(chain.kind.items)
