"""`contexts`: categories asked of a language model, which may be late, broken, contradictory or gone."""

import json
import os
import signal
import subprocess
import threading
import time

import numpy as np
import pandas as pd
import pytest
from chat_server import CATEGORIES, chat_server, completion, is_taxonomy, late, numbered, right_answer
from trained import ROOT, command, run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.labelling.cache import AnswerCache
from longretriever_tf.labelling.questions import Malformed, plain_name, read_categories, read_taxonomy

WORDS = [("green tea", "tea"), ("black tea", "tea"), ("walnut", "nut"), ("hazelnut", "nut"), ("soap bar", "soap")]
FAST = ("--backoff=0.01", "--parallel=1", "--batch=5", "--num_categories=3")


def items_table(num_items: int = 30) -> pd.DataFrame:
    """Items with ids of text; each second text occurs twice, so that 30 items have 20 texts."""
    rows = []
    for number in range(num_items):
        title, word = WORDS[number % 5]
        rows.append((f"sku ü{number:03d}", f"{title} no{'abcdefghijklmnopqrst'[number % 20]}", word, [0.5, number]))
    return pd.DataFrame(rows, columns=["sku", "title", "shelf", "vector"])


@pytest.fixture
def server():
    with chat_server() as made:
        yield made


@pytest.fixture
def items(tmp_path) -> str:
    items_table().to_parquet(tmp_path / "items.parquet")
    return str(tmp_path / "items.parquet")


def flags_of(server, items, tmp_path, *more: str) -> tuple[str, ...]:
    return (
        *(f"--items={items}", "--item_column=sku", "--text_columns=title", "--context=shelf", "--model=m"),
        *(f"--endpoint={server.endpoint}", f"--output={tmp_path}/out.parquet", *FAST, *more),
    )


def ask(server, items, tmp_path, *more: str) -> subprocess.CompletedProcess:
    return run_module("contexts", *flags_of(server, items, tmp_path, *more))


def assert_right(tmp_path, wrong: tuple[str, ...] = ()) -> None:
    made, given = pd.read_parquet(tmp_path / "out.parquet"), items_table()
    pd.testing.assert_frame_equal(made.drop(columns="context"), given)
    right = [CATEGORIES[word] for word in given.shelf]
    assert [a for a, t in zip(made.context, made.title, strict=True) if t not in wrong] == [
        a for a, t in zip(right, given.title, strict=True) if t not in wrong
    ]


def test_what_it_would_ask_is_counted_and_nothing_sent_without_yes(server, items, tmp_path):
    done = ask(server, items, tmp_path, "--input_price=2", "--output_price=8")
    assert done.returncode == 0, done.stderr
    assert "the taxonomy and the categories of 20 texts: 5 requests" in done.stdout and "to pay" in done.stdout
    assert "nothing was sent: add --yes" in done.stdout and not server.asked
    assert not os.path.exists(tmp_path / "out.parquet")
    done = ask(server, items, tmp_path)
    assert "--input_price and --output_price" in done.stdout


