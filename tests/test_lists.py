"""Any system's lists alongside ours: what they say is held against the same truth, and what they leave out is not."""

import json

import numpy as np
import pandas as pd
import pytest
from trained import run_module
from worlds import START, block_world, crowded_world, make_log

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.data.corpus import encode_log, fit_corpus
from longretriever_tf.evaluation.counting.popularity import fit_baselines
from longretriever_tf.evaluation.differences import differences_to_best
from longretriever_tf.evaluation.evaluator import TaskScorer, evaluate_many, evaluate_scorer
from longretriever_tf.evaluation.ground_truth import build_truth
from longretriever_tf.evaluation.lists import parse_list_files, read_list_scorers, report_lists, require_names
from longretriever_tf.evaluation.write_lists import writing_lists

KS = (5, 20)
WORLDS = {"integers": block_world, "text": crowded_world}


class Window:
    """A made log, cut in time, with everything that an evaluation needs."""

    def __init__(self, log) -> None:
        self.cut = START + 110 * DAY_S
        self.log, self.corpus = log, fit_corpus(log, self.cut)
        self.encoded = encode_log(log, self.corpus)
        self.offset = self.corpus.category_offset
        self.truth = build_truth(self.encoded, self.corpus.num_items, self.cut, (self.cut, self.cut + 40 * DAY_S))

    def read(self, *lists, columns=()):
        return read_list_scorers(parse_list_files(lists, columns), self.corpus, self.log.user_id, self.truth)

    def evaluate(self, *scorers, on_lists=None):
        extra = {} if on_lists is None else {"on_lists": on_lists}
        return evaluate_many(scorers, self.truth, self.offset, KS, 7, **extra)

    def rows(self, num_items: int = 4) -> pd.DataFrame:
        """A list for each user of the truth: the first items of the corpus, best first."""
        users = np.repeat(self.log.user_id[self.truth.users], num_items)
        items = np.tile(self.corpus.item_id[2 : 2 + num_items], self.truth.num_users)
        return pd.DataFrame(
            {"user": users, "item": items, "rank": np.tile(np.arange(num_items) + 1, self.truth.num_users)}
        )


class OtherNovel(TaskScorer):
    """Random scores, others for novel items, as our own model has."""

    name = "ours"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def score(self, users):
        return np.stack([np.random.default_rng(user).random(self.num_items, np.float32) for user in users])

    def score_novel(self, users):
        return self.score(users + 1000)


@pytest.fixture(params=WORLDS, scope="module")
def window(request) -> Window:
    return Window(WORLDS[request.param]())


@pytest.fixture(scope="module")
def numbers() -> Window:
    return Window(block_world())


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_written_lists_read_back_give_the_same_metrics(window, tmp_path, ending, capsys):
    path = str(tmp_path / "ours.parquet")
    ours = OtherNovel(window.corpus.num_items)
    with writing_lists(path, "ours", window.log.user_id, window.corpus.item_id) as on_lists:
        own = window.evaluate(ours, on_lists=on_lists)["ours"]
    if ending == "csv":
        pd.read_parquet(path).to_csv(path := str(tmp_path / "ours.csv"), index=False)
    (again,) = window.read(f"theirs:{path}")
    theirs = window.evaluate(again)["theirs"]
    for task in ("all", "novel"):
        mine, back = getattr(own, task), getattr(theirs, task)
        assert mine.summary() == back.summary()
        assert mine.untouched.summary() == back.untouched.summary()
        for name, values in mine.per_user.items():
            np.testing.assert_array_equal(values, back.per_user[name])
    assert not list(tmp_path.glob(".*")), "nothing is left aside"


def test_a_score_ranks_as_a_rank_does_and_ties_go_to_the_lower_item(numbers, tmp_path):
    rows = numbers.rows(9)
    rows.to_parquet(tmp_path / "rank.parquet")
    rows.sample(frac=1, random_state=1).assign(value=-rows["rank"] / 3).drop(columns="rank").to_csv(
        tmp_path / "score.csv", index=False
    )
    rows.sample(frac=1, random_state=2).assign(rank=1).to_parquet(tmp_path / "ties.parquet")
    ranked, tied = numbers.read(f"a:{tmp_path}/rank.parquet", f"b:{tmp_path}/ties.parquet")
    (scored,) = numbers.read(f"c:{tmp_path}/score.csv", columns=("score:value",))
    metrics = [one.summary() for one in numbers.evaluate(ranked, tied, scored).values()]
    assert metrics[0] == metrics[1] == metrics[2]


