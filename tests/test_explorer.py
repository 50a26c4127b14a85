"""The explorer's server side: the page's files, histories to choose from, names of items, and what is refused."""

import configparser
import dataclasses
import fnmatch
import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from serving_clients import call, serving
from trained import run_module
from worlds import START, block_world, make_log

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.common.text import as_text
from longretriever_tf.data.corpus import load_corpus, save_corpus
from longretriever_tf.serving.explorer import page
from longretriever_tf.serving.explorer.users import HeldOut, held_out_window, read_users, sample_users
from longretriever_tf.serving.server import config_files

PAGE = pathlib.Path(page.__file__).parent
USER = {"label": "a", "request_timestamp": 9, "item_id": [3, 4], "timestamp": [1, 2]}


@pytest.fixture(scope="module")
def explored(trained):
    config = config_files.one_model("longretriever", trained.export_dir)
    with serving(config, explorer=True, warm=False) as server:
        yield server


def test_every_file_of_the_page_is_installed_with_the_package():
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(__file__).parent.parent / "setup.cfg")
    patterns = setup["options.package_data"]["longretriever_tf.serving.explorer"].split()
    names = [path.name for path in PAGE.iterdir() if path.is_file() and path.suffix != ".py"]
    assert {"index.html", "style.css", "main.js"} <= set(names)
    assert [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_pasted_histories_and_replies_keep_every_id(tmp_path):
    """Numbers beyond 2^53, which JavaScript rounds, and text with all that separates cells."""
    if not (node := shutil.which("node")):
        pytest.skip("node is not installed, and no browser stands in for it here")
    shutil.copytree(PAGE, tmp_path / "page")
    (tmp_path / "page" / "package.json").write_text('{"type": "module"}')
    ids = [2**63 - 1, -(2**63), 2**53 - 1, 0, "007", 'a, 12345678901234567, "b"\\', " x;\t", "\u00e9"]
    rows = ['"a,b;c ""x""", 1', "007;2", "it's\t3", " 9223372036854775807 , 4, 0.5"]
    program = f"""
      import {{ parseHistory }} from "./history.js";
      import {{ parse }} from "./endpoint.js";
      const ids = (text) => parseHistory(text, () => true).events.map((event) => event.id);
      const json = {json.dumps(json.dumps({"item_id": ids, "timestamp": list(range(1, len(ids) + 1))}))};
      const scores = parse("[-0.12345678901234567, 1e-20, 12345678901234567]");
      console.log(JSON.stringify([ids({json.dumps(chr(10).join(rows))}), ids(json), scores]));
    """
    done = subprocess.run(
        [node, "--input-type=module"], input=program, cwd=tmp_path / "page", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines, columns, scores = json.loads(done.stdout)
    assert lines == ['a,b;c "x"', "007", "it's", "9223372036854775807"]
    assert columns == [str(raw) for raw in ids]
    assert scores == [-0.12345678901234567, 1e-20, "12345678901234567"]


def test_an_address_with_values_of_no_option_changes_no_setting(tmp_path):
    if not (node := shutil.which("node")):
        pytest.skip("node is not installed, and no browser stands in for it here")
    shutil.copytree(PAGE, tmp_path / "page")
    (tmp_path / "page" / "package.json").write_text('{"type": "module"}')
    query = "?num_interests=constructor&merge=toString&k=1e9&seed=-1&threshold=NaN&goal=__proto__&user=%3Cb%3E"
    program = f"""
      import {{ readAddress }} from "./address.js";
      console.log(JSON.stringify(readAddress({json.dumps(query)}, {{ search: "likely", k: 20, seed: 1 }})));
    """
    done = subprocess.run(
        [node, "--input-type=module"], input=program, cwd=tmp_path / "page", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    lists = {"forced": [], "forbidden": [], "excluded": []}
    assert read["settings"] == {"A": {"search": "likely", "k": 20, "seed": 1} | lists} and read["user"] == "<b>"
    refused = ["num_interests=constructor", "k=1e9", "seed=-1", "merge=toString", "goal=__proto__"]
    assert read["faults"] == refused


def test_modules_of_the_page_stay_small():
    sizes = {path.name: len(path.read_text().splitlines()) for path in PAGE.glob("*.js")}
    assert {name: size for name, size in sizes.items() if size > 250} == {}


@pytest.mark.serving
def test_the_page_is_served_alongside_the_api(explored):
    for path, words in (("", b"<!doctype html>"), ("main.js", b"import "), ("style.css", b":root")):
        status, body = call(explored, "GET", f"/explorer/{path}")
        assert status == 200 and body.lstrip().startswith((words, b"//"))
    assert call(explored, "GET", "/explorer")[0] == 302
    assert call(explored, "GET", "/explorer/../setup.cfg")[0] == 404
    assert call(explored, "POST", "/explorer/main.js")[0] == 404
    assert json.loads(call(explored, "GET", "/explorer/settings.json")[1]) == {"models": ["longretriever"]}
    assert call(explored, "GET", "/v1/models/longretriever")[0] == 200


@pytest.mark.serving
def test_without_the_flag_there_is_no_page(toy_server):
    status, body = call(toy_server, "GET", "/explorer/")
    assert status == 404 and b"no such path" in body


@pytest.mark.serving
def test_without_a_file_histories_are_made_up_and_said_to_be(explored):
    users = json.loads(call(explored, "GET", "/explorer/models/longretriever/users.json")[1])
    assert users["made_up"] is True
    assert [len(user["item_id"]) for user in users["users"]] == [8, 512] + [64] * 8  # the warm-up file's shapes
    assert all(100 <= item < 197 for user in users["users"] for item in user["item_id"])  # the world's ids
    status, body = call(explored, "GET", "/explorer/models/nobody/users.json")
    assert status == 400 and b"nobody" in body


@pytest.mark.serving
def test_names_that_say_no_more_than_the_id_are_left_out(explored):
    status, body = call(explored, "POST", "/explorer/models/longretriever/names", {"item_id": ["101", "7"]})
    assert (status, json.loads(body)) == (200, {"names": {}, "shared": []})  # the block world's items have no names
    status, body = call(explored, "POST", "/explorer/models/longretriever/names", b"[")
    assert status == 400 and json.loads(body)["error"]


def test_names_are_read_from_the_corpus_and_shared_ones_are_known(tmp_path, trained):
    corpus = load_corpus(f"{trained.export_dir}/1/assets.extra/corpus.npz")
    named = dataclasses.replace(corpus, item_name=as_text(f"tea {item // 2}" for item in corpus.item_id))
    (tmp_path / "assets.extra").mkdir()
    save_corpus(named, str(tmp_path / "assets.extra" / "corpus.npz"))
    names = page._read_names(str(tmp_path))
    assert names.of_item["101"] == "tea 50" and len(names.of_item) == len(corpus.item_id) - 2
    assert "tea 51" in names.shared and "tea 98" not in names.shared  # of 102 and 103; of 196 alone


def test_sampled_histories_are_those_of_the_log_before_the_as_of():
    log = make_log(
        ["x"] * 3 + ["y"] * 5 + ["z"],
        [1, 2, 1, 4, 5, 4, 6, 5, 1],
        [10, 20, 30, 5, 6, 7, 8, 40, 99],
        {"category": ["c"] * 5},
        profile={"age": ["old", "", "young"]},
    )
    users = sample_users(log, 30, 2)
    assert [user["label"] for user in users] == ["user y", "user x"]  # z has no event yet
    assert users[0]["item_id"] == [4, 5, 4, 6] and users[0]["timestamp"] == [5, 6, 7, 8]
    assert users[1]["item_id"] == [1, 2] and users[1]["profile"] == {"age": "old"}
    assert {user["request_timestamp"] for user in users} == {30} and "weight" not in users[0]
    assert [user["label"] for user in sample_users(log, 30, 1, ["z"])] == ["user z"]
    with pytest.raises(UserError, match="'w' is not in the log, which has 3 users"):
        sample_users(log, 30, 1, ["w"])
    with pytest.raises(UserError, match="1970-01-01T00:00:05"):
        sample_users(log, 5, 1)


def test_held_out_events_are_those_of_the_window():
    log = make_log(
        ["x"] * 6 + ["y"],
        [1, 2, 1, 4, 5, 9, 1],
        [10, 20, 30, 40, 49, 50, 60],
        {"category": ["c"] * 5},
    )
    window = HeldOut(50, log.items.item_id != 4)  # item 4 came later than the export, which cannot list it
    (user,) = sample_users(log, 20, 1, window=window)
    assert (user["item_id"], user["timestamp"]) == ([1], [10])
    assert user["held_out"] == {"until": 50, "item_id": [2, 1, 5], "timestamp": [20, 30, 49]}


def test_a_sampled_file_is_read_back(tmp_path):
    log = block_world()
    users = sample_users(log, START + 70 * DAY_S, 5, window=HeldOut(START + 80 * DAY_S, log.items.item_id > 0))
    assert any(user["held_out"]["item_id"] for user in users)
    path = tmp_path / "users.json"
    path.write_text(json.dumps({"made_up": False, "users": users}))
    assert json.loads(read_users(str(path))) == {"made_up": False, "users": users}
    assert len(users) == 5 and all(len(user["item_id"]) > 0 for user in users)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ('{"users": []}', "one user at least"),
        (json.dumps({"users": [USER, {"label": "b"}]}), "user 2 lacks request_timestamp, item_id, timestamp"),
        (json.dumps({"users": [USER | {"timestamp": [1]}]}), "user 1 must have lists `item_id` and `timestamp` of one"),
        (json.dumps({"users": [USER | {"timestamp": [1, "2017"]}]}), "user 1 has the timestamp '2017'"),
        (
            json.dumps({"users": [USER | {"timestamp": [1, 1512345680000]}]}),
            "timestamp 1512345680000; expected whole",
        ),
        (json.dumps({"users": [USER | {"weight": [1.0]}]}), "user 1 must have as many `weight`"),
        (json.dumps({"users": [USER | {"weight": 3}]}), "user 1 must have as many `weight`"),
        (json.dumps({"users": [USER | {"weight": [1, float("nan")]}]}), "user 1 has the weight NaN; expected a number"),
        (json.dumps({"users": [USER | {"item_id": [3, [4]]}]}), "user 1 has the item [4]; expected text"),
        (json.dumps({"users": [USER | {"profile": "x"}]}), "user 1 must have `profile` as"),
        (json.dumps({"users": [USER | {"held_out": [5]}]}), "user 1 must have `held_out` as"),
        (
            json.dumps({"users": [USER | {"held_out": {"until": 20, "item_id": [5], "timestamp": []}}]}),
            "user 1 must have lists `item_id` and `timestamp` of one length in `held_out`",
        ),
        (
            json.dumps({"users": [USER | {"held_out": {"until": 20, "item_id": [5], "timestamp": [8]}}]}),
            "user 1 has the timestamp 8 in `held_out`; expected whole seconds from 9",
        ),
        (json.dumps({"users": ["x"]}), 'user 1 must be an object, and is "x"'),
    ],
)
def test_a_users_file_of_another_form_is_refused(tmp_path, text, words):
    path = tmp_path / "users.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_users(str(path))
    assert words in str(caught.value) and str(path) in str(caught.value) and "sample_users" in str(caught.value)


def test_flags_that_do_not_go_together_are_refused():
    done = run_module("serve", "--model_base_path=x", "--explorer_users=u.json")
    assert done.returncode == 2 and "'u.json' is for the explorer page; add --explorer" in done.stderr
    done = run_module("serve", "--model_base_path=x", "--explorer")
    assert done.returncode == 2 and "add --rest_api_port=8501" in done.stderr


def test_the_command_writes_a_file_that_serve_takes(trained, tmp_path):
    path = tmp_path / "users.json"
    done = run_module("sample_users", f"--export_dir={trained.export_dir}", f"--output={path}", "--user_ids=1003,1001")
    assert done.returncode == 0, done.stderr
    users = json.loads(read_users(str(path)))["users"]
    assert [user["label"] for user in users] == ["user 1003", "user 1001"]
    assert users[0]["profile"] == {"taste": "b1"}  # user u has taste u % 2
    corpus = load_corpus(f"{trained.export_dir}/1/assets.extra/corpus.npz")
    log = block_world(num_users=53, num_items=97, events_per_user=61)
    own = slice(*log.offset[3:5])
    until = corpus.cut + 14 * DAY_S  # --cut=validation, the default: the validation window
    time, is_known = log.timestamp[own], np.isin(log.items.item_id[log.item_row[own]], corpus.item_id)
    window = (time >= corpus.cut) & (time < until) & is_known
    assert users[0]["held_out"]["timestamp"] == time[window].tolist() and window.any()
    assert users[0]["held_out"]["until"] == until
    end = int(log.timestamp.max())
    last = held_out_window(log, corpus, end - 14 * DAY_S, 14)
    assert last is not None and last.until == end + 1  # the log's last second belongs to the test window
    assert held_out_window(log, corpus, end + 1, 14) is None
    assert f"{sum(len(user['held_out']['item_id']) for user in users)} held out until" in done.stdout
    done = run_module(
        "sample_users", f"--export_dir={trained.export_dir}", f"--output={path}", "--noheld_out", "--num_users=2"
    )
    assert done.returncode == 0 and "held out" not in done.stdout
    assert not any("held_out" in user for user in json.loads(path.read_text())["users"])