def test_a_catalogue_gets_its_categories_and_a_rerun_asks_nothing(server, items, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key\n")  # as files of keys end
    done = ask(server, items, tmp_path, "--yes", "--key_variable=MY_KEY", "--about=a shop")
    assert done.returncode == 0, done.stderr
    assert "30 items in 3 categories, 0 of 20 texts placed" in done.stdout and "with shelf: 1.000" in done.stdout
    assert_right(tmp_path)
    assert set(server.keys) == {"Bearer secret-key"} and len(server.asked) == 5
    assert all(body["model"] == "m" and body["temperature"] == 0 for body in server.asked)
    assert "(a shop)" in server.asked[0]["messages"][0]["content"]
    assert (tmp_path / "out.parquet.taxonomy.txt").read_text().split("\n") == [
        "Tea",
        "Nuts",
        "Soap & Care",
        "Other",
        "",
    ]
    page = (tmp_path / "out.parquet.html").read_text()
    assert "Soap &amp; Care" in page and "1.000" in page and "green tea noa" in page and "secret-key" not in page
    first = (tmp_path / "out.parquet").read_bytes()
    os.remove(tmp_path / "out.parquet")
    done = ask(server, items, tmp_path, "--about=a shop")  # no --yes, since there is nothing to send
    assert done.returncode == 0 and "nothing to ask" in done.stdout and len(server.asked) == 5
    assert (tmp_path / "out.parquet").read_bytes() == first


def test_a_catalogue_that_has_grown_asks_about_what_is_new(server, items, tmp_path):
    assert ask(server, items, tmp_path, "--yes").returncode == 0
    num_asked = len(server.asked)
    grown = pd.concat([items_table(), items_table(1).assign(sku="new", title="white tea", vector=[[1.0, 2.0]])])
    grown.to_parquet(items)
    path = tmp_path / "out.parquet.taxonomy.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors begin a file
    done = ask(server, items, tmp_path, "--yes", f"--taxonomy={path}")
    assert done.returncode == 0, done.stderr
    assert [numbered(body) for body in server.asked[num_asked:]] == [[("1", "white tea")]]
    assert pd.read_parquet(tmp_path / "out.parquet").context.tolist()[-1] == "Tea"


def test_late_broken_and_contradictory_answers_are_asked_again(server, items, tmp_path):
    def fault(server, number, body):
        right = right_answer(body)
        first = next(iter(right))
        rest = json.dumps({name: value for name, value in right.items() if name != first})[1:]
        wrong = {
            1: (429, {"Retry-After": "0"}, "slow down"),
            2: (500, {}, "a proxy's page"),
            3: (200, {}, completion("Sure! Here are some categories: Tea, Nuts")),
            4: (200, {}, completion(json.dumps({"categories": ["Tea", "tea "]}))),
            5: (200, {}, completion(f"```json\n{json.dumps(right)}\n```")),  # of use
            # two categories for one item; unknown; a list; one left out; cut off
            6: (200, {}, completion(f'{{"{first}": "Tea", "{first}": "Nuts", {rest}')),
            7: (200, {}, completion(json.dumps({first: "Beverages"}))),
            8: (200, {}, completion(json.dumps({first: right[first], "99": "Tea"}))),  # of use
            9: (200, {}, completion(json.dumps({**right, first: ["Tea", "Nuts"]}))),
            11: (200, {}, completion(json.dumps(right)[:20], "length")),
        }
        if number == 12:
            late(1.5)  # the answer comes when nobody waits for it any more
        return wrong.get(number)

    server.fault = fault
    done = ask(server, items, tmp_path, "--yes", "--timeout=0.7", "--attempts=4")
    assert done.returncode == 0, done.stderr
    assert_right(tmp_path)
    complaints = [body["messages"][-1]["content"] for body in server.asked if len(body["messages"]) > 2]
    assert any("it is not JSON" in said for said in complaints) and any("at least two" in said for said in complaints)
    assert any("no item has exactly one" in said for said in complaints) and any(
        "cut off" in said for said in complaints
    )
    assert len(numbered(server.asked[6])) == len(numbered(server.asked[7])) == 1, "what was answered is not asked again"


def test_what_the_model_cannot_place_goes_to_the_nearest_text(server, items, tmp_path):
    lost = "green tea noa"

    def fault(server, number, body):
        if is_taxonomy(body):
            return None
        wrong = {
            n: "Drinks" if text == lost else name
            for (n, text), name in zip(numbered(body), right_answer(body).values(), strict=True)
        }
        return 200, {}, completion(json.dumps(wrong))

    server.fault = fault
    done = ask(server, items, tmp_path, "--yes")
    assert done.returncode == 0 and "1 of 20 texts placed by their nearest" in done.stdout, done.stderr
    assert server.texts().count(lost) == 3  # --attempts
    assert_right(tmp_path)
    assert "1 texts have the category of their nearest text" in (tmp_path / "out.parquet.html").read_text()
    num_asked = len(server.asked)
    assert "nothing to ask" in ask(server, items, tmp_path, "--yes").stdout and len(server.asked) == num_asked


def test_killed_and_started_again_it_asks_about_the_rest(server, items, tmp_path):
    gate = threading.Event()

    def fault(server, number, body):
        if number == 4:  # the third batch
            gate.wait(30)
        return None

    server.fault = fault
    child = subprocess.Popen(command("contexts", *flags_of(server, items, tmp_path, "--yes")), cwd=ROOT)
    deadline = time.monotonic() + 120
    while len(server.asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    gate.set()
    assert len(server.asked) == 4 and not os.path.exists(tmp_path / "out.parquet")
    server.fault = lambda server, number, body: None
    with open(tmp_path / "out.parquet.answers" / "answers.jsonl", "ab") as file:
        file.write(b'{"key": "torn by th')  # what a kill within a write leaves
    done = ask(server, items, tmp_path, "--yes")
    assert done.returncode == 0 and "the categories of 20 texts: 2 requests" in done.stdout, done.stderr
    assert_right(tmp_path)
    texts, again = server.texts(), server.texts()[15:]
    assert sorted(set(texts)) == sorted(set(items_table().title)) and len(texts) == 25 and texts[10:15] == again[:5]


def test_ctrl_c_waits_for_no_answer(server, items, tmp_path):
    gate = threading.Event()
    server.fault = lambda server, number, body: None if is_taxonomy(body) else gate.wait(120) and None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        flags = flags_of(server, items, tmp_path, "--yes", "--timeout=100")
        child = subprocess.Popen(command("contexts", *flags), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(server.asked) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    finally:
        gate.set()
        signal.signal(signal.SIGINT, before)
    assert child.returncode == 130 and "stopped by the user" in said and "Traceback" not in said


@pytest.mark.parametrize(
    "fault, words",
    [
        (lambda *_: (401, {}, "invalid key"), ("status 401: invalid key", "--model=m")),
        (lambda *_: (503, {}, "overloaded"), ("status 503 after 3 attempts: overloaded", "run the same command again")),
        (lambda *_: (200, {}, "<html>"), ("the answer is no chat completion: <html>",)),
        (lambda *_: (200, {}, completion("I cannot")), ("gave no taxonomy in 3 attempts", "--taxonomy=FILE")),
        (lambda *_: late(1), ("no answer after 3 attempts", "timed out")),
        (
            lambda _, number, body: None if is_taxonomy(body) else (200, {}, completion("{}")),
            ("none of its answers on 20 texts could be used",),
        ),
    ],
)
def test_an_endpoint_that_fails_is_one_line(server, items, tmp_path, fault, words):
    server.fault = fault
    done = ask(server, items, tmp_path, "--yes", "--retries=2", "--timeout=0.2")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in words), line
    assert not os.path.exists(tmp_path / "out.parquet")


def test_mistakes_are_one_line_before_anything_is_sent(server, items, tmp_path, monkeypatch):
    (tmp_path / "one.txt").write_text("Tea\n\n tea\n")
    cases = {
        "--items=": ("--items=: it is empty", "--items is missing"),
        "--text_columns=name": ("no column 'name' (--text_columns)",),
        "--text_columns=": ("no text to go by", "--item_name_column"),
        "--context=aisle": ("no column 'aisle' (--context)",),
        "--column=shelf": ("--column=shelf: the items table has a column of that name",),
        f"--output={items}": ("is --items",),
        f"--output={tmp_path}/out.xlsx": ("expected a name that ends in .parquet or .csv",),
        "--request_options=[]": ("expected a JSON object",),
        f"--taxonomy={tmp_path}/one.txt": ("it has 1 categories",),
        f"--taxonomy={tmp_path}/none.txt": ("cannot be read",),
        f"--report={items}": ("is --items: name another file",),
        f"--report={tmp_path}/out.parquet": ("is --output: name another file",),
        f"--taxonomy={tmp_path}/out.parquet": ("is --taxonomy: name another file",),
        "--endpoint=localhost:8000": ("expected a URL",),
        "--endpoint=https://me:secret@host/v1": ("a base URL without a user",),
        "--model=": ("--model is missing",),
    }
    for flag, words in cases.items():
        done = ask(server, items, tmp_path, "--yes", flag)
        assert done.returncode == 2 and "Traceback" not in done.stderr, (flag, done.stderr)
        assert any(word in done.stderr for word in words), (flag, done.stderr)
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nkey")
    done = ask(server, items, tmp_path, "--yes")
    assert done.returncode == 2 and "--key_variable=OPENAI_API_KEY" in done.stderr and "secret" not in done.stderr
    assert not server.asked


def test_csv_in_and_out(server, tmp_path):
    table = items_table().drop(columns=["vector", "shelf"]).assign(price=["1,50", None, "x\ny", *["2"] * 27])
    table.loc[4, "title"] = None
    table.to_csv(tmp_path / "items.csv", index=False)
    flags = (
        *(f"--items={tmp_path}/items.csv", "--item_column=sku", "--item_name_column=title", "--model=m", "--yes"),
        *(f"--endpoint={server.endpoint}/", f"--output={tmp_path}/out.csv", "--column=kind", *FAST),
    )
    done = run_module("contexts", *flags)
    assert done.returncode == 0, done.stderr
    made = pd.read_csv(tmp_path / "out.csv")
    pd.testing.assert_frame_equal(made.drop(columns="kind"), pd.read_csv(tmp_path / "items.csv"))
    assert made.kind[4] == "Other" and made.kind[24] == "Soap & Care"
    assert "no earlier context to compare with" in (tmp_path / "out.csv.html").read_text()


def test_answers_are_held_to_the_taxonomy(tmp_path):
    names = {"tea": "Tea", "nuts": "Nuts"}
    answer = (
        '{"1": " TEA ", "2": "Coffee", "3": ["Tea"], "4": "Tea", "4": "Nuts", "5": "nuts", "5": "nuts", "7": "Tea"}'
    )
    assert read_categories(f"Here it is:\n{answer}", 6, names) == {0: "Tea", 4: "Nuts"}
    assert read_categories('{"1": "caf\u00e9"}', 1, {plain_name("Cafe\u0301"): "Cafe\u0301"}) == {0: "Cafe\u0301"}
    for wrong in ("", "[]", "{}", '{"1": 7}', "null", '{"1": "Tea"'):
        with pytest.raises(Malformed):
            read_categories(wrong, 6, names)
    assert read_taxonomy('{"categories": ["- Tea", "tea", "Other", "Nuts"]}', 2) == ["Tea", "Nuts", "Other"]
    many = json.dumps({"categories": [f"c{i}" for i in range(17)]})
    for wrong in (
        '{"categories": "Tea"}',
        '{"categories": ["Tea", 3]}',
        '{"categories": ["Tea"]}',
        many,
        '["Tea", "Nuts"]',
        '{"categories": ["Tea", "\\ud83d Nuts"]}',
        '{"categories": ["Tea", "Nuts\\u0000"]}',
    ):
        with pytest.raises(Malformed):
            read_taxonomy(wrong, 2)
    path = tmp_path / "answers.jsonl"
    path.write_text('{"key": "a", "answer": null}\nnot JSON\n')
    with pytest.raises(UserError, match="damaged in line 2"):
        AnswerCache(str(tmp_path))
    path.write_text('{"key": "a", "answer": null}\n')
    cache = AnswerCache(str(tmp_path))
    assert "a" in cache and cache.get("a") is None and "b" not in cache and np.isscalar(len(cache))