def test_ranks_within_a_category_count_only_where_the_lists_tell_them(numbers, tmp_path):
    """A full ranking tells all; the same cut to 4 items tells none, and says so; rows of task=within mend it."""
    popularity = fit_baselines(numbers.encoded, numbers.corpus.num_items, numbers.offset, numbers.cut)[0]
    scores = popularity.score(np.arange(1))[0].astype(np.float64)
    scores[:2] = -np.inf
    order = np.argsort(-scores, kind="stable")[: len(scores) - 2]
    users = numbers.log.user_id
    full = pd.DataFrame(
        {
            "user": np.repeat(users, len(order)),
            "item": np.tile(numbers.corpus.item_id[order], len(users)),
            "rank": np.tile(np.arange(len(order)), len(users)),
        }
    )
    cut = full[full["rank"] < 4]
    full.to_parquet(tmp_path / "full.parquet")
    cut.to_parquet(tmp_path / "cut.parquet")
    pd.concat([cut.assign(task="all"), full.assign(task="within")]).to_parquet(tmp_path / "both.parquet")
    lists = numbers.read(*(f"{name}:{tmp_path}/{name}.parquet" for name in ("full", "cut", "both")))
    done = numbers.evaluate(popularity, *lists)
    wanted = done["popularity"].summary()
    assert wanted["within_category"]["recall@10"] > 0
    for name in ("full", "both"):
        assert done[name].summary()["within_category"] == wanted["within_category"]
        assert done[name].summary()["within_category_novel"] == wanted["within_category_novel"]
    assert done["full"].summary() == wanted
    assert "recall@20" not in done["cut"].summary()["within_category"]
    assert done["cut"].summary()["all"]["recall@5"] > 0
    notes = report_lists(lists, done)["lists"]
    assert any("task=within" in note for note in notes["cut"]["notes"])
    assert not any("task=within" in note for note in notes["full"]["notes"])
    compared = differences_to_best(
        {"ours": done["popularity"], "cut": done["cut"]},
        numbers.truth,
        {"cut"},
        (("all", "recall@5"), ("within_category", "recall@20")),
    )
    assert list(compared["ours"]) == ["all"], "no interval against a figure that does not exist"


def test_what_is_unknown_short_or_missing_is_said_and_ignored(window, tmp_path, capsys):
    rows = window.rows(4)
    stranger = window.log.user_id[-1] + (1 if rows["user"].dtype.kind == "i" else "z")
    odd_item = window.corpus.item_id[-1] * 0 + 99_999_999 if rows["item"].dtype.kind == "i" else "nowhere"
    first = rows["user"].iloc[0]
    strange = pd.DataFrame({"user": [stranger, first], "item": [rows["item"].iloc[0], odd_item], "rank": [1, 0]})
    last = rows["user"].iloc[-1]
    rows = pd.concat([rows[rows["user"] != last], strange])
    rows.to_parquet(tmp_path / "odd.parquet")
    clean = rows[(rows["user"] != stranger) & (rows["item"] != odd_item)]
    clean.to_parquet(tmp_path / "clean.parquet")
    odd, plain = window.read(f"odd:{tmp_path}/odd.parquet", f"clean:{tmp_path}/clean.parquet")
    printed = capsys.readouterr().out
    assert f"users ({np.array([stranger]).tolist()[0]!r}) are not in the log" in printed
    assert f"({np.array([odd_item]).tolist()[0]!r}) were taken by nobody before the window" in printed
    assert f"1 of {window.truth.num_users} users have no list" in printed
    assert f"{window.truth.num_users - 1} have fewer than 20" in printed
    done = window.evaluate(odd, plain)
    assert done["odd"].summary() == done["clean"].summary()
    assert done["odd"].all.per_user["recall@20"][-1] == 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.drop(columns="item"), ["no column 'item'", "user, rank", "--lists_columns=item:NAME"]),
        (lambda rows: rows.drop(columns="rank"), ["neither a column 'rank' nor 'score'"]),
        (lambda rows: pd.concat([rows, rows[5:7]]), ["2 rows", "already", "row 165"]),
        (lambda rows: rows[:0], ["no rows"]),
        (lambda rows: rows.assign(user=rows["user"].astype(str) + "x"), ["none of its", "users", "raw ids"]),
        (lambda rows: rows.assign(item=rows["item"] + 10**6), ["none of its", "items", "raw ids"]),
        (lambda rows: rows.assign(rank=[None, *rows["rank"][1:]]), ["'rank'", "1 of", "no numbers", "row 1"]),
        (lambda rows: rows.assign(task="new"), ["'task'", "'new'", "all, novel, within"]),
    ],
    ids=["no item", "no rank", "twice", "empty", "no user", "no known item", "no number", "no task"],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(numbers, tmp_path, change, words):
    path = tmp_path / "lists.parquet"
    change(numbers.rows()).to_parquet(path)
    with pytest.raises(UserError) as error:
        numbers.read(f"theirs:{path}")
    for word in (f"--lists=theirs:{path}", *words):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("lists", "columns", "words"),
    [
        (["nothing"], [], "--lists=nothing: expected NAME:FILE"),
        (["a:b", "a:c"], [], "'a' is given twice"),
        ([], ["place:x"], "--lists_columns=place:x"),
    ],
)
def test_flags_of_another_form_are_refused(lists, columns, words):
    with pytest.raises(UserError, match=words):
        parse_list_files(lists, columns)


def test_lists_called_as_a_model_of_the_table_are_refused(numbers, tmp_path):
    numbers.rows().to_parquet(tmp_path / "x.parquet")
    lists = numbers.read(f"popularity:{tmp_path}/x.parquet")
    baselines = fit_baselines(numbers.encoded, numbers.corpus.num_items, numbers.offset, numbers.cut)
    with pytest.raises(UserError, match="a model of the table is called 'popularity' already"):
        require_names([*baselines, *lists])


def test_whole_numbers_find_ids_that_the_log_spells_as_text(tmp_path):
    """A log of ids 1, 2 and x has text ids; a file that lists 1 and 2 alone reads as integers."""
    days = [START + DAY_S * day for day in (0, 1, 2, 3)]
    log = make_log(["7", "x", "7", "7"], ["1", "2", "x", "2"], days, {"category": ["a", "a", "a"]})
    corpus = fit_corpus(log, days[3])
    truth = build_truth(encode_log(log, corpus), corpus.num_items, days[3], (days[3], days[3] + 1))
    pd.DataFrame({"user": [7], "item": [2], "rank": [1]}).to_csv(tmp_path / "lists.csv", index=False)
    files = parse_list_files([f"theirs:{tmp_path}/lists.csv"], ())
    (one,) = read_list_scorers(files, corpus, log.user_id, truth)
    assert evaluate_scorer(one, truth, corpus.category_offset)["all"]["recall@20"] == 1.0


def test_lists_that_a_run_wrote_stand_in_its_table_with_its_own_metrics(trained, tmp_path):
    """By the commands: evaluate --write_lists, then evaluate and evaluate_baselines --lists."""
    path, output = f"{tmp_path}/ours.parquet", tmp_path / "metrics.json"
    run = (f"--run_dir={trained.run_dir}", "--baselines=simple", "--noplots", f"--output={output}")
    first = run_module("evaluate", *run, f"--write_lists={path}")
    assert first.returncode == 0, first.stderr
    assert path in first.stdout
    own = json.loads(output.read_text())["models"]["longretriever"]
    again = run_module("evaluate", *run, f"--lists=theirs:{path}")
    assert again.returncode == 0, again.stderr
    metrics = json.loads(output.read_text())
    theirs = metrics["models"]["theirs"]
    for section in ("all", "novel", "untouched", "untouched_novel"):
        assert theirs[section] == own[section]
    assert metrics["models"]["longretriever"] == own
    assert metrics["lists"]["theirs"]["file"] == path
    for one in metrics["differences"]["longretriever"]["all"].values():
        assert one["mean"] <= 0 or one["baseline"] != "theirs", "level with itself"
    alone = run_module(
        "evaluate_baselines", *trained.flags, "--baselines=simple", f"--output={output}", f"--lists=theirs:{path}"
    )
    assert alone.returncode == 0, alone.stderr
    assert json.loads(output.read_text())["models"]["theirs"]["all"] == own["all"]
